"""Batches of a split: shuffled passes without end for training, one in order for evaluation."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from src.datasets.data import Batch, Lazy, Split, take
from src.training.setup.seeds import derive_seed, seed_generators

if TYPE_CHECKING:
    from src.training.parallel.data_shards import DataShard

# Rows are gathered by blocks of batches, which are then views: one gather for many small batches, and still in cache.
_BLOCK_BYTES = 1 << 20
_WINDOW = 50  # batches among whose samples those of like lengths are looked for


def shuffled_batches(split: Split | Lazy, batch_size: int, seed: int, device: torch.device,
             mixing: Callable[[Batch, int], Batch] | None = None, start: int = 0, shard: DataShard | None = None
             ) -> Iterator[Batch]:
    """Batches of pass after pass over the split, without end. The last batch of a pass may be smaller.

    The order of a pass, and the noise that layers draw during it on `device`, depend on the seed and the pass's number
    alone. mixing: what becomes of each batch, given a seed that depends on its first sample as well. start: so many
    batches were given before; in the midst of a pass the generators must be as they were then. shard: of a process
    among several, which gets its part of each batch.
    """
    passes, done = divmod(start, -(-len(split) // batch_size))
    for number in itertools.count(passes):
        order = pass_order(len(split), seed, number)
        if (lengths := getattr(split, "lengths", None)) is not None:
            order = group_by_length(order, lengths, batch_size, derive_seed("group", seed, number))
        if shard:
            yield from shard.pass_batches(split, order[done * batch_size:], done, number, seed, device, mixing,
                                          _gathered)
            done = 0
            continue
        if done:
            order, done = order[done * batch_size:], 0
        else:
            seed_generators(derive_seed("noise", seed, number), device)
        batches = _gathered(split, batch_size, order) if isinstance(split, Split) else split.batches(
            batch_size, order, derive_seed("sample", seed, number))
        if mixing is None:
            yield from batches
            continue
        # a source that cannot be indexed may cut its pass into more batches than there are firsts
        firsts = itertools.chain(order[::batch_size].tolist(), itertools.count(len(order)))
        for batch, first in zip(batches, firsts, strict=False):
            yield mixing(batch, derive_seed("mixing", seed, number, first))


def _gathered(split: Split, batch_size: int, order: Tensor) -> Iterator[Batch]:
    block = batch_size * max(1, _BLOCK_BYTES // (batch_size * bytes_per_row(split.x)))
    for rows in order.to(split.y.device).split(block):
        yield from zip(take(split.x, rows).split(batch_size), split.y[rows].split(batch_size), strict=True)


def ordered_batches(split: Split | Lazy, batch_size: int, shard: DataShard | None = None) -> Iterator[Batch]:
    """Batches of one pass in the split's own order, or a process's shard of each: views, unless the split is sparse or
    lazy."""
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
    """The micro-batches of at most `size` samples of a batch, in order: views."""
    x, y = batch
    if isinstance(x, Tensor):
        yield from zip(x.split(size), y.split(size), strict=True)
        return
    for start in range(0, y.shape[0], size):
        yield {name: values[start:start + size] for name, values in x.items()}, y[start:start + size]


def pass_order(samples: int, seed: int, number: int) -> Tensor:
    """The permutation of pass `number`: drawn on the CPU, so that it is the same for every device."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(derive_seed("order", seed, number)))


def group_by_length(order: Tensor, lengths: Tensor, batch_size: int, seed: int) -> Tensor:
    """The samples of `order` [n] so that those of a batch have like lengths, and the batches come in a random order.

    Like ones are looked for among fifty batches that follow each other, so that batches differ from pass to pass. The
    smaller batch at the end, if there is one, stays as it is: a pass is cut where it always is.
    """
    full = len(order) - len(order) % batch_size
    window = _WINDOW * batch_size
    parts = [part[lengths[part].argsort(descending=True, stable=True)] for part in order[:full].split(window)]
    batches = torch.cat(parts).view(-1, batch_size) if full else order[:0].view(0, batch_size)
    shuffle = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed))
    return torch.cat([batches[shuffle].flatten(), order[full:]])


def bytes_per_row(x: Tensor) -> int:
    """What one sample takes once it is dense."""
    return max(1, x.shape[1:].numel() * x.element_size())
