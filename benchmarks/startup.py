"""Start-up: a dry run and `status` compared with `import yaml`, train.py compared with `import torch`."""
from __future__ import annotations

import os
import pty
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.terminal import live_batch

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
        status = [sys.executable, "experiments.py", "status", str(live_batch.make(folder, 12))]
        return [
            _row("dry run of 108 points", dry, "import yaml", 2.4, turns=15),
            _row("status of 12 runs", status, "import yaml", 2.8, turns=15),
            _modules_row("status of 12 runs on a terminal", status, "import yaml", 2.5),
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


def _modules_row(label: str, command: list[str], bare: str, limit: float) -> tuple[str, float, float | None]:
    """Compare numbers of modules, which do not depend on the load of the machine."""
    theirs = _modules([sys.executable, "-c", bare])
    return f'modules imported by {label} / by `python -c "{bare}"` ({theirs})', _modules(command) / theirs, limit


def _modules(command: list[str]) -> int:
    """Return how many modules a Python command imports whose standard output is a terminal."""
    master, slave = pty.openpty()  # holds the few lines that are printed
    answer = subprocess.run([command[0], "-X", "importtime", *command[1:]], check=True, stdout=slave, text=True,
                            stderr=subprocess.PIPE, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    os.close(master)
    return sum(line.startswith("import time:") for line in answer.stderr.splitlines()) - 1  # one is the title


def _seconds(command: list[str]) -> float:
    """Return the wall time of a command, with cached byte code."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start
