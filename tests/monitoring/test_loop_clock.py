from __future__ import annotations

import time

from src.monitoring.loop_clock import LoopClock, clock
from tests.training.toys import make_toy, train_toy


def test_open_intervals_count() -> None:
    loop = LoopClock()
    assert loop.totals() == (0, 0)
    with loop.evaluating():
        loop.data_start = time.perf_counter()
        time.sleep(0.02)
        data, evaluation = loop.totals()
        assert 0.02 <= data <= evaluation
    assert loop.totals()[1] >= evaluation and loop.data_start is None


def test_training_sets_the_clock() -> None:
    data, evaluation = clock.totals()
    rows, _ = train_toy(make_toy())
    waited = sum(row[name] or 0.0 for row in rows for name in row if name.endswith("/data_time"))
    evaluated = sum(row[name] or 0.0 for row in rows for name in row if name.endswith("/time") and "train" not in name)
    assert abs(clock.totals()[0] - data - waited) < 1e-6
    assert 0 < clock.totals()[1] - evaluation <= evaluated
    assert clock.data_start is None
