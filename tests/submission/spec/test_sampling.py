"""Random points: their distributions by moments and limits, and draws that stay as they are when a grid grows."""
from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from src.errors import JobSpecError
from src.io import yaml_io
from src.submission.spec import sampling
from src.submission.spec.grid import Grid, expand_parameters

COUNT = 4_000


def read(text: str) -> Any:
    return yaml_io.load(text, "t.yaml")


def drawn(tag: str, count: int = COUNT, seed: int = 0) -> list[Any]:
    """`count` draws from what a tag stands for."""
    value_at = sampling.quantile_function(read(tag), "x")
    return [value_at(sampling.draw_probability(seed, ["x"], number)) for number in range(count)]


def grid_of(text: str, number: int | None = 5, **options: Any) -> Grid:
    return expand_parameters(read(text), "t.yaml", samples=number, **options)


# tag, what is done with a draw, mean and standard deviation then, by the textbook
MOMENTS: list[tuple[str, Any, float, float]] = [
    ("!uniform [2, 6]", float, 4, 4 / math.sqrt(12)),
    ("!uniform {min: -1, max: 1, q: 0.5}", float, 0, math.sqrt((2 * 1 / 8) + 2 * 0.25 / 4)),
    ("!loguniform [1e-4, 1e-1]", math.log10, -2.5, 3 / math.sqrt(12)),
    ("!int_uniform [1, 6]", float, 3.5, math.sqrt(35 / 12)),
    ("!normal [3, 0.5]", float, 3, 0.5),
    ("!normal {mu: 0, sigma: 10, q: 1}", float, 0, math.sqrt(100 + 1 / 12)),
    ("!lognormal [-1, 0.5]", math.log, -1, 0.5),
    ("!beta [2, 5]", float, 2 / 7, math.sqrt(10 / (49 * 8))),
    ("!beta [0.5, 0.5]", float, 0.5, math.sqrt(1 / 8)),
    ("!choice [1, 2, 4, 8]", float, 3.75, math.sqrt(85 / 4 - 3.75**2)),
    ("!choice {values: [0, 1], probabilities: [0.9, 0.1]}", float, 0.1, 0.3),
]


@pytest.mark.parametrize(("tag", "seen", "mean", "deviation"), MOMENTS, ids=[row[0] for row in MOMENTS])
def test_draws_have_the_moments_of_their_distribution(tag: str, seen: Any, mean: float, deviation: float) -> None:
    values = [seen(value) for value in drawn(tag)]
    assert statistics.fmean(values) == pytest.approx(mean, abs=4 * deviation / math.sqrt(COUNT))
    assert statistics.pstdev(values) == pytest.approx(deviation, rel=0.05)


def test_probabilities_are_uniform_and_independent_between_keys() -> None:
    one, other = ([sampling.draw_probability(0, [key], number) for number in range(COUNT)] for key in ("a", "b"))
    assert abs(statistics.correlation(one, other)) < 4 / math.sqrt(COUNT)
    assert abs(statistics.correlation(one[1:], one[:-1])) < 4 / math.sqrt(COUNT)
    # the largest distance of the empirical from the even distribution (Kolmogorov, 0.1 %)
    assert max(abs(place / COUNT - share) for place, share in enumerate(sorted(one))) < 1.95 / math.sqrt(COUNT)


def test_choice_draws_only_values_with_a_probability() -> None:
    found = Counter(drawn("!choice {values: [a, null, [1, 2]], probabilities: [0.5, 0.5, 0]}".replace("[1, 2]", "c")))
    assert found.keys() == {"a", None}
    assert Counter(drawn("!int_uniform [-1, 1]")).keys() == {-1, 0, 1}
    assert set(drawn("!choice range(3)", 100)) == {0, 1, 2}


def test_draws_do_not_change_between_versions() -> None:
    # a batch that is extended draws its earlier points again: they must not change with a version
    assert drawn("!uniform [0, 1]", 3) == [0.930927, 0.618508, 0.884872]
    assert drawn("!loguniform [1e-4, 1e-1]", 3, seed=7) == [0.00169982, 0.0048402, 0.0378796]
    grid = grid_of("{lr: !normal [0, 1], k: {a: !int_uniform [0, 99], b: 1}, m: [1, 2]}", 2, seed=3)
    assert [(spec["lr"], spec["k"]["a"], spec["m"]) for spec in grid.specs] == [
        (1.84744, 42, 1), (0.58184, 59, 2), (-1.22904, 18, 1), (-0.0647439, 63, 2)]


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)
shares = st.floats(0, 1, exclude_min=True, exclude_max=True)


@given(numbers, numbers, shares, shares)
def test_uniform_is_monotonic_within_its_limits(low: float, high: float, one: float, other: float) -> None:
    assume(high - low > 1e-12 * max(abs(low), abs(high)))
    value_at = sampling.quantile_function(yaml_io.Tagged("uniform", [low, high]), "x")
    assert low <= value_at(min(one, other)) <= value_at(max(one, other)) <= high
    assert value_at(one) == pytest.approx(low + one * (high - low), abs=6e-5 * (high - low))
    assert type(value_at(one)) is float


