"""Clip the gradients of each member of a stack, as GradientClipping does."""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from src.config import Config
from src.training.steps.clipping import GradientClipping, clip_value


class StackedClipping:
    """Clips gradients by value, equal for all members, then to a norm of each member.

    clippings: of the members, which `write_back` updates; None for a member that does not clip.
    like: a tensor of the dtype and device of the gradients.
    """

    def __init__(self, configs: Sequence[Config], clippings: Sequence[GradientClipping | None], like: Tensor) -> None:
        self._clippings, self._value = clippings, clip_value(configs[0].clip_grad_value)
        bounds = [config.clip_grad_norm or math.nan for config in configs]
        self._bounds = like.new_tensor(bounds) if any(config.clip_grad_norm for config in configs) else None
        self._norms: list[Tensor] = []

    @property
    def is_active(self) -> bool:
        """Whether a member clips."""
        return self._value is not None or self._bounds is not None

    def __call__(self, gradients: Sequence[Tensor]) -> None:
        """Clip gradients [members, elements] in place."""
        if self._value is not None:
            for gradient in gradients:
                gradient.clamp_(-self._value, self._value)
        if self._bounds is None:
            return
        norms = torch.stack([torch.linalg.vector_norm(gradient, dim=1) for gradient in gradients])
        norm = torch.linalg.vector_norm(norms, dim=0)
        self._norms.append(norm)
        factors = (self._bounds / (norm + 1e-6)).clamp(max=1.0)
        factors = torch.where(self._bounds.isnan(), 1.0, factors)[:, None]
        for gradient in gradients:
            gradient.mul_(factors)

    def write_back(self) -> None:
        """Give each member the norms of the steps since the last call."""
        if not self._norms:
            return
        columns = torch.stack(self._norms, 1).unbind(0)  # [steps] of each member
        for clipping, norms in zip(self._clippings, columns, strict=True):
            if clipping:
                clipping.extend(norms.unbind(0))
        self._norms = []
