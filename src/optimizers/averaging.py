"""Averages of the parameters along the training: polynomial-decay and exponential, updated in place at each step."""
from __future__ import annotations

import copy

import torch
from torch import nn

from src.checks.registered_names import Averaging


def newest_weight(averaging: Averaging, step: int) -> float:
    """The weight of the newest parameters in the average at `step`, counted from 1; the first weight is always 1.

    poly_eta: (eta + 1) / (eta + t) (Shamir and Zhang, 2013); poly_0 is the uniform mean.
    ema_d: 1 - d, so that d of the average is kept.
    """
    if averaging.kind == "poly":
        return (averaging.value + 1) / (averaging.value + step)
    return 1 - averaging.value if step > 1 else 1.0


class AveragedModel:
    """A copy of a model that holds the average of its parameters.

    Buffers (as running means of a batch norm) are not averaged but copied from the model, as
    torch.optim.swa_utils.AveragedModel does by default.
    """

    def __init__(self, model: nn.Module, averaging: Averaging) -> None:
        self._source, self._averaging = model, averaging
        self._copy = copy.deepcopy(model).requires_grad_(False)
        self._averages, self._params = list(self._copy.parameters()), list(model.parameters())

    def update(self, step: int) -> None:
        """Take in the model's parameters after optimizer step `step`, counted from 1."""
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._params, newest_weight(self._averaging, step))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The average, by the names of the model's parameters and buffers."""
        return self._copy.state_dict()

    def load_state_dict(self, saved: dict[str, torch.Tensor]) -> None:
        """Take over what state_dict gave."""
        self._copy.load_state_dict(saved)

    def module(self) -> nn.Module:
        """The averaged model, with the buffers of this instant."""
        for mine, source in zip(self._copy.buffers(), self._source.buffers(), strict=True):
            mine.copy_(source)
        return self._copy
