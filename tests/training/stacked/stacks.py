"""Stacks of toy runs, trained together and singly, and the comparison of the two."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.datasets.data import Split
from src.training.components import TrainingComponents
from src.training.output.recorder import Row
from src.training.stacked.member import Member
from src.training.stacked.run import Outcome, train_members
from tests.training.toys import make_toy, toy_classes, train_toy

Make = Callable[[dict[str, Any]], TrainingComponents]


def double(split: Split) -> Split:
    """The same samples in float64."""
    return Split(split.x.double(), split.y.double() if split.y.is_floating_point() else split.y)


def toy_maker(splits: dict[str, Split], model: Callable[[], nn.Module], **options: Any) -> Make:
    """Return a function that makes a run on the splits, given what differs between the runs."""
    def make(own: dict[str, Any]) -> TrainingComponents:
        merged = {"seed_model": 0, "seed_training": 0, **options, **own}
        torch.manual_seed(merged["seed_model"])
        return make_toy(splits, model().to(splits["train"].x.dtype), **merged)
    return make


def classes_in_float64() -> dict[str, Split]:
    return {"train": double(toy_classes(60)), "test": double(toy_classes(40, seed=1))}


def train_stacked(runs: Sequence[TrainingComponents], folders: Sequence[Path | None] | None = None,
                  checks: Sequence[Callable[[], None]] | None = None) -> dict[int, Outcome]:
    """Train runs as a stack. Return the outcome of each by its index."""
    members = [Member(index, run, str(folders[index]) if folders else None,
                      checks[index] if checks else lambda: None) for index, run in enumerate(runs)]
    return dict(train_members(members))


def comparable(row: Row) -> dict[str, float | None]:
    """Return a row without what depends on the clock."""
    return {name: value for name, value in row.items()
            if not name.endswith(("time", "timestamp", "per_second"))}


def difference(one: nn.Module, other: nn.Module) -> float:
    """Return the largest difference of two models' parameters and buffers, relative to the largest value of each."""
    return max(float((mine - theirs).abs().max() / max(1e-30, theirs.abs().max())) for mine, theirs in zip(
        one.state_dict().values(), other.state_dict().values(), strict=True))


def largest_difference(make: Make, points: Sequence[dict[str, Any]]) -> float:
    """Train points as a stack and singly. Return the largest difference of the models, and of their averages."""
    stacked, singles = [make(point) for point in points], [make(point) for point in points]
    outcomes = train_stacked(stacked)
    for index, single in enumerate(singles):
        assert train_toy(single)[1] == outcomes[index]
    pairs = [(one.model, other.model) for one, other in zip(stacked, singles, strict=True)]
    pairs += [(one.average.module(), other.average.module()) for one, other in zip(stacked, singles, strict=True)
              if one.average and other.average]
    return max(difference(*pair) for pair in pairs)
