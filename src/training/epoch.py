"""The inner loops: the optimizer steps of an epoch, and an evaluation. Neither waits for the device at each step."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn

from src.datasets.data import Batch, Lazy, Split
from src.monitoring import worker_cell
from src.monitoring.loop_clock import clock
from src.optimizers.averaging import AveragedModel
from src.optimizers.layers import Freeze
from src.training.output.log import Progress
from src.training.output.resume import ResumeSaver
from src.training.output.step_log import StepLog
from src.training.parallel.data_shards import DataShard
from src.training.steps.batches import ordered_batches
from src.training.steps.forward import Forward
from src.training.steps.meters import MeanMeter, Meter
from src.training.steps.task import Steps

CHECK_EVERY = 1000  # steps between checks of the loss for divergence: each check waits for the device


@dataclass
class Elapsed:
    """Seconds that training an epoch has taken so far, over all starts: in total, and waiting for batches."""

    time: float = 0.0
    data: float = 0.0


@dataclass(frozen=True)
class Trainer:
    """Trains the steps of an epoch.

    rate_factor: returns the factor on the initial learning rate of each parameter group at a step, counted from 0.
    max_allowed_loss: a larger mean loss ends the epoch.
    step_log: records the steps; None without log_steps.
    """

    model: nn.Module
    steps: Steps
    rate_factor: Callable[[int], float]
    average: AveragedModel | None
    max_allowed_loss: float
    freeze: Freeze | None = None
    step_log: StepLog | None = None

    def train(self, batches: Iterator[Batch], steps: range, meter: Meter | MeanMeter, progress: Progress,
              saver: ResumeSaver, elapsed: Elapsed) -> tuple[int, dict[str, float]]:
        """Take the given steps, or fewer if the loss diverges.

        elapsed: time of earlier steps of this epoch, before the training was interrupted; updated here. Return the last
        step and three columns of the row: time and data_time in seconds, examples_per_second.
        """
        self.model.train()
        if self.freeze:
            self.freeze.set_eval_mode()
        groups = [group for optimizer in self.steps.optimizers for group in optimizer.param_groups]
        for group in groups:
            group.setdefault("initial_lr", group["lr"])
        for optimizer in self.steps.optimizers:
            optimizer.zero_grad()  # a caller of experiment_generator may have left gradients
        start, data_before, step = perf_counter() - elapsed.time, clock.data - elapsed.data, steps.start - 1
        due = self.step_log.due(steps.start) if self.step_log else 0  # the next step, from 1, that the log visits
        for step in steps:
            batch, now = clock.next_batch(batches)
            factor = self.rate_factor(step)
            for group in groups:
                group["lr"] = group["initial_lr"] * factor
            self.steps.train(batch, step, meter)
            worker_cell.add_samples(len(batch[1]))
            if self.average:
                self.average.update(step + 1)
            if step + 1 == due and self.step_log:
                due = self.step_log.visit(due, factor)

            if now >= progress.due:
                progress.report(step + 1 - steps.start, len(steps))
            if (step + 1) % CHECK_EVERY == 0 and not meter.means()["loss"] <= self.max_allowed_loss:  # also if NaN
                break
            if saver.is_due(now, step + 1):
                elapsed.time, elapsed.data = perf_counter() - start, clock.data - data_before
                saver.save(step + 1)
        saver.step = step + 1
        meter.means()  # waits until the device has finished the steps
        if self.step_log:
            self.step_log.pause()
        time = elapsed.time = perf_counter() - start
        elapsed.data = clock.data - data_before
        return step, {"time": time, "data_time": elapsed.data, "examples_per_second": meter.samples / time}


@torch.inference_mode()
def evaluate(model: nn.Module, forward: Forward, steps: Steps, split: Split | Lazy, batch_size: int,
             meter: Meter | MeanMeter, progress: Progress, saver: ResumeSaver, shard: DataShard | None = None
             ) -> dict[str, float]:
    """Return the metrics of a model on a split, in eval mode, with time and data_time in seconds.

    forward: calls the model. shard: this process's part of each batch.
    SavedAndExit if the training has to stop; it repeats the evaluation when it is resumed.
    """
    model.eval()
    start, data_before, evaluated = perf_counter(), clock.data, 0
    total = len(split)
    batches = ordered_batches(split, batch_size, shard)
    with clock.evaluating():
        while evaluated < total:
            batch, now = clock.next_batch(batches)
            steps.evaluate(model, forward, batch, meter)
            evaluated += shard.samples if shard else len(batch[1])
            if now >= progress.due:
                progress.report(evaluated, total)
            if saver.agree_to_exit():
                saver.save(saver.step)
        metrics = meter.means()  # waits until the device has finished
    return {**metrics, "time": perf_counter() - start, "data_time": clock.data - data_before}
