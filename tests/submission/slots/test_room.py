"""How many runs fit the CPUs, compared with a simulation of runs that compute and wait in turn."""
from __future__ import annotations

import functools
import heapq
import random
from collections.abc import Callable

import pytest

from src.submission.slots.policy import Policy
from src.submission.slots.room import Room, busy_cpus
from tests.submission.slots.test_policy import run as decide


def exponential(chance: random.Random, mean: float) -> float:
    return chance.expovariate(1 / mean)


def nearly_constant(chance: random.Random, mean: float) -> float:
    return mean * chance.uniform(0.7, 1.3)


@functools.cache
def simulate_busy(draw: Callable[[random.Random, float], float], runs: int, cpus: int, per_run: float,
                  steps: int = 20_000) -> float:
    """Return the mean number of busy CPUs. Each takes the run that has queued the longest, to the end of its turn."""
    chance = random.Random(1)
    ready = [(draw(chance, 1 - per_run), number) for number in range(runs)]  # when each run wants a CPU
    free = [0.0] * cpus  # when each CPU is free
    heapq.heapify(ready)
    computed = time = 0.0
    for _ in range(steps):
        time, number = heapq.heappop(ready)
        duration = draw(chance, per_run)
        computed, end = computed + duration, max(time, heapq.heappop(free)) + duration
        heapq.heappush(free, end)
        heapq.heappush(ready, (end + draw(chance, 1 - per_run), number))
    return computed / time


@pytest.mark.parametrize(("runs", "cpus", "per_run"), [(1, 2, 0.6), (4, 2, 0.6), (6, 2, 0.6), (9, 2, 0.3), (3, 1, 0.5),
                                                       (14, 8, 0.6)])
def test_busy_cpus_are_those_of_a_simulation(runs: int, cpus: int, per_run: float) -> None:
    assert busy_cpus(runs, cpus, per_run) == pytest.approx(simulate_busy(exponential, runs, cpus, per_run), rel=0.03)


@pytest.mark.parametrize(("runs", "cpus", "per_run", "busy"), [
    (2, 2.0, 0.6, 1.2), (3, 8.0, 1.0, 3.0), (9, 8.0, 1.0, 8.0), (2, 8.0, 2.5, 5.0), (900, 64.0, 0.99, 64.0)])
def test_runs_that_find_a_free_cpu_do_not_slow_each_other_down(runs: int, cpus: float, per_run: float, busy: float
                                                               ) -> None:
    assert busy_cpus(runs, cpus, per_run) == pytest.approx(busy)


@pytest.mark.parametrize(("cpus", "per_run", "most"), [
    (2.0, 1.0, 2), (2.0, 0.99, 2), (2.0, 1.02, 2), (2.0, 0.96, 3), (2.0, 0.6, 6), (2.0, 4.0, 1), (1.5, 1.0, 2),
    (0.5, 0.5, 1), (8.0, 1.9, 5), (32.0, 4.0, 8), (64.0, 0.001, 1024)])
def test_runs_fit_until_they_keep_the_cpus_busy(cpus: float, per_run: float, most: int) -> None:
    assert Room(cpus=cpus, cpus_per_run=per_run).largest()[0] == most


@pytest.mark.parametrize("draw", [exponential, nearly_constant])
@pytest.mark.parametrize(("cpus", "per_run"), [(1, 0.5), (2, 0.2), (2, 0.5), (2, 0.6), (2, 0.8), (8, 0.4)])
def test_runs_that_wait_are_as_many_as_pay(draw: Callable[[random.Random, float], float], cpus: int, per_run: float
                                           ) -> None:
    """A rule that counts CPUs / per_run runs loses up to a fifth of the rate of the best number."""
    policy = Policy()
    decide(policy, lambda number: simulate_busy(draw, number, cpus, per_run) / number / per_run, 400,
           Room(cpus=cpus, cpus_per_run=per_run))
    assert policy.is_settled and simulate_busy(draw, policy.best, cpus, per_run) >= 0.95 * cpus
