"""The index of a batch equals its files after any change, and only changed runs are read."""
from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from src import run_folder
from src.analysis.reading import raw_files, run_index
from src.analysis.reading.filters import Interval
from src.analysis.reading.results import read_results
from src.analysis.reading.runs import find_runs, is_done
from src.errors import ResultsError
from tests.analysis.make_batch import AXES, DIGITS, curves, grid, make_empty_batch, make_run

SPECS = grid(AXES, **DIGITS)


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """Four runs: ended, running, queued, and of a program without a config; files older than those that are doubted."""
    folder = make_empty_batch(tmp_path)
    make_run(folder, 0, SPECS[0], stats=curves(SPECS[0], 2, 0, False))
    make_run(folder, 1, SPECS[1], stats=curves(SPECS[1], 2, 0, False), end=None)
    make_run(folder, 2, SPECS[2], config=None, stats=None, end=None)
    make_run(folder, 3, {"COMMAND": ["x"], "rate": 3, "index": 4}, config=None)
    run_index._batches.clear()
    return aged(Path(folder))


def aged(folder: Path) -> Path:
    """The folder, its files so old that they are not written again within the same moment."""
    before = time.time() - 60
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mtime > before:
            os.utime(path, (before, before))
    return folder


def runs(batch: Path) -> list[Path]:
    return sorted(path for path in batch.iterdir() if path.name[0].isdigit())


def edit(batch: Path) -> None:
    """In place, of the same size."""
    path = runs(batch)[0] / "config.yaml"
    text = path.read_text()
    assert "base_lr: 0.01\n" in text
    path.write_text(text.replace("base_lr: 0.01\n", "base_lr: 0.07\n"))


def end(batch: Path) -> None:
    (runs(batch)[1] / "done").write_text("diverged\n")


def begin(batch: Path) -> None:
    shutil.copy(runs(batch)[0] / "config.yaml", runs(batch)[2])


def tear(batch: Path) -> None:
    (runs(batch)[0] / "config.yaml").write_text("model: [")


def empty(batch: Path) -> None:
    (runs(batch)[0] / "config.yaml").write_text("")


def remove(batch: Path) -> None:
    shutil.rmtree(runs(batch)[0])


def set_aside(batch: Path) -> None:
    run_folder.set_aside(str(runs(batch)[0]))


def take_back(batch: Path) -> None:
    (runs(batch)[0] / "done").unlink()


def end_otherwise(batch: Path) -> None:
    (runs(batch)[0] / "done").write_text("completez\n")


def add(batch: Path) -> None:
    make_run(str(batch), 9, {**SPECS[0], "momentum": 0.3})


def rename(batch: Path) -> None:
    runs(batch)[0].rename(batch / "007_other")


def with_another_key(batch: Path) -> None:
    with open(runs(batch)[1] / "config.yaml", "a") as file:
        file.write("a_new_one: [1, {b: 2}]\n")


CHANGES = [edit, end, begin, tear, empty, remove, set_aside, take_back, end_otherwise, add, rename, with_another_key]


def check(batch: Path) -> None:
    """A question says what a cold reading says."""
    expected = read_results(batch, cache=False).config
    ended = [is_done({"base_lr": 0.01, "averaging": None, "end": end}, batch) for end in ("completed", "completez")]
    pd.testing.assert_frame_equal(find_runs(None, batch), expected, check_like=True)
    lists = [list(find_runs({"base_lr": 0.01, "averaging": None, "end": end}, batch)["run"]) for end in (
        "completed", "completez")]
    assert ended == [bool(result) for result in lists]
    assert lists == [list(expected["run"][(expected["base_lr"] == 0.01) & (expected["end"] == end)]) for end in (
        "completed", "completez")]


@pytest.mark.parametrize("old", [False, True], ids=["young", "old"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_index_equals_a_fresh_read_after_any_changes(batch: Path, change: Callable[[Path], None], old: bool) -> None:
    """Also a moment after a question, with a file of the same size."""
    check(batch)
    change(batch)
    check(aged(batch) if old else batch)
    check(batch)


def test_index_equals_a_fresh_read_after_each_change(batch: Path) -> None:
    for change in (end, begin, add, with_another_key, tear, rename, remove):
        change(batch)
        check(batch)


def test_recent_file_is_read_again(batch: Path) -> None:
    """It may be written again in the same moment, as coarse as a disk's clock is: here even with the same stamp."""
    path = runs(batch)[0] / "config.yaml"
    os.utime(path)
    stamp = path.stat().st_mtime_ns
    check(batch)
    edit(batch)
    os.utime(path, ns=(stamp, stamp))
    check(batch)


def test_only_what_changed_is_read(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    reading = raw_files.read_run
    monkeypatch.setattr(raw_files, "read_run", lambda folder, *rest: read.append(Path(folder).name[:3]) or reading(
        folder, *rest))
    for change, expected in ((None, ["000", "001", "002", "003"]), (None, []), (end, ["001"]), (None, []),
                             (add, ["009"]), (edit, ["000"]), (remove, []), (begin, [])):
        read.clear()
        if change and change is not begin:
            change(aged(batch))
        find_runs(None, aged(batch))
        assert read == expected, change


def test_find_runs_matches_like_filt(batch: Path) -> None:
    make_run(make_empty_batch(batch.parent, "26-11-21-more"), 0, {**SPECS[5], "momentum": 0.25})
    for params, number in (({"base_lr": [0.01, 1.0]}, 3), ({"rate": 3}, 1), ({"rate": None}, 4), ({"index": 0}, 2),
                           ({"momentum": Interval(0.2, 0.3)}, 1), ({"momentum": lambda value: value < 0.3}, 1),
                           ({"facts/host": "node1", "end": None}, 1), ({"batch": "26-11-21-more"}, 1)):
        assert len(find_runs(params, batch.parent)) == number, params
    assert is_done({"momentum": 0.25}, batch.parent) and not is_done({"momentum": 0.5}, batch.parent)
    with pytest.raises(ResultsError, match="did you mean 'momentum'"):
        is_done({"momentums": 0.5}, batch.parent)


def test_one_batch_is_not_all_batches(batch: Path) -> None:
    make_run(make_empty_batch(batch.parent, "26-11-21-more"), 0, {**SPECS[5], "limit_train_batches": 1.0})
    assert is_done({"limit_train_batches": 1.0}, batch.parent)
    assert not is_done({"limit_train_batches": 1}, batch.parent)
    assert find_runs({"limit_train_batches": [1, 2]}, batch.parent).empty


def test_edited_config_of_an_ended_run_is_seen_after_a_second(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the config of a run that has ended; whatever else happens, at once."""
    monkeypatch.setattr(run_index, "_TRUSTED_SECONDS", 1e9)
    check(batch)
    edit(batch)
    assert find_runs({"base_lr": 0.07}, batch).empty
    end(batch)
    assert is_done({"end": "diverged"}, batch)
    monkeypatch.setattr(run_index, "_TRUSTED_SECONDS", 0.0)
    assert len(find_runs({"base_lr": 0.07}, batch)) == 1


def test_changing_a_result_does_not_change_the_index(batch: Path) -> None:
    result = find_runs({"index": 0}, batch).iloc[0]
    result["data_splits_map"].clear()
    check(batch)


def test_index_drops_the_least_recently_used_batch(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_index, "_MAX_RUNS", 4)
    other = Path(make_empty_batch(batch.parent, "26-11-21-more"))
    make_run(str(other), 0, SPECS[5])
    make_run(str(other), 1, SPECS[6])
    for path in (batch, other):
        check(path)
    assert list(run_index._batches) == [str(other)]
