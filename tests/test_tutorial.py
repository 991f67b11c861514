"""The tutorial, followed from top to bottom with fake Slurm commands."""
from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from src.analysis.reading.results import read_experiments
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.test_docs import (
    TUTORIAL,
    apply_diff,
    blocks,
    check_console,
    commands,
    copy_project,
    lint,
    run,
    write_file,
)

__all__ = ["fake_slurm"]  # the fixture


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project whose jobs find this Python."""
    folder = tmp_path / "project"
    copy_project(folder)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


def reach_time_limit(fake_slurm: FakeSlurm, project: Path) -> None:
    """Send USR1 to the long run once it trains, and wait for its second start."""
    folder, = (project / "results" / "long").glob("*-fit-slurm/000_*")
    wait_for(lambda: (folder / "stats.csv").exists() and len((folder / "stats.csv").read_text().splitlines()) > 2)
    job, = fake_slurm.jobs("RUNNING")
    fake_slurm.signal(job)
    wait_for((folder / "attempt-1-1.json").exists)
    rows = len((folder / "stats.csv").read_text().splitlines())
    wait_for(lambda: len((folder / "stats.csv").read_text().splitlines()) > rows)


def test_tutorial_can_be_followed(fake_slurm: FakeSlurm, project: Path) -> None:
    with fake_slurm.running(parallel=2):
        for block in blocks(TUTORIAL):
            if block.language == "diff":
                apply_diff(block.text, project)
            elif write_file(block, project):
                continue
            elif block.language == "python":
                run(["-c", block.text], project)
            elif block.language == "console":
                check_console(block.text, project)
            elif block.language == "bash":
                follow(block.text, fake_slurm, project)
    lint(["fit.py"], project)
    fits = read_experiments(str(project / "results" / "*-fit"), only_done=True)
    assert len(fits) == 12
    assert len(read_experiments(str(project / "results" / "*-fit-slurm"), only_done=True)) == 24
    long, = (project / "results" / "long").glob("*-fit-slurm/000_*")
    epochs = [int(row.partition(",")[0]) for row in (long / "stats.csv").read_text().splitlines()[1:]]
    assert epochs == list(range(1, len(epochs) + 1))


def follow(text: str, fake_slurm: FakeSlurm, project: Path) -> None:
    """Run the commands of a bash block; those that install the project or change the folder are skipped."""
    for line in text.splitlines():
        code = re.search(r"# exit code (\d+)", line)
        for program, *arguments in commands(line):
            if program == "python" and "doctor" not in arguments:  # its result depends on this machine
                run(arguments, project, int(code[1]) if code else 0)
            elif program in ("sinfo", "squeue"):
                subprocess.run([program, *arguments], check=True, capture_output=True)
        if "results/long" in line and "--set" in line:
            reach_time_limit(fake_slurm, project)
