"""The numbers that differ between members and steps, such as learning rates, computed for many steps at a time."""
from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

_BLOCK = 256  # steps whose numbers are computed together

Function = tuple[Hashable, Callable[[int], float]]  # equal keys mean equal functions


def tabulate(functions: Sequence[Function], steps: range) -> Tensor:
    """Return the values of each member's function: [steps, members] float64, on the CPU. Equal ones are called once."""
    distinct = dict(functions)
    places = {key: place for place, key in enumerate(distinct)}
    values = torch.tensor([[function(step) for function in distinct.values()] for step in steps], dtype=torch.float64)
    return values[:, [places[key] for key, _ in functions]]


class StepNumbers:
    """Tensors [members, 1] for each step, from a function that returns tables [steps, members] for a range of steps.

    stop: the step after the last one. like: a tensor of the dtype and device of the numbers.
    """

    def __init__(self, make_tables: Callable[[range], Sequence[Tensor]], stop: int, like: Tensor) -> None:
        self._make_tables, self._stop, self._like = make_tables, stop, like
        self._steps = range(0)
        self._rows: list[tuple[Tensor, ...]] = []

    def at(self, step: int) -> tuple[Tensor, ...]:
        """Return the numbers of a step."""
        if step not in self._steps:
            self._steps = range(step, min(step + _BLOCK, self._stop))
            tables = self._make_tables(self._steps)
            columns = [table.to(self._like.device, self._like.dtype)[:, :, None].unbind(0) for table in tables]
            self._rows = list(zip(*columns, strict=True))
        return self._rows[step - self._steps.start]
