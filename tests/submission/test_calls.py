"""How often Slurm is called: sbatch once for each array, squeue and sacct once, however many runs there are."""
from __future__ import annotations

import math
import sys

import pytest

import experiments
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project

__all__ = ["fake_slurm"]  # the fixture


@pytest.mark.parametrize("runs", [1, 40, 41, 410])
def test_an_array_is_a_call_and_a_status_is_two(runs: int, project: Project, fake_slurm: FakeSlurm) -> None:
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
