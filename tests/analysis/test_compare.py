"""Comparisons worked by hand: what changed, what moved, and how sure that is."""
from __future__ import annotations

import math
from pathlib import Path

import pytest

import experiments
from src import run_folder
from src.analysis.compare import SettingChange, compare
from src.analysis.reading.results import read_results
from src.config import Config
from src.errors import ResultsError
from tests.analysis.make_batch import DIGITS, make_batch, make_empty_batch, make_run

HEADER = "epoch,train/time,val/last/accuracy,val/last/loss\n"


def batch_of(root: Path, name: str, values: list[tuple[dict[str, object], float]], end: str = "completed") -> str:
    """A run for each (spec, accuracy)."""
    batch = make_empty_batch(root, name)
    for index, (spec, accuracy) in enumerate(values):
        make_run(batch, index, {**spec, "seed_model": 100 + index}, end=end,
                 stats=f"{HEADER}1,1.5,{accuracy},{1 - accuracy}\n2,1.5,{accuracy - 0.25},{1.25 - accuracy}\n")
    return batch


def test_matched_by_point(tmp_path: Path) -> None:
    rates = (0.1, 1.0, 2.0)
    one = batch_of(tmp_path, "a", [({"base_lr": rate}, 0.5) for rate in rates for _ in range(2)])
    # 2.0 has no partner; the changes are 0.125 and 0.25
    other = batch_of(tmp_path, "b", [({"base_lr": rate, "batch_size": 64}, value)
                                     for rate, value in ((0.1, 0.625), (1.0, 0.75))])
    found = compare(read_results(one), read_results(other))
    assert found.changes == [SettingChange("batch_size", str(Config().batch_size), "64"),
                             SettingChange("base_lr", "0.1, 1, 2", "0.1, 1")]
    assert found.points == 2
    moves = {move.metric: move for move in found.moves}
    best = moves["best/val/last/accuracy"]
    assert (best.before, best.after, best.change) == (0.5, 0.6875, 0.1875)
    assert best.error == pytest.approx(0.125 / math.sqrt(2) / math.sqrt(2))  # of two changes that differ by 0.125
    assert best.errors == pytest.approx(3) and best.better is True
    assert moves["val/last/accuracy"].before == 0.25
    assert moves["val/last/loss"].better is True and moves["val/last/loss"].change < 0
    assert moves["train/time"].better is None


def test_repeats_of_one_point(tmp_path: Path) -> None:
    one = batch_of(tmp_path, "a", [({}, 0.5), ({}, 0.75)])
    other = batch_of(tmp_path, "b", [({}, 0.25), ({}, 0.5)])
    found = compare(read_results(one), read_results(other))
    assert found.changes == [] and found.points == 1
    move = next(move for move in found.moves if move.metric == "best/val/last/accuracy")
    assert move.change == -0.25 and move.better is False
    assert move.error == pytest.approx(math.sqrt(2 * 0.03125 / 2))


def test_nothing_in_common_and_single_runs(tmp_path: Path) -> None:
    one = batch_of(tmp_path, "a", [({"base_lr": 0.1}, 0.5), ({"base_lr": 0.2}, 0.5)])
    other = batch_of(tmp_path, "b", [({"base_lr": 0.3}, 0.75)])
    found = compare(read_results(one), read_results(other))
    assert found.points == 1  # base_lr changed altogether: all runs stand for one point
    move = next(move for move in found.moves if move.metric == "best/val/last/accuracy")
    assert move.change == 0.25 and math.isnan(move.error) and math.isnan(move.errors)


def test_diverged_runs_and_empty_batches(tmp_path: Path) -> None:
    one = batch_of(tmp_path, "a", [({}, 0.5)])
    other = batch_of(tmp_path, "b", [({}, 0.5)], end=run_folder.DIVERGED)
    assert "best/val/last/accuracy" not in [
        move.metric for move in compare(read_results(one), read_results(other)).moves]
    with pytest.raises(ResultsError, match="no runs"):
        compare(read_results(one), read_results(make_empty_batch(tmp_path, "c")))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = make_batch(tmp_path, name="26-01-01-a")
    shorter = {**DIGITS, "model": "linear", "train_length": 6}
    other = make_batch(tmp_path, [{**shorter, "base_lr": rate} for rate in (0.1, 1.0)], name="26-01-02-b")
    assert experiments.main(["compare", one, other]) == 0
    out = capsys.readouterr().out
    assert "train_length  12" in out and "dataset" not in out
    assert "standard errors" in out and "best/val/last/accuracy" in out
    assert experiments.main(["compare", one, one]) == 0
    assert "the same settings" in capsys.readouterr().out
