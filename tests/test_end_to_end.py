"""The whole path on a real Slurm: one YAML grid to finished runs, status, retry and big_df."""
from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import experiments
import submit_multiple
from src.analysis.reading.results import read_experiments
from src.submission.batch import journal
from src.submission.status import status
from src.submission.status.observe import observe
from src.submission.system import process
from tests.conftest import ROOT, Slurm

pytestmark = pytest.mark.usefixtures("slurm")


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            queue = subprocess.run(["squeue", "--format=%i %T %r %M %N %j"], capture_output=True, text=True).stdout
            pytest.fail(f"it did not happen in {seconds} s; squeue says:\n{queue}")
        time.sleep(0.5)


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The digits grid, submitted with submit_cpu.sh."""
    monkeypatch.chdir(ROOT)
    assert submit_multiple.main(["jobs/digits-quickstart.yaml", "-s", "submit_cpu.sh", "-y",
                                 "--output-dir", str(tmp_path / "results")]) == 0
    only, = (tmp_path / "results").iterdir()
    return only


def counts(batch: Path) -> dict[str, int]:
    """Runs by state; diverged ones count as done: the highest rate of the grid may diverge, as seeds are drawn."""
    found = status.counts(observe([str(batch)])[0])
    if diverged := found.pop("diverged", 0):
        found["done"] = found.get("done", 0) + diverged
    return found


def attempts(batch: Path, index: int) -> list[str]:
    folder, = batch.glob(f"{index:03d}_*")
    return sorted(path.name for path in folder.glob("attempt-*"))


def kill_a_running_run(batch: Path) -> int:
    """Kill -9 the process of a run as soon as one has begun; its index."""
    while True:
        for path in sorted(batch.glob("*/attempt-1-0.json")):
            who = json.loads(path.read_text())["who"]
            if process.is_alive(who):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(who["pid"], signal.SIGKILL)
                if not (path.parent / "done").exists():  # it was not quicker
                    return int(path.parent.name[:3])
        time.sleep(0.05)


def test_the_digits_grid_with_one_run_cancelled_and_one_killed(batch: Path, slurm: Slurm,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(path.name for path in batch.iterdir() if path.name[0].isdigit())
    assert len(names) == 24
    queued = slurm.run("squeue", "--me", "--noheader", "--format=%j").splitlines()
    assert queued
    assert set(queued) <= set(names)
    tickets = journal.read_history(str(batch)).tickets
    assert experiments.main(["cancel", "-y", str(batch / names[23])]) == 0
    killed = kill_a_running_run(batch)
    wait_for(lambda: not {"pending", "running"} & counts(batch).keys())
    wait_for(lambda: "unknown" not in counts(batch), seconds=300)  # sacct may lag
    assert counts(batch) == {"done": 22, "failed": 1, "cancelled": 1}

    states = {run.name: run.state.name for run in observe([str(batch)])[0].runs.values()}
    for name, ticket in tickets.items():
        job, = ticket.slurm_jobs
        accounted = slurm.run("sacct", "-nPX", "-j", job, "--format=State").split()[0]
        assert accounted == {"failed": "FAILED", "cancelled": "CANCELLED"}.get(states[name], "COMPLETED")
        assert slurm.run("sacct", "-nPX", "-j", job, "--format=JobName") == name

    capsys.readouterr()
    assert submit_multiple.main(["-r", str(batch), "-y"]) == 0
    assert "24 runs: 2 to submit, 22 left alone" in capsys.readouterr().out
    wait_for(lambda: counts(batch) == {"done": 24})
    again = [index for index in range(24) if len(attempts(batch, index)) > 1 or "attempt-1-0.json" not in attempts(
        batch, index)]
    assert again == sorted({killed, 23})

    big_df = read_experiments([batch])
    assert len(big_df) == 24
    assert big_df["val/last/accuracy"].map(len)[big_df["end"] == "completed"].eq(15).all()
    assert big_df["val/last/accuracy"].map(lambda series: series.iloc[-1]).max() > 0.94
    done_at_first = {ticket.slurm_jobs[0] for name, ticket in tickets.items() if states[name] == "done"}
    assert set(big_df["facts/slurm_job"]) >= done_at_first


def test_a_researchers_own_script_and_a_run_that_is_requeued(tmp_path: Path, slurm: Slurm,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that ends in `python train.py "$1"`, without exec and with SBATCH_EXPORT=NONE, and scontrol requeue."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    script = tmp_path / "mine.sh"
    script.write_text('#!/bin/bash\n#SBATCH --requeue --open-mode=append\n'
                      f'export OMP_NUM_THREADS=1 PATH={ROOT}/.venv/bin:{os.environ["PATH"]}\npython train.py "$1"\n')
    assert submit_multiple.main(["jobs/digits-quickstart.yaml", "-s", str(script), "-y", "--max-runs", "1",
                                 "--set", "train_length=1000000", "--output-dir", str(tmp_path / "results")]) == 0
    only, = (tmp_path / "results").iterdir()
    run, = only.glob("000_*")
    wait_for((run / "stats.csv").exists)
    job, = journal.read_history(str(only)).tickets[run.name].slurm_jobs
    slurm.run("scontrol", "requeue", job)
    wait_for(lambda: slurm.state(job) == "PENDING")
    assert counts(only) == {"pending": 1}
    slurm.restart(job, (run / "attempt-1-1.json").exists)
    wait_for(lambda: counts(only) == {"running": 1})
    assert submit_multiple.main(["-r", str(only), "-s", str(script), "-y"]) == 0  # nothing: it runs
    assert experiments.main(["cancel", "-y", str(only)]) == 0
    wait_for(lambda: counts(only) == {"cancelled": 1})
    assert [path.name for path in sorted(run.glob("claim-*"))] == ["claim-1"]
