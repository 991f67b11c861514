from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sk

from src import run_folder
from src.analysis.reading.arrays import epochs_with_arrays, read_array, read_arrays
from src.config import Config
from src.errors import ConfigError, ResultsError
from src.training.steps.torchmetrics_adapter import ConfiguredMetrics
from tests.training.toys import CPU, make_toy, train_toy

ALL = ["top2", "precision", "recall", "f1", "auroc", "calibration_error", "confusion_matrix", "pr_curve",
       "tests.training.tasks:second", "tests.training.tasks:Recall"]


def _scores() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(4, (300,), generator=generator)
    output = torch.randn(300, 4, generator=generator)
    output[torch.arange(300), target] += 1
    return output, target


def test_metrics_equal_scikit_learn() -> None:
    output, target = _scores()
    measures = ConfiguredMetrics(ALL, 4, CPU)
    for rows in (slice(0, 128), slice(128, 256), slice(256, 300)):
        measures.update(output[rows], target[rows])
    numbers, arrays = measures.compute()
    y, p = target.numpy(), output.softmax(1).numpy()
    guess = p.argmax(1)
    assert list(numbers) == ["top2", "precision", "recall", "f1", "auroc", "calibration_error", "second", "Recall"]
    assert numbers["top2"] == pytest.approx(sk.top_k_accuracy_score(y, p, k=2))
    assert numbers["auroc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"), abs=1e-5)
    for name, function in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        assert numbers[name] == pytest.approx(function(y, guess, average="macro"), abs=1e-5)
        np.testing.assert_allclose(arrays[name], function(y, guess, average=None), atol=1e-5)
    np.testing.assert_array_equal(arrays["confusion_matrix"], sk.confusion_matrix(y, guess))
    np.testing.assert_allclose(arrays["Recall"], sk.recall_score(y, guess, average=None), atol=1e-6)
    assert numbers["Recall"] == pytest.approx(numbers["recall"], abs=1e-5)
    assert numbers["second"] == pytest.approx(numbers["top2"] - (guess == y).mean())
    assert arrays["pr_curve/precision"].shape == arrays["pr_curve/recall"].shape == (4, 102)
    assert arrays["pr_curve/recall"][:, 0] == pytest.approx(1)
    assert numbers["calibration_error"] == pytest.approx(_calibration_error(p, y), abs=1e-3)


def _calibration_error(p: np.ndarray, y: np.ndarray) -> float:
    """The mean distance of confidence and accuracy over 15 bins, by hand (Naeini et al., 2015)."""
    confidence, right = p.max(1), p.argmax(1) == y
    bins = np.minimum((confidence * 15).astype(int), 14)
    return float(sum(abs(confidence[bins == b].sum() - right[bins == b].sum()) for b in range(15)) / len(y))


def test_numbers_are_in_stats_and_arrays_in_files(tmp_path: Path) -> None:
    rows, _ = train_toy(make_toy(metrics=["f1", "confusion_matrix"], averaging="poly"), str(tmp_path))
    stats = pd.read_csv(tmp_path / run_folder.STATS)
    assert [column for column in stats if column.startswith("test/av/")] == [
        f"test/av/{name}" for name in ("loss", "accuracy", "f1", "time", "data_time")]
    assert "train/f1" not in stats
    assert epochs_with_arrays(tmp_path) == [1, 2, 3]
    last = read_array(tmp_path, "test/last/confusion_matrix")
    assert (last.sum(), last.trace()) == (40, pytest.approx(40 * rows[-1]["test/last/accuracy"]))
    epochs, each = read_arrays(tmp_path, "test/av/f1")
    assert (epochs.tolist(), each.shape) == ([1, 2, 3], (3, 3))
    np.testing.assert_allclose(each.mean(1), stats["test/av/f1"], atol=1e-6)
    train_toy(make_toy(), str(tmp_path))  # another attempt, without them: nothing of the first is left
    assert epochs_with_arrays(tmp_path) == []


def test_user_metric_may_have_the_name_of_a_torchmetrics_one() -> None:
    measures = ConfiguredMetrics(["tests.confusion:confusion_matrix"], 3, torch.device("cpu"))
    measures.update(torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 2, 2]))
    numbers, arrays = measures.compute()
    assert arrays["confusion_matrix"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert numbers == {"confusion_matrix": 4 / 9}


def test_missing_torchmetrics_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="has no arrays; set metrics"):
        read_arrays(tmp_path, "test/last/f1")
    train_toy(make_toy(metrics=["f1"]), str(tmp_path))
    with pytest.raises(ResultsError, match="did you mean 'test/last/f1'"):
        read_array(tmp_path, "test/last/f2")
    with pytest.raises(ResultsError, match="of epoch 9; it has those of 1 to 3"):
        read_array(tmp_path, "test/last/f1", 9)


@pytest.mark.parametrize(("options", "message"), [
    ({"metrics": ["auroch"]}, "metrics: unknown metric 'auroch'.* did you mean 'auroc'"),
    ({"metrics": ["accuracy"]}, "unknown metric"),
    ({"metrics": ["f1", "f1"]}, "two metrics would have the name f1"),
    ({"metrics": ["f1"], "loss": "mse"}, "metrics: f1 need classes"),
    ({"metrics": ["top5"], "task": "tests.training.tasks:Gan"}, "measures its own")])
def test_metrics_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_dict(options)


def test_invalid_metrics_are_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="top5 needs 5 outputs, and the model has 3; allowed: top1 to top3"):
        train_toy(make_toy(metrics=["top5"]))
    with pytest.raises(ConfigError, match=r"metrics: .*'secnd'.*did you mean '\S+:second'"):
        train_toy(make_toy(metrics=["tests.training.tasks:secnd"]))
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ConfigError, match="pip install torchmetrics"):
        train_toy(make_toy(metrics=["f1"]))