@given(st.floats(1e-12, 1e3), st.floats(1.001, 1e9), shares)
def test_loguniform_is_uniform_in_the_logarithm(low: float, factor: float, share: float) -> None:
    value = sampling.quantile_function(yaml_io.Tagged("loguniform", [low, low * factor]), "x")(share)
    assert low <= value <= low * factor
    assert math.log(value / low) == pytest.approx(share * math.log(factor), abs=1e-5)


@given(st.integers(-10**6, 10**6), st.integers(1, 10**6), shares)
def test_int_uniform_draws_integers_within_its_limits(low: int, width: int, share: float) -> None:
    value = sampling.quantile_function(yaml_io.Tagged("int_uniform", [low, low + width]), "x")(share)
    assert type(value) is int and low <= value <= low + width


@given(st.floats(0.05, 50), st.floats(0.05, 50), st.floats(0.001, 0.999))
def test_beta_equals_that_of_scipy(a: float, b: float, share: float) -> None:
    special = pytest.importorskip("scipy.special")
    value = sampling.quantile_function(yaml_io.Tagged("beta", [a, b]), "x")(share)
    assert value == pytest.approx(special.betaincinv(a, b, share), rel=1e-5, abs=1e-12)


@given(st.sampled_from(["!uniform {min: 0, max: 10, q: 4}", "!loguniform {min: 1, max: 100, q: 8}",
                        "!normal {mu: 0, sigma: 9, q: 3}"]), shares)
def test_integer_q_gives_integer_multiples(tag: str, share: float) -> None:
    tagged = read(tag)
    value = sampling.quantile_function(tagged, "x")(share)
    assert type(value) is int and value % tagged.value["q"] == 0


def test_fractional_q_gives_short_numbers() -> None:
    assert set(drawn("!uniform {min: 0, max: 1, q: 0.1}", 500)) == {place / 10 for place in range(11)}


def test_narrow_range_far_from_zero_has_enough_digits() -> None:
    assert len(set(drawn("!uniform [50000, 50001]", 1000))) > 900


@pytest.mark.parametrize(("tag", "words"), [
    ("!uniform 3", "'?!uniform \"3\" needs min and max"),
    ("!uniform [1]", "min and max; allowed: !uniform [min, max], or {min: …, max: …, q: …}"),
    ("!uniform [2, 1]", "min is not below max"),
    ("!uniform {min: 0, max: 1, step: 2}", "!uniform has no key 'step'"),
    ("!uniform [a, 1]", "invalid min 'a' of !uniform; allowed: a number"),
    ("!uniform [0, .inf]", "invalid max inf of !uniform"),
    ("!uniform {min: 0, max: 1, q: 0}", "q is not above 0"),
    ("!loguniform [0, 1]", "min is not above 0"),
    ("!int_uniform [0, 1.5]", "not whole numbers"),
    ("!int_uniform {min: 0, max: 9, q: 3}", "!int_uniform has no key 'q'"),
    ("!normal [0, -1]", "sigma is below 0"),
    ("!beta [0, 1]", "a and b are not above 0"),
    ("!choice []", "has no values"),
    ("!choice sgd", "has no values"),
    ("!choice {values: [1, 2], probabilities: [0.5]}", "invalid probabilities [0.5] of 2 values"),
    ("!choice {values: [1, 2], probabilities: [0.5, 0.6]}", "sum 1"),
    ("!choice [!uniform [0, 1]]", "a distribution cannot contain another one"),
])
def test_invalid_distribution_is_refused(tag: str, words: str) -> None:
    with pytest.raises(JobSpecError) as error:
        grid_of(f"x: {tag}")
    assert words.removeprefix("'?") in str(error.value) and str(error.value).startswith("t.yaml, x: ")


def test_unknown_tag_lists_the_allowed_ones() -> None:
    with pytest.raises(JobSpecError, match=r"line 1, column 4: .*'!unifrom' is unknown; allowed: !uniform, "):
        read("x: !unifrom [0, 1]")


def test_random_points_without_listed_values() -> None:
    grid = grid_of("{lr: !loguniform [1e-4, 1e-1], momentum: 0.9, size: !choice [8, 16]}", 9)
    assert len(grid.specs) == 9
    assert grid.axes == [("samples", 9)]
    assert grid.varying == ["lr", "size"]
    assert list(grid.specs[0]) == ["lr", "momentum", "size"]


MIX = "{model: [a, b, c], lr: !uniform [0, 1], width: !int_uniform [1, 999]}"


def test_listed_points_have_own_draws_or_shared_ones() -> None:
    own, shared = grid_of(MIX, 2), grid_of(MIX, 2, draw="shared")
    assert [spec["model"] for spec in own.specs] == list("abcabc") == [spec["model"] for spec in shared.specs]
    assert own.axes == [("samples", 2), ("model", 3)]
    assert len({spec["lr"] for spec in own.specs}) == 6
    assert [spec["lr"] for spec in shared.specs] == [own.specs[0]["lr"]] * 3 + [own.specs[3]["lr"]] * 3


