"""Calls that leave the process: how often Slurm is called, what a dry run asks of the kernel, whose job an id means."""
from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from src.submission.status.observe import observe
from tests.conftest import ROOT
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project

__all__ = ["fake_slurm"]  # the fixture


@pytest.mark.parametrize("runs", [1, 40, 41, 410])
def test_array_takes_one_call_of_sbatch_and_status_two_queries(runs: int, project: Project,
                                                               fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(MaxArraySize=41)  # the largest index is one less, and the first one is 0
    project.spec.write_text("job_details: {name: tiny, output_dir: results}\n"
                            f"parameters: {{batch_size: 1, seed_model: 'range({runs})'}}\n")
    (project.folder / "s.sh").write_text(f"#!/bin/bash\n#SBATCH --time=5\nexec {sys.executable} train.py \"$@\"\n")
    assert project.submit(project.spec, "-s", "s.sh", "--array", "-y") == 0
    assert len(fake_slurm.calls("sbatch")) == math.ceil(runs / 41)
    fake_slurm.set_state(fake_slurm.jobs()[0], "FAILED")  # so that sacct is asked as well
    before = {name: len(fake_slurm.calls(name)) for name in ("squeue", "sacct")}
    assert experiments.main(["status"]) == 0
    assert {name: len(fake_slurm.calls(name)) - before[name] for name in before} == {"squeue": 1, "sacct": 1}


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace, to see what a dry run writes")
@pytest.mark.parametrize("way", [["-s", "submit_cpu.sh"], ["-s", "submit_cpu.sh", "--array"], ["--local"],
                                 ["-s", "submit_cpu.sh", "--canary"]], ids=" ".join)
def test_dry_run_makes_no_system_call_that_writes(way: list[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = [sys.executable, "-B", "submit_multiple.py", "jobs/digits-quickstart.yaml", "--dry-run",
               "--output-dir", str(tmp_path / "results"), *way]
    done = subprocess.run(["strace", "-f", "-o", str(trace), "-e", "trace=file,ftruncate", *command], cwd=ROOT,
                          text=True, capture_output=True)
    assert "dry run: nothing was written or submitted" in done.stdout, done.stderr
    changing = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)|"
                          r"^\d+ +(mkdir|rename|unlink|rmdir|link|symlink|chmod|truncate|ftruncate)")
    calls = [line for line in trace.read_text().splitlines() if changing.search(line) and "/dev/" not in line]
    assert not calls
    assert len(trace.read_text().splitlines()) > 100, "strace saw the process"


def test_reused_slurm_job_ids_are_not_mistaken_for_our_jobs(project: Project, fake_slurm: FakeSlurm) -> None:
    """Slurm lost its books, and its numbers begin anew: our old ids are now jobs of another batch."""
    project.write_spec("[1, 2]")
    (project.folder / "s.sh").write_text(f"#!/bin/bash\n#SBATCH --time=5\nexec {sys.executable} train.py \"$@\"\n")
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    first = project.batch
    ids = fake_slurm.jobs()
    for job in ids:
        fake_slurm.delete(job)
    fake_slurm.reuse_ids_from(int(ids[0]) - 1)  # trying a job out uses up an id
    other = project.folder / "other.yaml"
    other.write_text(project.spec.read_text().replace("name: tiny", "name: other"))
    assert project.submit(other, "-s", "s.sh", "-y") == 0
    assert fake_slurm.jobs() == ids
    found, = observe([str(first)])
    assert {run.state.name for run in found.runs.values()} == {"unknown"}  # too early to call it lost
    fake_slurm.run_all()
    second, = (path for path in project.results.iterdir() if path.name.endswith("-other"))
    assert {run.state.name for run in observe([str(second)])[0].runs.values()} == {"done"}
    assert {run.state.name for run in observe([str(first)])[0].runs.values()} == {"unknown"}
    assert not list(first.glob("*/executed"))
