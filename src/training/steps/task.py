"""What is done with a batch: the default, a loss of the output and the targets, or a task of one's own."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from src.checks import user_code
from src.config import Config
from src.datasets.data import Batch, Data
from src.errors import ConfigError
from src.optimizers.fused import FusedOptimizer
from src.training.steps.batches import micro_batches
from src.training.steps.clipping import GradientClipping
from src.training.steps.forward import Forward
from src.training.steps.losses import Loss, loss_weight
from src.training.steps.meters import MeanMeter, Meter

Optimizer = FusedOptimizer | torch.optim.Optimizer


class Steps(Protocol):
    """What the loop asks for, whoever computes it. M: the meter that takes in what a batch has shown."""

    optimizers: Sequence[Optimizer]

    def train(self, batch: Batch, step: int, meter: Any) -> None:
        """Take optimizer step `step`, counted from 0, and leave no gradients."""

    def evaluate(self, model: nn.Module, forward: Forward, batch: Batch, meter: Any) -> None:
        """Measure the model, or its average, in eval mode; `forward` calls it."""


class Supervised:
    """The default: the gradient of the batch's mean loss, a micro-batch at a time, then one step of one optimizer.

    scaler: multiplies the loss so that gradients in fp16 do not vanish, and leaves out steps where they overflow.
    clipping: what happens to the gradients before the step.
    """

    def __init__(self, forward: Forward, loss: Loss, optimizer: Optimizer, micro_batch_size: int,
                 scaler: torch.amp.GradScaler | None = None, clipping: GradientClipping | None = None) -> None:
        self.optimizers = [optimizer]
        self._forward, self._loss, self._optimizer = forward, loss, optimizer
        self._micro_batch_size, self._scaler, self._clipping = micro_batch_size, scaler, clipping
        self._second_order = bool(getattr(optimizer, "is_second_order", False))  # as timm's adahessian

    def train(self, batch: Batch, step: int, meter: Meter) -> None:
        """`meter` sees each output before the step that it leads to."""
        samples = batch[1].shape[0]  # len() of a tensor is Python code, and slow
        for x, y in micro_batches(batch, self._micro_batch_size):
            output = self._forward(x)
            loss = self._loss(output, y)
            self._backward(loss * loss_weight(y, batch[1]) if y.shape[0] < samples else loss)
            meter.add(loss, output, y)
        self._step()

    def evaluate(self, model: nn.Module, forward: Forward, batch: Batch, meter: Meter) -> None:
        x, y = batch
        output = forward(x)
        meter.add(self._loss(output, y), output, y)

    def _backward(self, loss: Tensor) -> None:
        (self._scaler.scale(loss) if self._scaler else loss).backward(create_graph=self._second_order)

    def _step(self) -> None:
        if self._clipping:
            if self._scaler:
                self._scaler.unscale_(self._optimizer)  # type: ignore[arg-type]
            self._clipping([parameter for group in self._optimizer.param_groups for parameter in group["params"]])
        if self._scaler:
            self._scaler.step(self._optimizer)  # type: ignore[arg-type]  # it asks for param_groups and step alone
            self._scaler.update()
        else:
            self._optimizer.step()
        self._optimizer.zero_grad()


class Task:
    """A training of one's own, `task: my_module:MyTask` in a spec: what a subclass overrides is its own.

    config, data, device: of the run. metrics: the names of what both steps return, loss among them; columns of
    stats.csv. optimizers: those of make_optimizers. The loop keeps the data, rates, averages, stats, checkpoints.
    """

    metrics: ClassVar[Sequence[str]] = ("loss",)
    several_processes: ClassVar[bool] = False  # whether training_step calls share_gradients

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        self.optimizers: Sequence[Optimizer] = ()
        self.shared: Callable[[Iterable[Tensor]], None] = lambda parameters: None

    def share_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Before an optimizer's step: where several processes train, each on its part of the batch, make gradients of
        means over the part those of means over the batch. Alone it does nothing."""
        self.shared(parameters)

    def make_model(self) -> nn.Module | None:
        """The model, on any device; None: that of the config. Random weights come from torch's seeded generator."""
        return None

    def make_optimizers(self, model: nn.Module) -> Sequence[Optimizer]:
        """The optimizers of the model on its device; none: that of the config. Before each step the loop sets the lr
        of each group to what it was here, times the factor of lr_schedule and warm-up.
        """
        return ()

    def state_dict(self) -> dict[str, Any]:
        """What of its own another start must find again: tensors, numbers and strings. Models and optimizers are kept
        by the loop."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what state_dict gave."""

    def training_step(self, model: nn.Module, batch: Batch, step: int) -> Mapping[str, Tensor | float]:
        """Take the step, zero_grad included; the mean of each metric over the batch. Detaching is not needed."""
        raise NotImplementedError

    def evaluation_step(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor | float]:
        """The mean of each metric over the batch, in eval mode, without gradients."""
        raise NotImplementedError


class UserTask:
    """A task of one's own, as the loop sees it."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        self._task, self._model, self.optimizers = task, model, task.optimizers

    def train(self, batch: Batch, step: int, meter: MeanMeter) -> None:
        meter.add(self._task.training_step(self._model, batch, step), batch[1].shape[0])

    def evaluate(self, model: nn.Module, forward: Forward, batch: Batch, meter: MeanMeter) -> None:
        meter.add(self._task.evaluation_step(model, batch), batch[1].shape[0])


def make_task(config: Config, data: Data, device: torch.device) -> Task | None:
    """The task of one's own that the config names, if any. ConfigError unless it is a subclass of Task."""
    if config.task is None:
        return None
    kind = user_code.load(config.task, "task")
    if not isinstance(kind, type) or not issubclass(kind, Task):
        raise ConfigError(f"{config.task} is no task", where="task",
                          hint="make it a subclass of Task in src/training/steps/task.py")
    if "loss" not in kind.metrics or len(set(kind.metrics)) < len(kind.metrics):
        raise ConfigError(f"the metrics of {config.task} are {', '.join(kind.metrics)}", where="task",
                          hint="name each once, and loss among them: divergence is seen by it")
    return kind(config, data, device)
