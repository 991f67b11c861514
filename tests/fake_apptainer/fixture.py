"""The fixture `apptainer`: a stand-in for Apptainer, as strict about what it is given, but what runs inside sees
the whole machine.

    from tests.fake_apptainer.fixture import Apptainer, apptainer

It is first on the PATH. Each start leaves its arguments and environments in a file of JSON. As
the real one it starts the command with a clean environment, stays beside it, hands signals on and gives its exit code;
and neither Slurm's commands nor any others are on the PATH inside.
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
    """argv: of the runtime; outside: its environment; inside: that of the words; mounts: (source, destination, ro)."""

    argv: list[str]
    outside: dict[str, str]
    inside: dict[str, str]
    mounts: list[tuple[str, str, bool]]
    words: list[str]


class Apptainer:
    """bin: the folder of the executable; image: one that there is."""

    def __init__(self, folder: Path, name: str = "apptainer") -> None:
        self.bin, self.records, self.image = folder / "bin", folder / "records", folder / "an image, it's.sif"
        self.bin.mkdir()
        self.records.mkdir()
        self.image.write_text("no image")
        python = getattr(sys, "_base_executable", sys.executable)  # a virtual environment's starts later
        words = shlex.join([python, "-ISE", program.__file__, str(self.records)])
        executable = self.bin / name
        executable.write_text(f'#!/bin/sh\nexec {words} "$0" "$@"\n')
        executable.chmod(executable.stat().st_mode | stat.S_IXUSR)

    def starts(self) -> list[Start]:
        """In the order of time."""
        paths = sorted(self.records.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return [Start(**{**value, "mounts": [tuple(row) for row in value["mounts"]]})
                for value in (json.loads(path.read_text()) for path in paths)]


def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "apptainer") -> Apptainer:
    """The stand-in, first on the PATH; skips the test where a real runtime would be taken instead."""
    if name != NAMES[0] and shutil.which(NAMES[0]):
        pytest.skip(f"{NAMES[0]} is installed, and would be taken")
    folder = tmp_path / f"the {name}"
    folder.mkdir()
    made = Apptainer(folder, name)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    return made


@pytest.fixture
def apptainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apptainer:
    return make(tmp_path, monkeypatch)
