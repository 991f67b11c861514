"""Submitting to a one-machine Slurm: 500 jobs compared with a bare loop of sbatch, arrays of 5,000 with submitit."""
from __future__ import annotations

import contextlib
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

JOBS, TASKS, ARRAY = 500, 5_000, 1_000  # ARRAY: tasks per array; the cluster's MaxArraySize is 1,001
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
    """Return (label, value, limit)."""
    if not is_possible():
        return [("not measured: a one-machine Slurm needs root and Debian's packages", float("nan"), None)]
    with tempfile.TemporaryDirectory() as temporary, one_machine_slurm():
        took = best(Path(temporary), {"bare": bare_loop, "ours": one_each, "usual": usual_loop, "array": array,
                                      "submitit": map_array})
    rows: list[tuple[str, float, float | None]] = [
        (f"{JOBS} Slurm jobs: {took['ours']:.2f} s / bare loop of sbatch {took['bare']:.2f} s",
         took["ours"] / took["bare"], 1.25),
        (f"a simple script (shell, folders, yaml.dump): {took['usual']:.2f} s / bare loop",
         took["usual"] / took["bare"], None)]
    if took["submitit"] < float("inf"):
        rows.append((f"arrays of {TASKS:,} runs: {took['array']:.2f} s / submitit's map_array {took['submitit']:.2f} s",
                     took["array"] / took["submitit"], 1.0))
    else:
        rows.append((f"arrays of {TASKS:,} runs, seconds; submitit could not be installed", took["array"], None))
    return rows


def best(folder: Path, actions: dict[str, Callable[[Path], None]]) -> dict[str, float]:
    """Return the seconds of the best of three rounds, each in a new folder on an idle cluster; inf: not available."""
    seconds = dict.fromkeys(actions, float("inf"))
    submitit = install_submitit(folder / "packages")
    for number in range(3):
        for what, action in actions.items():
            if action is map_array and not submitit:
                continue
            (place := folder / f"{what}{number}").mkdir()
            project.make(place)
            start = time.perf_counter()
            action(place)
            seconds[what] = min(seconds[what], time.perf_counter() - start)
            subprocess.run(["scancel", "--me"], check=True)
            rest()
    return seconds


def rest() -> None:
    """Wait until the cluster's daemons have processed the cancellations: a few seconds, at most half a minute."""
    for _ in range(30):
        before = daemons_cpu()
        time.sleep(1)
        idle = daemons_cpu() - before < 5  # hundredths of a second
        if idle and not subprocess.run(["squeue", "--me", "--noheader"], stdout=subprocess.PIPE, check=True).stdout:
            return


def daemons_cpu() -> int:
    """Return the CPU time of Slurm's daemons and its database, in clock ticks."""
    used = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, fields = path.read_text().partition("(")[2].rpartition(")")
            if name in ("slurmctld", "slurmdbd", "mariadbd"):
                used += sum(map(int, fields.split()[11:13]))
    return used


def install_submitit(packages: Path) -> bool:
    """Install submitit for this measurement only. Return whether that succeeded."""
    return not subprocess.run([sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check",
                               f"--target={packages}", "submitit"], capture_output=True, check=False).returncode


def one_each(folder: Path) -> None:
    """Submit with this project, one Slurm job per run."""
    project.submit(folder, "each", JOBS, "-s", "s.sh")


def array(folder: Path) -> None:
    """Submit with this project, job arrays."""
    project.submit(folder, "array", TASKS, "-s", "s.sh", "--array")


def bare_loop(folder: Path) -> None:
    """Call sbatch in a loop, the minimum for any submission."""
    for index in range(JOBS):
        subprocess.run(["sbatch", "--parsable", "--output=/dev/null", "s.sh", str(index)], cwd=folder, check=True,
                       stdout=subprocess.DEVNULL)


def usual_loop(folder: Path) -> None:
    """Make a folder, dump YAML and start a shell for each run."""
    for index in range(JOBS):
        run = folder / "usual" / f"{index:03d}"
        run.mkdir(parents=True)
        with open(run / "spec.yaml", "w") as file:
            yaml.dump({"seed_model": index, "batch_size": 100, "dataset": "libsvm/a9a"}, file)
        subprocess.run(f"cd {folder} && sbatch --output={run}/%j.out s.sh {run}/spec.yaml", shell=True, check=True,
                       stdout=subprocess.DEVNULL)


def map_array(folder: Path) -> None:
    """Submit with submitit's map_array."""
    subprocess.run([sys.executable, "-c", SUBMITIT, str(TASKS), str(ARRAY)], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(folder.parent / "packages")})
