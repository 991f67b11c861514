"""Steps of several processes: each takes its shard of a batch, and the gradients become those of the whole batch."""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from src.datasets.data import Batch
from src.errors import ConfigError
from src.training.parallel.data_shards import DataShard
from src.training.parallel.distributed import SingleProcess
from src.training.steps.batches import micro_batches
from src.training.steps.forward import Forward
from src.training.steps.losses import count_tokens
from src.training.steps.meters import MeanMeter, Meter
from src.training.steps.profile import Profile
from src.training.steps.task import Supervised, Task, UserTask


class DistributedSupervised(Supervised):
    """The default steps under DistributedDataParallel, which takes the mean of the processes' gradients as the last
    micro-batch goes backward. Their losses are weighted so that this is the gradient of the batch's mean loss.

    make_forward: what calls a model as the config asks. evaluated: the shard of a split in evaluations.
    """

    def __init__(self, group: SingleProcess, shard: DataShard, evaluated: DataShard,
                 make_forward: Callable[[nn.Module], Forward],
                 profile: Profile | None, model: nn.Module, *arguments: Any) -> None:
        super().__init__(model, *arguments)
        if self._second_order:
            raise ConfigError("gradients of gradients are not shared among processes", where="optim_alg",
                              hint="choose another, or train in one process")
        self._group, self._shard, self._evaluated = group, shard, evaluated
        self._model, self._make_forward, self._profile = model, make_forward, profile
        self._wrapper: DistributedDataParallel | None = None
        self._learning: list[bool] = []  # the parameters that it was made for

    def train(self, batch: Batch, step: int, meter: Meter) -> None:
        if self._profile:
            self._profile.before_step()
        try:
            with self._profile.measure("training step") if self._profile else contextlib.nullcontext():
                self._train(batch, meter)
        except RuntimeError as error:
            if "Expected to have finished reduction" not in str(error):
                raise
            raise ConfigError("the loss does not depend on all parameters of the model, for whose gradients the "
                              "processes wait", where="model", hint="leave the others out of it, or have them "
                              "requires_grad_(False); or train in one process") from None

    def evaluate(self, model: nn.Module, forward: Forward, batch: Batch, meter: Meter) -> None:
        shard, (x, y) = self._evaluated, batch
        output = forward(x)
        if meter.needs_whole_batches:
            output, y = shard.gather(output), shard.gather(y)
        if meter.needs_whole_batches or shard.rows[0]:
            meter.add(self._loss(output, y), output, y)

    def _train(self, batch: Batch, meter: Meter) -> None:
        shard, wrapper = self._shard, self._wrapped()
        pieces = [*zip(micro_batches(batch, shard.max_rows), shard.rows, strict=True)]
        weights = self._weights(pieces)
        for number, ((x, y), rows) in enumerate(pieces):
            self._group.is_idle = not rows
            with contextlib.nullcontext() if number == len(pieces) - 1 else wrapper.no_sync():
                output = self._forward(x)
                loss = self._loss(output, y)
                self._backward(loss * weights[number])
            if rows:
                meter.add(loss, output, y)
        self._step()

    def _weights(self, pieces: list[tuple[Batch, int]]) -> list[float | Tensor]:
        """What the mean loss of each piece counts in that of the whole batch, by samples or by tokens, times the number
        of processes."""
        y, processes = pieces[0][0][1], self._group.size
        if y.dim() == 2 and not y.is_floating_point():
            counts = torch.stack([count_tokens(y) * (rows > 0) for (_, y), rows in pieces])
            return [*(counts * processes / self._group.sum(counts.sum()).clamp(min=1))]
        return [rows * processes / self._shard.samples for _, rows in pieces]

    def _wrapped(self) -> DistributedDataParallel:
        """The model as all processes train it: wrapped anew when another part of it learns."""
        learning = [parameter.requires_grad for parameter in self._model.parameters()]
        if self._wrapper is None or learning != self._learning:
            self._wrapper, self._learning = DistributedDataParallel(self._model), learning
            self._forward = self._make_forward(self._wrapper)
        return self._wrapper


class DistributedUserTask(UserTask):
    """Steps of a task of one's own, which shares its gradients itself. ConfigError if it does not say that it does."""

    def __init__(self, group: SingleProcess, shard: DataShard, evaluated: DataShard, task: Task,
                 model: nn.Module) -> None:
        if not task.several_processes:
            raise ConfigError(f"{type(task).__name__} trains in one process, and {group.size} were started",
                              where="task", hint="have training_step call share_gradients before each optimizer's "
                              "step, and set several_processes = True in the class; or start one process")
        super().__init__(task, model)
        self._shard, self._evaluated = shard, evaluated
        # the shard of a mean over this process's part in the mean over the batch
        task.shared = lambda parameters: group.sum_gradients(parameters, shard.rows[0] / shard.samples)

    def train(self, batch: Batch, step: int, meter: MeanMeter) -> None:
        meter.add(self._task.training_step(self._model, batch, step), self._shard.rows[0])

    def evaluate(self, model: nn.Module, forward: Forward, batch: Batch, meter: MeanMeter) -> None:
        meter.add(self._task.evaluation_step(model, batch), self._evaluated.rows[0])
