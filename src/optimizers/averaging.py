"""Averages of the parameters over the training, polynomial-decay or exponential, updated in place at each step."""
from __future__ import annotations

import copy

import torch
from torch import nn

from src.checks.registered_names import Averaging


def newest_weight(averaging: Averaging, step: int) -> float:
    """Return the weight of the newest parameters in the average at `step`, counted from 1; the first weight is 1.

    poly_eta: (eta + 1) / (eta + t) (Shamir and Zhang, 2013); poly_0 is the uniform mean.
    ema_d: 1 - d, the weight of the previous average being d.
    """
    if averaging.kind == "poly":
        return (averaging.value + 1) / (averaging.value + step)
    return 1 - averaging.value if step > 1 else 1.0


class AveragedModel:
    """A copy of a model that holds the average of its parameters.

    Buffers (such as running means of a batch norm) are not averaged but copied from the model, as
    torch.optim.swa_utils.AveragedModel does by default.
    """

    def __init__(self, model: nn.Module, averaging: Averaging) -> None:
        self._source, self._averaging = model, averaging
        self._copy = copy.deepcopy(model).requires_grad_(False)
        self._averages, self._params = list(self._copy.parameters()), list(model.parameters())

    def update(self, step: int) -> None:
        """Add the model's parameters after optimizer step `step`, counted from 1, to the average."""
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._params, newest_weight(self._averaging, step))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the average under the names of the model's parameters and buffers."""
        return self._copy.state_dict()

    def load_state_dict(self, saved: dict[str, torch.Tensor]) -> None:
        """Load the result of state_dict."""
        self._copy.load_state_dict(saved)

    def module(self) -> nn.Module:
        """Return the averaged model with the current buffers."""
        for buffer, source in zip(self._copy.buffers(), self._source.buffers(), strict=True):
            buffer.copy_(source)
        return self._copy
