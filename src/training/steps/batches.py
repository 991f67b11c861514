"""Batches of a split: endless shuffled passes for training, one pass in order for evaluation."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from src.datasets.data import Batch, Lazy, Split, batches_per_block, select, take
from src.training.setup.seeds import derive_seed, seed_generators

if TYPE_CHECKING:
    from src.training.parallel.data_shards import DataShard

_WINDOW = 50  # consecutive batches whose samples are regrouped by length


def shuffled_batches(split: Split | Lazy, batch_size: int, seed: int, device: torch.device,
                     mixing: Callable[[Batch, int], Batch] | None = None, start: int = 0,
                     shard: DataShard | None = None) -> Iterator[Batch]:
    """Yield the batches of pass after pass over the split, without end. The last batch of a pass may be smaller.

    The order of a pass, and the random numbers that layers draw on `device` during it, depend only on the seed and the
    number of the pass.

    mixing: transforms each batch, given a seed that also depends on the batch's first sample.
    start: number of batches to skip; if that is not the start of a pass, the caller has to restore the generators.
    shard: yields this process's part of each batch.
    """
    passes, done = divmod(start, -(-len(split) // batch_size))
    for number in itertools.count(passes):
        order = pass_order(len(split), seed, number)
        if (lengths := getattr(split, "lengths", None)) is not None:
            order = group_by_length(order, lengths, batch_size, derive_seed("group", seed, number))
        if shard:
            yield from shard.pass_batches(split, order[done * batch_size:], done, number, seed, device, mixing,
                                          _gather)
            done = 0
            continue
        if done:
            order, done = order[done * batch_size:], 0
        else:
            seed_generators(derive_seed("noise", seed, number), device)
        batches = _gather(split, batch_size, order) if isinstance(split, Split) else split.batches(
            batch_size, order, derive_seed("sample", seed, number))
        if mixing is None:
            yield from batches
            continue
        # a source that cannot be indexed may yield more batches than its length suggests
        firsts = itertools.chain(order[::batch_size].tolist(), itertools.count(len(order)))
        for batch, first in zip(batches, firsts, strict=False):
            yield mixing(batch, derive_seed("mixing", seed, number, first))


def _gather(split: Split, batch_size: int, order: Tensor) -> Iterator[Batch]:
    block = batch_size * batches_per_block(batch_size * bytes_per_row(split.x))
    for rows in order.to(split.y.device).split(block):
        yield from zip(take(split.x, rows).split(batch_size), split.y[rows].split(batch_size), strict=True)


def ordered_batches(split: Split | Lazy, batch_size: int, shard: DataShard | None = None) -> Iterator[Batch]:
    """Yield the batches of one pass in the split's own order, or this process's part of each.

    They are views, unless the split is sparse or read from files.
    """
    if shard:
        yield from shard.ordered_batches(split)
        return
    if not isinstance(split, Split):
        yield from split.batches(batch_size, None, 0)
        return
    for start in range(0, len(split), batch_size):
        rows = slice(start, start + batch_size)
        yield take(split.x, rows), split.y[rows]


def micro_batches(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield the micro-batches of a batch, of at most `size` samples each, in order. They are views."""
    x, y = batch
    if isinstance(x, Tensor):
        yield from zip(x.split(size), y.split(size), strict=True)
        return
    for start in range(0, y.shape[0], size):
        rows = slice(start, start + size)
        yield select(x, rows), y[rows]


def pass_order(samples: int, seed: int, number: int) -> Tensor:
    """Return the permutation of pass `number`, drawn on the CPU so that it is the same for every device."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(derive_seed("order", seed, number)))


def group_by_length(order: Tensor, lengths: Tensor, batch_size: int, seed: int) -> Tensor:
    """Regroup the samples of `order` [n] into batches of similar lengths, and shuffle the batches.

    Samples move only within 50 consecutive batches, so that batches differ from pass to pass. A smaller last batch is
    left as it is.
    """
    full = len(order) - len(order) % batch_size
    window = _WINDOW * batch_size
    parts = [part[lengths[part].argsort(descending=True, stable=True)] for part in order[:full].split(window)]
    batches = torch.cat(parts).view(-1, batch_size) if full else order[:0].view(0, batch_size)
    shuffle = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed))
    return torch.cat([batches[shuffle].flatten(), order[full:]])


def bytes_per_row(x: Tensor) -> int:
    """Return the size of one sample as a dense tensor."""
    return max(1, x.shape[1:].numel() * x.element_size())
