"""The second half of each epoch: the model and its average are evaluated on the splits, each in columns of its own."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import nn

from src.datasets.data import Data, Lazy, Split
from src.training.components import TrainingComponents
from src.training.epoch import evaluate
from src.training.output.log import Progress
from src.training.output.recorder import Row, stats_columns
from src.training.output.resume import ResumeSaver
from src.training.parallel.data_shards import DataShard
from src.training.setup.facts import evaluation_batch_size
from src.training.setup.length import limit_batches
from src.training.setup.seeds import derive_seed, preserve_generators
from src.training.steps.batches import shuffled_batches
from src.training.steps.forward import Forward, make_forward, recompute_batch_norm
from src.training.steps.task import Steps
from src.training.steps.torchmetrics_adapter import Arrays, metric_columns
from src.training.stopping import keeps_best_checkpoint

if TYPE_CHECKING:
    from loguru import Logger


class EvaluationSchedule:
    """Which models are evaluated on which splits, and when.

    models: `last`, the model, and `av`, its average, or one of them.
    each_epoch, at_end: names of the splits that are evaluated after each epoch, and after the last one. train is
      evaluated only if eval_at_end contains it.
    splits: names of both.
    evaluates_best: whether the splits at the end are also evaluated with the best checkpoint in `folder`, as `best`.
    """

    def __init__(self, components: TrainingComponents, folder: str | None = None) -> None:
        config, splits = components.config, components.data.splits
        available = ("last", "av") if components.average else ("last",)
        self.models = [name for name in available if not config.eval_models or name in config.eval_models]
        self.at_end = config.eval_at_end or []
        self.each_epoch = [name for name in splits if name not in self.at_end and name != "train"]
        self.splits = [name for name in splits if name in self.at_end or name != "train"]
        self._config, self._metrics = config, components.training_metrics
        self.evaluates_best = bool(folder and self.at_end and keeps_best_checkpoint(config))

    def columns(self) -> list[str]:
        """Return the columns of stats.csv, without those of system metrics."""
        best = self._columns(self.at_end, ["best"]) if self.evaluates_best else []
        return [*self._columns(self.splits, self.models), *(name for name in best if "/best/" in name)]

    def epoch_columns(self) -> list[str]:
        """Return the columns that have a value in each epoch, by which the best epoch can be chosen."""
        return self._columns(self.each_epoch, self.models)

    def loss_columns(self) -> list[str]:
        """Return the evaluation losses of each epoch, for one of the models."""
        return [f"{split}/{self.models[0]}/loss" for split in self.each_epoch]

    def _columns(self, splits: Iterable[str], models: Iterable[str]) -> list[str]:
        return stats_columns(self._metrics, splits, models, metric_columns(self._config.metrics or ()),
                             ["grad_norm"] if self._config.clip_grad_norm else [])


class EvaluationPhase:
    """Evaluates the model and its average.

    data: its splits may be subsets of those in `components`. shard: this process's part of evaluation batches.
    measure: context manager that adds time to a part of the profile.
    """

    def __init__(self, components: TrainingComponents, data: Data, forwards: Mapping[str, Forward], steps: Steps,
                 shard: DataShard | None, saver: ResumeSaver, measure: Callable[[str], AbstractContextManager[None]]
                 ) -> None:
        self._components, self._data, self._forwards = components, data, forwards
        self._steps, self._shard, self._saver, self._measure = steps, shard, saver, measure
        self._logged_absent: set[str] = set()

    def run(self, splits: Iterable[str], models: Mapping[str, nn.Module | None], log: Logger) -> tuple[Row, Arrays]:
        """Evaluate on some splits. Return the cells of the row, and what was measured besides numbers.

        models: by their names in columns: last, av or best; those that are None are left out.
        """
        row: Row = {}
        arrays: Arrays = {}
        for split in splits:
            for name, model in models.items():
                if model is None:
                    continue
                metrics, more_arrays = self._evaluate(split, name, model, log)
                row |= {f"{split}/{name}/{metric}": value for metric, value in metrics.items()}
                arrays |= {f"{split}/{name}/{key}": array for key, array in more_arrays.items()}
        return row, arrays

    def _evaluate(self, split: str, name: str, model: nn.Module, log: Logger) -> tuple[dict[str, float], Arrays]:
        config = self._components.config
        self._components.group.broadcast_buffers(model)
        interval = config.log_interval if config.log_interval_eval is None else config.log_interval_eval
        progress = Progress(log, f"evaluating {split}/{name}", interval)
        samples = self._data.splits[split]
        meter = self._components.make_evaluation_meter()
        with self._measure("evaluation"):
            metrics = evaluate(model, self._forward(name, model, split), self._steps, samples,
                               evaluation_batch_size(config), meter, progress, self._saver, self._shard)
        self._log_absent_classes(split, getattr(meter, "absent_classes", 0), log)
        return metrics, getattr(meter, "arrays", {})

    def _log_absent_classes(self, split: str, absent: int, log: Logger) -> None:
        """Log once for a split how many classes auroc is a mean over, if some are absent."""
        if absent and split not in self._logged_absent:
            self._logged_absent.add(split)
            classes = self._components.data.n_classes or 0
            log.warning("auroc of {} is the mean over {} of {} classes: the others have no samples there, or all",
                        split, classes - absent, classes)

    def _forward(self, name: str, model: nn.Module, split: str) -> Forward:
        """Return what calls the model, and selects the outputs of the classes of a split."""
        forward = self._forwards.get(name) or make_forward(self._components.config, model, self._components.device)
        outputs = self._data.columns.get(split)
        if outputs is None:
            return forward
        index = torch.tensor(outputs, device=self._components.device)
        return lambda x: forward(x).index_select(1, index)


def averaged_model(components: TrainingComponents, train_split: Split | Lazy | None, forward: Forward | None
                   ) -> nn.Module | None:
    """Return the averaged model as it is now, with recomputed batch-norm statistics if the config requires them.

    train_split: what batch-norm statistics are computed from; None keeps those of the model. forward: calls the
    average.
    """
    if components.average is None:
        return None
    config, model = components.config, components.average.module()
    if not config.recompute_batch_norm or train_split is None or forward is None:
        return model
    batches_per_pass = -(-len(train_split) // config.batch_size)
    count = 1 if config.fast_dev_run else limit_batches(batches_per_pass, config.limit_train_batches)
    shard = components.shard and components.shard.with_whole_batches(config.batch_size)
    with preserve_generators(components.device):
        batches = shuffled_batches(train_split, config.batch_size, derive_seed("batch norm", config.seed_training),
                                   components.device, shard=shard)
        recompute_batch_norm(model, forward, itertools.islice(batches, count))
    return model
