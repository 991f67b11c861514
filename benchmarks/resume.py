"""The cost of being interruptible: saving resume checkpoints, and checking for signals and newer attempts."""
from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.loop import CPU, linear_parts, random_split, rivals
from src import run_folder
from src.config import Config
from src.datasets.data import Data, Split
from src.optimizers.factory import make_optimizer
from src.submission.job.attempt import Attempt
from src.submission.system.signals import Signals
from src.training.components import TrainingComponents
from src.training.experiment import run_epochs

WIDTH, STEPS, SAVED = 3000, 60, 3  # 9 million parameters, with Adam's two averages 108 MB; number of saves
LOOKS = 2_000  # steps of a linear model that checks for signals and newer attempts


def measure() -> list[tuple[str, float, float | None]]:
    """Return (label, ratio, limit). Both sides of a ratio take turns in this process, in one thread: several threads
    would wait for each other whenever a core is busy."""
    torch.set_num_threads(1)
    split = Split(torch.randn(2000, WIDTH), torch.randint(10, (2000,)))
    saving, calm = rivals(lambda: _wide_training(split, f"{STEPS // SAVED}steps"),
                          lambda: _wide_training(split, None), turns=3)
    each = (saving - calm) / SAVED
    looking, blind = rivals(lambda: _linear_training(True), lambda: _linear_training(False), turns=25)
    return [(f"training that saves 108 MB once per minute / without saving ({1e3 * each:.0f} ms per save)",
             1 + each / 60, 1.03),
            (f"training that checks for signals and claims / without checks ({1e6 * blind / LOOKS:.0f} us per step)",
             looking / blind, 1.02)]


def _wide_training(split: Split, every: str | None) -> float:
    config = Config(batch_size=64, train_length=1, steps_per_epoch=STEPS, checkpoint_every=every, optim_alg="adamw",
                    momentum="0.9,0.999", base_lr=1e-4, seed_training=0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    parts = TrainingComponents(config, Data({"train": split}, "classification", tuple(range(10)), (WIDTH,)), model,
                  [make_optimizer(config, model)], None, CPU, [])
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for _ in run_epochs(parts, folder, lambda: None):
            pass
        return time.perf_counter() - start


def _linear_training(looks: bool) -> float:
    """Return the CPU seconds of its thread, which other processes do not affect."""
    config = Config(batch_size=8, train_length=4, steps_per_epoch=LOOKS // 4, base_lr=0.01, seed_training=0,
                    checkpoint_every="10min" if looks else None)
    parts = linear_parts(random_split(5000), config)
    with tempfile.TemporaryDirectory() as batch:
        folder = os.path.join(batch, "000_x")
        Path(folder).mkdir()
        Path(folder, run_folder.SPEC).touch()
        attempt = Attempt.begin(folder)
        assert attempt is not None
        start = time.thread_time()
        for _ in run_epochs(parts, folder, attempt.check if looks else lambda: None,
                            Signals().on_stop if looks else None):
            pass
        return time.thread_time() - start


if __name__ == "__main__":
    for label, value, limit in measure():
        print(f"{label:<100} {value:6.3f}   limit {limit:.3f}")
