"""The main loop: each epoch is trained, evaluated, judged, recorded, and yielded to the caller."""
from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from torch import nn

from src import metrics, run_folder
from src.checks.registered_names import parse_interval
from src.code import code_state
from src.config import Config
from src.datasets.data import Batch, Data
from src.tracking import system
from src.tracking.tracker import EpochView
from src.tracking.trackers import Trackers
from src.training import saved_model
from src.training.components import TrainingComponents
from src.training.evaluation_phase import EvaluationPhase, EvaluationSchedule, averaged_model
from src.training.output import checkpoint, resume
from src.training.output.log import epoch_line, header_lines, open_log, progress
from src.training.output.recorder import Recorder, Row
from src.training.output.step_log import StepRow
from src.training.setup import facts, single_samples, summary
from src.training.setup.length import Length
from src.training.setup.out_of_memory import explain_out_of_memory
from src.training.setup.seeds import preserve_generators
from src.training.steps.batches import ordered_batches
from src.training.steps.evaluation_subset import subset_facts, with_evaluation_subsets
from src.training.steps.forward import make_forward, matmul_precision
from src.training.steps.overfit_subset import with_overfit_subset
from src.training.steps.profile import Profile
from src.training.steps.torchmetrics_adapter import Arrays
from src.training.stopping import Judgement, StoppingRule, keeps_best_checkpoint
from src.training.training_phase import TrainingPhase

if TYPE_CHECKING:
    from loguru import Logger


def run_epochs(components: TrainingComponents, folder: str | None, check: Callable[[], None],
               on_stop: Callable[[Callable[[], None]], contextlib.AbstractContextManager[None]] | None = None,
               shows_progress: bool = False, on_saved: Callable[[float], None] | None = None,
               pause_after: int | None = None) -> Iterator[tuple[Row, nn.Module, str | None]]:
    """Train, resuming from the newest saved state in `folder`. Yield after each epoch: its row of stats.csv, the model,
    and how the training ended, or None while it goes on.

    folder: run folder; None writes nothing. Of several processes only the first writes.
    check: raises if a later attempt has taken over the run.
    on_stop: context manager that calls a function when the training has to stop. The training then saves its state and
    raises resume.SavedAndExit.
    shows_progress: print a line for each epoch, unless the log goes to stdout anyway.
    on_saved: called after each save of the state with the seconds that it took, by another thread.
    pause_after: epoch after which the training saves its state and raises resume.Paused, unless it ends there.
    """
    config = components.config
    check = check if components.group.is_first else lambda: None
    experiment, warnings = start_experiment(components, folder, check)
    experiment.saver.on_saved = on_saved
    if experiment.has_passed(pause_after):
        experiment.close()
        raise resume.Paused
    with (matmul_precision(config.precision),
          open_outputs(experiment, folder, check, shows_progress) as outputs,
          experiment.profile or contextlib.nullcontext(), contextlib.closing(experiment),
          on_stop(experiment.saver.request_exit) if on_stop and folder else contextlib.nullcontext()):
        outputs.write_header(experiment, warnings)
        for epoch in experiment.epochs:
            with explain_out_of_memory(config, components.device):
                row = experiment.run_epoch(epoch, outputs.log)
            row = outputs.write_epoch(experiment, epoch, row)
            yield row, components.model, experiment.outcome
            if experiment.outcome:
                return
            if epoch == pause_after:
                outputs.write_pause(epoch)
                experiment.pause(epoch)


def start_experiment(components: TrainingComponents, folder: str | None, check: Callable[[], None]
                     ) -> tuple[Experiment, list[str]]:
    """Return the experiment, resumed from the newest saved state in `folder`, and warnings about saved states.

    Arguments as in run_epochs.
    """
    saved_state, warnings = resume.load_newest(folder, components.config, components.group)
    experiment = Experiment(components, folder, check)
    if saved_state:
        experiment.restore(saved_state)
        experiment.facts |= code_state.facts_before(folder, experiment.facts)
    return experiment, warnings


