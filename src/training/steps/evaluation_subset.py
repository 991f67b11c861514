"""The part of a split that is evaluated if limit_eval_batches is set: a random sample, the same in each epoch."""
from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from src.config import Config
from src.datasets.data import Batch, Data, Lazy, Split, take
from src.training.setup.facts import evaluation_batch_size
from src.training.setup.length import limit_batches
from src.training.setup.seeds import derive_seed
from src.training.steps.batches import pass_order


def with_evaluation_subsets(config: Config, data: Data, names: Iterable[str]) -> Data:
    """Return the data with limit_eval_batches batches of the splits `names`, for evaluation; unchanged if that is null.

    Samples are drawn with seed_split and keep their order. A stream, which cannot be indexed, yields its first samples.
    """
    limit = 1 if config.fast_dev_run else config.limit_eval_batches
    if limit is None:
        return data
    return dataclasses.replace(data, splits={
        **data.splits, **{name: _subset(data.splits[name], config, limit) for name in names}})


def subset_facts(data: Data, limited: Data) -> dict[str, dict[str, int | str]]:
    """Return for config.yaml how many samples of each limited split are evaluated, and which."""
    return {name: {"samples": len(split), "of": len(data.splits[name]),
                   "chosen": "at random" if isinstance(split, EvaluationSubset) else "the first"}
            for name, split in limited.splits.items() if split is not data.splits[name]}


def _subset(split: Split | Lazy, config: Config, limit: float) -> Split | Lazy:
    batch_size = evaluation_batch_size(config)
    samples = batch_size * limit_batches(-(-len(split) // batch_size), limit)
    if samples >= len(split):
        return split
    if not isinstance(split, Split) and not hasattr(split, "some"):
        return FirstSamples(split, samples)
    order = pass_order(len(split), derive_seed("evaluation", config.seed_split), 0)
    return EvaluationSubset(split, order[:samples].sort().values)


@dataclass(frozen=True, eq=False)
class EvaluationSubset:
    """The samples at `rows` [n] int64 of a split, for evaluation only."""

    split: Split | Lazy
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> EvaluationSubset:
        """Return the subset of the split on a device."""
        return self if isinstance(self.split, Split) else EvaluationSubset(self.split.to(device), self.rows)

    def batches(self, batch_size: int, order: torch.Tensor | None, seed: int) -> Iterator[Batch]:
        """Yield the batches of a pass in the split's own order."""
        assert order is None, "a subset for evaluation is not trained on"
        yield from self.some(batch_size, torch.arange(len(self.rows)))

    def some(self, batch_size: int, rows: torch.Tensor) -> Iterator[Batch]:
        """Yield batches of the samples at `rows` [n] of the subset."""
        chosen = self.rows[rows]
        if not isinstance(self.split, Split):
            yield from self.split.some(batch_size, chosen)  # type: ignore[attr-defined]
            return
        for part in chosen.to(self.split.y.device).split(batch_size):
            yield take(self.split.x, part), self.split.y[part]


@dataclass(frozen=True, eq=False)
class FirstSamples:
    """The first `samples` of a split that can only be read in its own order: a stream. They are whole batches."""

    split: Lazy
    samples: int

    def __len__(self) -> int:
        return self.samples

    def to(self, device: torch.device) -> FirstSamples:
        """Return the same samples of the split on a device."""
        return FirstSamples(self.split.to(device), self.samples)

    def batches(self, batch_size: int, order: torch.Tensor | None, seed: int) -> Iterator[Batch]:
        """Yield the first batches of a pass."""
        assert order is None, "a subset for evaluation is not trained on"
        yield from itertools.islice(self.split.batches(batch_size, None, seed), -(-self.samples // batch_size))
