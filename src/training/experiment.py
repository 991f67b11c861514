"""The story of a training: each epoch is trained, evaluated, judged, recorded, and handed to whoever looks on."""
from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from src import run_folder
from src.checks.registered_names import parse_interval, parse_schedule
from src.config import Config
from src.datasets.data import Batch, Data, Lazy, Split
from src.datasets.texts import Texts
from src.errors import ConfigError
from src.optimizers.averaging import AveragedModel
from src.optimizers.layers import Freeze
from src.optimizers.schedules import make_schedule
from src.tracking import system
from src.tracking.tracker import EpochView
from src.tracking.trackers import Trackers
from src.training.epoch import Elapsed, Trainer, evaluate
from src.training.output import resume
from src.training.output.log import Progress, bottleneck_message, epoch_line, header_lines, open_log
from src.training.output.recorder import Recorder, Row, stats_columns
from src.training.parallel.data_shards import DataShard
from src.training.parallel.distributed import SINGLE_PROCESS, SingleProcess
from src.training.setup import facts, summary
from src.training.setup.length import Length, limit_batches
from src.training.setup.out_of_memory import explain_out_of_memory
from src.training.setup.seeds import derive_seed, preserve_generators
from src.training.steps.batches import ordered_batches, shuffled_batches
from src.training.steps.clipping import GradientClipping
from src.training.steps.forward import Forward, make_forward, matmul_precision, recompute_batch_norm
from src.training.steps.losses import make_loss
from src.training.steps.meters import METRICS, MeanMeter, Meter, TokenMeter
from src.training.steps.mixing import make_mixing
from src.training.steps.overfit_subset import overfit_subset
from src.training.steps.profile import Profile, ProfiledSupervised, ProfiledUserTask
from src.training.steps.task import Optimizer, Steps, Supervised, Task, UserTask
from src.training.steps.torchmetrics_adapter import Arrays, ConfiguredMetrics, MetricsMeter, metric_columns
from src.training.stopping import BestEpoch

if TYPE_CHECKING:
    from loguru import Logger


@dataclass(frozen=True)
class TrainingComponents:
    """What a training is made of: built by train.py, and placed on one device."""

    config: Config  # with all its seeds
    data: Data
    model: nn.Module
    optimizers: Sequence[Optimizer]  # of the config one alone
    average: AveragedModel | None
    device: torch.device
    seeds_drawn: list[str]
    task: Task | None = None  # of one's own
    freeze: Freeze | None = None
    group: SingleProcess = SINGLE_PROCESS  # the processes that train it together
    shard: DataShard | None = None  # of this process, where there are several


def run_epochs(parts: TrainingComponents, folder: str | None, check: Callable[[], None],
           on_stop: Callable[[Callable[[], None]], contextlib.AbstractContextManager[None]] | None = None
           ) -> Iterator[tuple[Row, nn.Module, str | None]]:
    """Train, from where an earlier start has saved itself, if one has. After each epoch: its row of stats, the model,
    and how the training ended, or None while it goes on.

    folder: where the artefacts go; None: nowhere. check: raises once a later attempt has taken over. on_stop: has a
    function called when the training is to stop, in a `with`; it saves itself then, and resume.SavedAndExit is raised.
    Of several processes the first writes, and the others go along.
    """
    config, model, first = parts.config, parts.model, parts.group.is_first
    check = check if first else lambda: None
    saved, words = resume.load_newest(folder, config, parts.group)
    run = Experiment(parts, folder, check)
    if saved:
        run.restore(saved)
    with (open_log(folder, config.log_to_stdout, silent=not first) as log,
          Recorder(folder if first else None, run.columns, check, run.numbers[0]) as recorder,
          Trackers(config, run.facts, folder, log, silent=not first) as trackers,
          system.SystemMonitor(config, str(parts.device), folder if first else None, log) as samples,
          matmul_precision(config.precision),
          run.profile or contextlib.nullcontext(), contextlib.closing(run),
          on_stop(run.saver.request_exit) if on_stop and folder else contextlib.nullcontext()):
        for line in words:
            log.warning(line)
        recorder.write_config(config, run.facts)
        run.introduce(log)
        for epoch in run.numbers:
            with explain_out_of_memory(config, parts.device):
                row = run.epoch(epoch, log) | samples.epoch_cells()
            with run.measure("logging"):
                recorder.write_arrays(epoch, run.arrays)
                recorder.write_row(row)
                log.info(epoch_line(row, run.numbers[-1]))
                trackers.log(row, run.seen())
                for name in run.checkpoints(epoch):
                    recorder.write_checkpoint(name, config, row, model, run.averaged)
            if run.end:
                for line in run.profile.text().splitlines() if run.profile else ():
                    log.info(line)
                log.info(run.end)
                trackers.end = run.end
            yield row, model, run.end
            if run.end:
                return


