"""Data shards: the part of each batch that one of several processes computes, so that all batches stay the same."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from src.datasets.data import Batch, Lazy, Split, select, take
from src.training.parallel.distributed import SingleProcess
from src.training.setup.seeds import derive_seed, seed_generators

Gather = Callable[[Split, int, Tensor], Iterator[Batch]]


class DataShard:
    """A process's part of each batch: consecutive samples of each micro-batch. Sizes of parts differ by at most one.

    If there are fewer samples than processes, the last processes compute a placeholder row, which does not count.

    micro_batch_size: samples in a micro-batch of all processes together.
    max_rows: of a micro-batch in this process.
    samples, rows: of the current batch: its samples in all processes, and the rows of each micro-batch in this one.
    """

    def __init__(self, group: SingleProcess, batch_size: int, micro_batch_size: int) -> None:
        self._group, self._batch_size, self._micro_batch_size = group, batch_size, micro_batch_size
        self.max_rows = max(1, self._own_rows(micro_batch_size)[1])
        self.samples, self.rows = 0, [0]

    def with_whole_batches(self, batch_size: int) -> DataShard:
        """Return the shard of batches that are not split into micro-batches, as in evaluations."""
        return DataShard(self._group, batch_size, batch_size)

    def pass_batches(self, split: Split | Lazy, order: Tensor, done: int, number: int, seed: int, device: torch.device,
                     mixing: Callable[[Batch, int], Batch] | None, gather: Gather) -> Iterator[Batch]:
        """Yield this process's part of each batch in pass `number`, in the given order [n].

        done: number of batches of the pass that come before `order`. The random numbers of layers depend on the seed,
        the pass, the batch and the process.
        """
        sizes = self._batch_sizes(len(order))
        firsts = itertools.chain(order[::self._batch_size].tolist(), itertools.count(len(order)))
        # mixing pairs each sample with its mirror image in the batch of all processes, which is read as well
        batches = self._read(split, order, derive_seed("sample", seed, number), mixing is not None, gather)
        for index, (batch, samples, first) in enumerate(zip(batches, sizes, firsts, strict=False), done):
            self._begin_batch(samples)
            seed_generators(derive_seed("noise", seed, number, index, self._group.rank), device)
            if mixing:
                x, y = mixing(batch, derive_seed("mixing", seed, number, first))
                batch = select(x, slice(0, len(y) // 2)), y[:len(y) // 2]
            yield batch

    def ordered_batches(self, split: Split | Lazy) -> Iterator[Batch]:
        """Yield this process's part of each batch of one pass in the split's own order."""
        sizes = self._batch_sizes(len(split))
        rows = self._rows_of_batches(torch.arange(len(split)), False)
        max_rows = len(self._positions(min(self._batch_size, len(split))))
        if isinstance(split, Split):
            rows_by_batch = rows.to(split.y.device).split(max_rows)
            batches: Iterator[Batch] = ((take(split.x, rows), split.y[rows]) for rows in rows_by_batch)
        elif hasattr(split, "some"):
            batches = split.some(max_rows, rows)
        else:
            batches = self._select(split.batches(self._batch_size, None, 0), False)
        for batch, samples in zip(batches, sizes, strict=False):
            self._begin_batch(samples)
            yield batch

    def gather(self, local: Tensor) -> Tensor:
        """Return the rows of all processes [samples, ...], given those of this one [n, ...] of an evaluation batch."""
        counts = [self._own_rows(self.samples, rank)[1] for rank in range(self._group.size)]
        max_rows = max(1, *counts)  # all processes gather tensors of one size; padding is cut off
        padded = torch.cat([local, local[-1:].expand(max_rows - len(local), *local.shape[1:])])
        parts = self._group.gather_tensors(padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def _begin_batch(self, samples: int) -> None:
        self.samples, self.rows = samples, [self._own_rows(size)[1] for size in self._micro_batches(samples)]
        self._group.is_idle = not any(self.rows)

    def _read(self, split: Split | Lazy, order: Tensor, seed: int, mirrored: bool, gather: Gather
              ) -> Iterator[Batch]:
        if getattr(split, "streamed", False):
            return self._select(split.batches(self._batch_size, order, seed), mirrored)  # type: ignore[union-attr]
        rows = self._rows_of_batches(order, mirrored)
        max_rows = len(self._positions(min(self._batch_size, len(order)), mirrored))
        return gather(split, max_rows, rows) if isinstance(split, Split) else split.batches(max_rows, rows, seed)

    def _select(self, batches: Iterator[Batch], mirrored: bool) -> Iterator[Batch]:
        """Select this process's rows of whole batches, which every process reads."""
        for x, y in batches:
            positions = self._positions(len(y), mirrored).to(y.device)
            yield select(x, positions), y[positions]

    def _rows_of_batches(self, order: Tensor, mirrored: bool) -> Tensor:
        """Return this process's samples of an order [n], batch after batch; all batches but the last have one size."""
        whole = len(order) - len(order) % self._batch_size
        full = order[:whole].view(whole // self._batch_size, self._batch_size)
        parts = [full[:, self._positions(self._batch_size, mirrored)].flatten()]
        if whole < len(order):
            parts.append(order[whole:][self._positions(len(order) - whole, mirrored)])
        return torch.cat(parts)

    def _positions(self, samples: int, mirrored: bool = False) -> Tensor:
        """Return which rows of a batch of `samples` are this process's.

        mirrored: also the rows that mixing pairs with these, in reverse order.
        """
        indices: list[int] = []
        start = 0
        for size in self._micro_batches(samples):
            begin, count = self._own_rows(size)
            indices += range(start + begin, start + begin + count) or [start]
            start += size
        positions = torch.tensor(indices)
        return torch.cat([positions, samples - 1 - positions.flip(0)]) if mirrored else positions

    def _own_rows(self, samples: int, rank: int | None = None) -> tuple[int, int]:
        """Return the first row and the number of rows of a process's part of consecutive samples."""
        rank = self._group.rank if rank is None else rank
        each, rest = divmod(samples, self._group.size)
        return rank * each + min(rank, rest), each + (rank < rest)

    def _batch_sizes(self, samples: int) -> Iterator[int]:
        return _split_sizes(samples, self._batch_size)

    def _micro_batches(self, samples: int) -> Iterator[int]:
        return _split_sizes(samples, self._micro_batch_size)


def _split_sizes(samples: int, size: int) -> Iterator[int]:
    return (min(size, samples - start) for start in range(0, samples, size))
