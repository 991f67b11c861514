"""A grid of trainings under a random killer, on a real Slurm, has the numbers of a calm one, and the books say why.

Twenty runs, of which a third have a time limit of a minute; `make chaos` alone has the time for it. What is drawn comes
from GRIDIRON_CHAOS_SEED.
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
from tests.conftest import ROOT, Slurm
from tests.test_chaos import SEED, daemons, mend_cluster, start_daemon
from tests.test_interrupted import SPEC, assert_same

RUNS, INTERRUPTIONS = 20, 60
PATIENCE = 3000  # seconds for all of it
SCRIPT = f"""#!/bin/bash
#SBATCH --time=20 --mem=60000 --cpus-per-task=1 --requeue --open-mode=append --signal=B:USR1@180
export OMP_NUM_THREADS=1
exec nice {sys.executable} {ROOT}/train.py "$@"
"""


class Killer:
    """Does to a running Slurm job, drawn at random, one of the things that clusters do."""

    def __init__(self, slurm: Slurm, batch: Path) -> None:
        self.slurm, self.batch, self.draw, self.done = slurm, batch, random.Random(SEED), Counter[str]()
        self.dead: dict[str, float] = {}  # nodes without a slurmd, since when
        self.ways: dict[str, Callable[[str, str], object]] = {
            "out of time": lambda job, _: slurm.run("scancel", "--batch", "--signal=USR1", job),
            "stopped": lambda job, _: slurm.run("scancel", "--batch", "--signal=TERM", job),
            "cancelled": lambda job, _: slurm.run("scancel", job),
            "killed": self.kill, "preempted": self.preempt, "its node dies": self.kill_node}

    def strike(self) -> None:
        rows = [line.split() for line in self.slurm.run(
            "squeue", "--noheader", "--states=RUNNING", "--partition=cpu-killable", "--format=%i %N").splitlines()]
        rows = [row for row in rows if len(row) == 2 and row[1] not in self.dead]
        if not rows:
            return
        job, node = self.draw.choice(rows)
        way = self.draw.choice(list(self.ways) if not self.dead else [way for way in self.ways if "node" not in way])
        try:
            self.ways[way](job, node)
        except AssertionError:  # it ended a moment before
            return
        self.done[way] += 1

    def kill(self, job: str, _: str) -> None:
        """Without a word."""
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

    def mend(self, all_of_them: bool = False) -> None:
        """Nodes come back some time after Slurm has given them up."""
        for node, since in list(self.dead.items()):
            if all_of_them or time.monotonic() > since + 25:
                start_daemon(self.slurm, "slurmd", "-D", "-N", node)
                del self.dead[node]
        if all_of_them:
            mend_cluster(self.slurm)

    def put_forward(self) -> None:
        """What was put back need not wait for two minutes."""
        for job in self.slurm.run("squeue", "--noheader", "--states=PENDING", "--format=%i %r").splitlines():
            if "BeginTime" in job:
                subprocess.run(["scontrol", "update", f"jobid={job.split()[0]}", "StartTime=now"], capture_output=True)


def submit(folder: Path) -> Path:
    """The batch of the grid, submitted."""
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


def until_done(batch: Path, killer: Killer | None, seconds: float) -> Observation:
    """Strike, and submit what failed again, as its user would, until all runs are done."""
    end, forward = time.monotonic() + seconds, 0.0
    while True:
        seen = observe([str(batch)])[0]
        counts = status.counts(seen)
        if counts == {"done": RUNS}:
            return seen
        assert time.monotonic() < end, f"seed {SEED}: {counts} after {seconds} s"
        if killer:
            killer.mend()
            if sum(killer.done.values()) < INTERRUPTIONS:
                killer.strike()
            if time.monotonic() > forward:  # an update puts a start off: leave the scheduler time for one
                killer.put_forward()
                forward = time.monotonic() + 8
        if not {"pending", "running", "submitted", "unknown"} & counts.keys():
            assert submit_multiple.main(["-r", str(batch), "-y"]) == 0, counts
        time.sleep(killer.draw.uniform(1, 4) if killer else 0.5)


def story(run: Path) -> list[str]:
    """How each start of a run ended, in their order."""
    paths = sorted(run.glob("attempt-*"), key=lambda path: [int(part) for part in path.stem.split("-")[1:]])
    return [json.loads(path.read_text())["how"] or "killed" for path in paths]


def test_a_grid_under_a_random_killer_has_the_numbers_of_a_calm_one(slurm: Slurm, tmp_path: Path) -> None:
    print(f"GRIDIRON_CHAOS_SEED={SEED}")
    for name in ("calm", "chaos"):
        (tmp_path / name).mkdir()
    calm = submit(tmp_path / "calm")
    until_done(calm, None, PATIENCE)
    batch = submit(tmp_path / "chaos")
    killer = Killer(slurm, batch)
    try:
        until_done(batch, killer, PATIENCE)
    finally:
        killer.mend(all_of_them=True)
    starts = Counter[str]()
    for run in sorted(path for path in batch.iterdir() if path.name[0].isdigit()):
        for log in (*run.glob("*.out"), *(calm / run.name).glob("*.out")):
            log.unlink()
        assert_same(run / "spec.yaml", calm / run.name / "spec.yaml")
        *earlier, last = story(run)
        assert last == "completed", f"seed {SEED}: {run}"
        known = {"requeued", "preempted", "cancelled", "timeout", "killed"}
        assert set(earlier) <= known, f"seed {SEED}: {run}: {earlier}"
        starts.update(earlier)
    print(f"{dict(killer.done)}: {dict(starts)}")
    assert sum(killer.done.values()) >= INTERRUPTIONS / 2
    assert starts.total() >= INTERRUPTIONS / 4  # some strikes hit a run that was about to end, or one that starts
