"""The page document: plain JSON that holds every value of the tables, inert whatever names and texts contain."""
from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src import run_folder
from src.analysis.page import curves, details, document
from src.analysis.reading.results import read_results
from src.analysis.tables import tables
from src.io import files
from tests.analysis.make_batch import DIGITS, grid, make_batch, make_empty_batch, make_run
from tests.analysis.page.make_document import make_document, make_results

STATS = "epoch,train/loss,val/last/accuracy\n1,1.0,{}\n2,0.5,{}\n"


def unpack(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), f"<{kind}")


def curve(built: dict[str, Any], metric: str, run: int) -> dict[int, float]:
    """The curve of a run in a document: values by epoch."""
    of = built["curves"]["of"][metric]
    grid_of = built["curves"]["grids"][of["grid"]]
    start, stop = unpack(grid_of["offset"], "i4")[run:run + 2]
    return dict(zip(unpack(grid_of["epoch"], "i4")[start:stop].tolist(), unpack(of["value"], "f4")[start:stop].tolist(),
                    strict=True))


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in strings(item))]
    return [text for item in value for text in strings(item)] if isinstance(value, list) else (
        [value] if isinstance(value, str) else [])


def test_curves_are_those_of_the_files(tmp_path: Path) -> None:
    results = read_results(make_batch(tmp_path))
    built = document.build(results)
    df = results.big_df()
    assert built["curves"]["metrics"][:2] == ["val/av/accuracy", "val/last/accuracy"]
    assert not built["curves"]["others"] and built["sampled"] is None
    assert built["labels"]["val/av/accuracy"] == "val accuracy (averaged)"
    assert (built["goals"]["best/val/av/accuracy"], built["goals"]["train/loss"], built["goals"]["step"]) == (
        "maximize", "minimize", None)
    for metric in ("val/last/accuracy", "val/av/accuracy", "train/loss"):
        for run, cells in enumerate(df[metric]):
            assert curve(built, metric, run) == pytest.approx(cells.dropna().to_dict(), rel=1e-6)


def test_value_of_a_run_is_that_of_the_best_runs(tmp_path: Path) -> None:
    batch = make_batch(tmp_path)
    make_run(batch, 30, {}, stats=STATS.format(1.0, 1.0), end=run_folder.DIVERGED)
    make_run(batch, 31, {}, end=None)
    results = read_results(batch)
    runs = document.build(results)["runs"]
    ranked = tables.best_runs(results.big_df(), n=None)
    for name, value, column, epoch in zip(ranked["run"], ranked["value"], ranked["metric"], ranked["epoch"],
                                          strict=True):
        run = runs["name"].index(name)
        if value == value:
            assert runs["value"][run] == pytest.approx(value)
            assert (runs["value_column"][run], runs["value_epoch"][run]) == (column, epoch)
        else:
            assert runs["value"][run] is runs["value_column"][run] is runs["value_epoch"][run] is None


def test_states_follow_from_the_files_or_from_status(tmp_path: Path) -> None:
    batch = make_batch(tmp_path, grid({"base_lr": [0.1]}, **DIGITS))
    make_run(batch, 20, {}, end=None, error="Traceback …\nRuntimeError: no memory for 20 MiB")
    make_run(batch, 21, {}, end=None, error="Traceback …\nRuntimeError: no memory for 21 MiB")
    folder = make_run(batch, 22, {}, end=None)
    results = read_results(batch)
    built = document.build(results)
    assert built["runs"]["state"] == ["done", "failed", "failed", "not ended"]
    assert built["runs"]["why"][1] == "RuntimeError: no memory for 20 MiB"
    [failure] = built["batches"][0]["failures"]
    assert failure | {"names": []} == {"state": "failed", "error": "RuntimeError: no memory for 20 MiB", "count": 2,
                                       "runs": [1, 2], "names": [], "path": None, "log": None}
    row = {"run": Path(folder).name, "batch": batch, "state": "running", "why": "", "epochs": 5, "left": 3.0}
    built = document.build(results, [row])
    assert built["runs"]["state"][3] == "running" and built["runs"]["left"][3] == 3.0
    assert built["batches"][0]["active"]["rows"] == [[Path(folder).name, "running", 5, 3.0]]


