"""Shares: what one of several processes trains on and evaluates, a part of each batch: all see what one would."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from src.datasets.data import Batch, Lazy, Split, take
from src.training.parallel.distributed import SingleProcess
from src.training.setup.seeds import derive_seed, seed_generators

Gathered = Callable[[Split, int, Tensor], Iterator[Batch]]


class DataShard:
    """The part of a process: of each micro-batch as many samples in a row as of any other, or one more.

    Where there are fewer samples than processes, the last of these have none: one row stands in, and does not count.
    piece: samples in a whole micro-batch of all processes.
    """

    def __init__(self, group: SingleProcess, batch_size: int, piece: int) -> None:
        self._group, self._batch_size, self._piece = group, batch_size, piece
        self.max_rows = max(1, self._own(piece)[1])  # rows of a micro-batch here
        # of the batch at hand: its samples in all processes, and those of each of its micro-batches here
        self.samples, self.rows = 0, [0]

    def with_whole_batches(self, batch_size: int) -> DataShard:
        """The share in evaluations, whose batches are whole."""
        return DataShard(self._group, batch_size, batch_size)

    def pass_batches(self, split: Split | Lazy, order: Tensor, done: int, number: int, seed: int, device: torch.device,
               mixing: Callable[[Batch, int], Batch] | None, gathered: Gathered) -> Iterator[Batch]:
        """The share in pass `number` over the split in this order [n], of which `done` batches were given before.

        The noise of layers is drawn from the seed, the pass, the batch and the process.
        """
        sizes = self._sizes(len(order))
        firsts = itertools.chain(order[::self._batch_size].tolist(), itertools.count(len(order)))
        # mixing pairs each sample with its mirror image in the batch of all processes: that is fetched as well
        batches = self._fetched(split, order, derive_seed("sample", seed, number), mixing is not None, gathered)
        for place, (batch, samples, first) in enumerate(zip(batches, sizes, firsts, strict=False), done):
            self._take_up(samples)
            seed_generators(derive_seed("noise", seed, number, place, self._group.rank), device)
            if mixing:
                x, y = mixing(batch, derive_seed("mixing", seed, number, first))
                batch = _rows(x, slice(0, len(y) // 2)), y[:len(y) // 2]
            yield batch

    def ordered_batches(self, split: Split | Lazy) -> Iterator[Batch]:
        """The share in one pass in the split's own order."""
        sizes = self._sizes(len(split))
        rows = self._places(torch.arange(len(split)), False)
        most = len(self._positions(min(self._batch_size, len(split))))
        if isinstance(split, Split):
            here = rows.to(split.y.device).split(most)
            batches: Iterator[Batch] = ((take(split.x, some), split.y[some]) for some in here)
        elif hasattr(split, "some"):
            batches = split.some(most, rows)
        else:
            batches = self._cut(split.batches(self._batch_size, None, 0), False)
        for batch, samples in zip(batches, sizes, strict=False):
            self._take_up(samples)
            yield batch

    def gather(self, mine: Tensor) -> Tensor:
        """The rows of all processes [samples, ...], given those of this one [n, ...] of a batch without pieces."""
        counts = [self._own(self.samples, rank)[1] for rank in range(self._group.size)]
        most = max(1, *counts)  # rows that stand in fill up, and are cut off
        padded = torch.cat([mine, mine[-1:].expand(most - len(mine), *mine.shape[1:])])
        parts = self._group.gather_tensors(padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def _take_up(self, samples: int) -> None:
        self.samples, self.rows = samples, [self._own(size)[1] for size in self._pieces(samples)]
        self._group.is_idle = not any(self.rows)

    def _fetched(self, split: Split | Lazy, order: Tensor, seed: int, mirrored: bool, gathered: Gathered
                 ) -> Iterator[Batch]:
        if getattr(split, "streamed", False):
            return self._cut(split.batches(self._batch_size, order, seed), mirrored)  # type: ignore[union-attr]
        rows = self._places(order, mirrored)
        most = len(self._positions(min(self._batch_size, len(order)), mirrored))
        return gathered(split, most, rows) if isinstance(split, Split) else split.batches(most, rows, seed)

    def _cut(self, batches: Iterator[Batch], mirrored: bool) -> Iterator[Batch]:
        """Of whole batches, which every process reads."""
        for x, y in batches:
            positions = self._positions(len(y), mirrored).to(y.device)
            yield _rows(x, positions), y[positions]

    def _places(self, order: Tensor, mirrored: bool) -> Tensor:
        """The samples here of each batch of an order [n], one batch after another: all but the last of one size."""
        whole = len(order) - len(order) % self._batch_size
        full = order[:whole].view(whole // self._batch_size, self._batch_size)
        parts = [full[:, self._positions(self._batch_size, mirrored)].flatten()]
        if whole < len(order):
            parts.append(order[whole:][self._positions(len(order) - whole, mirrored)])
        return torch.cat(parts)

    def _positions(self, samples: int, mirrored: bool = False) -> Tensor:
        """Where in a batch of `samples` the rows here are; mirrored: and behind them, from the last to the first, where
        their mirror images are, so that these are theirs in what is fetched as well."""
        found, start = [], 0
        for size in self._pieces(samples):
            begin, count = self._own(size)
            found += range(start + begin, start + begin + count) or [start]
            start += size
        positions = torch.tensor(found)
        return torch.cat([positions, samples - 1 - positions.flip(0)]) if mirrored else positions

    def _own(self, samples: int, rank: int | None = None) -> tuple[int, int]:
        """The first row, and how many, of a process's part of so many samples in a row."""
        rank = self._group.rank if rank is None else rank
        each, rest = divmod(samples, self._group.size)
        return rank * each + min(rank, rest), each + (rank < rest)

    def _sizes(self, samples: int) -> Iterator[int]:
        return _cut_up(samples, self._batch_size)

    def _pieces(self, samples: int) -> Iterator[int]:
        return _cut_up(samples, self._piece)


def _cut_up(samples: int, size: int) -> Iterator[int]:
    return (min(size, samples - start) for start in range(0, samples, size))


def _rows(x: Any, rows: slice | Tensor) -> Any:
    return {name: values[rows] for name, values in x.items()} if isinstance(x, Mapping) else x[rows]
