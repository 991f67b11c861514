"""The loop itself: an epoch of optimizer steps, and an evaluation. Neither waits for the device at each step."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn

from src.datasets.data import Batch, Lazy, Split
from src.optimizers.averaging import AveragedModel
from src.optimizers.fused import FusedOptimizer
from src.training.batches import cut, in_order
from src.training.log import Progress
from src.training.losses import Loss
from src.training.meters import Meter

CHECK_EVERY = 1000  # steps between two looks at the loss within an epoch: each waits for the device


@dataclass(frozen=True)
class Trainer:
    """What a step needs."""

    model: nn.Module
    loss: Loss
    optimizer: FusedOptimizer | torch.optim.Optimizer
    learning_rate: Callable[[int], float]  # of a step, counted from 0
    average: AveragedModel | None
    micro_batch_size: int  # a step's batch is cut into micro-batches of this size, whose gradients are accumulated
    max_allowed_loss: float

    def train(self, batches: Iterator[Batch], steps: range, meter: Meter, progress: Progress
              ) -> tuple[int, dict[str, float]]:
        """Take the `steps` of an epoch. The last step; time and data_time in seconds, that step's learning_rate.

        Stops early if the loss diverges. `meter` sees each output before the step that it leads to.
        """
        self.model.train()
        self.optimizer.zero_grad()  # whoever looked at the model between epochs may have left gradients
        start, waited, step = perf_counter(), 0.0, steps.start
        for step in steps:
            asked = perf_counter()
            batch = next(batches)
            got = perf_counter()
            waited += got - asked

            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(step)
            self._accumulate_gradients(batch, meter)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.average:
                self.average.update(step + 1)

            if got >= progress.due:
                progress.line(step + 1 - steps.start, len(steps))
            if (step + 1) % CHECK_EVERY == 0 and not meter.means()["loss"] <= self.max_allowed_loss:  # NaN is not
                break
        meter.means()  # waits for the device, so that the time is that of the work
        return step, {"time": perf_counter() - start, "data_time": waited, "learning_rate": self.learning_rate(step)}

    def _accumulate_gradients(self, batch: Batch, meter: Meter) -> None:
        """Add the gradient of the batch's mean loss, a micro-batch at a time."""
        samples = batch[1].shape[0]  # len() of a tensor is Python code, and slow
        for x, y in cut(batch, self.micro_batch_size):
            output = self.model(x)
            loss = self.loss(output, y)
            share = y.shape[0] / samples
            (loss * share if share < 1 else loss).backward()
            meter.add(loss, output, y)


@torch.inference_mode()
def evaluate(model: nn.Module, split: Split | Lazy, batch_size: int, loss: Loss, meter: Meter, progress: Progress
             ) -> dict[str, float]:
    """The model's loss and metrics on a split, in eval mode, with the time and data_time in seconds."""
    model.eval()
    start, waited, seen = perf_counter(), 0.0, 0
    batches = in_order(split, batch_size)
    while seen < len(split):
        asked = perf_counter()
        x, y = next(batches)
        got = perf_counter()
        waited += got - asked
        output = model(x)
        meter.add(loss(output, y), output, y)
        seen += len(y)
        if got >= progress.due:
            progress.line(seen, len(split))
    return {**meter.means(), "time": perf_counter() - start, "data_time": waited}
