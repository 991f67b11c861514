"""Packed environments on a real Slurm: workers, arrays and a requeued run use the node's copy."""
from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.submission.packing import pack
from src.submission.packing.environment import Environment
from tests.conftest import ROOT, Slurm
from tests.submission.conftest import Project, project
from tests.test_packed_env import can_mount, with_argument
from tests.test_slurm_ways import all_jobs, counts, wait_for

__all__ = ["project"]  # the fixture

SCRIPT = """#!/bin/bash
#SBATCH --time=5 --requeue --open-mode=append --cpus-per-task=1 --mem=100
set -euo pipefail
source ./activate.sh
exec python train.py "$@"
"""


def pack_project(folder: Path) -> Path:
    """Give a project an environment with the packages of this one, and pack it. Return the image."""
    shutil.copy(ROOT / "activate.sh", folder)
    (folder / "tools").symlink_to(ROOT / "tools")
    venv.create(folder / ".venv", symlinks=True)
    packages = next((folder / ".venv").glob("lib/python*/site-packages"))
    (packages / "all.pth").write_text(sysconfig.get_path("purelib"))
    (folder / "train.py").write_text("import os, sys\nwith open('prefixes', 'a') as file:\n"
                                     "    file.write(f'{sys.argv[1]} {sys.prefix}\\n')\n"
                                     + (ROOT / "tests" / "submission" / "entry.py").read_text().replace(
                                         "from __future__ import annotations\n", ""))
    return Path(pack.pack(Environment(str(folder / ".venv"), str(folder / ".venv"), sys.base_prefix, sys.executable,
                                      False, (), (str(packages.relative_to(folder / ".venv")),)), [], None).path)


@pytest.fixture
def script(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A submit script of a project whose environment is packed."""
    (tmp_path / "local").mkdir()
    monkeypatch.setenv("GRIDIRON_LOCAL", str(tmp_path / "local"))
    monkeypatch.delenv("GRIDIRON_PACKED", raising=False)
    image, script = pack_project(project.folder), project.folder / "s.sh"
    script.write_text(SCRIPT)
    yield script
    for daemon in with_argument(str(image)):  # this cluster has no cgroups, which would end them with their jobs
        with contextlib.suppress(ProcessLookupError):
            os.kill(daemon, signal.SIGKILL)


def prefixes(project: Project) -> list[str]:
    """Return the prefix of Python in each start."""
    return [line.rpartition(" ")[2] for line in (project.folder / "prefixes").read_text().splitlines()]


@can_mount
def test_requeued_worker_uses_a_copy_in_each_start(slurm: Slurm, project: Project, script: Path,
                                                   tmp_path: Path) -> None:
    project.write_spec("[8, 16]")  # the second run waits until it is told to save itself
    assert project.submit(project.spec, "-s", script, "-y", "--workers", "1", "--slots", "2") == 0
    steps = [run / "steps" for run in project.runs()[2:]]
    wait_for(lambda: all(path.exists() for path in steps))
    for path in steps:
        path.write_text(path.read_text() + "once more\n")  # so that the second start completes it
    job, = all_jobs(project)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    slurm.restart(job, lambda: counts(project) == {"done": 4})
    assert project.executed() == [1] * 4
    first, second = prefixes(project)
    assert first != second and all(str(tmp_path / "local") in prefix for prefix in (first, second))
    assert "note:" not in "".join(path.read_text() for path in project.batch.rglob("*.out"))


@can_mount
def test_each_task_of_an_array_uses_a_copy(slurm: Slurm, project: Project, script: Path, tmp_path: Path) -> None:
    assert project.submit(project.spec, "-s", script, "-y", "--array") == 0
    wait_for(lambda: counts(project) == {"done": 4})
    assert len(set(prefixes(project))) == 4
    assert all(str(tmp_path / "local") in prefix for prefix in prefixes(project))
