"""All metrics equal scikit-learn's, whatever the batch size and the number of processes, however good the model is."""
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor, nn

from src.datasets.data import Data, Split
from src.training.parallel.data_shards import DataShard
from src.training.parallel.distributed import SINGLE_PROCESS, SingleProcess
from src.training.steps.class_metrics import Auroc, CalibrationError
from tests.processes import run_processes
from tests.training.toys import CPU, make_toy, train_toy

CLASSES = 6
NAMES = ["top1", "top2", "top3", "top6", "precision", "recall", "f1", "auroc", "calibration_error"]
KINDS = ("random", "nearly perfect", "saturated", "absent class", "few samples")


def outputs(kind: str) -> tuple[Tensor, Tensor]:
    """Outputs [n, 6] of a model and targets [n]."""
    generator = torch.Generator().manual_seed(3)
    samples = 9 if kind == "few samples" else 400
    target = torch.randint(CLASSES - (kind == "absent class"), (samples,), generator=generator)
    output = torch.randn(samples, CLASSES, generator=generator)
    if kind == "nearly perfect":
        output[torch.arange(samples), target] += 30
        wrong = torch.randperm(samples, generator=generator)[:5]
        output[wrong] = torch.randn(5, CLASSES, generator=generator)
    if kind == "saturated":  # most probabilities are 0 or 1 in float32
        output = output * 60
        output[torch.arange(samples), target] += 20
    return output, target


def log_odds(output: Tensor) -> np.ndarray:
    """log(p / (1 - p)) of each class, by the definition."""
    z = output.double().numpy()
    return np.stack([z[:, i] - np.logaddexp.reduce(np.delete(z, i, 1), axis=1) for i in range(z.shape[1])], 1)


def calibration_error(output: Tensor, y: np.ndarray) -> float:
    """The mean distance of confidence and accuracy over 15 bins (Naeini et al., 2015)."""
    p = output.softmax(1).numpy().astype(float)
    confidence, is_correct = p.max(1), output.numpy().argmax(1) == y
    bins = np.minimum((confidence * 15).astype(int), 14)
    return float(sum(len(y[bins == b]) / len(y) * abs(confidence[bins == b].mean() - is_correct[bins == b].mean())
                     for b in np.unique(bins)))


def reference(output: Tensor, target: Tensor) -> dict[str, float]:
    y, guess, odds = target.numpy(), output.numpy().argmax(1), log_odds(output)
    present = [index for index in range(CLASSES) if 0 < (y == index).sum() < len(y)]
    return {**{f"top{k}": sk.top_k_accuracy_score(y, output.numpy(), k=k, labels=range(CLASSES)) for k in (1, 2, 3)},
            "top6": 1.0, "accuracy": sk.accuracy_score(y, guess),
            **{name: function(y, guess, average="macro", zero_division=0) for name, function in (
                ("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score))},
            "auroc": float(np.mean([sk.roc_auc_score(y == index, odds[:, index]) for index in present])),
            "calibration_error": calibration_error(output, y)}


def evaluate(group: SingleProcess, kind: str, batch_size: int, folder: str | None = None) -> dict[str, float]:
    """The numbers that the training loop logs for a model that returns its input."""
    output, target = outputs(kind)
    made = make_toy({"test": Split(output, target)}, nn.Linear(CLASSES, CLASSES, bias=False), train_length=0,
                    eval_batch_size=batch_size, metrics=NAMES, device="cpu")
    nn.init.eye_(made.model.weight)
    made = dataclasses.replace(made, group=group, data=Data(made.data.splits, "classification", tuple(range(CLASSES)),
                                                            (CLASSES,)))
    if group.size > 1:
        made = dataclasses.replace(made, shard=DataShard(group, batch_size, batch_size))
    (row,), _ = train_toy(made, folder)
    return {name: float(row[f"test/last/{name}"] or 0) for name in ("accuracy", *NAMES)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_metrics_equal_scikit_learn(kind: str, batch_size: int) -> None:
    assert evaluate(SINGLE_PROCESS, kind, batch_size) == pytest.approx(reference(*outputs(kind)), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_of_two_processes_equal_scikit_learn(kind: str, tmp_path: Path) -> None:
    def work(group: SingleProcess) -> Any:
        return [evaluate(group, kind, batch_size) for batch_size in (1, 7, 1000)]

    for results in run_processes(2, tmp_path, work):
        for numbers in results:
            assert numbers == pytest.approx(reference(*outputs(kind)), abs=1e-5)


def test_auroc_of_absent_classes_is_not_defined(tmp_path: Path) -> None:
    from src.analysis.reading.arrays import read_array

    numbers = evaluate(SINGLE_PROCESS, "absent class", 100, str(tmp_path))
    each = read_array(tmp_path, "test/last/auroc")
    assert np.isnan(each).tolist() == [False] * 5 + [True]
    assert numbers["auroc"] == pytest.approx(each[:5].mean())
    assert "auroc of test is the mean over 5 of 6 classes" in (tmp_path / "training.log").read_text()


def test_auroc_ranks_two_classes_by_logits() -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(2, (500,), generator=generator)
    logit = 40 + 12 * target + 20 * torch.randn(500, generator=generator)  # sigmoid(40) is 1 in float32
    auroc = Auroc()
    auroc.update(torch.stack([torch.zeros(500), logit], 1), target)
    expected = sk.roc_auc_score(target, logit)
    assert auroc.compute().tolist() == pytest.approx([expected, expected], abs=1e-12)
    saturated = sk.roc_auc_score(target, torch.stack([torch.zeros(500), logit], 1).softmax(1)[:, 1])
    assert saturated < expected - 0.05


def test_auroc_counts_ties_half_and_ignores_no_sample() -> None:
    auroc = Auroc()
    auroc.update(torch.tensor([[0., 1], [0, 1], [0, 2]]), torch.tensor([0, 1, 1]))
    assert auroc.compute().tolist() == [0.75, 0.75]
    auroc.update(torch.tensor([[0., float("nan")]]), torch.tensor([0]))
    assert auroc.compute().isnan().all()  # a diverged model
    only = Auroc()
    only.update(torch.randn(3, 2), torch.zeros(3, dtype=torch.int64))
    assert only.compute().isnan().all()


def test_confidence_of_one_is_in_the_last_bin() -> None:
    output = torch.tensor([[200., 0], [3.2, 0]])  # confidences 1 and 0.961
    error = CalibrationError(CPU)
    error.update(output, torch.tensor([1, 0]))
    assert float(error.compute()) == pytest.approx(calibration_error(output, np.array([1, 0])))
    assert float(error.compute()) == pytest.approx((1 - 0.0392) / 2, abs=1e-3)
