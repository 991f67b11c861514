"""Submitting to a one-machine Slurm: 500 Slurm jobs against a bare loop of sbatch, arrays of 5,000 against submitit."""
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from benchmarks import project
from benchmarks.cluster import is_possible, one_machine_slurm

JOBS, TASKS, ARRAY = 500, 5_000, 1_000  # an array's tasks: the cluster's MaxArraySize is 1,001
SUBMITIT = """\
import sys
import submitit
executor = submitit.AutoExecutor(folder="submitit/%j")
executor.update_parameters(timeout_min=5, mem_gb=1, slurm_array_parallelism=1000,
                           slurm_additional_parameters={"hold": True})
tasks, size = map(int, sys.argv[1:])
for start in range(0, tasks, size):
    executor.map_array(print, range(start, min(start + size, tasks)))
"""


def measure() -> list[tuple[str, float, float | None]]:
    """(what, figure, the most it may be)."""
    if not is_possible():
        return [("not measured: a one-machine Slurm needs root and Debian's packages", float("nan"), None)]
    with tempfile.TemporaryDirectory() as temporary, one_machine_slurm():
        folder = project.make(Path(temporary))
        took = {what: best(folder, action) for what, action in (
            ("bare", bare_loop), ("ours", one_each), ("usual", usual_loop), ("array", array), ("submitit", map_array))}
    rows: list[tuple[str, float, float | None]] = [
        (f"{JOBS} Slurm jobs: {took['ours']:.1f} s / bare loop of sbatch {took['bare']:.1f} s",
         took["ours"] / took["bare"], 1.25),
        (f"the usual loop (shell, folders, yaml.dump): {took['usual']:.1f} s / bare loop",
         took["usual"] / took["bare"], None)]
    if took["submitit"] == took["submitit"]:
        rows.append((f"arrays of {TASKS:,} runs: {took['array']:.1f} s / submitit's map_array {took['submitit']:.1f} s",
                     took["array"] / took["submitit"], 1.0))
    else:
        rows.append((f"arrays of {TASKS:,} runs, seconds; submitit cannot be installed here", took["array"], None))
    return rows


def best(folder: Path, action: Callable[[Path, int], None]) -> float:
    """Seconds of the better of two rounds; the queue is emptied after each."""
    seconds = []
    for number in range(2):
        start = time.perf_counter()
        try:
            action(folder, number)
        except ImportError:
            return float("nan")
        seconds.append(time.perf_counter() - start)
        subprocess.run(["scancel", "--me"], check=True)
    return min(seconds)


def one_each(folder: Path, number: int) -> None:
    """Ours, a Slurm job for each run."""
    project.submit(folder, f"each{number}", JOBS, "-s", "s.sh")


def array(folder: Path, number: int) -> None:
    """Ours, job arrays."""
    project.submit(folder, f"array{number}", TASKS, "-s", "s.sh", "--array")


def bare_loop(folder: Path, _number: int) -> None:
    """What any submission costs at least: sbatch, again and again."""
    for index in range(JOBS):
        subprocess.run(["sbatch", "--parsable", "--output=/dev/null", "s.sh", str(index)], cwd=folder, check=True,
                       stdout=subprocess.DEVNULL)


def usual_loop(folder: Path, number: int) -> None:
    """What people write: a folder, PyYAML's dump, and a shell for each run."""
    for index in range(JOBS):
        run = folder / f"usual{number}" / f"{index:03d}"
        run.mkdir(parents=True)
        with open(run / "spec.yaml", "w") as file:
            yaml.dump({"seed_model": index, "batch_size": 100, "dataset": "libsvm/a9a"}, file)
        subprocess.run(f"cd {folder} && sbatch --output={run}/%j.out s.sh {run}/spec.yaml", shell=True, check=True,
                       stdout=subprocess.DEVNULL)


def map_array(folder: Path, number: int) -> None:
    """submitit, installed for this measurement alone. ImportError if it cannot be had."""
    packages = folder / "packages"
    if number == 0:  # the better of two rounds counts: this is the other
        done = subprocess.run([sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check",
                               f"--target={packages}", "submitit"], capture_output=True, check=False)
        if done.returncode:
            raise ImportError("submitit")
    subprocess.run([sys.executable, "-c", SUBMITIT, str(TASKS), str(ARRAY)], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(packages)})
