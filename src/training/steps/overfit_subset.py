"""A few training samples, the same in each pass, to check that a model can learn them."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from src.config import Config
from src.datasets.data import Batch, Data, Lazy, Split, take
from src.errors import ConfigError
from src.training.setup.seeds import derive_seed
from src.training.steps.batches import pass_order


def with_overfit_subset(config: Config, data: Data) -> Data:
    """Return the data with its train split reduced to overfit_batches batches; unchanged if that is null.

    ConfigError if the subset would have to be evaluated but is read from files.
    """
    split, batches = data.splits.get("train"), config.overfit_batches
    if split is None or batches is None:
        return data
    if "train" in (config.eval_at_end or []) and not isinstance(split, Split):
        raise ConfigError("a subset of a train split that is read from files cannot be evaluated",
                          where="overfit_batches", hint="remove train from eval_at_end")
    subset = overfit_subset(split, batches * config.batch_size, config.seed_split)
    return dataclasses.replace(data, splits={**data.splits, "train": subset})


def overfit_subset(split: Split | Lazy, samples: int, seed: int) -> Split | Lazy:
    """Return at most `samples` random samples of the split: consecutive ones may all be of one class."""
    if samples >= len(split):
        return split
    rows = pass_order(len(split), derive_seed("few", seed), 0)[:samples].sort().values
    if isinstance(split, Split):
        rows = rows.to(split.y.device)
        return Split(take(split.x, rows), split.y[rows])
    return OverfitSubset(split, rows)


@dataclass(frozen=True, eq=False)
class OverfitSubset:
    """The samples at `rows` [n] int64 of a split that is read from files; for training only."""

    split: Lazy
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> torch.Tensor | None:
        """The lengths of the samples, if batches are grouped by length."""
        lengths: torch.Tensor | None = getattr(self.split, "lengths", None)
        return None if lengths is None else lengths[self.rows]

    @property
    def streamed(self) -> bool:
        """Whether the split determines the order of its samples itself."""
        return bool(getattr(self.split, "streamed", False))

    def to(self, device: torch.device) -> OverfitSubset:
        """Return the subset of the split on a device."""
        return OverfitSubset(self.split.to(device), self.rows)

    def batches(self, batch_size: int, order: torch.Tensor | None, seed: int) -> Iterator[Batch]:
        """Yield the batches of a pass over these samples in the given order [n]."""
        assert order is not None, "only whole splits are evaluated"
        return self.split.batches(batch_size, self.rows[order], seed)
