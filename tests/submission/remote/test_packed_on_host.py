"""Packed environments on another machine: packed there or sent as an image, and used by the jobs of a submission."""
from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from src.submission.packing import pack
from src.submission.packing.environment import Environment
from src.submission.remote import hosts, push_env, ssh
from tests.conftest import ROOT
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.sshd.fixture import Sshd, sshd
from tests.sshd.laptop import Laptop

__all__ = ["fake_slurm", "sshd"]  # the fixtures

SCRIPT = """#!/bin/bash
#SBATCH --time=5
set -euo pipefail
source ./activate.sh
exec python train.py "$@"
"""


@pytest.fixture
def laptop(tmp_path: Path, sshd: Sshd, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    """A laptop whose cluster has Slurm, and activates the environment of the project there as docs/laptop.md says."""
    monkeypatch.setenv("HOME", str(tmp_path))
    laptop = Laptop(tmp_path / "laptop" / "pro 'ject'", tmp_path / "the cluster" / "pro ject", sshd)
    shutil.copy(ROOT / "activate.sh", laptop.folder)
    shutil.copytree(ROOT / "tools", laptop.folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (laptop.folder / "s.sh").write_text(SCRIPT)
    (laptop.folder / "train.py").write_text(
        "import os, sys\nwith open('prefixes', 'a') as file:\n    file.write(f'{sys.prefix}\\n')\n"
        + (ROOT / "tests" / "submission" / "entry.py").read_text().replace("from __future__ import annotations\n", ""))
    laptop.commit()
    (tmp_path / "local disk").mkdir()
    setup = [f"export GRIDIRON_TEST_ROOT='{laptop.remote_dir}' GRIDIRON_LOCAL='{tmp_path}/local disk'",
             f"export FAKE_SLURM='{fake_slurm.folder}' PATH='{fake_slurm.folder}/bin':\"$PATH\"",
             "source ./activate.sh"]
    (laptop.folder / "hosts.toml").write_text(f"""[cluster]
ssh = "cluster"
options = ["-F", {json.dumps(str(sshd.config))}]
folder = {json.dumps(str(laptop.remote_dir))}
setup = {json.dumps(setup)}
""")
    return laptop


def make_environment(folder: Path) -> Path:
    """Make an environment with the packages of this one. Return the folder of its own packages.

    It may use the packages of its base Python, so that this is not packed, which would take long.
    """
    venv.create(folder, symlinks=True, system_site_packages=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "all.pth").write_text(sysconfig.get_path("purelib"))
    return packages


def prefixes(laptop: Laptop, fake_slurm: FakeSlurm, name: str) -> set[str]:
    """Submit a grid to the host, run its jobs, and return the environments that they used."""
    path = laptop.remote_dir / "prefixes"
    path.unlink(missing_ok=True)
    laptop.submit(laptop.write_spec(name, "batch_size: [1, 2]"), "-s", "s.sh", "-y")
    fake_slurm.run_all(parallel=2, seconds=300)
    assert laptop.executed(name) == [1, 1]
    return set(path.read_text().splitlines())


def test_environment_is_packed_on_the_host_and_used_by_jobs_there(laptop: Laptop, fake_slurm: FakeSlurm,
                                                                  tmp_path: Path) -> None:
    environment = laptop.remote_dir / ".venv"
    make_environment(environment)
    assert prefixes(laptop, fake_slurm, "before") == {str(environment)}
    out = laptop.submit("pack-env", "--format", "tar", program="experiments.py")
    image, = (laptop.remote_dir / ".venv.packed").glob("*-*")
    assert f"packed     {image}\n" in out and "jobs use it from now on" in out
    assert not (laptop.folder.parent / "large disk" / ".packed").exists()
    copy, = prefixes(laptop, fake_slurm, "after")
    assert copy.startswith(f"{tmp_path}/local disk/gridiron-{os.geteuid()}/{image.name.partition('.')[0]}")


def test_environment_is_sent_as_one_file_and_used_by_jobs_there(laptop: Laptop, fake_slurm: FakeSlurm, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "sent"
    rsync = ssh.Remote.rsync
    monkeypatch.setattr(ssh.Remote, "rsync", lambda self, *arguments, **options: rsync(
        self, f"--log-file={log}", "--log-file-format=/%f", *arguments, **options))

    def push() -> list[str]:
        """Send the environment to the host. Return the paths of the files that rsync sends."""
        log.unlink(missing_ok=True)
        push_env.push_environment(remote, str(environment), os.path.realpath(sys.executable), str(there))
        paths = [line.partition(" /")[2] for line in log.read_text().splitlines()]
        return [path for path in paths if path and not path.endswith("/.")]

    environment, there = tmp_path / "environment", laptop.remote_dir / ".venv"
    packages = make_environment(environment)
    for number in range(300):
        (packages / f"module_{number}.py").write_text(f"number = {number}")
    remote = ssh.connect(hosts.find_host("cluster", str(laptop.folder)), create=(".",))
    assert len(push()) > 300
    shutil.rmtree(there)

    image = pack.pack(Environment(str(environment), str(environment), sys.base_prefix, sys.executable, False, (),
                                  (str(packages.relative_to(environment)), "pyvenv.cfg")), [], "tar").path
    assert push() == [image.lstrip("/")]
    assert sorted(path.name for path in packages.iterdir()) == sorted(
        path.name for path in next(there.glob("lib/python*/site-packages")).iterdir())
    copy, = prefixes(laptop, fake_slurm, "sent")
    assert copy.startswith(f"{tmp_path}/local disk/gridiron-{os.geteuid()}/{os.path.basename(image).partition('.')[0]}")
