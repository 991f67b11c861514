"""Train one run, or what a task file lists: `python train.py spec.yaml`. Another program calls experiment_generator."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from src import run_folder
from src.config import Config
from src.errors import BatchError, ConfigError
from src.io import files, yaml_io
from src.submission.job import attempt, multi_gpu, ranks
from src.submission.system import process  # a run is claimed before the heavy imports in functions
from src.submission.system.signals import Stopped, signals

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from src.datasets.data import Data
    from src.training.experiment import TrainingComponents
    from src.training.parallel.data_shards import DataShard
    from src.training.parallel.distributed import ProcessInfo, SingleProcess


def train(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
    """Train a spec to its end, from where an earlier attempt saved itself; how it ended: completed, early_stopped or
    diverged, or requeued if it saved itself because the time is short. Stopped if a signal said stop.

    folder: the run folder, None to write nothing. check: raises once a later attempt has taken over the run. With
    several GPUs a process for each is started here, unless srun or torchrun have done so.
    """
    config = Config.from_dict(spec)
    count = processes(config)
    return multi_gpu.run(count, train_here, (config, folder, check)) if count > 1 else train_here(config, folder, check)


def train_here(config: Config, folder: str | None, check: Callable[[], None]) -> str:
    """The same in this process, together with the others of its start."""
    from src.training.experiment import run_epochs
    from src.training.output.resume import SavedAndExit
    from src.training.parallel.distributed import is_peer_loss, join_processes

    try:
        with join_processes(config, _place(folder)) as group:
            try:
                parts = build(config, folder, group)
                ends = [end for _row, _model, end in run_epochs(parts, folder, check, signals.on_stop)]
            except SavedAndExit:  # it has saved itself
                if stopped := group.max(signals.stop_signal or 0):  # a signal need not reach all
                    raise Stopped(stopped) from None
                return run_folder.REQUEUED
    except RuntimeError as error:
        if process.world_size() == 1 or not is_peer_loss(error):
            raise
        raise multi_gpu.PeerLost("another process of this run is gone; if it could, it said why") from None
    return ends[-1] or ""


def processes(config: Config) -> int:
    """How many to start here for a run: one for each GPU that this process sees, or $GRIDIRON_PROCESSES; one where the
    config or its task is for one."""
    from src.training.parallel.distributed import max_processes
    from src.training.setup.facts import visible_gpus

    if process.world_size() > 1:
        return 1
    asked = os.environ.get("GRIDIRON_PROCESSES")
    if asked and not asked.isdecimal():
        raise ConfigError(f"{asked!r} is not a number of processes", where="$GRIDIRON_PROCESSES",
                          allowed="a whole number", hint="unset it, and there is one for each GPU")
    return max(1, min(int(asked) if asked else visible_gpus(config.device), max_processes(config)))


def _place(folder: str | None) -> ProcessInfo:
    """This process among those of its start."""
    from src.training.parallel.distributed import ProcessInfo

    mine = process.rank(), process.world_size(), process.local_rank()
    if here := os.environ.get(multi_gpu.RENDEZVOUS):
        return ProcessInfo(*mine, here, is_single_node=True)
    return ProcessInfo(*mine, folder, run_folder.rendezvous_name(ranks.start_id()))


def experiment_generator(config: Config) -> Iterator[tuple[pd.DataFrame, nn.Module]]:
    """Train, and yield (stats_df, model) after each epoch, so that the caller can look at them, or leave.

    stats_df: a row per epoch so far, with the columns of stats.csv; read-only, copy it to change it. model: on its
    device, in eval mode, at its present state; the caller's gradients and random draws do not change the training.
    What train.py writes is written into config.output_dir; if that is null nothing is, and the log goes to stdout.
    BatchError if that folder has a run already.
    """
    from src.training.experiment import run_epochs
    from src.training.output.table import StatsTable
    from src.training.setup.seeds import preserve_generators

    parts = build(config, None)
    folder = _new_run(config)
    table: StatsTable | None = None
    for row, model, end in run_epochs(parts, folder, lambda: None):
        table = table or StatsTable(list(row))
        if folder and end:
            files.write_atomic(os.path.join(folder, run_folder.DONE), end + "\n")
        with preserve_generators(parts.device):
            yield table.add(row), model


def _new_run(config: Config) -> str | None:
    """The run folder of output_dir, made with its spec.yaml; None if output_dir is null."""
    if config.output_dir is None:
        return None
    folder = os.path.abspath(files.expand_path(config.output_dir, "output_dir"))
    os.makedirs(folder, exist_ok=True)
    spec = os.path.join(folder, run_folder.SPEC)
    text = yaml_io.dump_flat({key: value for key, value in config.to_dict().items() if key != "output_dir"})
    if not files.create_exclusive(spec, text) and (
            files.read_text(spec) != text or os.path.exists(os.path.join(folder, run_folder.STATS))):
        raise BatchError("there is a run in this folder already", where=folder, hint="give another output_dir")
    return folder


def build(config: Config, folder: str | None, group: SingleProcess | None = None) -> TrainingComponents:
    """Everything that a training is made of. Seeds come first: the model's draws depend on nothing before them. group:
    the processes that train it together.
    """
    import dataclasses

    import torch

    from src.checks.registered_names import parse_averaging
    from src.datasets.factory import make_data
    from src.models.factory import beside_backbone, make_model
    from src.optimizers.averaging import AveragedModel
    from src.optimizers.factory import make_optimizer
    from src.optimizers.layers import Freeze
    from src.training.experiment import TrainingComponents
    from src.training.parallel.distributed import SINGLE_PROCESS
    from src.training.setup.facts import allotted_threads, choose_device, output_dim
    from src.training.setup.seeds import fill_seeds, seed_generators
    from src.training.setup.to_device import place_on_device
    from src.training.steps import forward
    from src.training.steps.task import make_task

    if threads := allotted_threads():
        torch.set_num_threads(threads)
    group = group or SINGLE_PROCESS
    device = group.device or choose_device(config.device)
    forward.check_device_support(config, device)
    config, seeds_drawn = fill_seeds(config, folder)
    config = dataclasses.replace(config, **group.broadcast(lambda: {name: getattr(config,
                                                                                  name) for name in seeds_drawn}))
    data = place_on_device(config, make_data(config), device)
    assert config.seed_model is not None
    seed_generators(config.seed_model, device)
    task = make_task(config, data, device)
    model = (task.make_model() if task else None) or make_model(
        config, data.input_shape, output_dim(config, data), data.classes, device)
    model = model.to(device, memory_format=torch.channels_last if config.channels_last else torch.preserve_format)
    shard = _make_shard(config, model, group)
    head = beside_backbone(model, config.model) if config.freeze or config.layer_decay else None
    freeze = Freeze(model, head, config.unfreeze_epoch) if config.freeze and head else None
    if freeze and not config.unfreeze_epoch:  # else the optimizer is for all of it from the start
        freeze.at(1)
    optimizers = (task.make_optimizers(model) if task else None) or [make_optimizer(config, model, head)]
    if task:
        task.optimizers = optimizers
    averaging = parse_averaging(config.averaging)
    return TrainingComponents(config, data, model, optimizers, AveragedModel(model, averaging) if averaging else None,
                              device,
                 seeds_drawn, task, freeze, group, shard)


def _make_shard(config: Config, model: nn.Module, group: SingleProcess) -> DataShard | None:
    """This process's part of each batch, and the model's batch norms as all processes see them; None for one alone."""
    if group.size == 1:
        return None
    from src.training.parallel.data_shards import DataShard
    from src.training.parallel.sync_norm import synchronize_batch_norms
    from src.training.setup.facts import micro_batch_size

    if config.sync_batch_norm:
        synchronize_batch_norms(model, group)
    return DataShard(group, config.batch_size, micro_batch_size(config))


def load_model(run: str, uri: str | None = None) -> tuple[nn.Module, Data]:
    """The best model of a run, in eval mode on the CPU, and its data.

    run: a run folder, or a registered model, as models:/food11@production, in the MLflow registry at `uri`. The weights
    are those of best_checkpoint.pt, or of the newest checkpoint: averaged ones, where there are.
    """
    import tempfile

    from src.datasets.factory import make_data

    with tempfile.TemporaryDirectory() as place:
        if run.startswith("models:"):
            from src.tracking.mlflow_export import resolve_model

            run = resolve_model(run, uri, place)
        config, facts = _config_of(run)
        data = make_data(config)
        return _model_of(run, config, facts, data), data


def _load_pyfunc(path: str) -> Any:
    """For MLflow: what predicts, from numpy [n, …] to numpy [n, outputs], of the config and checkpoint at `path`."""
    import torch

    config, facts = _config_of(path)
    model = _model_of(path, config, facts, None)

    class Predictor:
        def predict(self, x: Any, params: object = None) -> Any:
            with torch.inference_mode():
                return model(torch.as_tensor(x, dtype=torch.float32)).numpy()

    return Predictor()


def _config_of(folder: str) -> tuple[Config, dict[str, Any]]:
    """The config and the facts of a run that has begun."""
    if not os.path.isfile(path := os.path.join(folder, run_folder.CONFIG)):
        raise BatchError("this is no folder of a run that has begun", where=folder, hint="it has a config.yaml")
    spec = run_folder.read_spec(path)
    return Config.from_dict(spec), spec.get("facts") or {}


def _model_of(folder: str, config: Config, facts: dict[str, Any], data: Data | None) -> nn.Module:
    """The model of a run with the weights that it saved. data: for a task of one's own, which makes it."""
    import torch

    from src.models.factory import make_model
    from src.training.output import checkpoint
    from src.training.steps.task import make_task

    found = sorted(name for name in os.listdir(folder) if name.startswith("checkpoint-") and name.endswith(".pt"))
    path = os.path.join(folder, run_folder.BEST_CHECKPOINT)
    if not os.path.isfile(path):
        if not found:
            raise BatchError("this run has saved no model", where=folder, hint=(
                "set save_best_checkpoint: true, or save_freq, and run it again"))
        path = os.path.join(folder, found[-1])
    task = make_task(config, data, torch.device("cpu")) if data and config.task else None
    model = (task.make_model() if task else None) or make_model(
        config, tuple(facts["input_shape"]), facts["output_dim"], weights=False)
    content = checkpoint.load(path)
    model.load_state_dict(content["averaged"] or content["model"])
    return model.eval()


def warm_up(specs: list[dict[str, Any]]) -> None:
    """What a worker does once, before it forks its runs: heavy imports, data parsed into the cache.

    One thread and no CUDA call: a parallel operation in the parent or a CUDA context would hang or break the children.
    """
    import torch

    import src.models.factory
    import src.optimizers.factory
    import src.training.experiment  # noqa: F401
    from src.datasets import factory
    from src.training.steps import torchmetrics_adapter

    torch.set_num_threads(1)
    configs = [Config.from_dict(spec) for spec in specs]
    factory.warm_up(configs)
    torchmetrics_adapter.warm_up(name for config in configs for name in config.metrics or ())


if __name__ == "__main__":
    process.exit_process(attempt.main(sys.argv[1:], train=train, warm_up=warm_up))
