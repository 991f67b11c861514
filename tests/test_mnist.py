"""Training on real images, 8,000 of MNIST to learn from and 2,000 held out: about a minute on two cores."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from src.config import Config
from src.training.components import build
from src.training.experiment import run_epochs

SPEC: dict[str, Any] = {
    "dataset": "tests.mnist:make_dataset", "data_splits_map": {"train": "test[:80%]", "test": "test[80%:]"},
    "data_on_device": True, "model": "tiny/lenet", "batch_size": 50, "eval_batch_size": 1000, "base_lr": 0.03,
    "lr_schedule": "cosine", "train_length": 8, "seed_model": 0, "seed_training": 0, "log_interval": 0}


def accuracy(shared_data: Path, **options: Any) -> float:
    """That of the last epoch, on the images held out."""
    config = Config.from_dict({**SPEC, "data_dir": str(shared_data), **options})
    parts = build(config, None)
    assert {name: len(split) for name, split in parts.data.splits.items()} == {"train": 8000, "test": 2000}
    *_, (row, _, end) = run_epochs(parts, None, lambda: None)
    assert end == "completed"
    return row["test/last/accuracy"] or 0.0


def test_lenet_reaches_98_percent(shared_data: Path) -> None:
    assert accuracy(shared_data, crop_padding=1, train_length=10) > 0.98


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_learn_as_32_do(shared_data: Path, precision: str) -> None:
    if precision == "fp16" and not torch.cuda.is_available():
        pytest.skip("fp16 needs a CUDA device")
    device = "cuda" if precision == "fp16" else "auto"
    found = {bits: accuracy(shared_data, precision=bits, device=device, train_length=4)
             for bits in ("float32", precision)}
    assert found["float32"] > 0.97
    assert found[precision] > found["float32"] - 0.01, found  # 0.003 is one standard deviation of such an estimate


def test_timm_model_learns(shared_data: Path) -> None:
    assert accuracy(shared_data, model="timm/test_resnet", train_length=1) > 0.93
