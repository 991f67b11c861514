"""Spaces: points stay inside, specs have exactly the parameters of their branches, JSON repeats the space."""
from __future__ import annotations

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.search.space import CHOICE, FLOAT, INT, Branching, Dimension, Space

LR = Dimension("base_lr", "base_lr", FLOAT, 1e-4, 1, log=True)
SPACE = Space(
    {"model": "tiny/lenet", "optim_kwargs": {"nesterov": None, "dampening": 0}},
    (LR, Dimension("batch_size", "batch_size", CHOICE, choices=(32, 128, 512)),
     Dimension("optim_kwargs.nesterov", "optim_kwargs", CHOICE, choices=(True, False), path=("nesterov",))),
    (Branching("LIST", (
        Space({"optim_alg": "sgd"}, (Dimension("LIST.0.momentum", "momentum", FLOAT, 0.5, 0.99),)),
        Space({"optim_alg": "adam"}, (Dimension("LIST.1.ada_eps", "ada_eps", FLOAT, 1e-9, 1e-5, log=True),)))),))


@given(st.integers(0, 2**31), st.integers(0, 2000))
def test_drawn_points_have_the_parameters_of_their_branch(seed: int, trial: int) -> None:
    point = SPACE.draw(seed, trial)
    spec = SPACE.to_spec(point)
    assert point == SPACE.draw(seed, trial)
    assert ("momentum" in spec, "ada_eps" in spec) == ((True, False), (False, True))[int(point["LIST"])]
    assert spec["optim_alg"] == ("sgd", "adam")[int(point["LIST"])]
    assert 1e-4 <= spec["base_lr"] <= 1 and spec["batch_size"] in (32, 128, 512)
    assert spec["optim_kwargs"]["nesterov"] in (True, False) and spec["optim_kwargs"]["dampening"] == 0
    assert SPACE.constants["optim_kwargs"]["nesterov"] is None, "the constants of the space were changed"


def test_json_repeats_the_space() -> None:
    assert Space.from_json(json.loads(json.dumps(SPACE.to_json()))) == SPACE
    assert [item.name for item in SPACE.walk()] == [
        "base_lr", "batch_size", "optim_kwargs.nesterov", "LIST", "LIST.0.momentum", "LIST.1.ada_eps"]


def test_order_of_choices_survives_the_file_and_is_not_assumed_in_older_ones() -> None:
    space = Space({}, (Dimension("c", "c", CHOICE, choices=(1, 2, 4), is_ordered=True),))
    value = json.loads(json.dumps(space.to_json()))
    assert Space.from_json(value).dimensions[0].is_ordered
    del value["dimensions"][0]["is_ordered"]
    assert not Space.from_json(value).dimensions[0].is_ordered
    assert Space.from_json(value) == space


numbers = st.floats(-1e6, 1e6).filter(lambda value: abs(value) > 1e-3)


@given(numbers, numbers, st.none() | st.floats(0.01, 100), st.floats(0.001, 0.999))
def test_snapped_floats_stay_inside_and_at_steps(one: float, two: float, step: float | None, share: float) -> None:
    low, high = sorted((one, two))
    number = Dimension("x", "x", FLOAT, low, high, step=step).at(share)
    assert low <= number <= high
    if step:
        assert abs((number - low) / step - round((number - low) / step)) < 1e-2 * max(1, (high - low) / step)


@given(st.integers(1, 50), st.integers(0, 50), st.booleans(), st.floats(1e-6, 1 - 1e-6))
def test_integers_stay_inside(low: int, width: int, log: bool, share: float) -> None:
    number = Dimension("n", "n", INT, low, low + width, log=log).at(share)
    assert isinstance(number, int) and low <= number <= low + width


def test_draws_are_uniform() -> None:
    draws = [Space({}, (LR, Dimension("n", "n", INT, 1, 4))).draw(0, trial) for trial in range(4000)]
    assert statistics.median(draw["base_lr"] for draw in draws) == pytest.approx(1e-2, rel=0.2)
    assert all(900 < sum(draw["n"] == number for draw in draws) < 1100 for number in range(1, 5))


def test_weights_are_those_of_random_points() -> None:
    space = Space({}, (Dimension("c", "c", CHOICE, choices=("a", "b", "c"), weights=(0.2, 0.8, 0.0)),))
    draws = [space.to_spec(space.draw(1, trial))["c"] for trial in range(2000)]
    assert draws.count("c") == 0 and 320 < draws.count("a") < 480


@pytest.mark.parametrize("change", [{"kind": "other"}, {"low": 2, "high": 1}, {"low": 0, "log": True},
                                    {"kind": CHOICE}, {"strange": 1}])
def test_damaged_dimensions_are_rejected(change: dict[str, object]) -> None:
    value = {"constants": {}, "dimensions": [{"name": "x", "key": "x", "kind": FLOAT, "low": 1, "high": 2, **change}],
             "branchings": []}
    with pytest.raises((ValueError, TypeError)):
        Space.from_json(value)
