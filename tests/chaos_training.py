"""On a real Slurm, a grid of trainings with random interruptions has the results of an uninterrupted one.

Twenty runs, a third of them with a time limit of a minute; only `make chaos` runs this. GRIDIRON_CHAOS_SEED repeats the
random choices.
"""
from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import submit_multiple
from src.io import yaml_io
from src.submission.status import status
from src.submission.status.observation import Observation
from src.submission.status.observe import observe
from src.submission.system import process
from tests.conftest import CLUSTER, ROOT, Slurm
from tests.test_chaos import SEED, daemons, repair_cluster, start_daemon
from tests.test_interrupted import SPEC, assert_same

RUNS, INTERRUPTIONS = 20, 60
TIMEOUT = 3000  # seconds for each grid
SCRIPT = f"""#!/bin/bash
#SBATCH --time=20 --mem=60000 --cpus-per-task=1 --requeue --open-mode=append --signal=B:USR1@180
export OMP_NUM_THREADS=1
exec nice {sys.executable} {ROOT}/train.py "$@"
"""


class Killer:
    """Interrupts a random running Slurm job in a random way."""

    def __init__(self, slurm: Slurm, batch: Path) -> None:
        self.slurm, self.batch, self.random, self.done = slurm, batch, random.Random(SEED), Counter[str]()
        self.dead: dict[str, float] = {}  # nodes without a slurmd, since when
        self.interruptions: dict[str, Callable[[str, str], object]] = {
            "time limit": lambda job, _: slurm.run("scancel", "--batch", "--signal=USR1", job),
            "stopped": lambda job, _: slurm.run("scancel", "--batch", "--signal=TERM", job),
            "cancelled": lambda job, _: slurm.run("scancel", job),
            "killed": self.kill, "preempted": self.preempt, "node failure": self.kill_node}

    def strike(self) -> None:
        rows = [line.split() for line in self.slurm.run(
            "squeue", "--noheader", "--states=RUNNING", "--partition=cpu-killable", "--format=%i %N").splitlines()]
        rows = [row for row in rows if len(row) == 2 and row[1] not in self.dead]
        if not rows:
            return
        job, node = self.random.choice(rows)
        kind = self.random.choice([kind for kind in self.interruptions if not self.dead or "node" not in kind])
        try:
            self.interruptions[kind](job, node)
        except AssertionError:  # the job has just ended
            return
        self.done[kind] += 1

    def kill(self, job: str, _: str) -> None:
        """Kill the process of the run with SIGKILL."""
        for path in self.batch.glob("*/attempt-*"):
            record = json.loads(path.read_text())
            if record["slurm_job"] == job and record["end"] is None and process.is_alive(record["who"]):
                os.kill(record["who"]["pid"], signal.SIGKILL)

    def preempt(self, _: str, node: str) -> None:
        self.slurm.run("sbatch", "--partition=owner", f"--nodelist={node}", "--mem=60000", "--output=/dev/null",
                       "--wrap=sleep 2")

    def kill_node(self, _: str, node: str) -> None:
        slurmd, = daemons(self.slurm, f"slurmd -D -N {node}")
        os.kill(slurmd, signal.SIGKILL)
        self.dead[node] = time.monotonic()

    def repair(self, all_nodes: bool = False) -> None:
        """Start nodes again some time after Slurm has marked them as down."""
        for node, since in list(self.dead.items()):
            if all_nodes or time.monotonic() > since + 25:
                start_daemon(self.slurm, str(CLUSTER / "node.sh"), str(self.slurm.folder), node)
                del self.dead[node]
        if all_nodes:
            repair_cluster(self.slurm)

    def skip_requeue_delay(self) -> None:
        """Start requeued jobs at once instead of after two minutes."""
        for job in self.slurm.run("squeue", "--noheader", "--states=PENDING", "--format=%i %r").splitlines():
            if "BeginTime" in job:
                subprocess.run(["scontrol", "update", f"jobid={job.split()[0]}", "StartTime=now"], capture_output=True)


def submit(folder: Path) -> Path:
    """Submit the grid, and return its batch."""
    (folder / "s.sh").write_text(SCRIPT)
    spec = {key: [value] if isinstance(value, list) else value for key, value in SPEC.items() if key != "seed_training"}
    short = RUNS * 2 // 3
    (folder / "job.yaml").write_text(yaml_io.dump_flat({
        "job_details": {"name": "chaos", "output_dir": str(folder / "results")},
        "parameters": {**spec, "steps_per_epoch": 40, "data_dir": str(folder / "data"), "LIST_runs": [
            {"seed_training": f"range({short})"},
            {"seed_training": f"range({short}, {RUNS})", "SBATCH": {"time": 1, "signal": "B:USR1@20"}}]}}))
    assert submit_multiple.main([str(folder / "job.yaml"), "-s", str(folder / "s.sh"), "-y"]) == 0
    batch, = (folder / "results").glob("*-chaos")
    return batch


def run_until_done(batch: Path, killer: Killer | None, seconds: float) -> Observation:
    """Interrupt runs, and resubmit failed ones as a user would, until all are done."""
    end, next_update = time.monotonic() + seconds, 0.0
    while True:
        observation = observe([str(batch)])[0]
        counts = status.counts(observation)
        if counts == {"done": RUNS}:
            return observation
        assert time.monotonic() < end, f"seed {SEED}: {counts} after {seconds} s"
        if killer:
            killer.repair()
            if sum(killer.done.values()) < INTERRUPTIONS:
                killer.strike()
            if time.monotonic() > next_update:  # an update delays the start: leave the scheduler time for it
                killer.skip_requeue_delay()
                next_update = time.monotonic() + 8
        if not {"pending", "running", "submitted", "unknown"} & counts.keys():
            assert submit_multiple.main(["-r", str(batch), "-y"]) == 0, counts
        time.sleep(killer.random.uniform(1, 4) if killer else 0.5)


def endings(run: Path) -> list[str]:
    """Return how each start of a run ended, in order."""
    paths = sorted(run.glob("attempt-*"), key=lambda path: [int(part) for part in path.stem.split("-")[1:]])
    return [json.loads(path.read_text())["how"] or "killed" for path in paths]


def test_grid_under_random_interruptions_has_the_results_of_an_uninterrupted_one(slurm: Slurm, tmp_path: Path) -> None:
    print(f"GRIDIRON_CHAOS_SEED={SEED}")
    for name in ("calm", "chaos"):
        (tmp_path / name).mkdir()
    calm = submit(tmp_path / "calm")
    run_until_done(calm, None, TIMEOUT)
    batch = submit(tmp_path / "chaos")
    killer = Killer(slurm, batch)
    try:
        run_until_done(batch, killer, TIMEOUT)
    finally:
        killer.repair(all_nodes=True)
    starts = Counter[str]()
    for run in sorted(path for path in batch.iterdir() if path.name[0].isdigit()):
        for log in (*run.glob("*.out"), *(calm / run.name).glob("*.out")):
            log.unlink()
        assert_same(run / "spec.yaml", calm / run.name / "spec.yaml")
        *earlier, last = endings(run)
        assert last == "completed", f"seed {SEED}: {run}"
        interruptions = {"requeued", "preempted", "cancelled", "timeout", "killed"}
        assert set(earlier) <= interruptions, f"seed {SEED}: {run}: {earlier}"
        starts.update(earlier)
    print(f"{dict(killer.done)}: {dict(starts)}")
    assert sum(killer.done.values()) >= INTERRUPTIONS / 2
    assert starts.total() >= INTERRUPTIONS / 4  # some hit a run that is about to end or has just started
