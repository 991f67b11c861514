from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from src import run_folder
from src.config import Config
from src.errors import ConfigError
from src.optimizers.fused import SGD
from src.training.components import build
from src.training.experiment import run_epochs
from src.training.steps.meters import Meter
from src.training.steps.task import Supervised
from tests.training.toys import CPU, toy_classes
from train import train

DIGITS = {"dataset": "sklearn/digits", "data_splits_map": {"train": "train[:80%]", "val": "train[80%:]"},
          "model": "linear", "batch_size": 50, "seed_model": 1, "seed_training": 2, "train_length": 2}
OWN = "tests.training.tasks:"


def _stats(folder: Path, **options: Any) -> pd.DataFrame:
    folder.mkdir(exist_ok=True)
    train({**DIGITS, "data_dir": str(folder), **options}, str(folder), lambda: None)
    return pd.read_csv(folder / run_folder.STATS)


def test_autoencoder_learns(tmp_path: Path) -> None:
    stats = _stats(tmp_path, task=f"{OWN}Autoencoder", optim_alg="adam", base_lr=5e-3, averaging="ema_0.9",
                   save_best_checkpoint=True, best_checkpoint_metric="val/av/error", train_length=8)
    assert [column for column in stats if column.startswith("val/av/")] == [
        f"val/av/{name}" for name in ("loss", "error", "time", "data_time")]
    assert "train/error" in stats and "train/accuracy" not in stats
    assert stats["val/last/loss"].iloc[-1] < 0.6 * stats["val/last/loss"].iloc[0]
    assert (tmp_path / run_folder.BEST_CHECKPOINT).exists()


def test_a_gan_learns_where_the_samples_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ring").write_text("".join(f"{i % 2} 1:{3 + math.cos(i):.4f} 2:{3 + math.sin(i):.4f}\n"
                                           for i in range(600)))
    spec = {"dataset": "libsvm/ring", "data_dir": str(tmp_path), "task": f"{OWN}Gan", "batch_size": 60,
            "data_splits_map": {"train": "train"}, "train_length": 25, "data_download": False}
    parts = build(Config.from_dict({**DIGITS, **spec}), None)
    rows = [row for row, _, _ in run_epochs(parts, None, lambda: None)]
    made = parts.model["generator"](torch.randn(500, 4))
    assert torch.linalg.vector_norm(made.mean(0) - 3) < 1
    assert [group["lr"] for optimizer in parts.optimizers for group in optimizer.param_groups] == [1e-2, 2e-2]
    assert rows[-1]["train/generator_loss"] > 0


def test_rates_of_user_optimizers_follow_the_schedule(tmp_path: Path) -> None:
    parts = build(Config.from_dict({**DIGITS, "data_dir": str(tmp_path), "task": f"{OWN}Gan", "lr_schedule": "poly_1",
                                    "model_input_shape": None, "train_length": 4, "train_length_unit": "step"}), None)
    parts.task.training_step = lambda model, batch, step: {"loss": 0.0, "generator_loss": 0.0}
    parts.task.evaluation_step = lambda model, batch: {"loss": 0.0, "generator_loss": 0.0}
    list(run_epochs(parts, None, lambda: None))
    assert [group["lr"] for optimizer in parts.optimizers for group in optimizer.param_groups] == [
        pytest.approx(1e-2 / 4), pytest.approx(2e-2 / 4)]


def test_sharpness_aware_steps_of_the_config_s_optimizer_and_model(tmp_path: Path) -> None:
    stats = _stats(tmp_path, task=f"{OWN}SharpnessAware", base_lr=0.1)
    assert stats["val/last/accuracy"].iloc[-1] > 0.85


def test_task_is_reproducible(tmp_path: Path) -> None:
    first = _stats(tmp_path / "a", task=f"{OWN}SharpnessAware")
    again = _stats(tmp_path / "b", task=f"{OWN}SharpnessAware")
    assert first["val/last/loss"].tolist() == again["val/last/loss"].tolist()


@pytest.mark.parametrize(("options", "message"), [
    ({"task": f"{OWN}Silent"}, "a step returned loss, error; allowed: loss, error, sharpness"),
    ({"task": f"{OWN}Lossless"}, "the metrics of .* are error; .*including loss"),
    ({"task": f"{OWN}focal"}, "is not a task"),
    ({"task": f"{OWN}Gan", "precision": "bf16"}, "makes its own steps"),
    ({"task": f"{OWN}Gan", "grad_accum_steps": 2}, "makes its own steps"),
    ({"task": "Gan"}, "Gan"),
    ({"task": f"{OWN}Gann"}, f"did you mean '{OWN}Gan'"),
    ({"loss": f"{OWN}focl"}, f"did you mean '{OWN}focal'"),
    ({"loss": "torch/L1los"}, "did you mean 'torch/L1Loss'"),
    ({"targets": "labels"}, "allowed: classes, numbers")])
def test_invalid_tasks_are_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _stats(tmp_path, **options)


def test_losses_by_name(tmp_path: Path) -> None:
    assert _stats(tmp_path / "own", loss=f"{OWN}focal", base_lr=0.5)["val/last/accuracy"].iloc[-1] > 0.8
    log = _stats(tmp_path / "log", base_lr=0.1)
    torch_s = _stats(tmp_path / "torch", base_lr=0.1, loss="torch/CrossEntropyLoss")
    assert torch_s["val/last/loss"].tolist() == log["val/last/loss"].tolist()
    numbers = _stats(tmp_path / "l1", dataset="sklearn/diabetes", loss="torch/L1Loss", base_lr=1.0)
    assert "val/last/mae" in numbers
    assert numbers["val/last/loss"].tolist() == pytest.approx(numbers["val/last/mae"].tolist())
    classes_as_numbers = _stats(tmp_path / "n", loss=f"{OWN}squares", targets="numbers", base_lr=0.01)
    assert "val/last/r2" in classes_as_numbers


def test_loss_scaling_keeps_steps_and_skips_overflows() -> None:
    split = toy_classes(32)
    model = torch.nn.Linear(5, 3)
    plain, scaled = copy.deepcopy(model), copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for mine, scale in ((plain, None), (scaled, scaler)):
        steps = Supervised(mine, F.cross_entropy, SGD([{"params": mine.parameters()}], 0.1, momentum=0.9), 10, scale)
        for step in range(3):
            steps.train((split.x, split.y), step, Meter("classification", CPU))
    torch.testing.assert_close(scaled.state_dict(), plain.state_dict())
    before = copy.deepcopy(scaled.state_dict())
    steps.train((torch.full_like(split.x, math.inf), split.y), 3, Meter("classification", CPU))
    assert all(torch.equal(scaled.state_dict()[name], value) for name, value in before.items())
    assert scaler.get_scale() < 2.0**10
