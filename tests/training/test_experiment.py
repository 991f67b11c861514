from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from src.errors import ConfigError
from src.training.experiment import run_epochs
from src.training.output import checkpoint
from tests.training.toys import make_toy, toy_classes, toy_targets, train_toy

SPLITS = {"train": toy_classes(), "val": toy_classes(30, seed=2), "test": toy_classes(40, seed=1)}


def _without_times(rows: list[Any]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.endswith(("time", "timestamp", "per_second"))}
            for row in rows]


def test_run_writes_all_its_files(tmp_path: Path) -> None:
    rows, end = train_toy(make_toy(averaging="poly", save_freq=2, lr_schedule="poly_1", warmup_steps=2), str(tmp_path))
    assert end == "completed"
    assert [(row["epoch"], row["step"], row["train/seen_examples"]) for row in rows] == [
        (1, 4, 60), (2, 8, 120), (3, 12, 180)]
    assert rows[0]["train/learning_rate"] == pytest.approx(0.1 * (1 - 3 / 12))
    assert rows[-1]["test/av/accuracy"] > 0.5
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.yaml", "stats.csv", "training.log", "checkpoint-00002.pt"}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "stats.csv"), pd.DataFrame(rows))
    log = (tmp_path / "training.log").read_text()
    assert log.count("train loss") == 3
    assert log.endswith("completed\n")


def test_number_of_evaluations_does_not_change_the_training() -> None:
    length = {"train_length": 24, "train_length_unit": "step", "averaging": "ema_0.9", "lr_schedule": "cosine"}
    by_pass, _ = train_toy(make_toy(**length))
    by_step, _ = train_toy(make_toy(**length, steps_per_epoch=1))
    by_sevens, _ = train_toy(make_toy(**length, steps_per_epoch=7))
    assert [len(rows) for rows in (by_pass, by_step, by_sevens)] == [6, 24, 4]
    for other in (by_step, by_sevens):
        for name in ("step", "train/seen_examples", "test/last/loss", "test/av/loss", "test/av/accuracy"):
            assert other[-1][name] == by_pass[-1][name]


def test_dropout_is_reproducible() -> None:
    def run() -> list[Any]:
        torch.manual_seed(0)
        return _without_times(train_toy(make_toy(model=nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3))))[0])

    first = run()
    torch.rand(10)
    assert run() == first


def test_gradient_accumulation_changes_neither_steps_nor_results() -> None:
    whole, cut = train_toy(make_toy())[0], train_toy(make_toy(grad_accum_steps=4))[0]
    assert [row["step"] for row in cut] == [row["step"] for row in whole]
    assert cut[-1]["test/last/loss"] == pytest.approx(whole[-1]["test/last/loss"], rel=1e-4)


def test_regression_learns() -> None:
    splits = {"train": toy_targets(200), "test": toy_targets(100, seed=1)}
    rows, _ = train_toy(make_toy(splits, loss="mse", train_length=20, base_lr=0.05))
    assert not any(name.endswith("accuracy") for name in rows[0])
    assert rows[-1]["test/last/r2"] > 0.9
    assert rows[-1]["test/last/mae"] < 0.3


def test_early_stopping_patience(tmp_path: Path) -> None:
    made = make_toy(SPLITS, base_lr=0.0, train_length=50, early_stopping_patience=3, save_best_checkpoint=True,
                 best_checkpoint_metric="val/.*/loss")
    rows, end = train_toy(made, str(tmp_path))
    assert end == "early_stopped"
    assert len(rows) == 4  # the first is the best, three follow
    assert checkpoint.load(str(tmp_path / "best_checkpoint.pt"))["epoch"] == 1
    assert "WARNING" not in (tmp_path / "training.log").read_text()


def test_patience_that_runs_out_in_the_last_epoch_is_a_completed_run() -> None:
    options = {"base_lr": 0.0, "early_stopping_patience": 2, "best_checkpoint_metric": "val/.*/loss"}
    assert train_toy(make_toy(SPLITS, train_length=3, **options))[1] == "completed"


def test_the_best_checkpoint_is_of_the_best_epoch(tmp_path: Path) -> None:
    made = make_toy(SPLITS, train_length=8, base_lr=3.0, momentum=0.0, save_best_checkpoint=True, averaging="poly",
                 best_checkpoint_metric="val/.*/accuracy")
    rows, _ = train_toy(made, str(tmp_path))
    best = [max(row["val/last/accuracy"], row["val/av/accuracy"]) for row in rows]
    saved = checkpoint.load(str(tmp_path / "best_checkpoint.pt"))
    assert saved["epoch"] == 1 + best.index(max(best))
    assert saved["averaged"] is not None


def test_choosing_by_a_test_split_causes_a_warning(tmp_path: Path) -> None:
    train_toy(make_toy(save_best_checkpoint=True), str(tmp_path))
    log = (tmp_path / "training.log").read_text()
    assert "WARNING | best_checkpoint_metric test/.*/accuracy is of a test split" in log


