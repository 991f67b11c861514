"""Batch norms with the mean and variance of the samples of all processes, as a single process would compute them."""
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

_TIMM_LAYERS = ("drop", "act")  # which batch norms of timm apply afterwards


def synchronize_batch_norms(model: nn.Module, group: SingleProcess) -> None:
    """Make the model's batch norms use the samples of all processes in training; names and values stay.

    group: with the rows that are placeholders. ConfigError for a batch norm with a forward method of its own.
    """
    for module in model.modules():
        if not isinstance(module, _BatchNorm) or isinstance(module, SyncBatchNorm):
            continue
        if type(module).forward is not _BatchNorm.forward and not all(hasattr(module, name) for name in _TIMM_LAYERS):
            raise ConfigError(f"{type(module).__name__} has a forward method of its own", where="sync_batch_norm",
                              allowed="false")
        # change the class, not the module, so that copies of the model work too
        module.__class__ = type(f"Sync{type(module).__name__}", (SyncBatchNorm, type(module)), {"group": group})


class SyncBatchNorm(_BatchNorm):
    """A batch norm over the samples of all processes in training; unchanged in evaluation."""

    group: SingleProcess

    def forward(self, x: Tensor) -> Tensor:
        """As torch.nn.BatchNorm*d. x: [n, c, ...]. If they are placeholders, no row counts."""
        if not self.training:
            return super().forward(x)
        if self.group.is_idle:  # take part in the exchange, without contributing
            return x + self._normalize(x[:0].float()).sum()
        y = self._normalize(x)
        for name in _TIMM_LAYERS:
            y = getattr(self, name)(y) if hasattr(self, name) else y
        return y

    def _normalize(self, x: Tensor) -> Tensor:
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
        y, mean, variance, count = _SyncBatchNorm.apply(x.float(), self.weight, self.bias, self.eps)
        if tracked:
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
                self.running_var.lerp_(variance * count / (count - 1), momentum)  # type: ignore[union-attr]
        return y.to(x.dtype)


class _SyncBatchNorm(torch.autograd.Function):
    """Normalize x [n, c, ...] float32 on a CPU by mean and variance over all processes; return these and the count too.

    PyTorch's kernels for evaluation compute the terms of this process; those of other processes are added. The gradient
    is in Ioffe and Szegedy, Batch normalization, 2015.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
                ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        local = x.new_zeros(2 * channels + 1)
        if len(x):  # torch.var_mean takes four times as long
            torch.cat([*torch.batch_norm_update_stats(x, None, None, 0.0), x.new_tensor([x.numel() / channels])],
                      out=local)
        rows = _gather(local)
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
        ones = torch.ones_like(mean)
        scale = ones if weight is None else weight
        weight_gradient, bias_gradient = torch.ops.aten.native_batch_norm_backward(
            gradient.contiguous(), x, scale, mean, variance, None, None, False, ctx.eps, [False, True, True])[1:] if (
            len(x)) else (torch.zeros_like(mean), torch.zeros_like(mean))
        along, constant = _gather(torch.cat([weight_gradient, bias_gradient])).sum(0).view(2, -1)
        deviation = (variance + ctx.eps).rsqrt()
        along = along * scale * deviation.square() / count
        constant = along * mean - constant * scale * deviation / count
        # gradient * scale * deviation + constant, in one pass over the memory
        x_gradient = F.batch_norm(gradient, torch.zeros_like(mean), ones, scale * deviation, constant, False, 0.0, 0.0)
        x_gradient.addcmul_(x, along.view(1, -1, *[1] * (x.dim() - 2)), value=-1)
        return x_gradient, None if weight is None else weight_gradient, None if weight is None else bias_gradient, None


def _gather(local: Tensor) -> Tensor:
    """Return [processes, n], given [n] of each process. For few numbers, gathering in Gloo is faster than adding."""
    rows = local.new_empty(dist.get_world_size(), len(local))
    dist.all_gather([*rows], local)
    return rows
