"""Samplers: what each is given, and that it finds a good point; CMA-ES and TPE against random points."""
from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src import run_folder
from src.search import cma, decide, optuna_study, samplers
from src.search.decision import GIVEN_UP, NEW, Decision, Result
from src.search.definition import EarlyStop, Search
from src.search.ledger import Ledger
from src.search.space import CHOICE, FLOAT, INT, Branching, Dimension, Point, Space

SPACE = Space({}, (Dimension("x", "x", FLOAT, 1e-3, 1.0, log=True), Dimension("n", "n", INT, 1, 64, log=True),
                   Dimension("c", "c", CHOICE, choices=("a", "b", "c"))),
              (Branching("LIST", (Space({}, (Dimension("LIST.0.y", "y", FLOAT, 0.0, 1.0),)), Space())),))


def search_of(method: str, early_stop: EarlyStop | None = None, space: Space = SPACE) -> Search:
    return Search(method, 100, 4, 0, "loss", False, 9, space, "x", early_stop=early_stop)


def loss(point: Point) -> float:
    return abs(math.log10(point["x"]) + 1.5) + abs(math.log2(point["n"] / 8)) / 3 + point["c"] / 4 + point.get(
        "LIST.0.y", 0.5)


def ledger_with(search: Search, results: list[Result | None]) -> Ledger:
    """A ledger of random trials with these results; None for a trial that runs."""
    ledger = Ledger(search)
    for number, result in enumerate(results):
        point = search.space.draw(0, number)
        ledger = ledger.after(Decision(number, NEW, number, 0, str(number), point, point, sampler="random"))
        ledger = ledger.with_results([result] if result else [])
    return ledger


def run(search: Search, trials: int) -> Iterator[Point]:
    """Yield the points of a search whose trials end four at a time, in random order."""
    ledger, rng = Ledger(search), random.Random(0)
    while len(ledger.trials) < trials or ledger.open_trials():
        made = decide.propose(ledger, lambda number, _: str(number)) if len(ledger.trials) < trials else None
        if made:
            ledger = ledger.after(made)
            yield made.point
            continue
        trial = rng.choice(ledger.open_trials())
        ledger = ledger.with_results([Result(trial.number, 0, loss(trial.point), None, run_folder.COMPLETED)])


@pytest.mark.parametrize("method", ["tpe", "cmaes"])
def test_samplers_find_better_points_than_chance(method: str) -> None:
    found = [loss(point) for point in run(search_of(method), 50)]
    drawn = [loss(point) for point in run(search_of("random"), 50)]
    assert statistics.mean(found[25:]) < 0.8 * statistics.mean(drawn)


def test_trials_are_ranked_as_their_rungs() -> None:
    search = search_of("tpe", EarlyStop("asha", (1, 3), 3))
    ledger = ledger_with(search, [
        Result(0, 0, 0.5), None, Result(2, 2, 0.1, None, "completed"), Result(3, 0, None, None, "diverged"),
        Result(4, 1, 0.3, None, "early_stopped"), Result(5, 0, None, None, GIVEN_UP)])
    trials = list(optuna_study._trials_for_tpe(ledger))
    assert [trial.state.name for trial in trials] == ["PRUNED", "RUNNING", "COMPLETE", "PRUNED", "COMPLETE"]
    assert trials[0].intermediate_values == {1: 0.5} and trials[3].intermediate_values == {}
    assert trials[2].value == 0.1


def test_a_gaussian_process_is_fitted_to_one_rung() -> None:
    search = search_of("gp", EarlyStop("asha", (1, 3), 3))
    ledger = ledger_with(search, [Result(number, 0, number / 10) for number in range(11)] + [
        Result(11, 0, None, None, "diverged"), None])
    ledger = ledger.with_results([Result(0, 1, 0.0)])
    trials = list(optuna_study._trials_for_gp(ledger))
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 12 + ["RUNNING"]
    assert [trial.value for trial in trials[:12]] == [number / 10 for number in range(11)] + [1.0]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["tpe", "cmaes"]))
def test_choices_depend_on_the_ledger_alone_and_stay_in_the_space(seed: int, method: str) -> None:
    rng = random.Random(seed)
    results = [rng.choice([None, Result(number, 0, rng.random(), None, "completed"),
                           Result(number, 0, None, None, "diverged")]) for number in range(30)]
    ledger = ledger_with(search_of(method), results)
    choice = samplers.choose(ledger)
    assert choice == samplers.choose(ledger)
    assert 1e-3 <= choice.point["x"] <= 1 and choice.point["n"] in range(1, 65) and choice.point["c"] in (0, 1, 2)
    assert ("LIST.0.y" in choice.point) == (choice.point["LIST"] == 0)


def test_cma_es_of_one_dimension_and_of_none() -> None:
    for dimensions in ((SPACE.dimensions[0],), (SPACE.dimensions[2],)):
        space = Space({}, dimensions)
        ledger = ledger_with(search_of("cmaes", space=space), [
            Result(number, 0, number / 10, None, "completed") for number in range(12)])
        point, name, _, _ = cma.choose(ledger, 1)
        assert name == "cmaes, generation 0" and point.keys() == {dimensions[0].name}


def test_a_point_is_not_tried_twice_while_there_are_others() -> None:
    space = Space({}, (Dimension("c", "c", CHOICE, choices=tuple(range(40))),))
    ledger = ledger_with(search_of("tpe", space=space), [
        Result(number, 0, number / 10, None, "completed") for number in range(12)])
    taken = {trial.point["c"] for trial in ledger.trials}
    assert samplers.choose(ledger).point["c"] not in taken


@pytest.mark.parametrize("method", ["tpe", "gp"])
def test_neighbors_of_good_choices_are_tried_only_if_these_are_ordered(method: str) -> None:
    distances = []
    for is_ordered in (True, False):
        space = Space({}, (Dimension("c", "c", CHOICE, choices=tuple(range(60)), is_ordered=is_ordered),))
        results = [Result(number, 0, abs(space.draw(0, number)["c"] - 20) / 60, None, "completed")
                   for number in range(12)]
        ledger = ledger_with(search_of(method, space=space), results)
        points = [optuna_study.choose(ledger, seed)[0]["c"] for seed in range(5)]
        assert all(type(point) is int and 0 <= point < 60 for point in points)
        distances.append(statistics.mean(abs(point - 20) for point in points))
    assert distances[0] < 6 < distances[1]


def test_each_third_trial_is_random_with_early_stopping() -> None:
    search = search_of("tpe", EarlyStop("asha", (1, 3), 3))
    samplers_used = []
    for number in range(12, 18):
        results: list[Result | None] = [Result(trial, 0, trial / 10) for trial in range(number)]
        samplers_used.append(samplers.choose(ledger_with(search, results)).sampler)
    assert samplers_used == ["random", "tpe", "tpe"] * 2
