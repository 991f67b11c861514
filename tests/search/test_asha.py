"""ASHA against the rule of its paper, written down once more as the paper has it, and its properties."""
from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.search import asha
from src.search.definition import asha_rungs


def papers_rule(rungs: list[dict[int, float]], promoted: list[set[int]], eta: int) -> tuple[int, int] | None:
    """get_job of Algorithm 2, for k from the second highest rung down to 0."""
    for k in range(len(rungs) - 2, -1, -1):
        candidates = sorted(rungs[k].items(), key=lambda item: (item[1], item[0]))[:len(rungs[k]) // eta]
        promotable = [trial for trial, loss in candidates if trial not in promoted[k] and loss < math.inf]
        if promotable:
            return promotable[0], k + 1
    return None


def test_a_rung_worked_by_hand() -> None:
    rungs = [{0: 0.5, 1: 0.2, 2: 0.2, 3: 0.9, 4: 0.7, 5: 0.8}, {2: 0.1}, {}]
    assert asha.next_promotion(rungs, [{2}, set(), set()], 3) == (1, 1)  # 6 // 3 = 2: trials 1 and 2, one promoted
    assert asha.next_promotion(rungs, [{1, 2}, set(), set()], 3) is None  # 1 // 3 = 0
    rungs[1] = {1: 0.3, 2: 0.1, 3: 0.2}
    assert asha.next_promotion(rungs, [set(), set(), set()], 3) == (2, 2)  # the higher rung comes first


@given(st.integers(0, 2**31), st.integers(2, 4))
def test_promotions_follow_the_papers_rule(seed: int, eta: int) -> None:
    """A random search of up to 80 events: every decision is that of the paper, and within the best 1/eta."""
    rng, rungs, promoted = random.Random(seed), [{}, {}, {}, {}], [set(), set(), set(), set()]  # type: ignore[var-annotated]
    running: list[tuple[int, int]] = []
    trials = 0
    for _ in range(80):
        if running and rng.random() < 0.5:
            trial, rung = running.pop(rng.randrange(len(running)))
            rungs[rung][trial] = rng.choice([rng.random(), 0.5, math.inf])
            continue
        promotion = asha.next_promotion(rungs, promoted, eta)
        assert promotion == papers_rule(rungs, promoted, eta)
        if promotion is None:
            running.append((trials, 0))
            trials += 1
            continue
        trial, rung = promotion
        below = rungs[rung - 1]
        better = sum((loss, other) < (below[trial], trial) for other, loss in below.items())
        assert better < len(below) // eta and below[trial] < math.inf
        promoted[rung - 1].add(trial)
        running.append((trial, rung))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(2, 5))
def test_the_best_trial_always_continues_and_about_one_in_eta_does(losses: list[float], eta: int) -> None:
    by_trial = dict(enumerate(losses))
    going_on = [trial for trial in by_trial if asha.may_continue(by_trial, trial, eta)]
    assert min(by_trial, key=lambda trial: (by_trial[trial], trial)) in going_on
    assert len(going_on) == max(1, len(losses) // eta)


def test_rungs() -> None:
    assert asha_rungs(2, 3, 50) == (2, 6, 18)
    assert asha_rungs(1, 4, 16) == (1, 4)  # the top rung is the full length
    assert asha_rungs(5, 3, 5) == ()
    assert asha_rungs(1, 1.5, 5) == (1, 2, 3)


@pytest.mark.parametrize("losses", [{}, {0: math.inf}, {0: math.inf, 1: math.inf, 2: math.inf}])
def test_nothing_good_is_not_promoted(losses: dict[int, float]) -> None:
    assert asha.next_promotion([losses, {}], [set(), set()], 2) is None
