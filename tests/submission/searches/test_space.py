"""The space of a search: the same grammar as a grid, with choices, branches and distributions."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import JobSpecError
from src.io import yaml_io
from src.search.space import Space
from src.submission.searches import define
from src.submission.searches.space import read_space


def space_of(text: str, overrides: dict[str, Any] | None = None) -> Space:
    return read_space(yaml_io.load(text, "t.yaml"), overrides or {}, "t.yaml")


FULL = """\
model: tiny/lenet
base_lr: !loguniform [1e-4, 1]
batch_size: [32, 128, 512]
epochs: !int_uniform [1, 9]
optim_kwargs: {eps: !uniform [0, 1], betas: [0.9, !uniform [0.5, 0.99]]}
ZIP: {width: [1, 2, 3], depth: [4, 5, 6]}
LIST:
  - {optim_alg: sgd, momentum: !uniform [0.5, 0.99], nesterov: [true, false]}
  - optim_alg: adam
    LIST_2:
      - {ada_eps: !loguniform [1e-9, 1e-5]}
      - {ada_eps: 0.1}
"""


def test_parameters_become_constants_dimensions_and_branches() -> None:
    space = space_of(FULL)
    assert space.constants == {"model": "tiny/lenet", "optim_kwargs": {"eps": None, "betas": [0.9, None]}}
    assert [(item.name, item.kind) for item in space.dimensions] == [
        ("base_lr", "float"), ("batch_size", "choice"), ("epochs", "int"), ("optim_kwargs.eps", "float"),
        ("optim_kwargs.betas.1", "float")]
    assert [(item.name, len(item.alternatives)) for item in space.branchings] == [("ZIP", 3), ("LIST", 2)]
    assert [item.name for item in space.branchings[1].alternatives[0].dimensions] == ["LIST.0.momentum",
                                                                                       "LIST.0.nesterov"]
    assert space.branchings[1].alternatives[1].branchings[0].name == "LIST.1.LIST_2"
    assert Space.from_json(space.to_json()) == space


@pytest.mark.parametrize(("values", "is_ordered"), [
    ("[32, 128, 512]", True), ("[0.1, 0.01, 0.001]", True), ("!choice [1, 2.5, 3]", True),
    ("2.0 ** np.arange(3)", True), ("[1, 2]", False), ("[1, 3, 2]", False), ("[1, 1.0, 2]", False),
    ("[1, 2, sgd]", False), ("[a, b, c]", False), ("[1, 2, true]", False), ("[1, 2, .nan]", False)])
def test_choices_are_ordered_if_they_are_numbers_that_rise_or_fall(values: str, is_ordered: bool) -> None:
    dimension, = space_of(f"a: {values}").dimensions
    assert (dimension.kind, dimension.is_ordered) == ("choice", is_ordered)


@given(st.integers(0, 1 << 30), st.integers(0, 1000))
def test_random_points_have_the_parameters_of_one_branch(seed: int, trial: int) -> None:
    space = space_of(FULL)
    spec = space.to_spec(space.draw(seed, trial))
    assert 1e-4 <= spec["base_lr"] <= 1
    assert spec["batch_size"] in (32, 128, 512)
    assert type(spec["epochs"]) is int
    assert 1 <= spec["epochs"] <= 9
    assert spec["depth"] == spec["width"] + 3
    assert 0 <= spec["optim_kwargs"]["eps"] <= 1
    assert spec["optim_kwargs"]["betas"][0] == 0.9
    assert 0.5 <= spec["optim_kwargs"]["betas"][1] <= 0.99
    if spec["optim_alg"] == "sgd":
        assert "ada_eps" not in spec
        assert type(spec["nesterov"]) is bool
    else:
        assert not {"momentum", "nesterov"} & spec.keys()
        assert 1e-9 <= spec["ada_eps"] <= 0.1


def test_probe_points_cover_every_value_limit_and_branch() -> None:
    space = space_of(FULL)
    specs = [space.to_spec(point) for point in define.probe_points(space)]
    for key, values in (("base_lr", {1e-4, 1.0}), ("batch_size", {32, 128, 512}), ("epochs", {1, 9}),
                        ("width", {1, 2, 3}), ("optim_alg", {"sgd", "adam"}), ("momentum", {0.5, 0.99}),
                        ("nesterov", {True, False}), ("ada_eps", {1e-9, 1e-5, 0.1})):
        assert {spec[key] for spec in specs if key in spec} == values


def test_set_replaces_a_distribution_in_all_branches() -> None:
    space = space_of(FULL, {"momentum": 0.9, "batch_size": [8, 16]})
    specs = [space.to_spec(space.draw(0, trial)) for trial in range(20)]
    assert {spec["momentum"] for spec in specs} == {0.9}
    assert {spec["batch_size"] for spec in specs} == {8, 16}


@pytest.mark.parametrize(("text", "kind", "low", "high", "step"), [
    ("a: !uniform {min: 0, max: 1, q: 0.25}", "float", 0, 1, 0.25),
    ("a: !uniform {min: 1, max: 11, q: 5}", "int", 5, 10, 5),
    ("a: !int_uniform [2, 5]", "int", 2, 5, 1)])
def test_steps(text: str, kind: str, low: float, high: float, step: float) -> None:
    dimension, = space_of(text).dimensions
    assert (dimension.kind, dimension.low, dimension.high, dimension.step) == (kind, low, high, step)


@pytest.mark.parametrize(("text", "message"), [
    ("a: 1", "no parameter varies"),
    ("a: [1]", "no parameter varies"),
    ("{a: [1, 2], EXCLUDE: [{a: 1}]}", "EXCLUDE is for grids"),
    ("SUBTESTS: {x: {a: [1, 2]}}", "SUBTESTS is for grids"),
    ("a: !normal [0, 1]", "does not draw from !normal"),
    ("a: !loguniform {min: 1, max: 9, q: 2}", "does not draw from !loguniform with q"),
    ("a: !uniform {min: 1, max: 9, q: 8}", "no two multiples of 8"),
    ("a: !uniform [2, 1]", "min is not below max"),
    ("a: !choice [1]", "has one value"),
    ("a: [1, !uniform [0, 1]]", "one of these is random"),
    ("{a: [1, 2], LIST: [{a: 3}, {b: 4}]}", "'a' varies by a and by LIST"),
    ("{LIST: [{a: 3}, {b: 4}], LIST_2: [{a: 3}, {c: 4}]}", "'a' varies by LIST and by LIST_2"),
    ("{b: [1, 2], LIST: []}", "LIST must be a list"),
    ("ZIP: {a: [1, 2], b: [1, 2, 3]}", "equal length"),
    ("ZIP: {a: [1, !uniform [0, 1]], b: [1, 2]}", "one of them is random")])
def test_invalid_spaces(text: str, message: str) -> None:
    with pytest.raises(JobSpecError, match=message):
        space_of(text)
