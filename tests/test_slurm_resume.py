"""On a real Slurm: runs at their time limit and preempted runs resume, with the results of uninterrupted ones."""
from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

import submit_multiple
from src.io import yaml_io
from tests.conftest import ROOT, Slurm
from tests.test_interrupted import SPEC, assert_same, attempts, calm

__all__ = ["calm"]  # the fixture

SCRIPT = f"""#!/bin/bash
#SBATCH --time=10 --mem=900 --cpus-per-task=1 --requeue --open-mode=append --signal=B:USR1@180
export OMP_NUM_THREADS=1
exec {sys.executable} {ROOT}/train.py "$@"
"""


def submit(slurm: Slurm, folder: Path) -> tuple[Path, str]:
    """Submit a run, wait until it trains, and return its spec and Slurm job."""
    (folder / "s.sh").write_text(SCRIPT)
    job_spec = {"job_details": {"name": "resumed", "output_dir": str(folder / "results")},
                "parameters": {key: [value] if isinstance(value, list) else value for key, value in {
                    **SPEC, "data_dir": str(folder / "data")}.items()}}
    (folder / "job.yaml").write_text(yaml_io.dump_flat(job_spec))
    assert submit_multiple.main([str(folder / "job.yaml"), "-s", str(folder / "s.sh"), "-y"]) == 0
    spec, = folder.glob("results/*/0*/spec.yaml")
    end = time.monotonic() + 300
    while not (stats := spec.parent / "stats.csv").exists() or len(stats.read_text().splitlines()) < 2:
        assert time.monotonic() < end, [path.read_text() for path in spec.parent.glob("*.out")]
        time.sleep(0.02)
    return spec, attempts(spec)[0]["slurm_job"]


@pytest.mark.parametrize(("command", "how"), [(["scancel", "--batch", "--signal=USR1"], "requeued"),
                                          (["scontrol", "requeue"], "preempted")], ids=["time limit", "preempted"])
def test_requeued_run_has_the_results_of_an_uninterrupted_one(command: list[str], how: str, slurm: Slurm, calm: Path,
                                                              tmp_path: Path) -> None:
    spec, job = submit(slurm, tmp_path)
    slurm.run(*command, job)
    done = spec.parent / "done"
    slurm.restart(job, done.exists)
    slurm.wait(job, "COMPLETED")
    assert [attempt["how"] for attempt in attempts(spec)] == [how, "completed"]
    assert {attempt["slurm_job"] for attempt in attempts(spec)} == {job}
    saved = re.findall(r" time limit near: saved at step (\d+), back in the queue\n",
                       (spec.parent / "training.log").read_text())
    facts = yaml_io.load_file(str(spec.parent / "config.yaml"))["facts"]
    assert saved == ([str(facts["resumed_at_step"])] if how == "requeued" else [])
    assert facts["resumed_at_step"] > 0
    (spec.parent / f"{job}.out").unlink()
    assert_same(spec, calm)
