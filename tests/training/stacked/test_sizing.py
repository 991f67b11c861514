"""How many runs train at once: refusals, requests, measurements, and stacks that do not fit the memory."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import train
from src.config import Config
from src.training.stacked import launch, sizing
from src.training.stacked.stack import Stack

SPEC = {"dataset": "sklearn/iris", "data_splits_map": {"train": "train[:80%]", "val": "train[80%:]"},
        "model": "linear", "train_length": 2, "batch_size": 16, "device": "cpu", "seed_model": 0, "seed_training": 0}


@dataclass
class ClaimedRun:
    spec: dict[str, Any]
    folder: str

    def check(self) -> None:
        pass


class Noisy(nn.Module):
    """A user's model that draws random numbers."""

    def __init__(self, input_shape: tuple[int, ...], output_dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(input_shape[0], output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.dropout(x, 0.5, self.training))


class Branching(Noisy):
    """A user's model whose control flow depends on its parameters."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x if self.head.bias.sum() > 0 else -x)


def specs(count: int, **options: Any) -> list[dict[str, Any]]:
    return [{**SPEC, "base_lr": 0.01 * (1 + index), **options} for index in range(count)]


def claimed_runs(tmp_path: Path, count: int, **options: Any) -> list[ClaimedRun]:
    runs = [ClaimedRun(spec, str(tmp_path / str(index))) for index, spec in enumerate(specs(count, **options))]
    for run in runs:
        Path(run.folder).mkdir()
    return runs


def fake_times(monkeypatch: pytest.MonkeyPatch, single: float, per_run: dict[int, float]) -> None:
    """Replace the measurements: seconds of a step of a single run, and of each run of a stack by its size."""
    monkeypatch.setattr(sizing, "_time_single", lambda config: single)
    monkeypatch.setattr(sizing, "_time_stack", lambda configs: per_run[len(configs)] * len(configs))


@pytest.mark.parametrize(("per_run", "expected"), [
    ({4: 0.5, 16: 0.2, 20: 0.1}, (20, "10.0 times as fast as single runs")),
    ({4: 0.1, 16: 0.11, 20: 0.105}, (20, "9.5 times as fast as single runs")),
    ({4: 0.5, 16: 0.8, 20: 0.1}, (4, "2.0 times as fast as single runs")),
    ({4: 1.5}, (1, "single runs are as fast")), ({4: 0.97, 16: 0.98, 20: 0.99}, (1, "single runs are as fast"))])
def test_fastest_size_is_chosen(monkeypatch: pytest.MonkeyPatch, per_run: dict[int, float],
                                expected: tuple[int, str]) -> None:
    fake_times(monkeypatch, 1.0, per_run)
    assert train.choose_stack(specs(20), None) == expected


def test_size_that_does_not_fit_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def time_stack(configs: list[Config]) -> float:
        if len(configs) > 4:
            raise torch.OutOfMemoryError
        return 1.0
    monkeypatch.setattr(sizing, "_time_single", lambda config: 1.0)
    monkeypatch.setattr(sizing, "_time_stack", time_stack)
    assert train.choose_stack(specs(20), None)[0] == 4


def test_size_beyond_the_memory_of_the_machine_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([0.0, 4e9, 4e9, 20e9])
    fake_times(monkeypatch, 1.0, {4: 0.5, 16: 0.2})
    monkeypatch.setattr(sizing, "_peak_memory", lambda: next(peaks))
    monkeypatch.setattr(sizing.machine, "available_memory", lambda: 10e9)
    assert train.choose_stack(specs(64), None)[0] == 4


def test_measurement_of_real_steps_returns_a_size_and_the_reason() -> None:
    size, reason = train.choose_stack(specs(4), None)
    assert (size, reason) == (1, "single runs are as fast") or size == 4 and "times as fast" in reason


def test_requested_size_is_taken_without_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_times(monkeypatch, 1.0, {})
    assert train.choose_stack(specs(5), 3) == (3, "as requested")
    assert train.choose_stack(specs(5), 30)[0] == 5


@pytest.mark.parametrize(("options", "reason"), [
    ({"model": "tests.training.stacked.test_sizing:Noisy"}, "torch.func cannot compute this model: "),
    ({"model": "tests.training.stacked.test_sizing:Branching"}, "torch.func cannot compute this model: ")])
def test_model_that_cannot_be_stacked_is_refused(options: dict[str, Any], reason: str) -> None:
    size, why = train.choose_stack(specs(3, **options), 3)
    assert size == 1
    assert why.startswith(reason)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "count_processes", lambda config: 2)
    assert train.choose_stack(specs(3), 3) == (1, "several processes train each run")


def test_runs_of_a_stack_share_their_data(tmp_path: Path) -> None:
    first, second = (launch.build_run(Config.from_dict(spec), None) for spec in specs(2))
    other = launch.build_run(Config.from_dict({**SPEC, "seed_split": 1}), None)
    assert first.data is second.data
    assert other.data is not first.data


@pytest.mark.parametrize("largest", [4, 2, 1])
def test_out_of_memory_halves_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
                                        ) -> None:
    original = Stack.train

    def limited(self: Stack, *arguments: Any) -> Any:
        if len(self._runs) > largest:
            raise torch.OutOfMemoryError
        return original(self, *arguments)
    monkeypatch.setattr(Stack, "train", limited)
    outcomes = dict(train.train_stack(claimed_runs(tmp_path, 8)))
    assert set(outcomes.values()) <= {"completed"}
    assert len(outcomes) == (8 if largest > 1 else 0)


def test_spec_that_is_wrong_ends_its_own_run_alone(tmp_path: Path) -> None:
    runs = claimed_runs(tmp_path, 3)
    runs[1].spec["batch_size"] = 0
    outcomes = dict(train.train_stack(runs))
    assert isinstance(outcomes[1], Exception)
    assert outcomes[0] == outcomes[2] == "completed"
