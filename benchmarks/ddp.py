"""Two processes on two cores that train tiny/resnet_18 together, compared with one process on one core."""
from __future__ import annotations

import csv
import os
import tempfile
from pathlib import Path
from typing import Any

from src.config import Config
from src.submission.job import multi_gpu
from train import train_in_process

STEPS, TURNS = 3, 3
SPEC: dict[str, Any] = {
    "dataset": "benchmarks.ddp:images", "data_splits_map": {"train": "train"}, "model": "tiny/resnet_18",
    "batch_size": 64, "steps_per_epoch": STEPS, "train_length": 2, "base_lr": 0.01, "device": "cpu", "seed_model": 0,
    "seed_training": 0, "log_interval": 0}


def images(_config: Config) -> Any:
    """Return noise with the shape of CIFAR-10."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return {"train": (torch.randn(4 * STEPS * 64, 3, 32, 32, generator=generator), torch.arange(4 * STEPS * 64) % 10)}


def measure() -> list[tuple[str, float, float | None]]:
    """Return (label, ratio of seconds per sample, limit). The variants take turns; the best turn of each counts."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME")}
    os.environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    try:
        turns = [(_rate(1), _rate(2, sync_batch_norm=False), _rate(2)) for _ in range(TURNS)]
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    one, two, synchronized = (max(rates) for rates in zip(*turns, strict=True))  # other processes only slow it down
    return [(f"time per sample, two processes / one ({one:.3g} samples per second), `sync_batch_norm: false`",
             one / two, 1 / 1.6),
            ("the same with statistics of the whole batch, which synchronizes 40 times per step",
             one / synchronized, None)]


def _rate(processes: int, **settings: Any) -> float:
    """Return the samples per second of all processes together, in the second epoch."""
    with tempfile.TemporaryDirectory() as folder:
        multi_gpu.run(processes, train_in_process, (Config.from_dict({**SPEC, **settings}), folder, _nobody))
        with open(Path(folder) / "stats.csv", newline="") as file:
            return float([*csv.DictReader(file)][-1]["train/examples_per_second"])


def _nobody() -> None:
    """Do nothing: no other process claims the run."""
