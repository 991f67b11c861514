"""The policy of --slots auto, with readings of virtual runs."""
from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from benchmarks import slots as simulation
from benchmarks.slots import PROFILES, Profile
from src.submission.slots.lane import Capacity, Lane, RunUse
from src.submission.slots.policy import Decision, Guess, Policy, Reading
from src.submission.slots.room import Room, busy_cpus
from src.submission.slots.speeds import LONGEST, SHORTEST, Progress

_GIB = 2.0**30
UNLIMITED = Room()


def run(policy: Policy, speed: Callable[[int], float], seconds: int = 600, room: Room = UNLIMITED, waiting: int = 100,
        rates: tuple[float, ...] = (100.0,)) -> list[Decision]:
    """Let a policy decide for endless runs, whose rates alone are `rates`, in turn; return its decisions."""
    samples: dict[str, float] = {}
    decisions = []
    time = policy._searched if policy.is_settled else 0.0
    for _ in range(seconds):
        time += 1
        names = [f"{number}" for number in range(min(policy.limit(room), waiting))]
        for number, name in enumerate(names):
            samples[name] = samples.get(name, 0.0) + rates[number % len(rates)] * speed(len(names))
        for name in samples.keys() - set(names):
            del samples[name]
        reading = Reading(time, {name: Progress(f"{int(name) % len(rates)}", samples.get(name, 0.0), time)
                                 for name in names}, waiting - len(names), room)
        if decision := policy.observe(reading):
            decisions.append(decision)
    return decisions


@pytest.mark.parametrize("profile", PROFILES, ids=[profile.name for profile in PROFILES])
def test_profiles_come_close_to_the_best_fixed_number(profile: Profile) -> None:
    profile = profile._replace(runs=20 if profile.name == "compute-bound" else 40)
    slots, seconds = simulation.best_static(profile)
    result = simulation.simulate(profile)
    assert result.seconds <= seconds / 0.95, slots
    assert result.search <= 0.03 * result.seconds
    assert result.faults == 0


def test_memory_that_grows_after_the_search_costs_a_slot_and_no_run() -> None:
    """Runs need more GPU memory later than in the search: the number is lowered, to what fits, and all runs end."""
    profile = PROFILES[0]._replace(runs=20, gpu_memory=10 * _GIB, late_gpu_memory=15 * _GIB)
    result = simulation.simulate(profile)
    assert 1 <= result.faults <= 3 and result.slots == 4


def test_first_guess_is_measured_and_not_searched_again() -> None:
    policy = Policy(Guess(6, 7))
    assert [(decision.slots, decision.reason) for decision in run(policy, lambda number: 1.0, 60)] == [
        (6, "settled: as in an earlier batch")]


def test_guess_that_does_not_fit_is_lowered() -> None:
    policy = Policy(Guess(8, 9))
    decisions = run(policy, lambda number: 1.0, 60, Room(memory=10 * _GIB, memory_per_run=3 * _GIB))
    assert [decision.slots for decision in decisions] == [3, 3]
    assert "memory of a run: 3 GB of 10 GB" in decisions[0].reason


@pytest.mark.parametrize(("per_run", "most"), [(3.0, 3), (3.1, 2), (9.0, 1), (20.0, 1)])
def test_a_tenth_of_a_memory_is_left_free(per_run: float, most: int) -> None:
    assert Room(memory=10.0, memory_per_run=per_run).largest()[0] == most
    assert Room(gpu_memory=10.0, gpu_memory_per_run=per_run).largest()[0] == most


@pytest.mark.parametrize(("rate_of_two", "best"), [(1.04, 1), (1.06, 2)])
def test_more_runs_stay_only_if_the_rate_of_all_rises_by_5_percent(rate_of_two: float, best: int) -> None:
    policy = Policy()
    decisions = run(policy, lambda number: {1: 1.0, 2: rate_of_two / 2}.get(number, 1 / number))
    assert (policy.best, policy.slots, policy.is_settled) == (best, best, True)
    assert max(decision.slots for decision in decisions) > 1  # two were tried


def test_cpus_limit_the_number() -> None:
    policy = Policy()
    decisions = run(policy, lambda number: 1.0, room=Room(cpus=2.0, cpus_per_run=0.99))
    assert [decision.slots for decision in decisions] == [2, 2]
    assert "CPUs of a run: 0.99 of 2" in decisions[-1].reason


