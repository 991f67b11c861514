"""Limits, a run of one batch, a few batches, the profile, and what the log says of bottlenecks and lacking memory."""
from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from src import run_folder
from src.config import Config
from src.datasets.data import Batch
from src.errors import ConfigError
from src.training.output.log import bottleneck_message
from src.training.setup.length import limit_batches
from src.training.setup.out_of_memory import suggestions
from src.training.steps.overfit_subset import OverfitSubset, overfit_subset
from tests.training.toys import make_toy, toy_classes, train_toy

SPLITS = {"train": toy_classes(60), "val": toy_classes(40, seed=2), "test": toy_classes(40, seed=1)}


@given(st.integers(1, 1000), st.integers(1, 2000), st.floats(0.001, 1.0))
def test_limits_are_numbers_or_fractions(batches: int, count: int, share: float) -> None:
    assert limit_batches(batches, None) == limit_batches(batches, 1.0) == batches
    assert limit_batches(batches, count) == min(batches, count)
    assert 1 <= limit_batches(batches, share) <= batches
    assert limit_batches(batches, share) >= batches * share - 1e-6


def test_limits_1_and_1_0_differ() -> None:
    kinds = [type(Config.from_dict({"limit_train_batches": value}).limit_train_batches) for value in (1, 1.0)]
    assert kinds == [int, float]
    for value in (0, 1.5, 0.0, -1, True):
        with pytest.raises(ConfigError, match="limit_eval_batches"):
            Config.from_dict({"limit_eval_batches": value})


@pytest.mark.parametrize(("limit", "steps"), [(2, 2), (0.5, 2), (1.0, 4), (100, 4), (1, 1)])
def test_limited_epochs(limit: float, steps: int) -> None:
    rows, _ = train_toy(make_toy(SPLITS, limit_train_batches=limit, limit_eval_batches=limit))
    assert [row["step"] for row in rows] == [steps, 2 * steps, 3 * steps]
    shown = min(40, 16 * limit_batches(3, limit))
    assert (rows[0]["val/last/accuracy"] * shown) % 1 == pytest.approx(0, abs=1e-6)
    assert len({row["val/last/loss"] for row in rows}) == 3


def test_fast_dev_run_takes_one_step_and_writes_all_files(tmp_path: Path) -> None:
    rows, end = train_toy(make_toy(SPLITS, fast_dev_run=True, train_length=50, save_freq=10, averaging="poly",
                            eval_at_end=["test"], save_best_checkpoint=True, lr_schedule="step_10,20_0.1",
                            best_checkpoint_metric="val/.*/accuracy"), str(tmp_path))
    assert (len(rows), end, rows[0]["step"], rows[0]["train/seen_examples"]) == (1, "completed", 1, 16)
    assert all(value is not None for value in rows[0].values())
    assert {"checkpoint-00001.pt", "best_checkpoint.pt", "stats.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_overfit_subset_is_learned_perfectly() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 3))
    random = {"train": toy_classes(200), "test": toy_classes(40, seed=1)}
    random["train"].y[:] = torch.randint(3, (200,))  # no rule: only memorizing helps
    rows, _ = train_toy(make_toy(random, model=model, overfit_batches=2, train_length=150, eval_at_end=["train"]))
    assert rows[-1]["step"] == 2 * 150
    assert rows[-1]["train/accuracy"] == rows[-1]["train/last/accuracy"] == 1


class _Read:
    """A split that is read while it is used."""

    def __init__(self, samples: int) -> None:
        self.x = torch.arange(float(samples))[:, None]

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> _Read:
        return self

    def batches(self, batch_size: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        assert order is not None
        for rows in order.split(batch_size):
            yield self.x[rows], rows % 3


def test_overfit_subset_of_a_lazy_split() -> None:
    chosen = overfit_subset(_Read(100), 7, seed=3)
    assert isinstance(chosen, OverfitSubset) and len(chosen) == 7
    passes = [torch.cat([x for x, _ in chosen.batches(4, order, 0)])[:, 0] for order in (
        torch.arange(7), torch.randperm(7))]
    assert passes[0].tolist() == passes[1].sort().values.tolist() == chosen.rows.tolist()
    assert len(set(passes[0].tolist())) == 7
    whole = _Read(5)
    assert overfit_subset(whole, 7, seed=3) is whole


@pytest.mark.parametrize("own", [False, True])
def test_profile_is_written(tmp_path: Path, own: bool) -> None:
    made = make_toy(SPLITS, profile=True, train_length=8)
    if own:
        from tests.training.tasks import SharpnessAware

        task = SharpnessAware(made.config, made.data, made.device)
        task.optimizers = made.optimizers
        made = type(made)(**{**vars(made), "task": task})
    rows, _ = train_toy(made, str(tmp_path))
    plain = train_toy(make_toy(SPLITS, train_length=8))[0]
    assert own or [row["val/last/loss"] for row in rows] == [row["val/last/loss"] for row in plain]
    table = [line.split() for line in (tmp_path / run_folder.PROFILE).read_text().splitlines()]
    names = ["data", "training", "evaluation"] if own else ["data", "forward", "backward", "step", "evaluation"]
    assert [line[0] for line in table] == [*names, "logging", "tracing", "rest", "all"]
    seconds = [float(line[-4]) for line in table]
    assert sum(seconds[:-1]) == pytest.approx(seconds[-1], abs=0.01)
    with gzip.open(tmp_path / run_folder.TRACE) as file:
        events = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"training step"} <= events if own else {"forward", "backward", "step"} <= events
    assert "evaluation" in (tmp_path / run_folder.LOG).read_text()


ROW = {"train/time": 10.0, "train/data_time": 1.0, "train/examples_per_second": 1234.5}


def test_bottleneck_message_has_remedies() -> None:
    config = Config(num_workers=3, batch_size=64).to_dict()
    told = bottleneck_message({**ROW, "train/data_time": 6.2}, config, False, "cuda:0")
    assert told == ("the data is the bottleneck: 62% of the training waits for it (1234 examples a second); try "
                    "num_workers above 3, data_on_device: true, if they are images that fit, a batch_size above 64")
    told = bottleneck_message(ROW, config, False, "cuda:0") or ""
    assert told.startswith("the model is the bottleneck: 10%") and "precision: bf16" in told
    assert "bf16" not in (bottleneck_message(ROW, config, True, "cpu") or "")
    assert "num_workers" not in (bottleneck_message({**ROW, "train/data_time": 9}, config, True, "cpu") or "")
    assert bottleneck_message({**ROW, "train/time": 0.5}, config, True, "cpu") is None


class _Hungry(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 …")


@pytest.mark.parametrize(("options", "expected"), [
    ({}, "precision: bf16"), ({"precision": "bf16"}, "grad_checkpointing: true"),
    ({"precision": "bf16", "grad_checkpointing": True}, "a smaller model")])
def test_remedies_for_lack_of_memory(options: dict[str, Any], expected: str) -> None:
    assert f" {expected}," in suggestions(Config.from_dict({"model": "tiny/resnet_18", **options}))


@pytest.mark.parametrize(("options", "expected"), [
    ({}, ["batch_size: cpu is out of memory with 16 samples per step;", "grad_accum_steps: 2", "precision: bf16",
          "eval_batch_size: 8", "experiments.py probe"]),
    ({"precision": "bf16", "grad_accum_steps": 8}, ["in 8 micro-batches", "grad_accum_steps: 16", "a smaller model"])])
def test_lack_of_memory_is_one_line(options: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        train_toy(make_toy(model=_Hungry(5, 3), **options))
    for text in expected:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)