class Experiment:
    """A training under way: what it is made of, what it evaluates when, and how far it is.

    numbers: those of its epochs, from 1; 0 alone if it only evaluates. end: how it ended, None while it goes on.
    ConfigError if best_checkpoint_metric is used and matches nothing.
    """

    def __init__(self, parts: TrainingComponents, folder: str | None = None,
                 check: Callable[[], None] = lambda: None) -> None:
        self._parts, self._config, self._data = parts, parts.config, parts.data
        self._group, self._shard = parts.group, parts.shard
        self._evaluated = parts.shard.with_whole_batches(self._eval_batch_size()) if parts.shard else None
        self._metrics = list(parts.task.metrics if parts.task else METRICS[parts.data.task])
        self._models = [name for name in ("last", "av") if (name == "last" or parts.average) and (
            not self._config.eval_models or name in self._config.eval_models)]  # those that are evaluated
        self._forwards = {"last": make_forward(self._config, parts.model, parts.device)}
        if parts.average:
            self._forwards["av"] = make_forward(self._config, parts.average.module(), parts.device)
        self.averaged: nn.Module | None = None
        self.arrays: Arrays = {}  # what the last epoch's evaluations measured beside numbers
        self._measures()  # names that cannot be had are told before training
        self._mixing = make_mixing(self._config, self._data, facts.output_dim(self._config, self._data))
        self._at_end = self._config.eval_at_end or []
        evaluated = [name for name in self._data.splits if name != "train" or name in self._at_end]
        self._each_epoch = [name for name in evaluated if name not in self._at_end]
        self.columns = [*self._columns(evaluated), *system.columns(self._config, parts.device.type == "cuda")]
        self._best = self._make_best()
        self._train_split = self._few_of_train()
        self._length = Length.of(self._config, len(self._train_split or ()))
        self.profile = Profile(folder if self._group.is_first else None, parts.device, self._length.total_steps) if (
            self._config.profile) else None
        self.measure = self.profile.measure if self.profile else contextlib.nullcontext
        self.numbers = range(min(1, self._length.epochs), self._length.epochs + 1)
        self.facts = facts.gather(self._config, self._data, parts.model, self._length, parts.device, parts.seeds_drawn)
        if self._group.size > 1:
            self.facts["processes"] = self._group.size
        self._scaler = torch.amp.GradScaler(parts.device.type) if self._config.precision == "fp16" else None
        self._clipping = GradientClipping(self._config.clip_grad_norm, self._config.clip_grad_value) if (
            self._config.clip_grad_norm or self._config.clip_grad_value) else None
        self._steps = self._make_steps()
        self._rate_factor = self._make_rate_factor()
        self._trainer = Trainer(parts.model, self._steps, self._rate_factor, parts.average,
                                self._config.max_allowed_loss, parts.freeze)
        self._batches = self._passes(0) if self._length.epochs else iter(())
        self.saver = resume.ResumeSaver(folder if self._length.epochs else None,
                                  parse_interval(self._config.checkpoint_every), self._config.checkpoints_kept,
                                  self._length.steps_per_epoch, self._state, check, self._group)
        self._begun: tuple[int, resume.State] | None = None  # the step to go on from, and the meter until there
        self._number, self._meter, self._spent = 0, self._new_meter(), Elapsed()  # of the epoch under way
        self._seen = 0  # samples, in the epochs before
        self._bottleneck = ""  # the side that the log named last
        self._is_best = False
        self.end: str | None = None

    def introduce(self, log: Logger) -> None:
        """What is trained where, and a warning if it chooses by what it should only be measured by."""
        for line in header_lines(self._config.to_dict(), self.facts):
            log.info(line)
        for line in summary.lines(self._parts.model, self._parts.optimizers, self._parts.average is not None):
            log.info(line)
        if self._best and self._best.uses_test_split:
            log.warning("{} chooses by a test split: its best value is no estimate of what to expect",
                        self._config.best_checkpoint_metric)

    def epoch(self, number: int, log: Logger) -> Row:
        """Train and evaluate an epoch, and see whether it is the last, however the run ends; its row."""
        row: Row = {**dict.fromkeys(self.columns), "epoch": number, "step": 0}
        if number:
            row |= self._train(number, log)
        self.averaged = self._average()
        self.arrays = {}
        row |= self._evaluate(self._each_epoch, log)
        row = self._group.broadcast(lambda: row)  # so that all see the same end
        self._is_best = self._best is not None and self._best.update(row)
        self.end = self._how_it_ends(row)
        if self.end:
            row |= self._evaluate(self._at_end, log)
        row["timestamp"] = time.time()
        return row

    def restore(self, state: resume.State) -> None:
        """Go on from what an earlier start has saved."""
        self._parts.model.load_state_dict(state["model"])
        if self._parts.average:
            self._parts.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self._parts.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self._scaler:
            self._scaler.load_state_dict(state["scaler"])
        if self._clipping:
            self._clipping.restore(state["clipping"], self._parts.device)
        if self._best:
            self._best.restore(state["best"])
        if self._parts.task:
            self._parts.task.load_state_dict(state["task"])
        step = self.saver.step = state["step"]
        self.facts["resumed_at_step"] = step
        self.numbers = range(state["epoch"], self.numbers[-1] + 1)
        self._begun, self._spent = (step, state["meters"][self._group.rank]), Elapsed(*state["spent"])
        self._seen, self._bottleneck = state["seen"], state["bottleneck"]
        self._batches = self._passes(step)
        resume.restore_generators(state["generators"], self._parts.device)

    def close(self) -> None:
        """Wait for what is being written, and end what reads the data."""
        self.saver.close()
        for split in self._data.splits.values():
            if hasattr(split, "close"):
                split.close()

    def _state(self, step: int) -> resume.State:
        """All that `restore` needs, after `step` steps."""
        parts = self._parts
        return {"config": self._config.to_dict(), "versions": resume.versions(), "step": step,
                "epoch": self._number, "seen": self._seen, "spent": [self._spent.time, self._spent.data],
                "meters": self._group.gather(self._meter.state()), "model": parts.model.state_dict(),
                "average": parts.average.state_dict() if parts.average else None,
                "optimizers": [optimizer.state_dict() for optimizer in parts.optimizers],
                "scaler": self._scaler.state_dict() if self._scaler else None,
                "clipping": self._clipping.state() if self._clipping else None,
                "best": self._best.state() if self._best else None, "bottleneck": self._bottleneck,
                "task": parts.task.state_dict() if parts.task else {},
                "generators": resume.generator_states(parts.device)}

    def _passes(self, start: int) -> Iterator[Batch]:
        """Batches without end, from the one that step `start` takes."""
        assert self._config.seed_training is not None
        assert self._train_split is not None
        return shuffled_batches(self._train_split, self._config.batch_size, self._config.seed_training,
                                self._parts.device,
                        self._mixing, start, self._shard)

    def try_step(self, batch: Batch) -> None:
        """One step on a batch from elsewhere, to see whether the device can take it."""
        self._parts.model.train()
        self._steps.train(batch, 0, self._new_meter())

    def seen(self) -> EpochView:
        """What trackers may look at."""
        return EpochView(self._parts.model, self.arrays, self._some_samples)

    def _some_samples(self) -> Any:
        """The inputs of a few samples of the split that is evaluated first."""
        split = self._data.splits[next(iter([*self._each_epoch, *self._data.splits]))]
        with preserve_generators(self._parts.device):
            return next(iter(ordered_batches(split, 16)))[0]

    def checkpoints(self, epoch: int) -> Iterator[str]:
        """The names under which the model is to be saved after this epoch."""
        if self._config.save_freq and (epoch % self._config.save_freq == 0 or self._config.fast_dev_run):
            yield run_folder.checkpoint_name(epoch)
        if self._config.save_best_checkpoint and self._is_best:
            yield run_folder.BEST_CHECKPOINT

    def _train(self, number: int, log: Logger) -> Row:
        self._seen += self._meter.samples
        self._number, self._meter = number, (meter := self._new_meter())
        steps = self._length.epoch_steps(number)
        if self._begun:
            step, state = self._begun
            steps, self._begun = range(step, steps.stop), None
            meter.restore(state)
        else:
            self._spent = Elapsed()
            if self._clipping:
                self._clipping.reset()
        if self._parts.freeze:
            self._parts.freeze.at(number)
        progress = Progress(log, f"epoch {number}", self._config.log_interval)
        try:
            last_step, timing = self._trainer.train(self._batches, steps, meter, progress, self.saver, self._spent)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError("one sample is too few for the model's batch norm", where="batch_size", hint=(
                "choose one that leaves more than one for the last micro-batch of a pass")) from None
        if self.profile:
            self.profile.add("data", timing["data_time"])
        row: Row = {"step": last_step + 1, **_under("train", {
            **meter.means(), **timing, "seen_examples": self._seen + meter.samples,
            "learning_rate": self._config.base_lr * self._rate_factor(last_step),
            "trainable_parameters": facts.count_trainable(self._parts.model),
            **(self._clipping.mean_norm() if self._clipping else {})})}
        if number > 1 or not self._config.compile:  # whose first epoch goes by with compiling
            self._tell_bottleneck(row, log)
        return row

    def _tell_bottleneck(self, row: Row, log: Logger) -> None:
        """Say which side of the training waits for the other, unless the log said so before."""
        in_memory = isinstance(self._train_split, (Split, Texts)) or self._config.data_on_device
        line = bottleneck_message(row, self._config.to_dict(), in_memory, str(self._parts.device))
        side = (line or "").partition(":")[0]
        if line and side != self._bottleneck:
            log.info(line)
            self._bottleneck = side

    def _evaluate(self, names: Iterable[str], log: Logger) -> Row:
        """The cells of the splits `names`, for the model and for its average."""
        config = self._config
        interval = config.log_interval if config.log_interval_eval is None else config.log_interval_eval
        batch_size = self._eval_batch_size()
        row: Row = {}
        for name in names:
            for which in self._models:
                model = self._parts.model if which == "last" else self.averaged
                assert model is not None
                self._group.broadcast_buffers(model)
                progress = Progress(log, f"evaluating {name}/{which}", interval)
                most = self._most_batches(len(self._data.splits[name]), batch_size)
                meter = self._new_meter(self._measures())
                with self.measure("evaluation"):
                    row |= _under(f"{name}/{which}", evaluate(
                        model, self._forward(which, name), self._steps, self._data.splits[name], batch_size, meter,
                        progress, self.saver, most, self._evaluated))
                self.arrays |= {f"{name}/{which}/{key}": array for key, array in getattr(meter, "arrays", {}).items()}
        return row

    def _forward(self, which: str, split: str) -> Forward:
        """What calls the model or its average; of the outputs, those of the split's own classes."""
        forward = self._forwards[which]
        metric_columns = self._data.columns.get(split)
        if metric_columns is None:
            return forward
        index = torch.tensor(metric_columns, device=self._parts.device)
        return lambda x: forward(x).index_select(1, index)

    def _most_batches(self, samples: int, batch_size: int) -> int | None:
        """How many batches of a split are evaluated at most; None: all."""
        limit = 1 if self._config.fast_dev_run else self._config.limit_eval_batches
        return None if limit is None else limit_batches(-(-samples // batch_size), limit)

    def _few_of_train(self) -> Split | Lazy | None:
        """What is trained on: the train split, or a few batches of it; None if there is none."""
        split, batches = self._data.splits.get("train"), self._config.overfit_batches
        if split is None or batches is None:
            return split
        if "train" in self._at_end and not isinstance(split, Split):
            raise ConfigError("a train split that is read from files cannot be evaluated in part",
                              where="overfit_batches", hint="leave train out of eval_at_end")
        self._data = dataclasses.replace(self._data, splits={**self._data.splits, "train": overfit_subset(
            split, batches * self._config.batch_size, self._config.seed_split)})
        return self._data.splits["train"]

    def _average(self) -> nn.Module | None:
        """The averaged model as it is now, with batch-norm statistics of its own if the config asks for them."""
        average, config = self._parts.average, self._config
        if average is None:
            return None
        model, split = average.module(), self._train_split
        if config.recompute_batch_norm and self._length.epochs and split is not None:
            in_pass = -(-len(split) // config.batch_size)
            with preserve_generators(self._parts.device):
                batches = shuffled_batches(split, config.batch_size, derive_seed("batch norm", config.seed_training),
                                           self._parts.device, shard=self._shard and
                                           self._shard.with_whole_batches(config.batch_size))
                recompute_batch_norm(model, self._forwards["av"], itertools.islice(
                    batches, 1 if config.fast_dev_run else limit_batches(in_pass, config.limit_train_batches)))
        return model

    def _how_it_ends(self, row: Row) -> str | None:
        """How the training ends with this row; None if it goes on."""
        patience = self._config.early_stopping_patience
        if row["epoch"] and self._has_diverged(row):
            return run_folder.DIVERGED
        if row["epoch"] == self.numbers[-1]:
            return run_folder.COMPLETED
        if self._best and patience is not None and self._best.epochs_since >= patience:
            return run_folder.EARLY_STOPPED
        return None

    def _has_diverged(self, row: Row) -> bool:
        """The training loss is NaN or too large; or the model is NaN after the last step, as an evaluation sees."""
        loss, *evaluated = (row[column] or 0.0 for column in ("train/loss", *(
            f"{name}/{self._models[0]}/loss" for name in self._each_epoch)))
        return not loss <= self._config.max_allowed_loss or any(map(math.isnan, evaluated))

    def _columns(self, splits: Iterable[str]) -> list[str]:
        return stats_columns(self._metrics, splits, self._models, metric_columns(self._config.metrics or ()),
                             ["grad_norm"] if self._config.clip_grad_norm else [])

    def _make_best(self) -> BestEpoch | None:
        """What keeps the best epoch, if anything depends on it. Columns that are empty until the end cannot tell."""
        if self._config.early_stopping_patience is None and not self._config.save_best_checkpoint:
            return None
        return BestEpoch(self._config.best_checkpoint_metric, self._columns(self._each_epoch))

    def _make_rate_factor(self) -> Callable[[int], float]:
        config, length = self._config, self._length
        schedule = parse_schedule(config.lr_schedule)
        milestones = [length.to_steps(milestone, config.train_length_unit) for milestone in schedule.milestones]
        factor = make_schedule(schedule, length.total_steps, milestones, config.warmup_steps, config.cooldown_steps)
        if config.unfreeze_lr is None or config.unfreeze_epoch is None:
            return factor
        freed, then = (config.unfreeze_epoch - 1) * length.steps_per_epoch, config.unfreeze_lr / config.base_lr
        return lambda step: factor(step) * (then if step >= freed else 1.0)

    def _make_steps(self) -> Steps:
        config, parts, profile = self._config, self._parts, self.profile
        if parts.task and not self._shard:
            return ProfiledUserTask(profile, parts.task, parts.model) if profile else UserTask(parts.task, parts.model)
        loss = make_loss(config.loss, config.targets)
        arguments = loss, parts.optimizers[0], facts.micro_batch_size(config), self._scaler, self._clipping
        if self._shard and self._evaluated:
            from src.training.steps.shared_steps import DistributedSupervised, DistributedUserTask

            shared = self._group, self._shard, self._evaluated
            if parts.task:
                return DistributedUserTask(*shared, parts.task, parts.model)
            return DistributedSupervised(*shared, lambda model: make_forward(config, model, parts.device), profile,
                                    parts.model, *arguments)
        if profile:
            return ProfiledSupervised(profile, self._forwards["last"], *arguments)
        return Supervised(self._forwards["last"], *arguments)

    def _new_meter(self, measures: ConfiguredMetrics | None = None) -> Meter | MeanMeter:
        device, group = self._parts.device, self._group
        if self._parts.task:
            return MeanMeter(self._metrics, device, group)
        if self._data.task == "next_token":
            return TokenMeter(device, group)
        return MetricsMeter(self._data.task, device, measures) if measures else Meter(self._data.task, device, group)

    def _eval_batch_size(self) -> int:
        return self._config.eval_batch_size or self._config.batch_size

    def _measures(self) -> ConfiguredMetrics | None:
        """New ones for an evaluation; None if the config asks for no further metrics."""
        names = self._config.metrics
        return ConfiguredMetrics(names, facts.output_dim(self._config, self._data),
                                 self._parts.device) if names else None


def _under(group: str, cells: Row) -> Row:
    return {f"{group}/{name}": value for name, value in cells.items()}
