from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.checks.splits import Slice, parse_split, permutation
from src.errors import DataError

PERCENT = st.decimals(0, 100, places=2).map(lambda value: f"{value}%")


def cut(text: str, n: int, seed: int = 0) -> list[int]:
    """The samples of an expression with one part, as numbers."""
    (part,) = parse_split(text)
    indices = part.indices(n, seed)
    return list(range(n)) if indices is None else indices.tolist()


@given(n=st.integers(1, 300), inner=st.lists(PERCENT, max_size=4), seed=st.integers(0, 2**40))
def test_adjacent_percent_slices_partition_the_split(n: int, inner: list[str], seed: int) -> None:
    edges = ["", *sorted(inner, key=lambda text: float(text[:-1])), ""]
    taken: list[int] = []
    for start, stop in itertools.pairwise(edges):
        part = Slice("train", start or None, stop or None, whole=False)
        low, high = part.bounds(n)
        if low < high:
            taken += part.indices(n, seed).tolist()
    assert sorted(taken) == list(range(n))


@given(n=st.integers(1, 300), percent=st.decimals(0, 100, places=2))
def test_the_last_p_percent_are_what_the_first_leave(n: int, percent: object) -> None:
    (first,), (last,) = parse_split(f"train[:{percent}%]"), parse_split(f"train[-{100 - percent}%:]")
    if percent < 100:
        assert first.bounds(n)[1] == last.bounds(n)[0]


@given(n=st.integers(2, 300), data=st.data())
def test_adjacent_absolute_slices_partition_the_split(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n - 1))
    assert sorted(cut(f"train[:{k}]", n) + cut(f"train[{k}:]", n)) == list(range(n))
    assert cut(f"train[-{k}:]", n) == cut(f"train[{n - k}:]", n)
    assert len(cut(f"train[:{k}]", n)) == k


@pytest.mark.parametrize(("text", "n", "bounds"), [
    ("train[:80%]", 1797, (0, 1438)),  # 1437.6
    ("train[:50%]", 5, (0, 3)),  # 2.5: halves up
    ("train[10%:20%]", 14, (1, 3)),  # 1.4, 2.8
    ("train[:12.5%]", 8, (0, 1)),
    ("train[-10%:]", 5, (5, 5)),  # from 90 % = 4.5 on
    ("train[:1000]", 1000, (0, 1000)),
    ("train[-500:]", 1000, (500, 1000)),
    ("train[2:-3]", 10, (2, 7)),
    ("train[:]", 4, (0, 4)),
    ("train", 4, (0, 4)),
])
def test_bounds(text: str, n: int, bounds: tuple[int, int]) -> None:
    (part,) = parse_split(text)
    assert part.bounds(n) == bounds


def test_a_whole_split_keeps_its_order_and_a_slice_is_of_a_permutation() -> None:
    assert parse_split("train")[0].indices(10, seed=0) is None
    assert cut("train[:]", 100) == list(range(100))
    half = cut("train[:50%]", 1000)
    assert half == sorted(half) and half != list(range(500))
    assert 200 < sum(index < 500 for index in half) < 300  # neither the first half nor every second sample


def test_the_permutation_depends_on_seed_and_length() -> None:
    first = permutation(1000, 0)
    assert np.array_equal(first, permutation(1000, 0))
    assert not np.array_equal(first, permutation(1000, 1))
    assert not np.array_equal(first[first < 999], permutation(999, 0))
    assert np.array_equal(np.sort(first), np.arange(1000))


def test_the_permutation_never_changes() -> None:
    """Published runs depend on it: a train[:80%] of last year must be the train[:80%] of today."""
    assert permutation(10, 0).tolist() == [4, 2, 1, 0, 9, 7, 8, 3, 6, 5]
    assert permutation(10, 2**40).tolist() == [2, 7, 4, 6, 9, 3, 5, 1, 0, 8]


def test_parts_of_a_union() -> None:
    assert parse_split("train[:10%] + test") == (Slice("train", None, "10%", whole=False), Slice("test"))
    assert str(parse_split("train[ :10%]")[0]) == "train[:10%]"


@pytest.mark.parametrize("text", ["", "+", "train[", "train[80%]", "train[:80 %]", "train[::2]", "train[a:b]",
                                  "train[:1.5]", "train[:80%]x", "train,test", "train[:80%]+", "train[:--3]"])
def test_invalid_split_expressions_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="invalid split"):
        parse_split(text)


@pytest.mark.parametrize("text", ["train[:1001]", "train[-1001:]", "train[:101%]", "train[-101%:]", "train[5000:]"])
def test_out_of_range(text: str) -> None:
    with pytest.raises(DataError, match=r"out of range.*1000 samples"):
        cut(text, 1000)


@pytest.mark.parametrize("text", ["train[:0%]", "train[5:5]", "train[80%:20%]", "train[:0.01%]", "train[1000:]"])
def test_empty(text: str) -> None:
    with pytest.raises(DataError, match=r"is empty.*1000 samples"):
        cut(text, 1000)
