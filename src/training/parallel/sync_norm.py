"""Batch norms whose mean and variance are those of all processes' samples, and so those that one process would see."""
from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as OnGPU
from torch.nn.modules.batchnorm import _BatchNorm

from src.errors import ConfigError
from src.training.parallel.distributed import SingleProcess

_BEHIND = ("drop", "act")  # what batch norms of timm go on with


def synchronize_batch_norms(model: nn.Module, group: SingleProcess) -> None:
    """Have the model's batch norms be of all processes' samples in training; their names and values stay.

    group: tells which rows only stand in. ConfigError for a batch norm of an unknown kind.
    """
    for module in model.modules():
        if not isinstance(module, _BatchNorm) or isinstance(module, SyncBatchNorm):
            continue
        if type(module).forward is not _BatchNorm.forward and not all(hasattr(module, name) for name in _BEHIND):
            raise ConfigError(f"{type(module).__name__} has a forward of its own", where="sync_batch_norm",
                              allowed="false")
        # of the class, and not of the module: copies of the model have the same
        module.__class__ = type(f"Synchronised{type(module).__name__}", (SyncBatchNorm, type(module)), {"group": group})


class SyncBatchNorm(_BatchNorm):
    """A batch norm of all processes' samples; in evaluation what it was before."""

    group: SingleProcess

    def forward(self, x: Tensor) -> Tensor:
        """As torch.nn.BatchNorm*d; x: [n, c, ...], of which 0 rows count where they only stand in."""
        if not self.training:
            return super().forward(x)
        if self.group.is_idle:  # what the others compute is waited for, and nothing is added to it
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
        y, mean, variance, count = _OfAll.apply(x.float(), self.weight, self.bias, self.eps)
        if tracked:
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
                self.running_var.lerp_(variance * count / (count - 1), momentum)  # type: ignore[union-attr]
        return y.to(x.dtype)


class _OfAll(torch.autograd.Function):
    """On a CPU: the norm of x [n, c, ...] float32 by mean and variance over all processes; those too, and the count.

    PyTorch's kernels of evaluation do what one process does, and the parts that cross processes are added: Ioffe and
    Szegedy, Batch normalization, 2015, has the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
                ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        mine = x.new_zeros(2 * channels + 1)
        if len(x):  # torch.var_mean takes four times as long
            torch.cat([*torch.batch_norm_update_stats(x, None, None, 0.0), x.new_tensor([x.numel() / channels])],
                      out=mine)
        rows = _of_all(mine)
        means, variances, counts = rows[:, :channels], rows[:, channels:-1], rows[:, -1:]
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        variance = ((variances + (means - mean).square()) * counts).sum(0) / count
        y = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps) if len(x) else x.clone()
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:  # type: ignore[override]
        x, weight, mean, variance, count = ctx.saved_tensors
        one = torch.ones_like(mean)
        scale = one if weight is None else weight
        of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient.contiguous(), x, scale, mean, variance, None, None, False, ctx.eps, [False, True, True])[1:] if (
            len(x)) else (torch.zeros_like(mean), torch.zeros_like(mean))
        along, constant = _of_all(torch.cat([of_weight, of_bias])).sum(0).view(2, -1)
        deviation = (variance + ctx.eps).rsqrt()
        along = along * scale * deviation.square() / count
        constant = along * mean - constant * scale * deviation / count
        # gradient * scale * deviation + constant, in one pass over the memory: the kernel of evaluation does that
        ours = F.batch_norm(gradient, torch.zeros_like(mean), one, scale * deviation, constant, False, 0.0, 0.0)
        ours.addcmul_(x, along.view(1, -1, *[1] * (x.dim() - 2)), value=-1)
        return ours, None if weight is None else of_weight, None if weight is None else of_bias, None


def _of_all(mine: Tensor) -> Tensor:
    """[processes, n] of each one's [n]. For so few numbers Gloo gathers in a third of the time that it takes to add."""
    rows = mine.new_empty(dist.get_world_size(), len(mine))
    dist.all_gather([*rows], mine)
    return rows