def keyed(grid: Grid) -> dict[tuple[Any, ...], Any]:
    """The drawn values, by the listed values and the number of the sample."""
    count: Counter[str] = Counter()
    found = {}
    for spec in grid.specs:
        listed = repr({key: value for key, value in spec.items() if key in ("model", "size")})
        found[listed, count[listed]] = (spec["lr"], spec["width"])
        count[listed] += 1
    return found


GROWN = "{model: [a, x, b, c, d], more: 1, lr: !uniform [0, 1], width: !int_uniform [1, 999]}"


@given(st.sampled_from([MIX, GROWN]), st.integers(1, 6), st.integers(0, 6), st.sampled_from(["per_point", "shared"]),
       st.integers(0, 9))
def test_more_samples_or_values_leave_draws_unchanged(text: str, few: int, more: int, draw: str,
                                                                    seed: int) -> None:
    before = grid_of(MIX, few, draw=draw, seed=seed)
    after = keyed(grid_of(text, few + more, draw=draw, seed=seed))
    for key, values in keyed(before).items():
        assert after[key] == values
    if text == MIX:
        assert grid_of(MIX, few + more, draw=draw, seed=seed).specs[:len(before.specs)] == before.specs


def test_seed_changes_the_draws() -> None:
    assert keyed(grid_of(MIX, 3)) != keyed(grid_of(MIX, 3, seed=1))


def test_list_items_have_own_draws_and_fixed_points_occur_once() -> None:
    grid = grid_of("{lr: 1.0, LIST: [{optim: sgd, lr: !uniform [0, 1]}, {optim: adam, lr: !uniform [0, 1]}, "
                   "{optim: none}]}", 3)
    assert [spec["optim"] for spec in grid.specs] == ["sgd", "adam", "none", "sgd", "adam", "sgd", "adam"]
    assert not grid.notes
    assert len({spec["lr"] for spec in grid.specs}) == 7


def test_overridden_distribution_is_not_drawn() -> None:
    grid = grid_of("{lr: !uniform [0, 1], LIST: [{lr: 1}, {lr: 2}]}", None)
    assert grid.specs == [{"lr": 1}, {"lr": 2}]
    assert grid.axes == [("LIST", 2)]


def test_distributions_inside_zip_axis_and_mapping() -> None:
    grid = grid_of("{ZIP: {a: [1, 2], b: [!uniform [0, 1], !uniform [5, 6]]}, c: {d: !uniform [0, 1], "
                   "e: [1, !choice [2]]}}", 2)
    assert [(spec["a"], int(spec["b"]), spec["c"]["e"]) for spec in grid.specs] == [
        (1, 0, [1, 2]), (2, 5, [1, 2]), (1, 0, [1, 2]), (2, 5, [1, 2])]
    assert len({spec["c"]["d"] for spec in grid.specs}) == 4
    assert grid.varying == ["a", "b", "c"]


def test_equal_drawn_points_are_merged() -> None:
    grid = grid_of("{a: !choice [1, 2], b: [x, y]}", 50)
    assert len(grid.specs) == 4
    assert grid.notes == ["100 grid points are 4 different ones: equal points were merged"]


def test_every_drawn_point_is_checked() -> None:
    def check(spec: dict[str, Any], where: str) -> None:
        if spec["a"] == 8:
            raise JobSpecError("eight", where=where)
    with pytest.raises(JobSpecError, match="eight"):
        grid_of("a: !int_uniform [1, 8]", 100, check=check)


def test_override_adds_or_removes_a_distribution() -> None:
    assert len(grid_of("a: [1, 2]", 3, overrides={"a": read("!uniform [0, 1]")}).specs) == 3
    grid = grid_of("{a: !uniform [0, 1], b: [1, 2]}", 3, overrides={"a": 1})
    assert len(grid.specs) == 2
    assert grid.warnings == ["t.yaml: samples have no effect: no parameter is random, as with !uniform [0, 1]"]


@pytest.mark.parametrize(("text", "number", "words"), [
    ("a: !uniform [0, 1]", None, "random parameters need a number of samples; --samples 20, or `samples: 20`"),
    ("{a: !uniform [0, 1], b: 'range(1000)'}", 1001, "more than 1,000,000 grid points: 1001 samples of 1000"),
    ("{a: !choice [1, 2], EXCLUDE: [{a: 1}]}", 3, "'a' is random, and EXCLUDE compares listed values"),
    ("{a: 1, SBATCH: {gpus: !choice [1, 2]}}", 3, "SBATCH cannot be random"),
])
def test_invalid_combination_with_random_values_is_refused(text: str, number: int | None, words: str) -> None:
    with pytest.raises(JobSpecError) as error:
        grid_of(text, number)
    assert words in str(error.value)
