"""The fixture `apptainer`: a fake Apptainer, first on the PATH, whose containers see the whole machine.

    from tests.fake_apptainer.fixture import Apptainer, apptainer

It checks its arguments as strictly as the real one, starts the command with a clean environment, forwards signals and
returns the command's exit code. The PATH in the container has neither Slurm's commands nor any others. Each start is
recorded in a JSON file.
"""
from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fake_apptainer import program

NAMES = ("apptainer", "singularity")


class Start(NamedTuple):
    """One start of a container."""

    argv: list[str]  # of the runtime
    host_env: dict[str, str]
    container_env: dict[str, str]
    mounts: list[tuple[str, str, bool]]  # source, destination, whether it is read-only
    command: list[str]  # in the container


class Apptainer:
    """A fake runtime. `bin` is the folder of its executable; `image` is an image that exists."""

    def __init__(self, folder: Path, name: str = "apptainer") -> None:
        self.bin, self.records, self.image = folder / "bin", folder / "records", folder / "an image, it's.sif"
        self.bin.mkdir()
        self.records.mkdir()
        self.image.write_text("no image")
        python = getattr(sys, "_base_executable", sys.executable)  # starts faster than that of a virtual environment
        command = shlex.join([python, "-ISE", program.__file__, str(self.records)])
        executable = self.bin / name
        executable.write_text(f'#!/bin/sh\nexec {command} "$0" "$@"\n')
        executable.chmod(executable.stat().st_mode | stat.S_IXUSR)

    def starts(self) -> list[Start]:
        """Return all starts, oldest first."""
        paths = sorted(self.records.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return [Start(**{**record, "mounts": [tuple(mount) for mount in record["mounts"]]})
                for record in (json.loads(path.read_text()) for path in paths)]


def install_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "apptainer") -> Apptainer:
    """Put a fake runtime first on the PATH. Skips the test if a real Apptainer would take precedence over it."""
    if name != NAMES[0] and shutil.which(NAMES[0]):
        pytest.skip(f"{NAMES[0]} is installed and takes precedence over {name}")
    folder = tmp_path / f"the {name}"
    folder.mkdir()
    runtime = Apptainer(folder, name)
    monkeypatch.setenv("PATH", f"{runtime.bin}:{os.environ['PATH']}")
    return runtime


@pytest.fixture
def apptainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apptainer:
    return install_runtime(tmp_path, monkeypatch)
