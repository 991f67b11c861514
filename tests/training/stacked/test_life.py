"""The life of a stack: files of its members, members that end early or fail, stops, and resumed members."""
from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from src.io import yaml_io
from src.models.linear import Linear
from src.training.experiment import run_epochs
from src.training.output import checkpoint, resume
from src.training.setup.seeds import derive_seed
from src.training.stacked.member import Member
from src.training.stacked.run import train_members
from tests.training.stacked.stacks import Make, comparable, difference, toy_maker, train_stacked
from tests.training.toys import toy_classes, train_toy

SPLITS = {"train": toy_classes(), "test": toy_classes(40, seed=1)}
RATES = [{"base_lr": rate, "seed_training": seed} for seed, rate in enumerate((0.01, 0.1, 0.2))]


@pytest.fixture
def make() -> Make:
    return toy_maker(SPLITS, lambda: Linear((5,), 3), train_length=4, averaging="poly_8", save_freq=2)


def folders(tmp_path: Path, count: int) -> list[Path]:
    made = [tmp_path / str(index) for index in range(count)]
    for folder in made:
        folder.mkdir()
    return made


def last_rows(runs: list[Path]) -> list[dict[str, Any]]:
    return [comparable(pd.read_csv(folder / "stats.csv").iloc[-1].to_dict()) for folder in runs]


def assert_equal_single_runs(runs: list[Path], make: Make, points: list[dict[str, Any]]) -> None:
    """Compare all rows of the runs with those of single runs."""
    for folder, point in zip(runs, points, strict=True):
        rows = pd.read_csv(folder / "stats.csv").to_dict("records")
        for row, expected in zip(rows, train_toy(make(point))[0], strict=True):
            assert comparable(row) == pytest.approx(comparable(expected), rel=1e-5)


@contextlib.contextmanager
def stop_at_once(callback: Callable[[], None]) -> Iterator[None]:
    """An on_stop that requests an exit before the first step."""
    callback()
    yield


def test_each_member_writes_the_files_of_a_single_run(tmp_path: Path, make: Make) -> None:
    runs = folders(tmp_path, 3)
    assert train_stacked([make(point) for point in RATES], runs) == dict.fromkeys(range(3), "completed")
    assert_equal_single_runs(runs, make, RATES)
    for folder, point in zip(runs, RATES, strict=True):
        assert {path.name for path in folder.iterdir()} == {
            "config.yaml", "stats.csv", "training.log", "checkpoint-00002.pt", "checkpoint-00004.pt"}
        config = yaml_io.load_flat((folder / "config.yaml").read_text(), "config.yaml")
        assert config["base_lr"] == point["base_lr"]
        assert config["facts"]["stacked"] == 3
        assert (folder / "training.log").read_text().endswith("completed\n")
        assert len(pd.read_csv(folder / "stats.csv")) == 4


def test_checkpoint_of_a_member_holds_its_own_weights_alone(tmp_path: Path, make: Make) -> None:
    runs = folders(tmp_path, 3)
    members = [make(point) for point in RATES]
    train_stacked(members, runs)
    single = make(RATES[1])
    train_toy(single)
    content = checkpoint.load(str(runs[1] / "checkpoint-00004.pt"))
    assert content["model"]["weight"].untyped_storage().nbytes() == 4 * 15
    other = Linear((5,), 3)
    other.load_state_dict(content["model"])
    assert difference(other, single.model) < 1e-5


def test_diverged_and_early_stopped_members_leave_the_stack(tmp_path: Path) -> None:
    make = toy_maker(SPLITS, lambda: Linear((5,), 3), train_length=6, early_stopping_patience=2,
                     best_checkpoint_metric="test/last/loss")
    points = [{"base_lr": 1e-3}, {"base_lr": 0.1, "max_allowed_loss": 0.1}, {"base_lr": 3.0}, {"base_lr": 0.01}]
    runs = folders(tmp_path, 4)
    outcomes = train_stacked([make(point) for point in points], runs)
    assert outcomes[1] == "diverged"
    assert outcomes[2] == "early_stopped"
    for index, point in enumerate(points):
        rows, end = train_toy(make(point))
        assert outcomes[index] == end
        assert last_rows([runs[index]])[0] == pytest.approx(comparable(rows[-1]), rel=1e-4, nan_ok=True)


