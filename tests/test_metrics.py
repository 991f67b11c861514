"""Directions of metrics, and the columns that rank runs."""
from __future__ import annotations

from pathlib import Path

import pytest

from src import metrics
from src.errors import JobSpecError

NAN = float("nan")


def test_direction_follows_from_the_name() -> None:
    assert all(metrics.lower_is_better(f"val/last/{name}")
               for name in ("loss", "mae", "rmse", "top5_error", "perplexity"))
    assert not any(metrics.lower_is_better(f"val/last/{name}") for name in ("accuracy", "r2", "auc", "explosions"))
    assert metrics.lower_is_better("train/loss")
    assert not metrics.lower_is_better("error/last/accuracy")
    assert not metrics.lower_is_better("loss_cases/last/accuracy")
    assert metrics.lower_is_better("perplexity")


def test_nan_is_never_better() -> None:
    assert metrics.is_better("val/last/loss", 1, 2)
    assert not metrics.is_better("val/last/accuracy", 1, 2)
    assert metrics.is_better("val/last/loss", 1, NAN)
    assert not metrics.is_better("val/last/loss", NAN, 1)
    assert not metrics.is_better("val/last/loss", NAN, NAN)


@pytest.mark.parametrize(("columns", "expected"), [
    (["train/loss", "train/accuracy"], ["train/accuracy"]),
    (["test/last/accuracy", "val/last/loss", "val/last/accuracy", "val/av/accuracy"],
     ["val/last/accuracy", "val/av/accuracy"]),
    (["train/loss", "test/last/r2", "test/last/loss"], ["test/last/r2"]),
    (["epoch", "step"], [])])
def test_val_and_accuracy_are_preferred(columns: list[str], expected: list[str]) -> None:
    assert metrics.ranking_columns(columns) == expected


def test_metric_of_a_job_spec_selects_columns_and_direction() -> None:
    columns = ["train/loss", "val/last/accuracy", "val/av/accuracy", "val/last/energy", "val/av/energy"]
    energy = metrics.Metric("val/.*/energy", "minimize")
    assert metrics.ranking_columns(columns, energy) == ["val/last/energy", "val/av/energy"]
    assert metrics.lower_is_better("val/last/energy", energy) and not metrics.lower_is_better("val/last/energy")
    assert metrics.is_better("val/av/energy", 1, 2, energy) and not metrics.is_better("val/av/energy", 1, 2)
    assert not metrics.lower_is_better("val/last/accuracy", energy)  # its goal is no other column's
    assert metrics.Metric("train/loss", "maximize").find(columns) == ["train/loss"]
    assert metrics.Metric("last/(accuracy|loss)").find([*columns, "val/last/loss"]) == ["val/last/accuracy"]
    assert metrics.Metric("energy (J/(kg").find([*columns, "energy (J/(kg"]) == ["energy (J/(kg"]


def test_metric_that_no_run_has_is_reported_and_ignored() -> None:
    columns = ["train/loss", "val/last/accuracy", "val/av/accuracy"]
    missing = metrics.Metric("val_loss", "minimize")
    assert metrics.ranking_columns(columns, missing) == ["val/last/accuracy", "val/av/accuracy"]
    assert metrics.missing_metric_message(missing, columns) == (
        "no run has val_loss, the metric that the job spec names: ranked by val/last/accuracy")
    assert metrics.missing_metric_message(missing, ["epoch", "step"]) is None  # nothing has been evaluated yet
    assert metrics.missing_metric_message(metrics.Metric("val/.*"), columns) is None
    assert metrics.missing_metric_message(None, columns) is None


@pytest.mark.parametrize("text", [
    "job_details: {name: x, metric: {name: val/last/f1, goal: minimize}}\nparameters: {}\n",
    "metric: {name: val/last/f1, goal: minimize, target: 0.1}\nmethod: grid\nparameters: {}\n"])
def test_metric_of_a_batch_is_read_from_job_details_or_a_sweep_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    assert metrics.read_from_batch(tmp_path) == ("val/last/f1", "minimize")


@pytest.mark.parametrize("text", [
    None, "", "- a\n", "job_details: {name: x}\n", "job_details: {metric: [1]}\n", "a: b: c"])
def test_folder_without_a_metric_has_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "job.yaml").write_text(text)
    assert metrics.read_from_batch(tmp_path) is None


@pytest.mark.parametrize("value", [3, [], {}, {"goal": "maximize"}, {"name": "a", "goal": "max"},
                                   {"name": "a", "gaol": "maximize"}, ""])
def test_invalid_metric_is_an_error(value: object) -> None:
    with pytest.raises(JobSpecError, match=r"^x\.yaml, metric: "):
        metrics.parse(value, "x.yaml, metric")
    assert metrics.parse("val/last/loss", "") == ("val/last/loss", None)
