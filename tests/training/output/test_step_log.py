"""steps.csv: its rows are means of the steps between them, whatever interrupts the run, and no step waits for them."""
from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.config import Config
from src.datasets.data import Batch
from src.errors import ConfigError
from src.training.components import TrainingComponents
from src.training.output import step_log
from src.training.output.step_log import StepLog
from tests.training.tasks import Centered
from tests.training.toys import CPU, make_toy, train_toy

# a pass of 60 samples has four steps, of 16, 16, 16 and 12 samples
Cells = dict[str, float]


def steps_of(folder: Path) -> list[Cells]:
    """The rows of steps.csv, without empty cells."""
    with open(folder / "steps.csv", encoding="utf-8", newline="") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def train(folder: Path, components: TrainingComponents | None = None, **options: Any) -> list[dict[str, Any]]:
    folder.mkdir()
    rows, _ = train_toy(components or make_toy(**options), str(folder))
    return rows


def test_default_writes_no_steps_and_steps_change_no_result(tmp_path: Path) -> None:
    plain, logged = train(tmp_path / "plain"), train(tmp_path / "logged", log_steps=1)
    assert not (tmp_path / "plain" / "steps.csv").exists()
    for row, other in zip(plain, logged, strict=True):
        assert {name: value for name, value in row.items() if not name.endswith(("time", "stamp", "second"))} == {
            name: value for name, value in other.items() if not name.endswith(("time", "stamp", "second"))}


