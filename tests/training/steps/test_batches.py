from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from src.datasets import data
from src.datasets.data import Split
from src.training.steps.batches import micro_batches, ordered_batches, pass_order, shuffled_batches
from tests.training.toys import CPU


def _numbered(samples: int) -> Split:
    y = torch.arange(samples)
    return Split(torch.stack([y, 2 * y], dim=1).float(), y)


def _sizes(samples: int, batch_size: int) -> list[int]:
    return [min(batch_size, samples - start) for start in range(0, samples, batch_size)]


@given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 2000))
def test_passes_are_permutations_in_batches(samples: int, batch_size: int, block_bytes: int) -> None:
    before, data.BLOCK_BYTES = data.BLOCK_BYTES, block_bytes
    try:
        per_pass = -(-samples // batch_size)
        stream = shuffled_batches(_numbered(samples), batch_size, seed=3, device=CPU)
        for number in range(3):
            parts = list(itertools.islice(stream, per_pass))
            assert [len(y) for _, y in parts] == _sizes(samples, batch_size)
            y = torch.cat([y for _, y in parts])
            assert y.tolist() == pass_order(samples, 3, number).tolist()
            assert torch.equal(torch.cat([x for x, _ in parts])[:, 1], 2.0 * y)
    finally:
        data.BLOCK_BYTES = before


def test_order_depends_only_on_seed_and_pass() -> None:
    orders = {(seed, number): tuple(pass_order(50, seed, number).tolist()) for seed in (0, 1) for number in (0, 1)}
    assert len(set(orders.values())) == 4
    torch.manual_seed(9)  # the global generator has no say
    torch.rand(3)
    assert tuple(pass_order(50, 0, 1).tolist()) == orders[0, 1]


def test_each_pass_seeds_the_random_numbers_of_layers() -> None:
    def draws() -> list[float]:
        stream, drawn = shuffled_batches(_numbered(10), 5, seed=4, device=CPU), []
        for _ in range(4):
            next(stream)
            drawn.append(torch.rand(()).item())
        return drawn

    first = draws()
    torch.manual_seed(77)
    assert draws() == first
    assert len(set(first)) == 4


def test_sparse_batches_are_the_dense_ones() -> None:
    dense = torch.randn(30, 6) * (torch.rand(30, 6) < 0.3)
    y = torch.arange(30)
    full, sparse = Split(dense, y), Split(dense.to_sparse_csr(), y)
    for stream in (lambda split: itertools.islice(shuffled_batches(split, 7, seed=0, device=CPU), 12),
                   lambda split: ordered_batches(split, 7)):
        for (x, y_full), (x_sparse, y_sparse) in zip(stream(full), stream(sparse), strict=True):
            assert torch.equal(x, x_sparse)
            assert torch.equal(y_full, y_sparse)


def test_evaluation_batches_are_views_in_order() -> None:
    split = _numbered(25)
    parts = list(ordered_batches(split, 10))
    assert torch.equal(torch.cat([y for _, y in parts]), split.y)
    assert all(x.untyped_storage().data_ptr() == split.x.untyped_storage().data_ptr() for x, _ in parts)


class _Counting:
    """A lazy split of the numbers 0 … n - 1 that remembers what it was asked for."""

    def __init__(self, samples: int) -> None:
        self.samples, self.asked = samples, []

    def __len__(self) -> int:
        return self.samples

    def to(self, device: torch.device) -> _Counting:
        return self

    def batches(self, batch_size: int, order: torch.Tensor | None, seed: int):
        self.asked.append((None if order is None else order.tolist(), seed))
        for rows in (torch.arange(self.samples) if order is None else order).split(batch_size):
            yield {"ids": rows[:, None]}, rows


def test_lazy_split_has_the_same_passes() -> None:
    split = _Counting(10)
    seen = [y.tolist() for _, y in itertools.islice(shuffled_batches(split, 4, seed=3, device=CPU), 6)]
    orders, seeds = zip(*split.asked, strict=True)
    assert [number for batch in seen for number in batch] == [*orders[0], *orders[1]]
    assert orders[:2] == tuple(pass_order(10, 3, number).tolist() for number in (0, 1))
    assert len(set(seeds)) == len(seeds), "layers draw other numbers in every pass"
    assert [y.tolist() for _, y in ordered_batches(split, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_named_tensors_are_split_into_micro_batches() -> None:
    y = torch.arange(7)
    named = list(micro_batches(({"a": y[:, None], "b": 2 * y}, y), 3))
    assert [part.tolist() for _, part in named] == [part.tolist() for _, part in micro_batches((y, y), 3)]
    assert all(torch.equal(x["b"], 2 * part) and x["a"].shape == (len(part), 1) for x, part in named)
