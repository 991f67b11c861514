"""A few samples of a split, the same in each pass: a model that can learn gets them all right."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from src.datasets.data import Batch, Lazy, Split, take
from src.training.setup.seeds import derive_seed
from src.training.steps.batches import pass_order


def overfit_subset(split: Split | Lazy, samples: int, seed: int) -> Split | Lazy:
    """At most `samples` of the split, drawn by the seed: those of one class may lie beside each other."""
    if samples >= len(split):
        return split
    rows = pass_order(len(split), derive_seed("few", seed), 0)[:samples].sort().values
    if isinstance(split, Split):
        rows = rows.to(split.y.device)
        return Split(take(split.x, rows), split.y[rows])
    return OverfitSubset(split, rows)


@dataclass(frozen=True, eq=False)
class OverfitSubset:
    """The samples at `rows` [n] int64 of a split that is read while it is used; for training alone."""

    split: Lazy
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> torch.Tensor | None:
        """Those of the split, if batches are to be grouped by them."""
        lengths: torch.Tensor | None = getattr(self.split, "lengths", None)
        return None if lengths is None else lengths[self.rows]

    @property
    def streamed(self) -> bool:
        """Whether the split has an order of its own."""
        return bool(getattr(self.split, "streamed", False))

    def to(self, device: torch.device) -> OverfitSubset:
        return OverfitSubset(self.split.to(device), self.rows)

    def batches(self, batch_size: int, order: torch.Tensor | None, seed: int) -> Iterator[Batch]:
        """A pass in the order [n] of these samples."""
        assert order is not None, "evaluated are whole splits"
        return self.split.batches(batch_size, self.rows[order], seed)
