"""Directions of metrics, and the columns that rank runs."""
from __future__ import annotations

from pathlib import Path

import pytest

from src import metrics
from src.errors import JobSpecError, ResultsError

NAN = float("nan")


def test_direction_follows_from_the_name() -> None:
    assert all(metrics.lower_is_better(f"val/last/{name}")
               for name in ("loss", "mae", "rmse", "top5_error", "perplexity"))
    assert not any(metrics.lower_is_better(f"val/last/{name}") for name in ("accuracy", "r2", "auc"))
    assert metrics.lower_is_better("train/loss")
    assert not metrics.lower_is_better("error/last/accuracy")
    assert not metrics.lower_is_better("loss_cases/last/accuracy")
    assert metrics.lower_is_better("perplexity")


@pytest.mark.parametrize(("goal", "names"), [
    ("minimize", "loss val_loss valLoss softmaxloss top5_error error_rate perplexity wer CER nll ece brier fid mape "
                 "brier_score FID_score mae rmse bits_per_byte bits_per_dim cross_entropy crossentropy kl_divergence "
                 "neg_log_likelihood edit_distance false_positive_rate accuracy_loss time latency_ms crps lpips eer"),
    ("maximize", "accuracy balanced_accuracy acc acc1 top5 f1 macroF1 f1_macro auroc AUC mAP map50 mIoU dice bleu "
                 "bleu4 rougeL r2 R2 mcc kappa psnr ssim log_likelihood examples_per_second brier_skill_score ndcg@10 "
                 "recall@5 pass@1 exact_match reward episode_return elbo explained_variance spearman"),
    (None, "energy explosions learning_rate grad_norm second policy_entropy temperature margin size")])
def test_direction_of_common_metrics(goal: str | None, names: str) -> None:
    wrong = {name: metrics.direction(f"val/last/{name}") for name in names.split()}
    assert {name: found for name, found in wrong.items() if found != goal} == {}


def test_every_metric_of_the_project_has_a_direction() -> None:
    from src.checks.registered_names import METRICS, TRAINING_METRICS
    from src.training.steps.torchmetrics_adapter import metric_columns

    names = {name for names in TRAINING_METRICS.values() for name in names} | {*metric_columns(METRICS)}
    assert [name for name in names if metrics.direction(name) is None] == []


def test_unknown_direction_is_an_error_where_something_is_chosen() -> None:
    with pytest.raises(ResultsError, match="is not known for val/last/energy; give a goal"):
        metrics.lower_is_better("val/last/energy")
    with pytest.raises(JobSpecError, match="x.yaml, metric: whether more or less is better is not known for 'energy'"):
        metrics.parse("energy", "x.yaml, metric")
    with pytest.raises(JobSpecError):
        metrics.parse({"name": "val/.*/energy"}, "")
    assert metrics.parse("energy", "", "minimize") == ("energy", "minimize")  # a sweep file
    assert metrics.parse("accuracy", "", "minimize") == ("accuracy", None)
    assert metrics.parse("val/.*", "") == ("val/.*", None)  # the columns decide
    columns = ["val/last/accuracy", "val/last/energy"]
    older = metrics.Metric("energy")  # of a batch that was submitted before
    assert metrics.ranking_columns(columns, older) == ["val/last/accuracy"]
    assert metrics.missing_metric_message(older, columns) == (
        "energy has no goal, maximize or minimize: ranked by val/last/accuracy")


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
    assert metrics.lower_is_better("val/last/energy", energy)
    assert metrics.is_better("val/av/energy", 1, 2, energy) and not metrics.is_better("val/av/energy", 2, 1, energy)
    assert not metrics.lower_is_better("val/last/accuracy", energy)  # its goal is no other column's
    assert metrics.Metric("train/loss", "maximize").find(columns) == ["train/loss"]
    assert metrics.Metric("last/(accuracy|loss)").find([*columns, "val/last/loss"]) == ["val/last/accuracy"]
    plain = metrics.Metric("energy (J/(kg", "minimize")
    assert plain.find([*columns, "energy (J/(kg"]) == ["energy (J/(kg"]


def test_metric_that_no_run_has_is_reported_and_ignored() -> None:
    columns = ["train/loss", "val/last/accuracy", "val/av/accuracy"]
    missing = metrics.Metric("val_loss", "minimize")
    assert metrics.ranking_columns(columns, missing) == ["val/last/accuracy", "val/av/accuracy"]
    assert metrics.missing_metric_message(missing, columns) == (
        "no run has val_loss, the metric that the job spec names: ranked by val/last/accuracy")
    assert metrics.missing_metric_message(missing, ["epoch", "step"]) is None  # nothing has been evaluated yet
    assert metrics.missing_metric_message(metrics.Metric("energy"), ["epoch", "energy"], has_ended=True) == (
        "energy has no goal, maximize or minimize")
    assert metrics.missing_metric_message(missing, ["epoch", "step"], has_ended=True) == (
        "no run has val_loss, the metric that the job spec names: a program writes its metrics to stats.csv in its run "
        "folder, see docs/sweeps.md")
    assert metrics.missing_metric_message(metrics.Metric("val/.*"), columns) is None
    assert metrics.missing_metric_message(None, columns) is None


@pytest.mark.parametrize("text", [
    "job_details: {name: x, metric: {name: val/last/f1, goal: minimize}}\nparameters: {}\n",
    "metric: {name: val/last/f1, goal: minimize, target: 0.1}\nmethod: grid\nparameters: {}\n"])
def test_metric_of_a_batch_is_read_from_job_details_or_a_sweep_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    assert metrics.read_from_batch(tmp_path) == ("val/last/f1", "minimize")
    assert metrics.read_for_run(tmp_path / "000_x") == ("val/last/f1", "minimize")
    assert metrics.read_for_run(tmp_path / "canary" / "linear") == ("val/last/f1", "minimize")


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
