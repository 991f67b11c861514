"""`python train.py` of a short linear run, from start to exit, against `python -c "import torch"`."""
from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from src import yaml_io

ROOT = Path(__file__).parents[1]


def measure(turns: int = 5) -> list[tuple[str, float, float | None]]:
    """(what, ratio, the most it may be): a run of 108 like it, 81,920 samples an epoch for 20 epochs of 8 steps."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder, "linear.yaml")
        spec.write_text(yaml_io.dump_flat(_spec(folder)))
        pairs = [(_seconds(str(ROOT / "train.py"), str(spec)), _seconds("-c", "import torch"))
                 for _ in range(turns + 1)][1:]  # the first fills the caches
    train, bare = (statistics.median(side) for side in zip(*pairs, strict=True))
    return [(f"python train.py of a linear run / import torch ({bare:.2f} s)", train / bare, 2.5)]


def _spec(folder: str) -> dict[str, object]:
    rng = random.Random(0)
    lines = [f"{rng.randrange(1, 8)} " + " ".join(f"{index}:{rng.random():.4f}" for index in range(1, 55))
             for _ in range(10_000)]
    Path(folder, "toy").write_text("\n".join(lines) + "\n")
    return {"dataset": "libsvm/toy", "data_dir": folder, "data_splits_map": {"train": "train", "traineval": "train"},
            "model": "linear", "batch_size": 8192, "samples_per_epoch": 81_920, "train_length": 20, "base_lr": 0.1,
            "averaging": "poly_8", "eval_batch_size": 10_000}


def _seconds(*arguments: str) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    for name, value, most in measure():
        print(f"{name:<70} {value:6.3f}   at most {most:.3f}")
