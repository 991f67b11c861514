"""`watch --on HOST` in a real terminal over a real sshd: the live screen of the remote command is shown here."""
from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.sshd.fixture import Sshd, sshd
from tests.submission.conftest import Project, project
from tests.terminal import live_batch
from tests.terminal.tmux import terminal

__all__ = ["project", "sshd"]  # the fixtures

NAME = "26-11-20-digits-quickstart"
PROGRAM = "import sys, src.commands.common as c, experiments as e; c.PROJECT = '.'; sys.exit(e.main(sys.argv[1:]))"


def test_live_screen_over_ssh(project: Project, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.folder / "experiments.py").symlink_to(ROOT / "experiments.py")
    live_batch.make(project.folder / "results", 12)
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    sshd.write_hosts(here, project.folder)
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    with terminal(here, 100, 30, environment) as screen:
        screen.run(f"{shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)} watch --on cluster results/{NAME}; "
                   "echo exit code $?")
        screen.wait_for("q quit")
        screen.wait_for("12/12")
        assert (screen.state("alternate_on"), screen.state("cursor_flag")) == ("1", "0")
        assert "\x1b[31mfailed" in screen.colored()
        screen.resize(80, 24)
        screen.wait(lambda rows: len(rows) == 24 and rows[-1].startswith("q quit"))
        screen.press("Down", "c")
        screen.wait_for("other metrics")
        screen.press("Escape")
        screen.wait_for("q quit")
        screen.press("q")
        screen.wait_for("exit code 0")
        assert (screen.state("alternate_on"), screen.state("cursor_flag")) == ("0", "1")
