"""The loop itself: an epoch of optimizer steps, and an evaluation. Neither waits for the device at each step."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn

from src.datasets.data import Batch, Lazy, Split
from src.optimizers.averaging import AveragedModel
from src.optimizers.layers import Freeze
from src.training.output.log import Progress
from src.training.output.resume import ResumeSaver
from src.training.parallel.data_shards import DataShard
from src.training.steps.batches import ordered_batches
from src.training.steps.forward import Forward
from src.training.steps.meters import MeanMeter, Meter
from src.training.steps.task import Steps

CHECK_EVERY = 1000  # steps between two looks at the loss within an epoch: each waits for the device


@dataclass
class Elapsed:
    """Seconds that an epoch's training has taken so far, in all and waiting for batches, over all starts."""

    time: float = 0.0
    data: float = 0.0


@dataclass(frozen=True)
class Trainer:
    """What an epoch needs."""

    model: nn.Module
    steps: Steps
    rate_factor: Callable[[int], float]  # on the rate each parameter group was made with, by step from 0
    average: AveragedModel | None
    max_allowed_loss: float
    freeze: Freeze | None = None

    def train(self, batches: Iterator[Batch], steps: range, meter: Meter | MeanMeter, progress: Progress,
              saver: ResumeSaver, spent: Elapsed) -> tuple[int, dict[str, float]]:
        """Take the `steps` of an epoch. The last step; time and data_time in seconds, samples in a second of time.

        Stops early if the loss diverges. spent: what an earlier start took for steps before these.
        """
        self.model.train()
        if self.freeze:
            self.freeze.keep_still()
        groups = [group for optimizer in self.steps.optimizers for group in optimizer.param_groups]
        for group in groups:
            group.setdefault("initial_lr", group["lr"])
        for optimizer in self.steps.optimizers:
            optimizer.zero_grad()  # whoever looked at the model between epochs may have left gradients
        start, waited, step = perf_counter() - spent.time, spent.data, steps.start - 1
        for step in steps:
            asked = perf_counter()
            batch = next(batches)
            got = perf_counter()
            waited += got - asked

            factor = self.rate_factor(step)
            for group in groups:
                group["lr"] = group["initial_lr"] * factor
            self.steps.train(batch, step, meter)
            if self.average:
                self.average.update(step + 1)

            if got >= progress.due:
                progress.report(step + 1 - steps.start, len(steps))
            if (step + 1) % CHECK_EVERY == 0 and not meter.means()["loss"] <= self.max_allowed_loss:  # NaN is not
                break
            if saver.is_due(got, step + 1):
                spent.time, spent.data = perf_counter() - start, waited
                saver.save(step + 1)
        saver.step = step + 1
        meter.means()  # waits for the device, so that the time is that of the work
        time = spent.time = perf_counter() - start
        spent.data = waited
        return step, {"time": time, "data_time": waited, "examples_per_second": meter.samples / time}


@torch.inference_mode()
def evaluate(model: nn.Module, forward: Forward, steps: Steps, split: Split | Lazy, batch_size: int,
             meter: Meter | MeanMeter, progress: Progress, saver: ResumeSaver, most: int | None = None,
             shard: DataShard | None = None) -> dict[str, float]:
    """The model's metrics on a split, in eval mode, with the time and data_time in seconds.

    forward: calls the model. most: so many batches at most. shard: of a process among several. SavedAndExit if the
    training is to stop; it evaluates again.
    """
    model.eval()
    start, waited, seen = perf_counter(), 0.0, 0
    total = len(split) if most is None else min(len(split), most * batch_size)
    batches = ordered_batches(split, batch_size, shard)
    while seen < total:
        asked = perf_counter()
        batch = next(batches)
        got = perf_counter()
        waited += got - asked
        steps.evaluate(model, forward, batch, meter)
        seen += shard.samples if shard else len(batch[1])
        if got >= progress.due:
            progress.report(seen, total)
        if saver.should_exit():
            saver.save(saver.step)
    return {**meter.means(), "time": perf_counter() - start, "data_time": waited}
