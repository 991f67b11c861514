"""A composite of three subtests: each run is run once, by the workers of its subtest, and has all of its tags."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

import experiments
import submit_multiple
from src.analysis.reading.filters import filt
from src.analysis.reading.results import read_results
from src.analysis.tables.tables import best_runs, named_metric, varying_columns
from tests.conftest import ROOT


def test_three_subtests_run_by_local_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    arguments = ["jobs/digits-composite.yaml", "--local", "--workers", "1", "-y", "--output-dir", str(tmp_path),
             "--set", "train_length=1"]
    assert submit_multiple.main(arguments) == 0
    assert "workers    1 for sgd plain, 1 for sgd momentum, 1 for the rest on this machine" in capsys.readouterr().out
    batch, = tmp_path.iterdir()
    results = read_results(batch)
    big_df = results.big_df()
    assert not results.skipped
    assert big_df["index"].tolist() == list(range(16))
    assert set(big_df["end"]) == {"completed"}
    assert all(len(curve) == 1 for curve in big_df["val/last/accuracy"])
    assert {path.name for path in batch.glob("0*/*")} == {  # seven files of each run, as docs/architecture.md says
        "attempt-1-0.json", "claim-1", "config.yaml", "done", "spec.yaml", "stats.csv", "training.log"}
    points = zip(big_df["optim_alg"], big_df["base_lr"], big_df["momentum"], strict=True)
    wanted = [["adam"] if algorithm == "adam" else ["sgd", "plain"] if rate == 1 else
              ["sgd", "plain", "momentum"] if (rate, momentum) == (0.25, 0) else ["sgd", "momentum"]
              for algorithm, rate, momentum in points]
    assert big_df["TAGS"].tolist() == wanted
    assert [len(filt(big_df, TAGS=lambda tags, tag=tag: tag in tags)) for tag in ("plain", "momentum", "adam")] == [
        4, 8, 6]
    assert set(varying_columns(big_df)) == {"base_lr", "optim_alg", "momentum"}
    assert named_metric(big_df) == ("val/last/accuracy", "maximize")
    assert set(best_runs(big_df)["metric"]) == {"val/last/accuracy"}
    assert not experiments.main(["status", "--json", "--tag", "adam", str(batch)])
    rows = json.loads(capsys.readouterr().out)[0]["runs"]
    assert [(row["run"][:3], row["tags"], row["state"]) for row in rows] == [
        (f"{index:03d}", ["adam"], "done") for index in range(10, 16)]