def test_rows_agree_with_stats(tmp_path: Path) -> None:
    options = {"clip_grad_norm": 0.5, "lr_schedule": "cosine"}
    stats = train(tmp_path / "run", log_steps=1, **options)
    rows = steps_of(tmp_path / "run")
    assert [(row["step"], row["epoch"]) for row in rows] == [(step, (step + 3) // 4) for step in range(1, 13)]
    for epoch, row in enumerate(stats):
        of_epoch, samples = rows[4 * epoch:4 * epoch + 4], (16, 16, 16, 12)
        assert sum(cells["loss"] * count for cells, count in zip(of_epoch, samples, strict=True)) / 60 == pytest.approx(
            row["train/loss"], rel=1e-6)
        assert sum(cells["grad_norm"] for cells in of_epoch) / 4 == pytest.approx(row["train/grad_norm"], rel=1e-6)
        assert of_epoch[-1]["learning_rate"] == row["train/learning_rate"]
    assert all(row["examples_per_second"] > 0 and row["timestamp"] > 1e9 for row in rows)


@pytest.mark.parametrize("kept", [2, 1000])
def test_row_is_the_mean_of_the_steps_since_the_row_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                           kept: int) -> None:
    monkeypatch.setattr(step_log, "_MAX_KEPT", kept)
    train(tmp_path / "each", log_steps=1)
    train(tmp_path / "fifth", log_steps=5)
    each, rows = steps_of(tmp_path / "each"), steps_of(tmp_path / "fifth")
    assert [row["step"] for row in rows] == [5, 10]  # the first contains the end of an epoch
    samples = [16, 16, 16, 12] * 3
    for row, steps in zip(rows, (range(5), range(5, 10)), strict=True):
        total = sum(each[step]["loss"] * samples[step] for step in steps)
        assert row["loss"] == pytest.approx(total / sum(samples[step] for step in steps), rel=1e-6)
    assert "grad_norm" not in rows[0]


def test_micro_batches_are_weighted_by_samples(tmp_path: Path) -> None:
    train(tmp_path / "whole", log_steps=4)
    train(tmp_path / "parts", log_steps=4, grad_accum_steps=3)
    assert [row["loss"] for row in steps_of(tmp_path / "parts")] == pytest.approx(
        [row["loss"] for row in steps_of(tmp_path / "whole")], rel=1e-5)


def test_no_step_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing between the rows that are read together turns a tensor into a number."""
    monkeypatch.setattr(step_log, "_READ_INTERVAL", 1e9)
    monkeypatch.setattr(StepLog, "begin", _forbid_reads(monkeypatch, StepLog.begin, True))
    monkeypatch.setattr(StepLog, "flush", _forbid_reads(monkeypatch, StepLog.flush, False))
    components = make_toy(log_steps=2, clip_grad_norm=0.5, optim_alg="adamw", base_lr=0.01)
    meter_means = type(components.make_meter()).means
    monkeypatch.setattr(type(components.make_meter()), "means", _forbid_reads(monkeypatch, meter_means, False))
    train(tmp_path / "run", components)
    assert len(steps_of(tmp_path / "run")) == 6
    assert _Reads.forbidden > 2


class _Reads:
    """Whether reading a tensor is an error, and how often it became one."""

    is_forbidden, forbidden = False, 0


def _forbid_reads(monkeypatch: pytest.MonkeyPatch, function: Any, is_forbidden: bool) -> Any:
    """The function, which forbids or allows to read tensors before it is called."""
    def guard(method: Any) -> Any:
        def read(*arguments: Any, **options: Any) -> Any:
            assert not _Reads.is_forbidden, "a step reads a tensor"
            return method(*arguments, **options)
        return read

    if not _Reads.forbidden:
        for name in ("tolist", "item", "__bool__", "__float__", "__int__", "numpy"):
            monkeypatch.setattr(Tensor, name, guard(getattr(Tensor, name)))

    def wrapped(*arguments: Any, **options: Any) -> Any:
        _Reads.is_forbidden = is_forbidden
        _Reads.forbidden += is_forbidden
        return function(*arguments, **options)
    return wrapped


class Logging(Centered):
    """Logs a tensor in each step, a number from the third step on, and something in evaluations."""

    name, value = "second, half", 1.0

    def training_step(self, model: nn.Module, batch: Batch, step: int) -> Mapping[str, Tensor]:
        weight = next(model.parameters())
        self.log("weight", weight.detach().flatten()[0])
        if step >= 3:
            self.log(self.name, self.value * step)
        return super().training_step(model, batch, step)

    def evaluation_step(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        if not model.training:
            self.log("weight", 1e9)
        return super().evaluation_step(model, batch)


def with_task(kind: type[Logging] = Logging, **options: Any) -> TrainingComponents:
    components = make_toy(task="tests.training.output.test_step_log:Logging", **options)
    task = kind(components.config, components.data, CPU)
    task.optimizers = components.optimizers
    return dataclasses.replace(components, task=task)


def test_task_logs_columns_of_its_own(tmp_path: Path) -> None:
    """A tensor is logged as it was, though the optimizer changes it later; a column may begin later."""
    components = with_task(log_steps=2, train_length=2)
    first_weight = float(next(components.model.parameters()).detach().flatten()[0])
    train(tmp_path / "run", components)
    rows = steps_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert ["second, half" in row for row in rows] == [False, True, True, True]
    assert [row.get("second, half") for row in rows[1:]] == [3, 4.5, 6.5]
    assert all(abs(row["weight"] - first_weight) < 1 and row["loss"] > 0 for row in rows)
    each = tmp_path / "each"
    train(each, with_task(log_steps=1, train_length=2))
    assert steps_of(each)[0]["weight"] == pytest.approx(first_weight)
    assert rows[0]["weight"] == pytest.approx((first_weight + steps_of(each)[1]["weight"]) / 2)


def test_task_may_log_without_log_steps(tmp_path: Path) -> None:
    train(tmp_path / "run", with_task())
    assert not (tmp_path / "run" / "steps.csv").exists()


@pytest.mark.parametrize(("name", "value", "message"), [
    ("loss", 1.0, "cannot log 'loss'"), ("", 1.0, "cannot log ''"), ("a\nb", 1.0, "cannot log"),
    ("x", "much", "cannot log str as 'x'"), ("x", torch.zeros(2), "cannot log Tensor as 'x'")])
def test_task_that_logs_something_else_is_an_error(tmp_path: Path, name: str, value: Any, message: str) -> None:
    class Wrong(Logging):
        def training_step(self, model: nn.Module, batch: Batch, step: int) -> Mapping[str, Tensor]:
            self.log(name, value)
            return super().training_step(model, batch, step)

    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "run", with_task(Wrong, log_steps=1))


def test_log_steps_is_a_positive_number() -> None:
    with pytest.raises(ConfigError, match="log_steps: 0 is too small"):
        Config.from_dict({"log_steps": 0})