@pytest.mark.parametrize("options", [{"save_best_checkpoint": True}, {"early_stopping_patience": 3}])
def test_missing_metric_is_an_error_before_writing(tmp_path: Path,
                                                                           options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="matches no metric"):
        train_toy(make_toy(SPLITS, best_checkpoint_metric="valid/.*", **options), str(tmp_path))
    with pytest.raises(ConfigError, match="matches no metric"):  # empty until the end
        train_toy(make_toy(SPLITS, eval_at_end=["test"], **options), str(tmp_path))
    assert not list(tmp_path.iterdir())
    train_toy(make_toy(SPLITS, best_checkpoint_metric="valid/.*"))  # nothing depends on it


@pytest.mark.parametrize(("options", "end"), [
    ({}, "completed"), ({"early_stopping_patience": 1, "best_checkpoint_metric": "val/.*", "base_lr": 0.0},
                        "early_stopped"), ({"max_allowed_loss": 1e-3}, "diverged")])
def test_splits_of_eval_at_end_are_in_the_last_row(tmp_path: Path, options: dict[str, Any], end: str) -> None:
    if "best_checkpoint_metric" in options:
        options["best_checkpoint_metric"] = "val/last/loss"
    rows, how = train_toy(make_toy(SPLITS, train_length=5, eval_at_end=["test"], **options), str(tmp_path))
    assert how == end
    stats = pd.read_csv(tmp_path / "stats.csv")
    assert stats["test/last/accuracy"].isna().tolist() == [True] * (len(rows) - 1) + [False]
    assert stats["val/last/accuracy"].notna().all()


@pytest.mark.parametrize("options", [{"base_lr": 1e30}, {"max_allowed_loss": 0.01}])
def test_divergence_ends_the_run(options: dict[str, Any], tmp_path: Path) -> None:
    rows, end = train_toy(make_toy(train_length=50, **options), str(tmp_path))
    assert end == "diverged"
    assert len(rows) < 5
    assert len(pd.read_csv(tmp_path / "stats.csv")) == len(rows)


def test_train_length_0_evaluates_only() -> None:
    made = make_toy({"test": SPLITS["test"]}, train_length=0, eval_at_end=["test"], averaging="poly")
    before = made.model.weight.clone()
    rows, end = train_toy(made)
    assert (len(rows), end) == (1, "completed")
    assert (rows[0]["epoch"], rows[0]["step"], rows[0]["train/loss"]) == (0, 0, None)
    assert rows[0]["test/last/loss"] == rows[0]["test/av/loss"] > 0
    assert torch.equal(made.model.weight, before)