def test_member_whose_loss_is_too_large_leaves_within_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("src.training.epoch", "src.training.stacked.stack"):
        monkeypatch.setattr(f"{module}.CHECK_EVERY", 10)
    make = toy_maker(SPLITS, lambda: Linear((5,), 3), train_length=60, train_length_unit="step", steps_per_epoch=30)
    points = [{"base_lr": 0.1}, {"base_lr": 0.1, "max_allowed_loss": 0.01}, {"base_lr": 0.2}]
    members, singles = [make(point) for point in points], [make(point) for point in points]
    assert train_stacked(members) == {0: "completed", 1: "diverged", 2: "completed"}
    for member, single in zip(members, singles, strict=True):
        train_toy(single)
        assert difference(member.model, single.model) < 1e-5


def test_fault_of_a_member_does_not_end_the_others(tmp_path: Path, make: Make) -> None:
    runs = folders(tmp_path, 3)
    (runs[0] / "stats.csv").mkdir()  # it cannot be opened
    calls = itertools.count()

    def check() -> None:
        if next(calls) > 6:
            raise RuntimeError("a later attempt has taken over")

    outcomes = train_stacked([make(point) for point in RATES], runs, [lambda: None, check, lambda: None])
    assert isinstance(outcomes[0], OSError)
    assert str(outcomes[1]) == "a later attempt has taken over"
    assert outcomes[2] == "completed"
    assert_equal_single_runs(runs[2:], make, RATES[2:])


@pytest.mark.parametrize("then_stacked", [True, False])
def test_stopped_stack_goes_on_from_the_checkpoint_of_each_member(tmp_path: Path, make: Make, then_stacked: bool
                                                                  ) -> None:
    runs = folders(tmp_path, 3)
    members = [Member(index, make(point), str(runs[index]), lambda: None) for index, point in enumerate(RATES)]
    assert dict(train_members(members, stop_at_once)) == dict.fromkeys(range(3), "requeued")
    assert [resume.state_names(str(folder)) for folder in runs] == [["resume-0000000001.pt"]] * 3
    if then_stacked:
        assert train_stacked([make(point) for point in RATES], runs) == dict.fromkeys(range(3), "completed")
    else:
        for folder, point in zip(runs, RATES, strict=True):
            assert train_toy(make(point), str(folder))[1] == "completed"
    assert_equal_single_runs(runs, make, RATES)


def test_stack_continues_single_runs_that_are_at_the_same_step(tmp_path: Path, make: Make) -> None:
    runs = folders(tmp_path, 3)
    for folder, point in zip(runs[1:], RATES[1:], strict=True):
        single = make(point)
        with pytest.raises(resume.SavedAndExit):
            list(run_epochs(single, str(folder), lambda: None, stop_at_once))
    outcomes = train_stacked([make(point) for point in RATES], runs)
    assert outcomes == {1: "completed", 2: "completed"}  # 0 is at another step
    assert_equal_single_runs(runs[1:], make, RATES[1:])


def test_paused_member_leaves_the_stack(tmp_path: Path, make: Make) -> None:
    runs = folders(tmp_path, 2)
    members = [Member(index, make(RATES[index]), str(runs[index]), lambda: None, pause)
               for index, pause in enumerate((2, None))]
    assert dict(train_members(members)) == {0: "paused", 1: "completed"}
    assert train_toy(make(RATES[0]), str(runs[0]))[1] == "completed"
    assert_equal_single_runs(runs, make, RATES[:2])


def test_generators_of_a_saved_member_are_those_of_its_single_run(tmp_path: Path, make: Make) -> None:
    run, = folders(tmp_path, 1)
    dict(train_members([Member(0, make(RATES[1]), str(run), lambda: None)], stop_at_once))
    stacked = resume.read(str(run / "resume-0000000001.pt"))["generators"]["cpu"]
    torch.manual_seed(derive_seed("noise", 1, 0))
    assert torch.equal(stacked, torch.get_rng_state())
