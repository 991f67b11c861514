"""The clock of the training loop: how long it has waited for data and evaluated, for a thread that reads it."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import perf_counter
from typing import TypeVar

_Batch = TypeVar("_Batch")


class LoopClock:
    """Seconds since the start of this process; the loop sets them, and another thread may call `totals` at any time.

    data: waited for batches, in training and in evaluations. data_start: when the loop began to wait for the next
    batch, by perf_counter; None while it does not wait. evaluation, evaluation_start: the same of evaluations.
    """

    def __init__(self) -> None:
        self.data = self.evaluation = 0.0
        self.data_start: float | None = None
        self.evaluation_start: float | None = None

    def totals(self) -> tuple[float, float]:
        """Return the seconds of data and of evaluations so far, with those that are going on."""
        now = perf_counter()
        data_start, evaluation_start = self.data_start, self.evaluation_start
        return (self.data + (now - data_start if data_start else 0.0),
                self.evaluation + (now - evaluation_start if evaluation_start else 0.0))

    def next_batch(self, batches: Iterator[_Batch]) -> tuple[_Batch, float]:
        """Wait for the next batch. Return it with the time at which it came, by perf_counter."""
        before = self.data_start = perf_counter()
        batch = next(batches)
        now = perf_counter()
        self.data_start = None
        self.data += now - before
        return batch, now

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count the time of the block as an evaluation."""
        self.evaluation_start = start = perf_counter()
        try:
            yield
        finally:
            self.evaluation_start = self.data_start = None
            self.evaluation += perf_counter() - start


clock = LoopClock()
