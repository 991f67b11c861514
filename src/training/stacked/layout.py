"""Stack the tensors of several models, so that each model's tensors become views of the stack."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Layout(Protocol):
    """Stacks lists of tensors that are parallel to the parameters of a model."""

    def stack(self, members: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Stack tensors of each member, in the order and shapes of the model's parameters.

        Return tensors [members, …]. Each member's tensors are views of them from then on.
        """

    def spread(self, members: Sequence[Sequence[float]]) -> list[Tensor]:
        """Return a number for each parameter of each member, for each element of the stacked tensors.

        Each of the tensors returned can be broadcast to a stacked tensor, reshaped to [members, elements].
        """


class SeparateLayout:
    """A stacked tensor for each parameter. like: a parameter, for dtype and device."""

    def __init__(self, like: Tensor) -> None:
        self._like = like.detach()

    def stack(self, members: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return [stack_in_place(tensors) for tensors in zip(*members, strict=True)]

    def spread(self, members: Sequence[Sequence[float]]) -> list[Tensor]:
        return [self._like.new_tensor(numbers)[:, None] for numbers in zip(*members, strict=True)]


class LinearLayout:
    """A stacked tensor [members, outputs, features + 1] of weights and biases; [..., features] without biases."""

    def __init__(self, model: nn.Linear) -> None:
        self._like, self._outputs, self._features = model.weight.detach(), model.out_features, model.in_features
        self._width = self._features + (model.bias is not None)

    def stack(self, members: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        stacked = self._like.new_empty(len(members), self._outputs, self._width)
        for tensors, row in zip(members, stacked, strict=True):
            for tensor, view in zip(tensors, (row[:, :self._features], row[:, -1]), strict=False):
                view.copy_(tensor.detach())
                tensor.data = view
        return [stacked]

    def spread(self, members: Sequence[Sequence[float]]) -> list[Tensor]:
        spread = self._like.new_empty(len(members), self._outputs, self._width)
        for numbers, row in zip(members, spread, strict=True):
            row[:, self._features:] = numbers[-1]
            row[:, :self._features] = numbers[0]
        return [spread.flatten(1)]


def stack_in_place(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors of one shape as [members, *shape]; from then on they are views of it."""
    stacked = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, row in zip(tensors, stacked, strict=True):
        tensor.data = row
    return stacked
