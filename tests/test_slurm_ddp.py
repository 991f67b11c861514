"""On a real Slurm: four processes on two nodes train a run, save it together when its time is up, and go on with it."""
from __future__ import annotations

import csv
import math
import sys
import time
from pathlib import Path
from typing import Any

import submit_multiple
from src import yaml_io
from tests.conftest import ROOT, Slurm
from tests.test_interrupted import attempts
from train import train_here

SPEC = {"dataset": "sklearn/digits", "data_splits_map": {"train": "train[:80%]", "val": "train[80%:]"},
        "model": "tiny/wrn_10_1", "model_input_shape": [1, 8, 8], "batch_size": 30, "steps_per_epoch": 5,
        "train_length": 8, "base_lr": 0.01, "averaging": "ema_0.9", "grad_accum_steps": 2, "mixup": 0.2,
        "seed_model": 1, "seed_training": 2, "device": "cpu"}
SCRIPT = f"""#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=2 --cpus-per-task=1 --mem=900 --time=10
#SBATCH --requeue --open-mode=append --signal=B:USR1@180
export OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=lo
exec srun --kill-on-bad-exit=1 --cpus-per-task=1 {sys.executable} {ROOT}/train.py "$@"
"""


def rows(folder: Path) -> list[dict[str, Any]]:
    """stats.csv without its times."""
    with open(folder / "stats.csv", newline="") as file:
        return [{name: float(cell) for name, cell in row.items() if not name.endswith(("time", "stamp", "second"))}
                for row in csv.DictReader(file)]


def test_two_nodes_with_two_processes_each(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "s.sh").write_text(SCRIPT)
    job_spec = {"job_details": {"name": "four", "output_dir": str(tmp_path / "results")},
                "parameters": {**SPEC, "model_input_shape": [[1, 8, 8]], "data_dir": str(tmp_path / "data")}}
    (tmp_path / "job.yaml").write_text(yaml_io.dump_flat(job_spec))
    assert submit_multiple.main([str(tmp_path / "job.yaml"), "-s", str(tmp_path / "s.sh"), "-y"]) == 0
    spec, = tmp_path.glob("results/*/0*/spec.yaml")
    run = spec.parent
    end = time.monotonic() + 120
    while not (run / "stats.csv").exists() or len((run / "stats.csv").read_text().splitlines()) < 2:
        assert time.monotonic() < end, [path.read_text() for path in run.glob("*.out")]
        time.sleep(0.02)
    job = attempts(spec)[0]["slurm_job"]
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    slurm.restart(job, (run / "done").exists)
    slurm.wait(job, "COMPLETED")
    assert [attempt["how"] for attempt in attempts(spec)] == ["requeued", "completed"]
    facts = yaml_io.load_file(str(run / "config.yaml"))["facts"]
    assert facts["processes"] == 4
    assert facts["resumed_at_step"] > 0
    assert {path.name for path in run.iterdir()} == {
        "attempt-1-0.json", "attempt-1-1.json", "claim-1", "config.yaml", "done", "spec.yaml", "stats.csv",
        "training.log", f"{job}.out"}

    (tmp_path / "one").mkdir()
    train_here({**SPEC, "data_dir": str(tmp_path / "data")}, str(tmp_path / "one"), lambda: None)
    for mine, alone in zip(rows(run), rows(tmp_path / "one"), strict=True):
        for name, value in mine.items():
            assert math.isclose(value, alone[name], rel_tol=1e-3, abs_tol=1e-4), (name, mine, alone)
