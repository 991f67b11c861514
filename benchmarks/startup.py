"""Start-up time: a dry run compared with `import yaml`, train.py compared with `import torch`."""
from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# a run of linear-classifier-example, on a small data set of the same shape
SHORT_RUN = """\
dataset: libsvm/toy
data_dir: {folder}
data_splits_map: {{train: train, traineval: train}}
model: linear
base_lr: 0.1
batch_size: 8192
samples_per_epoch: 81920
train_length: 20
averaging: poly_8
eval_batch_size: 10000
output_dir: {folder}/run
"""


def measure() -> list[tuple[str, float, float | None]]:
    """Return (label, ratio, limit). Both commands of a ratio take turns."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder, "short.yaml")
        spec.write_text(SHORT_RUN.format(folder=folder))
        Path(folder, "toy").write_text(toy(10_000, 54))
        dry = [sys.executable, "submit_multiple.py", "jobs/linear-classifier-example.yaml", "-s", "submit_cpu.sh", "-d",
               "--output-dir", f"{folder}/results"]
        return [
            _row("dry run of 108 points", dry, "import yaml", 2.4, turns=15),
            _row("train.py on a short linear run", [sys.executable, "train.py", str(spec)], "import torch", 2.5,
                 turns=5, remove=f"{folder}/run"),
        ]


def toy(samples: int, features: int) -> str:
    """Return the text of a LIBSVM file of random numbers with seven classes."""
    rng = random.Random(0)
    def sample() -> str:
        values = " ".join(f"{index}:{rng.random():.4f}" for index in range(1, features + 1))
        return f"{rng.randrange(1, 8)} {values}\n"
    return "".join(sample() for _ in range(samples))


def _row(label: str, command: list[str], bare: str, limit: float, turns: int,
         remove: str | None = None) -> tuple[str, float, float | None]:
    pairs = []
    for turn in range(turns + 1):
        if remove and os.path.isdir(remove):
            os.rename(remove, f"{remove}-{turn}")
        pairs.append((_seconds(command), _seconds([sys.executable, "-c", bare])))
    ours, theirs = (statistics.median(seconds) for seconds in zip(*pairs[1:], strict=True))  # the first turn warms up
    return f'{label} / `python -c "{bare}"` ({1e3 * theirs:.0f} ms)', ours / theirs, limit


def _seconds(command: list[str]) -> float:
    """Return the wall time of a command, with cached byte code."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start
