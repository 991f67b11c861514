"""A stack that is stopped again and again ends with the same numbers as one that is not."""
from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from src.models.linear import Linear
from src.training.stacked.member import Member
from src.training.stacked.run import Outcome, train_members
from tests.training.stacked.stacks import comparable, toy_maker
from tests.training.toys import toy_classes

SPLITS = {"train": toy_classes(), "test": toy_classes(40, seed=1)}
POINTS = [{"base_lr": 0.05 * (1 + index), "seed_training": index, "averaging": "poly_8" if index % 2 else None,
           "clip_grad_norm": 1.0 if index else None} for index in range(3)]
MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: Linear((5,), 3),
    "layers": lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))}


class Killed(BaseException):
    """The end of a process that is killed."""


class Stops:
    """Ends a start at the n-th check of a member: as by a signal, on which all save, or as by SIGKILL."""

    def __init__(self, after: int, is_kill: bool) -> None:
        self._left, self._is_kill = after, is_kill
        self._request: Callable[[], None] = lambda: None

    def check(self) -> None:
        self._left -= 1
        if not self._left:
            if self._is_kill:
                raise Killed
            self._request()

    @contextlib.contextmanager
    def on_stop(self, callback: Callable[[], None]) -> Iterator[None]:
        self._request = callback
        yield


def start(folders: list[Path], model: str, optim_alg: str, stops: Stops) -> dict[int, Outcome]:
    """Train the points that have not ended, until they end or are stopped."""
    make = toy_maker(SPLITS, MODELS[model], train_length=4, checkpoint_every="3steps", optim_alg=optim_alg)
    members = [Member(index, make(POINTS[index]), str(folder), stops.check) for index, folder in enumerate(folders)
               if not (folder / "done").exists()]
    outcomes: dict[int, Outcome] = {}
    with contextlib.suppress(Killed):
        for index, outcome in train_members(members, stops.on_stop):
            outcomes[index] = outcome
            if outcome == "completed":
                (folders[index] / "done").touch()
    return outcomes


def rows(folder: Path) -> list[dict[str, float | None]]:
    return [comparable(row) for row in pd.read_csv(folder / "stats.csv").to_dict("records")]


@settings(deadline=None, max_examples=5)
@given(model=st.sampled_from(sorted(MODELS)), optim_alg=st.sampled_from(("sgd", "adamw")),
       stops=st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=5))
def test_stopped_stacks_end_with_the_numbers_of_calm_ones(model: str, optim_alg: str, stops: list[tuple[int, bool]]
                                                          ) -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as parent:
        calm, chaotic = ([Path(parent, kind, str(index)) for index in range(3)] for kind in ("calm", "chaotic"))
        for folder in (*calm, *chaotic):
            folder.mkdir(parents=True)
        assert set(start(calm, model, optim_alg, Stops(0, False)).values()) == {"completed"}
        for after, is_kill in stops:
            start(chaotic, model, optim_alg, Stops(after, is_kill))
        for _ in range(6):  # members at different steps are trained in parts
            start(chaotic, model, optim_alg, Stops(0, False))
        for folder, expected in zip(chaotic, calm, strict=True):
            assert (folder / "done").exists()
            for row, calm_row in zip(rows(folder), rows(expected), strict=True):
                assert row == pytest.approx(calm_row, rel=1e-5)
