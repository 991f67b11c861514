"""One step on a batch: by default it minimizes a loss; a user-defined task replaces it."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from src import run_folder
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

Optimizer: TypeAlias = FusedOptimizer | torch.optim.Optimizer


class Steps(Protocol):
    """The interface of training and evaluation steps. They add the metrics of a batch to a meter."""

    optimizers: Sequence[Optimizer]

    def train(self, batch: Batch, step: int, meter: Any) -> None:
        """Take optimizer step `step`, counted from 0, and reset the gradients."""

    def evaluate(self, model: nn.Module, forward: Forward, batch: Batch, meter: Any) -> None:
        """Evaluate the model, or its average, on a batch, in eval mode. forward: calls it."""


class Supervised:
    """The default: add up the gradient of the batch's mean loss over micro-batches, then step the optimizer.

    scaler: scales the loss so that gradients in fp16 do not underflow, and skips steps where they overflow.
    clipping: of the gradients before the step.
    """

    def __init__(self, forward: Forward, loss: Loss, optimizer: Optimizer, micro_batch_size: int,
                 scaler: torch.amp.GradScaler | None = None, clipping: GradientClipping | None = None) -> None:
        self.optimizers = [optimizer]
        self._forward, self._loss, self._optimizer = forward, loss, optimizer
        self._micro_batch_size, self._scaler, self._clipping = micro_batch_size, scaler, clipping
        self._second_order = bool(getattr(optimizer, "is_second_order", False))  # e.g. adahessian of timm

    def train(self, batch: Batch, step: int, meter: Meter) -> None:
        """Train on a batch. The metrics are of the outputs before the step."""
        samples = batch[1].shape[0]  # len() of a tensor is slower
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
            self._scaler.step(self._optimizer)  # type: ignore[arg-type]  # it needs param_groups and step alone
            self._scaler.update()
        else:
            self._optimizer.step()
        self._optimizer.zero_grad()


class Task:
    """Base class of user-defined tasks, selected by `task: my_module:MyTask`. A subclass overrides what it changes.

    Data, learning rates, averaging, stats and checkpoints remain those of the training loop.

    config, data, device: of the run.
    metrics: names of what both steps return, including loss; columns of stats.csv.
    optimizers: those of make_optimizers.
    step_values: what `log` collects for the next row of steps.csv; None: nothing is collected.
    several_processes: whether training_step calls share_gradients.
    """

    metrics: ClassVar[Sequence[str]] = ("loss",)
    several_processes: ClassVar[bool] = False

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        self.optimizers: Sequence[Optimizer] = ()
        self.sum_gradients: Callable[[Iterable[Tensor]], None] = lambda parameters: None
        self.step_values: dict[str, list[Tensor | float]] | None = None

    def log(self, name: str, value: Tensor | float) -> None:
        """Log a number of a training step to steps.csv, where column `name` has the mean since the row before.

        value: a number, or a tensor with one element, which is not waited for. Without log_steps, and in evaluations,
        this does nothing. ConfigError for the name of another column.
        """
        if self.step_values is None:
            return
        if not isinstance(name, str) or not name.isprintable() or name.strip() in ("", *run_folder.STEP_COLUMNS):
            raise ConfigError(f"a task cannot log {name!r}", where="task", allowed=(
                f"a name other than {', '.join(run_folder.STEP_COLUMNS)}"))
        if isinstance(value, Tensor) and value.numel() != 1 or not isinstance(value, (Tensor, int, float)):
            raise ConfigError(f"a task cannot log {type(value).__name__} as {name!r}", where="task",
                              allowed="a number, or a tensor with one element")
        self.step_values.setdefault(name, []).append(
            value.detach().reshape(()).clone() if isinstance(value, Tensor) else float(value))

    def share_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Turn gradients of the mean over this process's part of the batch into those of the mean over the batch.

        Call it before an optimizer's step. With a single process it does nothing.
        """
        self.sum_gradients(parameters)

    def make_model(self) -> nn.Module | None:
        """Return the model, on any device; None for that of the config. torch's global generator has been seeded."""
        return None

    def make_optimizers(self, model: nn.Module) -> Sequence[Optimizer]:
        """Return the optimizers of the model, which is on its device; an empty sequence for that of the config.

        Before each step the loop sets each group's lr to its initial value times the factor of lr_schedule and warm-up.
        """
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs besides model and optimizers: tensors, numbers and strings."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""

    def training_step(self, model: nn.Module, batch: Batch, step: int) -> Mapping[str, Tensor | float]:
        """Take the step, including zero_grad. Return the mean of each metric over the batch, detached or not."""
        raise NotImplementedError

    def evaluation_step(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor | float]:
        """Return the mean of each metric over the batch. The model is in eval mode, without gradients."""
        raise NotImplementedError


class UserTask:
    """The steps of a user-defined task."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        self._task, self._model, self.optimizers = task, model, task.optimizers

    def train(self, batch: Batch, step: int, meter: MeanMeter) -> None:
        meter.add(self._task.training_step(self._model, batch, step), batch[1].shape[0])

    def evaluate(self, model: nn.Module, forward: Forward, batch: Batch, meter: MeanMeter) -> None:
        meter.add(self._task.evaluation_step(model, batch), batch[1].shape[0])


def make_task(config: Config, data: Data, device: torch.device) -> Task | None:
    """Return the user-defined task of the config, or None. ConfigError unless it is a subclass of Task."""
    if config.task is None:
        return None
    kind = user_code.load(config.task, "task")
    if not isinstance(kind, type) or not issubclass(kind, Task):
        raise ConfigError(f"{config.task} is not a task", where="task",
                          hint="make it a subclass of Task in src/training/steps/task.py")
    if "loss" not in kind.metrics or len(set(kind.metrics)) < len(kind.metrics):
        raise ConfigError(f"the metrics of {config.task} are {', '.join(kind.metrics)}", where="task",
                          hint="list each name once, including loss, by which divergence is detected")
    return kind(config, data, device)
