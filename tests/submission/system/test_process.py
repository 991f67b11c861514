"""A dead process is told from a living one, also when its number lives on."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from src.submission.system import process
from tests.conftest import ROOT


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


def test_what_cannot_be_seen_from_here_is_not_known() -> None:
    me = process.identity()
    assert process.is_alive({**me, "host": "elsewhere", "boot_id": "another boot"}) is None
    assert process.is_alive({**me, "pid_space": "a container's"}) is None
    assert process.is_alive({}) is None


def test_the_starter_of_a_container_counts_as_that_of_what_runs_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process.parent_pid() == os.getppid()
    assert process.watch_parent()()
    with subprocess.Popen(["sleep", "60"]) as child:
        monkeypatch.setenv(process.PARENT, json.dumps(process.identity_of(child.pid)))
        assert process.parent_pid() == child.pid
        lives = process.watch_parent()
        assert lives()
        child.kill()
        child.wait()
        assert not lives()


def test_a_new_host_name_hides_no_process() -> None:
    me = process.identity()
    assert process.is_alive({**me, "host": "as it was"}) is True
    assert process.is_alive({**me, "host": "as it was", "pid_start": 1}) is False


def test_a_process_that_proc_hides_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    me = process.identity()
    monkeypatch.setattr(process, "_start", lambda pid: 0)  # kill says that it exists, /proc does not show it
    assert process.is_alive(me) is None
    assert process.is_alive({**me, "pid_start": 0}) is True  # no /proc at all


def test_a_process_outside_knows_its_cluster_but_not_our_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CONF", "SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "GRIDIRON_TICKET"):
        monkeypatch.setenv(name, "7")
    found = process.environment_outside_slurm()
    assert [name for name in found if name.startswith(("SLURM", "GRIDIRON_TICKET"))] == ["SLURM_CONF"]
    assert found["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(("ranks", "code"), [("1", -signal.SIGABRT), ("2", 3)])
def test_one_of_several_processes_leaves_before_python_ends(ranks: str, code: int) -> None:
    """With what it has printed, and whatever a library would do then."""
    program = ("import atexit, os; from src.submission.system import process; "
               "atexit.register(os.abort); print('all of it'); "
               "process.exit_process(3)")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "SLURM_STEP_NUM_TASKS": ranks})
    assert done.returncode == code
    assert done.stdout == "all of it\n" or code < 0