@dataclass(frozen=True)
class Outputs:
    """Where a run is recorded: its log, the files of its folder, and its trackers."""

    config: Config
    log: Logger
    recorder: Recorder
    trackers: Trackers
    system_monitor: system.SystemMonitor

    def write_header(self, experiment: Experiment, warnings: Sequence[str]) -> None:
        """Write config.yaml and the head of the log, with warnings about saved states."""
        for warning in warnings:
            self.log.warning(warning)
        self.recorder.write_config(self.config, experiment.facts)
        experiment.log_header(self.log)

    def write_epoch(self, experiment: Experiment, epoch: int, row: Row) -> Row:
        """Write an epoch's row, arrays and checkpoints, and how the training ended with it. Return the complete row."""
        row = row | self.system_monitor.epoch_cells()
        with experiment.measure("logging"):
            self.recorder.write_arrays(epoch, experiment.arrays)
            self.recorder.write_row(row)
            progress(self.log).info(epoch_line(row, experiment.epochs[-1]))
            self.trackers.log(row, experiment.view())
            for name in experiment.checkpoint_names(epoch):
                self.recorder.write_checkpoint(name, self.config, row, experiment.model, experiment.averaged,
                                               experiment.judgement._asdict())
        if experiment.outcome:
            for line in experiment.profile.text().splitlines() if experiment.profile else ():
                self.log.info(line)
            progress(self.log).info(experiment.outcome)
            self.trackers.end = experiment.outcome
        return row

    def write_pause(self, epoch: int) -> None:
        """Log that the training pauses after an epoch."""
        progress(self.log).info(f"paused after epoch {epoch}: its search decides whether it continues")


@contextlib.contextmanager
def open_outputs(experiment: Experiment, folder: str | None, check: Callable[[], None], shows_progress: bool
                 ) -> Iterator[Outputs]:
    """Open the outputs of a training. Arguments as in run_epochs."""
    config, writes = experiment.config, experiment.writes
    output_folder = folder if writes else None
    with (open_log(folder, config.log_to_stdout, not writes, shows_progress) as log,
          Recorder(output_folder, experiment.columns, check, experiment.epochs[0]) as recorder,
          Trackers(config, experiment.facts, folder, log, silent=not writes) as trackers,
          system.SystemMonitor(config, str(experiment.device), output_folder, log) as system_monitor,
          experiment.open_step_log(output_folder, check, trackers.log_steps)):
        yield Outputs(config, log, recorder, trackers, system_monitor)


