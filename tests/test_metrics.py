"""Which way is better, and what a run is judged by."""
from __future__ import annotations

import pytest

from src import metrics

NAN = float("nan")


def test_directions() -> None:
    assert all(metrics.descends(f"val/last/{name}") for name in ("loss", "mae", "rmse", "top5_error", "perplexity"))
    assert not any(metrics.descends(f"val/last/{name}") for name in ("accuracy", "r2", "auc", "explosions"))
    assert metrics.descends("train/loss")
    assert not metrics.descends("error/last/accuracy")
    assert not metrics.descends("loss_cases/last/accuracy")
    assert metrics.descends("perplexity")


def test_better_and_nan_is_worst() -> None:
    assert metrics.better("val/last/loss", 1, 2)
    assert not metrics.better("val/last/accuracy", 1, 2)
    assert metrics.better("val/last/loss", 1, NAN)
    assert not metrics.better("val/last/loss", NAN, 1)
    assert not metrics.better("val/last/loss", NAN, NAN)


@pytest.mark.parametrize(("columns", "expected"), [
    (["train/loss", "train/accuracy"], ["train/accuracy"]),
    (["test/last/accuracy", "val/last/loss", "val/last/accuracy", "val/av/accuracy"],
     ["val/last/accuracy", "val/av/accuracy"]),
    (["train/loss", "test/last/r2", "test/last/loss"], ["test/last/r2"]),
    (["epoch", "step"], [])])
def test_val_before_test_before_train_and_accuracy_before_loss(columns: list[str], expected: list[str]) -> None:
    assert metrics.judging_columns(columns) == expected
