"""A cell of memory that a run shares with its worker: the samples trained so far, and whether the run is to yield."""
from __future__ import annotations

import mmap

_SAMPLES, _OTHERS, _YIELDS = range(3)  # positions in a cell, whose numbers have 8 bytes each
_SIZE = 3

_own: list[Cell] = []  # of this process; empty if no worker measures it


class Cell:
    """A cell, as its worker and its run see it after a fork.

    samples: that the run has trained on in this start
    others: the number of other runs that its worker runs at the same time
    yields: whether the worker has asked the run to save itself, so that others can go on
    """

    def __init__(self, numbers: memoryview) -> None:
        self._numbers = numbers

    @property
    def samples(self) -> int:
        return int(self._numbers[_SAMPLES])

    @property
    def others(self) -> int:
        return int(self._numbers[_OTHERS])

    @others.setter
    def others(self, number: int) -> None:
        self._numbers[_OTHERS] = number

    @property
    def yields(self) -> bool:
        return bool(self._numbers[_YIELDS])

    @yields.setter
    def yields(self, value: bool) -> None:
        self._numbers[_YIELDS] = value

    def add_samples(self, number: int) -> None:
        self._numbers[_SAMPLES] += number

    def clear(self) -> None:
        """Prepare the cell for another run."""
        self._numbers[:] = memoryview(bytes(8 * _SIZE)).cast("Q")


def make(number: int) -> list[Cell]:
    """Return cells that this process shares with those that it forks."""
    numbers = memoryview(mmap.mmap(-1, 8 * _SIZE * number)).cast("Q")
    return [Cell(numbers[start:start + _SIZE]) for start in range(0, _SIZE * number, _SIZE)]


def use(cell: Cell) -> None:
    """Let this process write to a cell of its worker."""
    _own[:] = [cell]


def add_samples(number: int) -> None:
    """Count samples that this process has trained on, if a worker measures it."""
    for cell in _own:
        cell.add_samples(number)


def has_others() -> bool:
    """Return whether the worker of this process runs others at the same time, and decides how many."""
    return any(cell.others for cell in _own)


def is_to_yield() -> bool:
    """Return whether the worker of this process has asked it to save itself, so that others can go on."""
    return any(cell.yields for cell in _own)
