from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from src.analysis.reading.filters import Interval
from src.analysis.reading.runs import find_one, find_runs, is_done, load_artifact, save_artifact
from src.errors import ResultsError
from tests.analysis.make_batch import DIGITS, curves, make_batch, make_empty_batch, make_run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two batches: twelve finished runs, and one that has not ended."""
    folder = tmp_path_factory.mktemp("results")
    make_batch(folder)
    spec = {**DIGITS, "base_lr": 5.0}
    make_run(make_empty_batch(folder, "26-11-21-more"), 0, spec, stats=curves(spec, 2, 0, False), end=None)
    (folder / "plots").mkdir()
    return folder


def test_find_runs_searches_all_batches(results: Path) -> None:
    assert len(find_runs(results=results)) == 13
    assert len(find_runs({"model": "linear", "base_lr": [0.01, 1]}, results)) == 4
    assert find_runs({"base_lr": Interval(2, None)}, results)["batch"].tolist() == ["26-11-21-more"]
    assert len(find_runs({"base_lr": 5.0}, results / "26-11-20-digits")) == 0
    assert len(find_runs(results=results / "nowhere")) == 0


def test_find_one_returns_one_run_or_an_error(results: Path) -> None:
    one = find_one({"model": "linear", "base_lr": 0.1, "averaging": None}, results)
    assert one["end"] == "completed" and Path(one["folder"]).is_dir()
    with pytest.raises(ResultsError, match=r"2 runs match .*give more conditions"):
        find_one({"model": "linear", "base_lr": 0.1}, results)
    with pytest.raises(ResultsError, match=r"no runs match .*give fewer"):
        find_one({"base_lr": 77.0}, results)
    with pytest.raises(ResultsError, match="did you mean 'base_lr'"):
        find_one({"base_lrr": 77.0}, results)


def test_is_done_for_ended_runs(results: Path, tmp_path: Path) -> None:
    assert is_done({"model": "linear", "base_lr": 0.1}, results)
    assert not is_done({"base_lr": 5.0}, results)  # it has not ended
    assert not is_done({"base_lr": 77.0}, results)
    assert not is_done({"base_lr": 0.1}, tmp_path)


@pytest.mark.parametrize(("name", "value"), [
    ("a.json", {"classes": [1, 2], "why": None}), ("a.npy", np.arange(6.0).reshape(2, 3)), ("a.txt", "why: é"),
    ("a.npz", {"x": np.arange(3), "y": np.zeros((2, 2))}), ("a.csv", pd.DataFrame({"x": [1, 2], "y": [0.5, None]})),
    ("a.bin", b"\0\1")])
def test_artifacts_are_loaded_as_they_were_saved(results: Path, name: str, value: object) -> None:
    run = find_one({"base_lr": 5.0}, results)
    path = save_artifact(value, run, name)
    assert path == str(results / "26-11-21-more" / Path(run["folder"]).name / "artifacts" / name)
    back = load_artifact(run["folder"], name)
    if isinstance(value, pd.DataFrame):
        pd.testing.assert_frame_equal(back, value)
    else:
        np.testing.assert_equal(back, value)


def test_figure_is_saved_as_png(results: Path) -> None:
    run = find_one({"base_lr": 5.0}, results)
    save_artifact(Figure(), run, "a.png")
    assert load_artifact(run, "a.png").startswith(b"\x89PNG")


def test_value_that_cannot_be_stored_is_an_error(results: Path) -> None:
    run = find_one({"base_lr": 5.0}, results)
    for value, name, message in ((object(), "a.pkl", "cannot store"), (1, "../a.json", "not a plain file name")):
        with pytest.raises(ResultsError, match=message):
            save_artifact(value, run, name)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        save_artifact(np.array([object()]), run, "a.npy")
    with pytest.raises(ResultsError, match="no such artifact"):
        load_artifact(run, "none.json")
    with pytest.raises(ResultsError, match="not a run folder"):
        load_artifact(results, "a.json")