@pytest.mark.parametrize(("per_run", "at_once", "best"), [(1.0, 9.0, 2), (0.6, 2.5, 3), (0.5, 3.7, 5), (0.9, 1.3, 2)])
def test_optimum_on_two_cores_is_found(per_run: float, at_once: float, best: int) -> None:
    """Runs that use a part of a core, and share something for which `at_once` of them find room: the best number keeps
    between one and two cores busy.
    """
    lane = Lane()
    samples: dict[str, float] = {}
    cpu_seconds: dict[str, float] = {}
    for time in range(400):
        names = [str(number) for number in range(lane.allowed())]
        speed = min(1.0, at_once / len(names), busy_cpus(len(names), 2.0, per_run) / len(names) / per_run)
        for name in names:
            samples[name] = samples.get(name, 0.0) + 100 * speed
            cpu_seconds[name] = cpu_seconds.get(name, 0.0) + per_run * speed
        uses = {name: RunUse(Progress("a", samples[name], time), 0.0, cpu_seconds[name]) for name in names}
        lane.read(time, uses, 100, Capacity(cpus=2.0))
    assert (lane.policy.is_settled, lane.policy.best) == (True, best)
    rates = {number: min(number, at_once, busy_cpus(number, 2.0, per_run) / per_run) for number in range(1, 7)}
    assert rates[best] >= 0.95 * max(rates.values()) and 1 < per_run * rates[best] <= 2


def test_runs_of_different_rates_are_compared_one_by_one() -> None:
    """The sum of samples per second rises most if a fast run is added, but both are slowed down alike."""
    decisions = run(Policy(), lambda number: 1 / number, rates=(100.0, 10_000.0))
    assert [decision.slots for decision in decisions] == [2, 1]


def test_falling_rate_leads_to_fewer() -> None:
    policy = Policy()
    run(policy, lambda number: min(1.0, 4 / number), 200)
    assert (policy.is_settled, policy.slots) == (True, 4)
    decisions = run(policy, lambda number: min(1.0, 2 / number), 1200)
    assert decisions[0].slots == 3 and decisions[0].yields and "the rate fell: 50 % slower" in decisions[0].reason
    assert policy.slots < 4


def test_full_memory_makes_the_youngest_yield() -> None:
    policy = Policy()
    run(policy, lambda number: 1.0, 200, waiting=4)
    decision, = run(policy, lambda number: 1.0, 1, Room(memory=10 * _GIB, used=9.9 * _GIB), waiting=4)
    assert (decision.slots, decision.yields) == (3, True)
    assert decision.reason == "memory is nearly full: 9.9 GB of 10 GB in use"
    assert run(policy, lambda number: 1.0, 300, waiting=4) and policy.slots == 3  # for the rest of the batch


def test_out_of_memory_lowers_the_number_for_good() -> None:
    policy = Policy()
    run(policy, lambda number: 1.0, 100, waiting=8)
    assert policy.slots == 8
    assert policy.reduce(7, "out of memory").slots == 7
    run(policy, lambda number: 1.0, 2000, waiting=8)
    assert policy.slots == 7


def test_programs_without_a_log_are_timed_as_a_whole() -> None:
    policy, time = Policy(), 0.0
    running: dict[str, float] = {}
    names = iter(range(10_000))
    while not policy.is_settled and time < 20_000:
        time += 1
        length = 60 * max(1.0, len(running) / 3)  # seconds of a run: three fit
        for name in [name for name, begin in running.items() if time - begin >= length]:
            policy.end("a", running.pop(name), time)
        while len(running) < policy.slots:
            running[str(next(names))] = time
        policy.observe(Reading(time, {name: Progress("a", None, time) for name in running}, 50))
    assert policy.best in (3, 4)


def test_stairs_of_progress_are_measured_over_several_rows() -> None:
    """A program writes a row every 20 s: no decision before several rows of each run."""
    policy = Policy()
    decisions = []
    for time in range(1, 200):
        row = time // 20 * 20
        runs = {str(number): Progress("a", float(row), float(row)) for number in range(policy.slots)}
        decision = policy.observe(Reading(float(time), runs, 9))
        decisions += [(time, decision.slots)] if decision else []
    assert decisions[0][0] >= 60 and decisions[0][1] == 2


def test_noise_keeps_a_window_open_longer() -> None:
    chance = random.Random(1)
    assert len(run(Policy(), lambda number: 1.0, int(3 * SHORTEST))) > 0
    decided = [run(Policy(), lambda number: 5.0 * (chance.random() < 0.2), int(LONGEST / 2)) for _ in range(20)]
    assert sum(map(bool, decided)) <= 4


def test_end_of_the_batch_is_no_reason_to_change() -> None:
    policy = Policy()
    assert run(policy, lambda number: 1.0, 300, waiting=1) == []
    assert policy.slots == 1