class Experiment:
    """A training in progress. An epoch has two phases, training and evaluation; a rule decides which epoch is the last.

    config, device, model: those of the components.
    writes: whether this process writes the files of the run.
    epochs: numbers of the epochs that are left, from 1; 0 alone if the experiment only evaluates.
    columns: those of stats.csv.
    averaged: the averaged model after the last epoch; None without averaging.
    arrays: what the evaluations of the last epoch measured besides numbers.
    judgement: which weights of the last epoch are the better ones, and why.
    outcome: how the training ended; None while it goes on.
    measure: context manager that adds time to a part of the profile, if there is one.
    training, saver: the training phase, and what saves the state.

    ConfigError if best_checkpoint_metric is used and matches no column.
    """

    def __init__(self, components: TrainingComponents, folder: str | None = None,
                 check: Callable[[], None] = lambda: None) -> None:
        config, device, group = components.config, components.device, components.group
        components.make_evaluation_meter()  # fails early if a metric is not available
        self._components = components
        self.config, self.device, self.model, self.writes = config, device, components.model, group.is_first
        self._data = with_overfit_subset(config, components.data)
        train_split = self._data.splits.get("train")
        length = Length.of(config, len(train_split or ()))
        self.epochs = range(min(1, length.epochs), length.epochs + 1)

        if components.task is None and group.size == 1:
            single_samples.check(components.model, components.freeze, config, length, components.data.input_shape,
                                 device)
        self._schedule = schedule = EvaluationSchedule(components, folder)
        evaluated = with_evaluation_subsets(config, self._data, schedule.splits)
        self.columns = [*schedule.columns(), *system.columns(config, device.type == "cuda")]
        self._stopping = StoppingRule(config, schedule.epoch_columns(), schedule.loss_columns(), length.epochs,
                                      metrics.read_for_run(folder) if folder else None)
        self._best_state = self._stopping.state()  # before the epoch in progress
        self.facts = facts.gather(config, self._data, components.model, length, device, components.seeds_drawn)
        self.facts |= self._facts_of_start(evaluated, folder)

        self.profile = Profile(folder if group.is_first else None, device, length.total_steps) if (
            config.profile) else None
        self.measure = self.profile.measure if self.profile else contextlib.nullcontext
        self.saver = resume.ResumeSaver(folder if length.epochs else None, parse_interval(config.checkpoint_every),
                                        config.checkpoints_kept, length.steps_per_epoch, self._state, check, group)
        self._forwards = {"last": make_forward(config, components.model, device)}
        if components.average:
            self._forwards["av"] = make_forward(config, components.average.module(), device)
        shard = components.shard and components.shard.with_whole_batches(facts.evaluation_batch_size(config))
        self.training = TrainingPhase(components, train_split, length, self._forwards["last"], shard, self.saver,
                                      self.profile)
        self._evaluation = EvaluationPhase(components, evaluated, self._forwards, self.training.steps, shard,
                                           self.saver, self.measure)
        self._batch_norm_split = train_split if length.epochs else None
        self._folder = folder
        self.averaged: nn.Module | None = None
        self.arrays: Arrays = {}
        self.judgement = Judgement("last", 0)
        self.outcome: str | None = None

    def _facts_of_start(self, evaluated: Data, folder: str | None) -> dict[str, Any]:
        """Return facts that not every training has. evaluated: the splits that are evaluated."""
        limited, group = subset_facts(self._data, evaluated), self._components.group
        return {**({"evaluated": limited} if limited else {}),
                **({"processes": group.size} if group.size > 1 else {}),
                **(code_state.facts_of_start(folder) if group.is_first else {})}

    def log_header(self, log: Logger) -> None:
        """Log the facts and the model's size, and warn if a test split chooses the best epoch, or splits overlap."""
        for line in header_lines(self.config.to_dict(), self.facts):
            log.info(line)
        for line in summary.lines(self.model, self._components.optimizers, self._components.average is not None):
            log.info(line)
        for warning in code_state.warnings(self.facts):
            log.warning(warning)
        for names, samples in self.facts.get("overlaps", {}).items():
            if not all(name.startswith("train") for name in names.split(", ")):
                log.warning("splits {} share {} samples, so that neither is held out from the other",
                            names.replace(", ", " and "), samples)
        if self._stopping.uses_test_split:
            log.warning("best_checkpoint_metric {} is of a test split: its best value is an optimistic estimate",
                        self.config.best_checkpoint_metric)

    def has_passed(self, epoch: int | None) -> bool:
        """Return whether an earlier start saved the state after `epoch`, but was killed before recording the pause."""
        return epoch is not None and self.epochs[0] > epoch

    def run_epoch(self, number: int, log: Logger) -> Row:
        """Train and evaluate an epoch, and decide whether it is the last. Return its row."""
        self._best_state = self._stopping.state()
        return self.finish_epoch(number, self.training.run(number, log) if number else {}, log)

    def begin_epoch(self, number: int) -> range:
        """Begin an epoch whose steps the caller takes before it calls `training.finish` and `finish_epoch`. Return the
        steps that are left.
        """
        self._best_state = self._stopping.state()
        return self.training.begin(number)

    def finish_epoch(self, number: int, trained: Row, log: Logger) -> Row:
        """Evaluate after an epoch's steps, and decide whether it is the last. Return its row.

        trained: the cells of the training.
        """
        row: Row = {**dict.fromkeys(self.columns), "epoch": number, "step": 0, **trained}
        self.averaged = averaged_model(self._components, self._batch_norm_split, self._forwards.get("av"))
        models = {name: self.model if name == "last" else self.averaged for name in self._schedule.models}
        cells, self.arrays = self._evaluation.run(self._schedule.each_epoch, models, log)
        epoch_row = row | cells
        row = self._components.group.broadcast(lambda: epoch_row)  # all processes decide by the same numbers
        self.outcome = self._stopping.update(row)
        self.judgement = self._stopping.judge(row, self._schedule.models)
        if self.outcome:
            if self._schedule.evaluates_best:
                models["best"] = self._best_model()
            cells, arrays = self._evaluation.run(self._schedule.at_end, models, log)
            row |= cells
            self.arrays |= arrays
        row["timestamp"] = time.time()
        return row

    def checkpoint_names(self, epoch: int) -> Iterator[str]:
        """Yield the file names under which the model is saved after this epoch."""
        config = self.config
        if config.save_freq and (epoch % config.save_freq == 0 or config.fast_dev_run):
            yield run_folder.checkpoint_name(epoch)
        if self._stopping.is_best and keeps_best_checkpoint(config):
            yield run_folder.BEST_CHECKPOINT

    def _best_model(self) -> nn.Module | None:
        """Return the model of the best epoch so far, with its weights that were judged best; None without one."""
        components = self._components
        if self._stopping.is_best:  # it is not saved yet
            return self.averaged if self.judgement.weights == "av" else components.model
        folder = self._folder or ""
        path = os.path.join(folder, run_folder.BEST_CHECKPOINT)
        if not os.path.isfile(path):
            return None
        content = checkpoint.load(path, components.device)
        model = copy.deepcopy(components.model)
        model.load_state_dict(saved_model.best_weights(content, saved_model.find_judgement(content, folder)))
        return model

    def view(self) -> EpochView:
        """Return what trackers may read."""
        return EpochView(self.model, self.arrays, self._sample_inputs)

    def open_step_log(self, folder: str | None, check: Callable[[], None],
                      show: Callable[[Sequence[StepRow]], None]) -> contextlib.AbstractContextManager[None]:
        """Open steps.csv, if the config has log_steps. Arguments as in StepLog.open."""
        log = self.training.step_log
        return log.open(folder, self.saver.step, check, show) if log else contextlib.nullcontext()

    def try_step(self, batch: Batch) -> None:
        """Take one step on a given batch, to see whether the device has enough memory for it."""
        self.training.try_step(batch)

    def restore(self, state: resume.TrainingState) -> None:
        """Resume from a state that an earlier start saved."""
        components = self._components
        components.model.load_state_dict(state["model"])
        if components.average:
            components.average.load_state_dict(state["average"])
        for optimizer, optimizer_state in zip(components.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        if components.task:
            components.task.load_state_dict(state["task"])
        self.training.restore(state)
        self._stopping.restore(state["best"])
        self.saver.step = self.facts["resumed_at_step"] = state["step"]
        self.epochs = range(state["epoch"], self.epochs[-1] + 1)
        resume.restore_generators(state["generators"], components.device)

    def pause(self, epoch: int) -> NoReturn:
        """Save the state between `epoch` and the next one, and raise resume.Paused."""
        self._best_state = self._stopping.state()
        self.training.prepare(epoch + 1)
        self.saver.save(self.saver.step)
        self.saver.close()
        raise resume.Paused

    def close(self) -> None:
        """Wait for a state that is being written, and stop the data loaders."""
        self.saver.close()
        for split in self._data.splits.values():
            if hasattr(split, "close"):
                split.close()

    def _state(self, step: int) -> resume.TrainingState:
        """Return what `restore` needs, after `step` steps. All processes call it together."""
        components = self._components
        return {"config": components.config.to_dict(), "versions": resume.versions(), "step": step,
                **self.training.state(), "model": components.model.state_dict(),
                "average": components.average.state_dict() if components.average else None,
                "optimizers": [optimizer.state_dict() for optimizer in components.optimizers],
                "best": self._best_state, "task": components.task.state_dict() if components.task else {},
                "generators": resume.generator_states(components.device)}

    def _sample_inputs(self) -> Any:
        """Return the inputs of a few samples of the split that is evaluated first."""
        split = self._data.splits[next(iter([*self._schedule.each_epoch, *self._data.splits]))]
        with preserve_generators(self._components.device):
            return next(iter(ordered_batches(split, 16)))[0]
