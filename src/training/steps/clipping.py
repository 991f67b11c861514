"""Gradients clipped by value and by norm, and the mean of their norms over an epoch."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class GradientClipping:
    """At most `value` for each gradient, then at most `norm` for the norm of all. Waits for the device in `mean` alone.

    norm inf: the norm is measured, and nothing is clipped.
    """

    def __init__(self, norm: float | None, value: float | None) -> None:
        self._norm, self._value = norm, value
        self._norms: list[Tensor] = []

    def __call__(self, params: list[Tensor]) -> None:
        """Clip the gradients of `params`, as they are before the optimizer's step."""
        if self._value is not None:
            nn.utils.clip_grad_value_(params, self._value)
        if self._norm is not None:
            self._norms.append(nn.utils.clip_grad_norm_(params, self._norm))

    def reset(self) -> None:
        """Forget the norms so far: an epoch begins."""
        self._norms = []

    def mean_norm(self) -> dict[str, float]:
        """The mean of the norms before they were clipped, by the name of its column."""
        if self._norm is None:
            return {}
        norms = torch.stack(self._norms).double() if self._norms else torch.tensor([math.nan])
        return {"grad_norm": float(norms[norms.isfinite()].mean())}  # fp16's overflows are steps that were left out

    def state(self) -> dict[str, Any]:
        """The norms so far."""
        return {"norms": list(self._norms)}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on as from when `state` was called."""
        self._norms = [norm.to(device) for norm in state["norms"]]
