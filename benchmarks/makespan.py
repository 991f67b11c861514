"""108 short runs: `--local --workers 2`, with a fork per run, compared with two warm processes."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# linear-classifier-example with a tenth of its length, on data that is included
JOB_SPEC = """\
job_details: {{name: makespan, output_dir: {folder}}}
parameters:
  dataset: sklearn/digits
  data_splits_map: {{train: train, traineval: train}}
  model: linear
  model_head_init: zero
  batch_size: [8, 32, 128, 512, 1024, 1797]
  LIST:
    - {{base_lr: '2.0 ** np.arange(-6, 3)', momentum: 0}}
    - {{base_lr: '[float(x)/10 for x in 2.0 ** np.arange(-6, 3)]', momentum: 0.9}}
  samples_per_epoch: 8_192
  train_length: 20
  averaging: poly_8
  eval_batch_size: 10_000
"""

WARM = """\
import json, os, sys
os.environ["GRIDIRON_THREADS"] = "1"
import train
for run in json.load(open(sys.argv[1])):
    os.makedirs(run["folder"])
    train.train(run["spec"], run["folder"], lambda: None)
"""


def measure() -> list[tuple[str, float, float | None]]:
    """Return (label, ratio, limit), with start-up on both sides; the better of two turns counts."""
    with tempfile.TemporaryDirectory() as folder:
        turns = [(seconds(Path(folder, f"ours-{turn}")), _warm(Path(folder, f"warm-{turn}"))) for turn in range(2)]
    ours, warm = (min(values) for values in zip(*turns, strict=True))
    return [(f"108 short runs by two local workers / two warm processes ({warm:.1f} s)", ours / warm, 1.35)]


def _submit(folder: Path, *arguments: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    spec = folder / "makespan.yaml"
    spec.write_text(JOB_SPEC.format(folder=folder))
    return [sys.executable, "submit_multiple.py", str(spec), "--local", *arguments]


def seconds(folder: Path, *options: str) -> float:
    """Return how long the grid takes with two local workers, and options of submit_multiple.py."""
    command = _submit(folder, "--workers", "2", "-y", *options)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    elapsed = time.perf_counter() - start
    assert len(list(folder.glob("*/*/done"))) == 108
    return elapsed


def _warm(folder: Path) -> float:
    """Run two processes that import once, each with every second run."""
    shown = subprocess.run(_submit(folder, "-d", "--json"), check=True, capture_output=True, text=True).stdout
    runs = [json.loads(line) for line in shown.splitlines()]
    shares = [folder / "0.json", folder / "1.json"]
    for number, share in enumerate(shares):
        share.write_text(json.dumps(runs[number::2]))
    start = time.perf_counter()
    processes = [subprocess.Popen([sys.executable, "-c", WARM, str(share)], env={**os.environ, "PYTHONPATH": "."},
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for share in shares]
    codes = [process.wait() for process in processes]
    elapsed = time.perf_counter() - start
    assert codes == [0, 0]
    assert len(list(folder.glob("*/*/stats.csv"))) == 108
    return elapsed
