"""Two processes on two cores, which train tiny/resnet_18 together, against one process on one core."""
from __future__ import annotations

import csv
import os
import tempfile
from pathlib import Path
from typing import Any

from src.config import Config
from src.submission.job import multi_gpu
from train import train_here

STEPS, TURNS = 3, 3
SPEC: dict[str, Any] = {
    "dataset": "benchmarks.ddp:images", "data_splits_map": {"train": "train"}, "model": "tiny/resnet_18",
    "batch_size": 64, "steps_per_epoch": STEPS, "train_length": 2, "base_lr": 0.01, "device": "cpu", "seed_model": 0,
    "seed_training": 0, "log_interval": 0}


def images(_config: Config) -> Any:
    """Noise of CIFAR-10's shape."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return {"train": (torch.randn(4 * STEPS * 64, 3, 32, 32, generator=generator), torch.arange(4 * STEPS * 64) % 10)}


def measure() -> list[tuple[str, float, float | None]]:
    """(what, ratio of seconds a sample, the most it may be). All take turns, of which the best count."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME")}
    os.environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    try:
        turns = [(_rate(1), _rate(2, sync_batch_norm=False), _rate(2)) for _ in range(TURNS)]
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    one, two, synchronised = (max(rates) for rates in zip(*turns, strict=True))  # what else runs only slows
    return [(f"a sample of two processes / of one ({one:.3g} samples a second), `sync_batch_norm: false`", one / two,
             1 / 1.6),
            ("the same with statistics of the whole batch: 40 times a step the faster one waits for the other",
             one / synchronised, None)]


def _rate(processes: int, **settings: Any) -> float:
    """Samples a second, of all processes together, in the second epoch."""
    with tempfile.TemporaryDirectory() as folder:
        multi_gpu.run(processes, train_here, ({**SPEC, **settings}, folder, _nobody))
        with open(Path(folder) / "stats.csv", newline="") as file:
            return float([*csv.DictReader(file)][-1]["train/examples_per_second"])


def _nobody() -> None:
    """Nobody takes the run over."""
