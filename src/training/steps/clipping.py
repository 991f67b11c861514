"""Clip gradients by value and by norm, and average their norms over an epoch."""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def clip_value(value: float | None) -> float | None:
    """Return clip_grad_value; inf for a value that float32 cannot hold, which torch would reject."""
    return math.inf if value is not None and value > torch.finfo(torch.float32).max else value


class GradientClipping:
    """Clips each gradient to `value`, then their total norm to `norm`. Only `mean_norm` waits for the device.

    norm: inf measures the norm without clipping.
    step_norms: a list to which the norm of each step is appended; None without one.
    """

    step_norms: list[Tensor] | None = None

    def __init__(self, norm: float | None, value: float | None) -> None:
        self._norm, self._value = norm, clip_value(value)
        self._norms: list[Tensor] = []

    def __call__(self, params: list[Tensor]) -> None:
        """Clip the gradients of `params`. Call it before the optimizer's step."""
        if self._value is not None:
            nn.utils.clip_grad_value_(params, self._value)
        if self._norm is not None:
            self._norms.append(nn.utils.clip_grad_norm_(params, self._norm))
            if self.step_norms is not None:
                self.step_norms.append(self._norms[-1])

    def reset(self) -> None:
        """Forget the norms, when an epoch begins."""
        self._norms = []

    def extend(self, norms: Iterable[Tensor]) -> None:
        """Take over the norms of steps that a stack of runs has clipped."""
        if self._norm is not None:
            self._norms += norms

    def mean_norm(self) -> dict[str, float]:
        """Return the mean norm before clipping, by the name of its column; empty if norms are not measured."""
        if self._norm is None:
            return {}
        norms = torch.stack(self._norms).double() if self._norms else torch.tensor([math.nan])
        return {"grad_norm": float(norms[norms.isfinite()].mean())}  # steps that overflowed in fp16 were skipped

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"norms": list(self._norms)}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue as after the step at which `state` was called."""
        self._norms = [norm.to(device) for norm in state["norms"]]