def test_batches_are_ranked_by_their_own_metrics(tmp_path: Path) -> None:
    paths = [make_empty_batch(tmp_path, name) for name in ("one", "two")]
    for path, metric in zip(paths, ("val/last/accuracy", "train/loss"), strict=True):
        Path(path, run_folder.JOB_SPEC).write_text(f"job_details: {{metric: {metric}}}\n")
        make_run(path, 0, {"base_lr": 0.1}, stats=STATS.format(0.5, 0.25))
    built = document.build(read_results(paths))
    assert [batch["metric"]["name"] for batch in built["batches"]] == ["val/last/accuracy", "train/loss"]
    assert built["runs"]["value"] == [0.5, 0.5] and built["runs"]["value_epoch"] == [1, 2]
    assert built["runs"]["key"] == ["0:000_digits+bas=0.1", "1:000_digits+bas=0.1"]
    assert built["together"]["best_runs"]


def test_large_documents_thin_out_curves_and_say_so() -> None:
    results, status = make_results(runs=200, epochs=50)
    built = document.build(results, status, curve_points=16_000)
    assert built["sampled"]["epochs"] == 3 and built["sampled"]["runs"] == 200
    assert "one epoch in 3, counted from the last one" in built["sampled"]["why"]
    assert list(curve(built, "train/loss", 0))[-1] == 50
    few, sampled = curves.encode(results.long, 200, ["val/last/accuracy"], keep=[7], most=2_000)
    assert sampled is not None and sampled["runs"] < 100
    assert len(curve({"curves": few}, "train/loss", 7)) > 0


def test_hostile_texts_are_plain_json() -> None:
    built = make_document(runs=20, hostile=True, search=True)
    text = document.to_json(built)
    assert text.isascii() and "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == json.loads(json.dumps(built))
    for word in strings(built):
        assert not any(character in word for character in "\x1b\u202e\x00"), word
    assert "hasOwnProperty" in built["runs"]["metrics"] and "__proto__" in built["runs"]["parameters"]


def test_no_runs_are_a_document(tmp_path: Path) -> None:
    built = document.build(read_results(batch := make_empty_batch(tmp_path)), batches=[batch])
    assert built["runs"]["count"] == 0 and built["batches"][0]["runs"] == 0
    document.to_json(built)


def test_details_of_a_run(tmp_path: Path) -> None:
    folder = make_run(make_empty_batch(tmp_path), 0, {"base_lr": 0.1}, end=None,
                      error="Traceback …\nValueError: \x1b[31mno")
    Path(folder, run_folder.STEPS).write_text("step,epoch,loss\n10,1,0.5\n20,1,nan\n30,1,0.25\n")
    Path(folder, run_folder.SYSTEM).write_text("time,cpu\n1000,1.5\n1010,broken\n1020,2.5\n")
    Path(folder, run_folder.LOG).write_text("\x1b[31m<b>first\n\u202elast\n")
    found = details.run(folder, {"base_lr": 0.1})
    assert found["config"]["base_lr"] == 0.1 and found["different"] == {"base_lr": 0.1}
    steps, system = found["series"]["steps"]["of"]["loss"], found["series"]["system"]["of"]["cpu"]
    assert unpack(steps["x"], "f8").tolist() == [10, 30] and unpack(steps["value"], "f4").tolist() == [0.5, 0.25]
    assert unpack(system["x"], "f8").tolist() == [0, 20] and unpack(system["value"], "f4").tolist() == [1.5, 2.5]
    assert found["log"]["text"].splitlines() == ["<b>first", "\ufffdlast"]
    assert found["failure"] == "Traceback …\nValueError: no"
    assert found["command"] == f"python experiments.py reproduce {folder} --run"
    assert {"name": "done", "size": 10} not in found["files"]
    json.dumps(found, allow_nan=False)


def test_details_of_a_run_that_was_deleted_or_replaced_by_a_link(tmp_path: Path) -> None:
    folder = make_run(make_empty_batch(tmp_path), 0, {})
    for name in (run_folder.STEPS, run_folder.SYSTEM, run_folder.LOG):
        Path(folder, name).symlink_to("/dev/zero")
    found = details.run(folder)
    assert not found["series"] and found["log"] is None
    found = details.run(f"{tmp_path}/gone")
    assert found["files"] == [] and found["log"] is None and "not a run folder" in found["failure"]
    assert not files.read_bytes(f"{tmp_path}/gone")
