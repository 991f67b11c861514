"""Batch norms whose mean and variance are those of all processes' samples, and so those that one process would see."""
from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as OnGPU
from torch.nn.modules.batchnorm import _BatchNorm

from src.errors import ConfigError
from src.training.distributed import Alone

_BEHIND = ("drop", "act")  # what batch norms of timm go on with


def synchronise(model: nn.Module, team: Alone) -> None:
    """Have the model's batch norms be of all processes' samples in training; their names and values stay.

    team: tells which rows only stand in. ConfigError for a batch norm of an unknown kind.
    """
    for module in model.modules():
        if not isinstance(module, _BatchNorm) or isinstance(module, Synchronised):
            continue
        if type(module).forward is not _BatchNorm.forward and not all(hasattr(module, name) for name in _BEHIND):
            raise ConfigError(f"{type(module).__name__} has a forward of its own", where="sync_batch_norm",
                              allowed="false")
        # of the class, and not of the module: copies of the model have the same
        module.__class__ = type(f"Synchronised{type(module).__name__}", (Synchronised, type(module)), {"team": team})


class Synchronised(_BatchNorm):
    """A batch norm of all processes' samples; in evaluation what it was before."""

    team: Alone

    def forward(self, x: Tensor) -> Tensor:
        """As torch.nn.BatchNorm*d; x: [n, c, ...], of which 0 rows count where they only stand in."""
        if not self.training:
            return super().forward(x)
        if self.team.idle:  # what the others compute is waited for, and nothing is added to it
            return x + self._normed(x[:0].float()).sum()
        y = self._normed(x)
        for name in _BEHIND:
            y = getattr(self, name)(y) if hasattr(self, name) else y
        return y

    def _normed(self, x: Tensor) -> Tensor:
        tracked = self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        if tracked and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1 / float(self.num_batches_tracked)
        if x.device.type == "cuda":
            y: Tensor = OnGPU.apply(x, self.weight, self.bias, self.running_mean if tracked else None,  # type: ignore[no-untyped-call]
                                    self.running_var if tracked else None, self.eps, momentum, dist.group.WORLD,
                                    dist.get_world_size())
            return y
        axes, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        wide = x.float()
        totals = _Sum.apply(torch.cat([wide.sum(axes), wide.new_tensor([x.numel() / x.shape[1]])]))
        mean, count = totals[:-1] / totals[-1], totals[-1].detach()
        centred = wide - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        if tracked:
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
                self.running_var.lerp_(variance * count / (count - 1), momentum)  # type: ignore[union-attr]
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes, which each one's result depends on: so the gradient is summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _Sum._summed(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _Sum._summed(gradient)

    @staticmethod
    def _summed(x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x
