"""The first half of each epoch: optimizer steps on the train split, and the train/ columns of the row."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger

from src.checks.known_data import single_sample_error
from src.checks.registered_names import parse_schedule
from src.config import Config
from src.datasets.data import Batch, Lazy, Split
from src.datasets.texts import Texts
from src.optimizers.schedules import make_schedule
from src.training.components import TrainingComponents
from src.training.epoch import Elapsed, Trainer
from src.training.output.log import Progress, bottleneck_message
from src.training.output.recorder import Row
from src.training.output.resume import ResumeSaver, TrainingState, disabled_saver
from src.training.output.step_log import StepLog
from src.training.parallel.data_shards import DataShard
from src.training.setup import facts, single_samples, summary
from src.training.setup.length import Length
from src.training.steps.batches import shuffled_batches
from src.training.steps.clipping import GradientClipping
from src.training.steps.forward import Forward, make_forward
from src.training.steps.losses import make_loss
from src.training.steps.mixing import make_mixing
from src.training.steps.profile import Profile, ProfiledSupervised, ProfiledUserTask
from src.training.steps.task import Steps, Supervised, UserTask

if TYPE_CHECKING:
    from loguru import Logger


class TrainingPhase:
    """Trains epoch after epoch, with a state from which a later start resumes.

    split: the train split; None if the experiment only evaluates.
    evaluation_shard: this process's part of evaluation batches.
    saver: saves the state between steps when that is due.
    length, rate_factor, clipping: of the training.
    meter, elapsed: of the epoch in progress.
    """

    def __init__(self, components: TrainingComponents, split: Split | Lazy | None, length: Length, forward: Forward,
                 evaluation_shard: DataShard | None, saver: ResumeSaver, profile: Profile | None) -> None:
        config = components.config
        self._components, self._config, self.split = components, config, split
        self.length, self._saver, self._profile = length, saver, profile
        self._mixing = make_mixing(config, components.data, facts.output_dim(config, components.data))
        self._scaler = torch.amp.GradScaler(components.device.type) if config.precision == "fp16" else None
        self.clipping = GradientClipping(config.clip_grad_norm, config.clip_grad_value) if (
            config.clip_grad_norm or config.clip_grad_value) else None
        self.steps = make_steps(components, forward, evaluation_shard, profile, self._scaler, self.clipping)
        self.rate_factor = make_rate_factor(config, length)
        self.step_log = StepLog(config.log_steps, config.base_lr, config.clip_grad_norm is not None, components.device,
                                components.group) if config.log_steps else None
        self._trainer = Trainer(components.model, self.steps, self.rate_factor, components.average,
                                config.max_allowed_loss, components.freeze, self.step_log)
        self._batches = self._batches_from(0) if length.epochs else iter(())
        # of the epoch in progress
        self._number, self.meter, self.elapsed = 0, components.make_meter(), Elapsed()
        self._resume_point: tuple[int, TrainingState] | None = None  # next step and meter of an interrupted epoch
        self._examples_before = 0  # in earlier epochs
        self._logged_bottleneck = ""

    def run(self, number: int, log: Logger) -> Row:
        """Train epoch `number`. Return its step and the train/ columns."""
        steps = self.begin(number)
        progress = Progress(log, f"epoch {number}", self._config.log_interval)
        try:
            with self._logging_steps(number):
                last_step, timing = self._trainer.train(self._batches, steps, self.meter, progress, self._saver,
                                                        self.elapsed)
        except ValueError as error:
            if single_samples.TORCH_MESSAGE not in str(error):
                raise
            raise single_sample_error(self.length.samples) from None
        if self._profile:
            self._profile.add("data", timing["data_time"])
        return self.finish(number, last_step, timing, log)

    def begin(self, number: int) -> range:
        """Begin epoch `number`, or go on with it after a resume. Return the steps that are left."""
        self._examples_before += self.meter.samples
        self._number, self.meter = number, self._components.make_meter()
        steps = self.length.epoch_steps(number)
        if self._resume_point:
            next_step, meter_state = self._resume_point
            steps, self._resume_point = range(next_step, steps.stop), None
            self.meter.restore(meter_state)
        else:
            self._reset()
        if self._components.freeze:
            self._components.freeze.apply(number)
        return steps

    def finish(self, number: int, last_step: int, timing: Mapping[str, float], log: Logger) -> Row:
        """Return the step and the train/ columns of epoch `number`, after its last step.

        timing: time, data_time and examples_per_second.
        """
        cells = {**self.meter.means(), **timing, "seen_examples": self._examples_before + self.meter.samples,
                 "learning_rate": self._config.base_lr * self.rate_factor(last_step),
                 "trainable_parameters": summary.count_parameters(self._components.model, only_trained=True),
                 **(self.clipping.mean_norm() if self.clipping else {})}
        row: Row = {"step": last_step + 1, **{f"train/{name}": value for name, value in cells.items()}}
        if number > 1 or not self._config.compile:  # with compile, most of the first epoch is compilation
            self._log_bottleneck(row, log)
        return row

    @contextlib.contextmanager
    def _logging_steps(self, number: int) -> Iterator[None]:
        """Give the values of each step to the step log, if there is one."""
        task, log = self._components.task, self.step_log
        if log:
            log.begin(number)
            self.meter.step_losses = log.losses
            if self.clipping:
                self.clipping.step_norms = log.norms
            if task:
                task.step_values = log.values
        yield
        if task:
            task.step_values = None

    def try_step(self, batch: Batch) -> None:
        """Take one step on a given batch, to see whether the device has enough memory for it."""
        self._components.model.train()
        self.steps.train(batch, 0, self._components.make_meter())

    def try_steps(self, steps: range) -> None:
        """Take some steps without a record, to see what they do or how long they take."""
        self._trainer.train(self._batches, steps, self.meter, Progress(logger, "", 0.0), disabled_saver(), Elapsed())

    def state(self) -> TrainingState:
        """Return what `restore` needs. All processes call it together."""
        return {"epoch": self._number, "seen": self._examples_before,
                "spent": [self.elapsed.time, self.elapsed.data],
                "meters": self._components.group.gather(self.meter.state()),
                "scaler": self._scaler.state_dict() if self._scaler else None,
                "clipping": self.clipping.state() if self.clipping else None,
                "step_log": self._components.group.gather(self.step_log.state()) if self.step_log else None,
                "bottleneck": self._logged_bottleneck}

    def restore(self, state: TrainingState) -> None:
        """Resume from a state that was saved after optimizer step state["step"]."""
        if self._scaler:
            self._scaler.load_state_dict(state["scaler"])
        if self.clipping:
            self.clipping.restore(state["clipping"], self._components.device)
        if self.step_log and state.get("step_log"):  # states of earlier versions have none
            self.step_log.restore(state["step_log"][self._components.group.rank])
        self._resume_point = state["step"], state["meters"][self._components.group.rank]
        self.elapsed = Elapsed(*state["spent"])
        self._examples_before, self._logged_bottleneck = state["seen"], state["bottleneck"]
        self._batches = self._batches_from(state["step"])

    def prepare(self, number: int) -> None:
        """Move on to epoch `number`, so that a state saved now resumes with its first step."""
        self._examples_before += self.meter.samples
        self._number, self.meter = number, self._components.make_meter()
        self._reset()

    def _reset(self) -> None:
        """Forget the time and the gradient norms of the epoch before."""
        self.elapsed = Elapsed()
        if self.clipping:
            self.clipping.reset()

    def _batches_from(self, step: int) -> Iterator[Batch]:
        """Yield batches without end, starting with that of optimizer step `step`."""
        assert self._config.seed_training is not None
        assert self.split is not None
        return shuffled_batches(self.split, self._config.batch_size, self._config.seed_training,
                                self._components.device, self._mixing, step, self._components.shard)

    def _log_bottleneck(self, row: Row, log: Logger) -> None:
        """Log whether data or model limits the speed, unless that has been logged already."""
        in_memory = isinstance(self.split, (Split, Texts)) or self._config.data_on_device
        message = bottleneck_message(row, self._config.to_dict(), in_memory, str(self._components.device)) or ""
        bottleneck = message.partition(":")[0]
        if message and bottleneck != self._logged_bottleneck:
            log.info(message)
            self._logged_bottleneck = bottleneck


def make_steps(components: TrainingComponents, forward: Forward, evaluation_shard: DataShard | None,
               profile: Profile | None, scaler: torch.amp.GradScaler | None, clipping: GradientClipping | None
               ) -> Steps:
    """Return what computes training and evaluation steps, as the config, the task and the number of processes require.

    forward: calls the model. evaluation_shard: this process's part of evaluation batches.
    """
    config, model, task = components.config, components.model, components.task
    if task and not components.shard:
        return ProfiledUserTask(profile, task, model) if profile else UserTask(task, model)
    loss = make_loss(config.loss, config.targets)
    settings: tuple[Any, ...] = (loss, components.optimizers[0], facts.micro_batch_size(config), scaler, clipping)
    if components.shard and evaluation_shard:
        from src.training.steps.distributed_steps import DistributedSupervised, DistributedUserTask

        shared = components.group, components.shard, evaluation_shard
        if task:
            return DistributedUserTask(*shared, task, model)
        return DistributedSupervised(*shared, lambda model: make_forward(config, model, components.device), profile,
                                     model, *settings)
    return ProfiledSupervised(profile, forward, *settings) if profile else Supervised(forward, *settings)


def make_rate_factor(config: Config, length: Length) -> Callable[[int], float]:
    """Return the factor on each parameter group's learning rate, as a function of the step, counted from 0."""
    schedule = parse_schedule(config.lr_schedule)
    milestones = [length.to_steps(milestone, config.train_length_unit) for milestone in schedule.milestones]
    factor = make_schedule(schedule, length.total_steps, milestones, config.warmup_steps, config.cooldown_steps)
    if config.unfreeze_lr is None or config.unfreeze_epoch is None:
        return factor
    unfreeze_step = (config.unfreeze_epoch - 1) * length.steps_per_epoch
    later_factor = config.unfreeze_lr / config.base_lr
    return lambda step: factor(step) * (later_factor if step >= unfreeze_step else 1.0)
