"""Steps of several processes: each computes its part of a batch, and gradients become those of the whole batch."""
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
    """The default steps with DistributedDataParallel, which averages gradients in the backward pass of the last
    micro-batch. Losses are weighted so that the result is the gradient of the batch's mean loss.

    shard, evaluation_shard: this process's part of training and of evaluation batches.
    make_forward: returns what calls a model in the precision of the config.
    """

    def __init__(self, group: SingleProcess, shard: DataShard, evaluation_shard: DataShard,
                 make_forward: Callable[[nn.Module], Forward],
                 profile: Profile | None, model: nn.Module, *arguments: Any) -> None:
        super().__init__(model, *arguments)
        if self._second_order:
            raise ConfigError("second-order gradients are not supported with several processes", where="optim_alg",
                              hint="choose another optimizer, or train in one process")
        self._group, self._shard, self._evaluation_shard = group, shard, evaluation_shard
        self._model, self._make_forward, self._profile = model, make_forward, profile
        self._wrapper: DistributedDataParallel | None = None
        self._trained: list[bool] = []  # which parameters were trained when it was made

    def train(self, batch: Batch, step: int, meter: Meter) -> None:
        if self._profile:
            self._profile.before_step()
        try:
            with self._profile.measure("training step") if self._profile else contextlib.nullcontext():
                self._train(batch, meter)
        except RuntimeError as error:
            if "Expected to have finished reduction" not in str(error):
                raise
            raise ConfigError("the loss does not depend on all parameters of the model, but the processes wait for "
                              "the gradient of each", where="model", hint="remove unused parameters or call "
                              "requires_grad_(False) on them; or train in one process") from None

    def evaluate(self, model: nn.Module, forward: Forward, batch: Batch, meter: Meter) -> None:
        shard, (x, y) = self._evaluation_shard, batch
        output = forward(x)
        if meter.needs_whole_batches:
            output, y = shard.gather(output), shard.gather(y)
        if meter.needs_whole_batches or shard.rows[0]:
            meter.add(self._loss(output, y), output, y)

    def _train(self, batch: Batch, meter: Meter) -> None:
        shard, wrapper = self._shard, self._get_wrapper()
        parts = [*zip(micro_batches(batch, shard.max_rows), shard.rows, strict=True)]
        weights = self._weights(parts)
        for number, ((x, y), rows) in enumerate(parts):
            self._group.is_idle = not rows
            with contextlib.nullcontext() if number == len(parts) - 1 else wrapper.no_sync():
                output = self._forward(x)
                loss = self._loss(output, y)
                self._backward(loss * weights[number])
            if rows:
                meter.add(loss, output, y)
        self._step()

    def _weights(self, parts: list[tuple[Batch, int]]) -> list[float | Tensor]:
        """Return the weight of the mean loss of each micro-batch: its samples * processes / samples of the whole batch.

        For tokens, the same with numbers of tokens.
        """
        y, processes = parts[0][0][1], self._group.size
        if y.dim() == 2 and not y.is_floating_point():
            counts = torch.stack([count_tokens(y) * (rows > 0) for (_, y), rows in parts])
            return [*(counts * processes / self._group.sum(counts.sum()).clamp(min=1))]
        return [rows * processes / self._shard.samples for _, rows in parts]

    def _get_wrapper(self) -> DistributedDataParallel:
        """Return the wrapped model, wrapped again when other parameters are trained than before."""
        trained = [parameter.requires_grad for parameter in self._model.parameters()]
        if self._wrapper is None or trained != self._trained:
            self._wrapper, self._trained = DistributedDataParallel(self._model), trained
            self._forward = self._make_forward(self._wrapper)
        return self._wrapper


class DistributedUserTask(UserTask):
    """The steps of a user-defined task, which calls share_gradients itself. ConfigError unless it declares that."""

    def __init__(self, group: SingleProcess, shard: DataShard, evaluation_shard: DataShard, task: Task,
                 model: nn.Module) -> None:
        if not task.several_processes:
            raise ConfigError(f"{type(task).__name__} trains in one process, but {group.size} were started",
                              where="task", hint="call share_gradients in training_step before each optimizer's "
                              "step, and set several_processes = True in the class; or start one process")
        super().__init__(task, model)
        self._shard, self._evaluation_shard = shard, evaluation_shard
        # this process's share of the samples is the weight of its mean
        task.sum_gradients = lambda parameters: group.sum_gradients(parameters, shard.rows[0] / shard.samples)

    def train(self, batch: Batch, step: int, meter: MeanMeter) -> None:
        meter.add(self._task.training_step(self._model, batch, step), self._shard.rows[0])

    def evaluate(self, model: nn.Module, forward: Forward, batch: Batch, meter: MeanMeter) -> None:
        meter.add(self._task.evaluation_step(model, batch), self._evaluation_shard.rows[0])
