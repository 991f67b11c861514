"""Expanding, checking, naming, rendering and writing a grid, compared with one mkdir and one small write per run."""
from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from src.config import check_parameters
from src.submission.batch import batch_folder
from src.submission.spec.grid import Grid, expand_parameters, spec_texts
from src.submission.spec.naming import run_names
from src.submission.spec.reader import parse_job_spec

JOB_SPEC = """
job_details:
  name: benchmark
parameters:
  dataset: libsvm/covtype.multiclass
  data_splits_map: {{train: train, traineval: train}}
  model: linear
  model_head_init: zero
  batch_size: [8, 32, 128, 512, 2048]
  LIST:
    - base_lr: 2.0 ** np.arange(-6, 4)
      momentum: 0
    - base_lr: "[float(x)/10 for x in 2.0 ** np.arange(-6, 4)]"
      momentum: 0.9
  averaging: [null, poly_8]
  weight_decay: [0, 1e-4, 1e-3, 1e-2, 0.1]
  samples_per_epoch: 81_920
  train_length: 20
  lr_schedule: constant
  optim_alg: sgd
  loss: log
  eval_batch_size: 10_000
  num_workers: 2
  seed_training: range({repeats})
"""  # 18 keys, 1,000 points per repeat


def measure(sizes: tuple[int, ...] = (1_000, 10_000, 100_000)) -> list[tuple[str, float, float | None]]:
    """Return (label, value, limit): ratios for grids of `sizes` points, their growth and memory.

    Each size runs in a separate process, with its files on a RAM-backed file system if there is one.
    """
    rows: list[tuple[str, float, float | None]] = []
    totals: dict[int, float] = {}
    for size in sizes:
        command = [sys.executable, "-m", "benchmarks.grid", str(size)]
        stages = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        bare, memory = stages.pop("bare"), stages.pop("memory")
        totals[size] = sum(stages.values())
        shown = ", ".join(f"{stage} {1e6 * seconds / size:.1f}" for stage, seconds in stages.items())
        rows.append((f"write a grid of {size:,} / bare mkdir and write, {1e6 * bare / size:.1f} us per run ({shown})",
                     totals[size] / bare, 2.4))
    small, large = min(sizes), max(sizes)
    if small < large:
        growth = math.log(totals[large] / totals[small]) / math.log(large / small)
        rows.append((f"exponent of the growth from {small:,} to {large:,} runs", growth, 1.05))
    rows.append((f"memory for {large:,} runs beyond start-up, in MiB", memory, 100.0))
    return rows


def stages(size: int, root: str) -> dict[str, float]:
    """Return the seconds of each stage of a grid of `size` points under `root`, and its memory in MiB."""
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        seconds[stage] = time.perf_counter() - start
        return result

    before = _peak_memory()
    text = JOB_SPEC.format(repeats=size // 1_000)
    grid: Grid = timed("expand and check", lambda: expand_parameters(
        parse_job_spec(text, "benchmark").parameters, "benchmark", check=check_parameters))
    names = timed("name", lambda: run_names("benchmark", grid.specs, grid.varying))
    timed("render and write", lambda: batch_folder.create(f"{root}/batch", text, names, spec_texts(grid.specs)))
    seconds["memory"] = _peak_memory() - before
    timed("bare", lambda: _bare(f"{root}/bare", len(names)))
    return seconds


def _bare(root: str, count: int) -> None:
    os.mkdir(root)
    data = b"x" * 500
    for index in range(count):
        folder = f"{root}/{index}"
        os.mkdir(folder)
        descriptor = os.open(f"{folder}/spec.yaml", os.O_WRONLY | os.O_CREAT, 0o666)
        os.write(descriptor, data)
        os.close(descriptor)


def _peak_memory() -> float:
    """Return MiB. Unlike ru_maxrss, this excludes the process before exec."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


def main(size: int) -> None:
    """Print the stages of one grid as JSON: the best of three, except for the largest grid."""
    best: dict[str, float] = {}
    for _ in range(3 if size < 100_000 else 1):
        root = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        try:
            result = stages(size, root)
        finally:
            shutil.rmtree(root)
        best = {stage: max(value, best[stage]) if stage == "memory" else min(value, best[stage])
                for stage, value in result.items()} if best else result
    print(json.dumps(best))


if __name__ == "__main__":
    main(int(sys.argv[1]))
