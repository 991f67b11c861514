"""The parts of a training: the data, model, optimizers and average of a config, built and placed on one device."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from src.checks.registered_names import TRAINING_METRICS, parse_averaging
from src.config import Config
from src.datasets.data import Data
from src.datasets.factory import make_data
from src.models.factory import make_model, trained_head
from src.optimizers.averaging import AveragedModel
from src.optimizers.factory import make_optimizer
from src.optimizers.layers import Freeze
from src.training.parallel.data_shards import DataShard
from src.training.parallel.distributed import SINGLE_PROCESS, SingleProcess
from src.training.setup.facts import allotted_threads, choose_device, micro_batch_size, output_dim
from src.training.setup.seeds import fill_seeds, seed_generators
from src.training.setup.to_device import place_on_device
from src.training.steps import forward
from src.training.steps.meters import MeanMeter, Meter, TokenMeter
from src.training.steps.task import Optimizer, Task, make_task
from src.training.steps.torchmetrics_adapter import ConfiguredMetrics, MetricsMeter


@dataclass(frozen=True)
class TrainingComponents:
    """The parts of a training.

    config: includes all seeds.
    optimizers: one, unless a user-defined task makes its own.
    average: of the model's weights; None without averaging.
    seeds_drawn: names of the seeds that are null in the spec.
    task: user-defined, or None.
    group: the processes that train together.
    shard: this process's part of each batch; None for a single process.
    """

    config: Config
    data: Data
    model: nn.Module
    optimizers: Sequence[Optimizer]
    average: AveragedModel | None
    device: torch.device
    seeds_drawn: list[str]
    task: Task | None = None
    freeze: Freeze | None = None
    group: SingleProcess = SINGLE_PROCESS
    shard: DataShard | None = None

    @property
    def training_metrics(self) -> list[str]:
        """Names of the metrics that are measured in training as well as in evaluation."""
        return list(self.task.metrics if self.task else TRAINING_METRICS[self.data.task])

    def make_meter(self) -> Meter | MeanMeter:
        """Return a new meter of the training metrics."""
        if self.task:
            return MeanMeter(self.training_metrics, self.device, self.group)
        if self.data.task == "next_token":
            return TokenMeter(self.device, self.group)
        return Meter(self.data.task, self.device, self.group)

    def make_evaluation_meter(self) -> Meter | MeanMeter:
        """Return a new meter that measures `metrics` of the config as well. ConfigError if one is not available."""
        if not self.config.metrics or self.task or self.data.task == "next_token":
            return self.make_meter()
        configured = ConfiguredMetrics(self.config.metrics, output_dim(self.config, self.data), self.device)
        return MetricsMeter(self.data.task, self.device, configured)


def build(config: Config, folder: str | None, group: SingleProcess = SINGLE_PROCESS, data: Data | None = None
          ) -> TrainingComponents:
    """Build what the config describes, for one of the processes of `group`.

    The model's random weights depend on seed_model alone, since the generators are seeded after the data is ready.

    folder: run folder, where an earlier attempt left its seeds; None without one.
    data: that of the config, on its device, if another run has read it already.
    """
    if threads := allotted_threads():
        torch.set_num_threads(threads)
    device = group.device or choose_device(config.device)
    forward.check_device_support(config, device)
    config, seeds_drawn = _agree_on_seeds(config, folder, group)
    data = data or place_on_device(config, make_data(config), device)
    assert config.seed_model is not None
    seed_generators(config.seed_model, device)
    task = make_task(config, data, device)
    model = (task.make_model() if task else None) or make_model(
        config, data.input_shape, output_dim(config, data), data.classes, device)
    model = model.to(device, memory_format=torch.channels_last if config.channels_last else torch.preserve_format)
    shard = _make_shard(config, model, group)
    head = trained_head(model, config.model) if config.freeze or config.layer_decay else None
    freeze = Freeze(model, head, config.unfreeze_epoch) if config.freeze and head else None
    if freeze and not config.unfreeze_epoch:  # otherwise the optimizer needs all parameters from the start
        freeze.apply(epoch=1)
    optimizers = (task.make_optimizers(model) if task else None) or [make_optimizer(config, model, head)]
    if task:
        task.optimizers = optimizers
    averaging = parse_averaging(config.averaging)
    average = AveragedModel(model, averaging) if averaging else None
    return TrainingComponents(config, data, model, optimizers, average, device, seeds_drawn, task, freeze, group, shard)


def _agree_on_seeds(config: Config, folder: str | None, group: SingleProcess) -> tuple[Config, list[str]]:
    """Return the config with all seeds, the same in all processes, and the names of those that were drawn."""
    config, seeds_drawn = fill_seeds(config, folder)
    seeds = group.broadcast(lambda: {name: getattr(config, name) for name in seeds_drawn})
    return config._replace(**seeds), seeds_drawn


def _make_shard(config: Config, model: nn.Module, group: SingleProcess) -> DataShard | None:
    """Return this process's part of each batch, and synchronize the model's batch norms; None for a single process."""
    if group.size == 1:
        return None
    from src.training.parallel.sync_batch_norm import synchronize_batch_norms  # loads torch.distributed's layers

    if config.sync_batch_norm:
        synchronize_batch_norms(model, group)
    return DataShard(group, config.batch_size, micro_batch_size(config))