def test_evaluation_batches_do_not_change_the_result() -> None:
    losses = [train_toy(make_toy(eval_batch_size=size))[0][-1]["test/last/loss"] for size in (None, 1, 1000)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_superseded_run_stops_at_its_next_row(tmp_path: Path) -> None:
    class Fenced(Exception):
        pass

    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:  # two at the start and one row
            raise Fenced

    with pytest.raises(Fenced):
        train_toy(make_toy(), str(tmp_path), check)
    assert len(pd.read_csv(tmp_path / "stats.csv")) == 1


def test_caller_may_stop_iterating(tmp_path: Path) -> None:
    stream = run_epochs(make_toy(train_length=100), str(tmp_path), lambda: None)
    row, model, end = next(stream)
    assert (row["epoch"], end, model.training) == (1, None, False)
    stream.close()
    assert len(pd.read_csv(tmp_path / "stats.csv")) == 1


def test_long_epochs_and_evaluations_log_progress(tmp_path: Path) -> None:
    train_toy(make_toy(log_interval=1e-9, batch_size=1), str(tmp_path))
    log = (tmp_path / "training.log").read_text()
    assert "epoch 1:  50 % (30 of 60)" in log
    assert "evaluating test/last:  50 % (20 of 40)" in log
    train_toy(make_toy(log_interval=0, batch_size=1), str(tmp_path))
    assert (tmp_path / "training.log").read_text().count(" %") == log.count(" %")


def test_nan_after_the_last_step_is_divergence(tmp_path: Path) -> None:
    rows, end = train_toy(make_toy(SPLITS, train_length=1, train_length_unit="step", base_lr=3e38), str(tmp_path))
    assert math.isfinite(rows[0]["train/loss"])  # that before the step
    assert (end, math.isnan(rows[0]["val/last/loss"])) == ("diverged", True)
    (tmp_path / "early").mkdir()
    rows, end = train_toy(make_toy(SPLITS, train_length=8, base_lr=0.1, max_allowed_loss=math.inf),
                          str(tmp_path / "early"))
    assert (len(rows), end) == (8, "completed")


@pytest.mark.parametrize("options", [
    {"batch_size": 59}, {"batch_size": 16, "grad_accum_steps": 16},
    {"batch_size": 59, "train_length": 1, "train_length_unit": "step", "averaging": "ema",
     "recompute_batch_norm": True}])
def test_a_micro_batch_of_one_under_batch_norm_is_a_user_error(options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(ConfigError, match="batch_size: a step would have a single sample, for which batch norm"):
        train_toy(make_toy(SPLITS, model=model, **options), check=_must_not_start)


def _must_not_start() -> None:
    raise AssertionError("a file is written before the batches are checked")


def test_nan_is_recorded_as_such(tmp_path: Path) -> None:
    splits = {"train": toy_classes(), "test": toy_classes(40)}
    splits["train"].x[3] = math.nan
    rows, end = train_toy(make_toy(splits, train_length=5), str(tmp_path))
    assert (len(rows), end) == (1, "diverged")
    assert math.isnan(rows[0]["train/loss"])


BEST_AT_END = {"eval_at_end": ["test"], "train_length": 8, "base_lr": 3.0, "momentum": 0.0, "averaging": "poly",
               "best_checkpoint_metric": "val/.*/accuracy"}


@pytest.mark.parametrize("options", [{"early_stopping_patience": 2}, {"save_best_checkpoint": True},
                                     {"early_stopping_patience": 8}])
def test_best_checkpoint_is_evaluated_at_the_end(options: dict[str, Any], tmp_path: Path) -> None:
    rows, _ = train_toy(make_toy(SPLITS, **BEST_AT_END, **options), str(tmp_path))
    saved = checkpoint.load(str(tmp_path / "best_checkpoint.pt"))
    weights = saved["averaged"] if saved["judgement"]["weights"] == "av" else saved["model"]
    output = nn.functional.linear(SPLITS["test"].x, weights["weight"], weights["bias"])
    accuracy = (output.argmax(1) == SPLITS["test"].y).double().mean().item()
    assert rows[-1]["test/best/accuracy"] == accuracy
    assert rows[-1]["test/best/loss"] == pytest.approx(nn.functional.cross_entropy(output, SPLITS["test"].y).item())
    assert all(row["test/best/accuracy"] is None for row in rows[:-1])
    assert "val/best/accuracy" not in rows[0]
    if len(rows) > saved["epoch"]:  # the last epoch has other weights
        assert rows[-1]["test/best/loss"] != rows[-1][f"test/{saved['judgement']['weights']}/loss"]


def test_training_ends_with_its_last_weights_after_evaluating_the_best(tmp_path: Path) -> None:
    options = {**BEST_AT_END, "early_stopping_patience": 2, "save_freq": 1}
    results = list(run_epochs(make_toy(SPLITS, **options), str(tmp_path), lambda: None))
    row, model, _ = results[-1]
    assert row["epoch"] > checkpoint.load(str(tmp_path / "best_checkpoint.pt"))["epoch"]
    last = checkpoint.load(str(tmp_path / f"checkpoint-{row['epoch']:05d}.pt"))["model"]
    torch.testing.assert_close(dict(model.state_dict()), dict(last), rtol=0, atol=0)


def test_without_a_best_checkpoint_there_are_no_columns_for_it(tmp_path: Path) -> None:
    for options in ({}, {"early_stopping_patience": 2}):  # the second one without a folder
        rows, _ = train_toy(make_toy(SPLITS, **{**BEST_AT_END, **options}), None if options else str(tmp_path))
        assert not any("/best/" in name for name in rows[0])
    rows, _ = train_toy(make_toy(SPLITS, early_stopping_patience=2, best_checkpoint_metric="val/.*/loss"),
                        str(tmp_path))
    assert not any("/best/" in name for name in rows[0])


def test_job_spec_decides_the_direction_of_the_best_epoch(tmp_path: Path) -> None:
    """Also in the folder of a canary. Without a goal, the direction of a metric of that name is an error."""
    options = {"metrics": ["tests.training.tasks:second"], "save_best_checkpoint": True, "train_length": 6,
               "base_lr": 3.0, "best_checkpoint_metric": "val/last/second"}
    with pytest.raises(ConfigError, match="not known for val/last/second"):
        train_toy(make_toy(SPLITS, **options), str(tmp_path))
    for goal, best, name in (("minimize", min, "000_x"), ("maximize", max, "canary/x")):
        (tmp_path / "job.yaml").write_text(f"job_details: {{name: x, metric: {{name: second, goal: {goal}}}}}\n"
                                           "parameters: {}\n")
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rows, _ = train_toy(make_toy(SPLITS, **options), str(folder))
        judgement = checkpoint.load(str(folder / "best_checkpoint.pt"))["judgement"]
        assert judgement["value"] == best(row["val/last/second"] for row in rows)
        assert judgement["goal"] == goal


def test_overlapping_splits_cause_a_warning(tmp_path: Path) -> None:
    from src.config import Config
    from train import experiment_generator

    def log(**splits: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        config = Config.from_dict({"dataset": "sklearn/iris", "data_splits_map": splits, "train_length": 1,
                                   "output_dir": str(folder), "eval_datasets": {"again": "sklearn/iris@train[:20]"}})
        list(experiment_generator(config))
        return (folder / "training.log").read_text()

    text = log(train="train[:100]", val="train[90:]", test="train[100:]")
    for line in ("train and val share 10 ", "val and test share 50 ", "train and again share 20 "):
        assert f"splits {line}samples, so that" in text
    assert "train and test" not in text
    assert "share" not in log(train="train[20:100]", train_part="train[20:50]", val="train[100:]")
