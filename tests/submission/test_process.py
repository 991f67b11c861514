"""A dead process is told from a living one, also when its number lives on."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from src.submission import process


def test_this_process_is_alive() -> None:
    assert process.is_alive(process.identity()) is True


@pytest.mark.parametrize("change", [{"pid_start": 1}, {"boot_id": "another boot"}])
def test_the_same_number_after_a_reboot_or_in_another_process_is_dead(change: dict[str, object]) -> None:
    assert process.is_alive({**process.identity(), **change}) is False


def test_an_ended_process_and_a_zombie_are_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    start = process._start(child.pid)
    who = {**process.identity(), "pid": child.pid, "pid_start": start}
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert process.is_alive(who) is False
    child.communicate()
    assert process.is_alive(who) is False


def test_another_host_is_not_known() -> None:
    assert process.is_alive({**process.identity(), "host": "elsewhere"}) is None
    assert process.is_alive({}) is None


def test_slurm_job_names_array_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert process.slurm_job() == "12"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert process.slurm_job() == "10_3"
