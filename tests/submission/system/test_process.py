"""Dead processes are recognised, even if their process id was reused."""
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
def test_reused_process_id_counts_as_dead(change: dict[str, object]) -> None:
    assert process.is_alive({**process.identity(), **change}) is False


def test_ended_process_and_zombie_are_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    start = process._start_ticks(child.pid)
    identity = {**process.identity(), "pid": child.pid, "pid_start": start}
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert process.is_alive(identity) is False
    child.communicate()
    assert process.is_alive(identity) is False


def test_process_on_another_machine_is_unknown() -> None:
    own = process.identity()
    assert process.is_alive({**own, "host": "elsewhere", "boot_id": "another boot"}) is None
    assert process.is_alive({**own, "pid_space": "a container's"}) is None
    assert process.is_alive({}) is None


def test_parent_of_the_host_process_counts_as_parent_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process.parent_pid() == os.getppid()
    assert process.watch_parent()()
    with subprocess.Popen(["sleep", "60"]) as child:
        monkeypatch.setenv(process.PARENT, json.dumps(process.identity_of(child.pid)))
        assert process.parent_pid() == child.pid
        is_parent_alive = process.watch_parent()
        assert is_parent_alive()
        child.kill()
        child.wait()
        assert not is_parent_alive()


def test_new_host_name_does_not_hide_a_process() -> None:
    own = process.identity()
    assert process.is_alive({**own, "host": "old name"}) is True
    assert process.is_alive({**own, "host": "old name", "pid_start": 1}) is False


def test_process_hidden_by_proc_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    own = process.identity()
    monkeypatch.setattr(process, "_start_ticks", lambda pid: 0)  # kill finds it, /proc does not show it
    assert process.is_alive(own) is None
    assert process.is_alive({**own, "pid_start": 0}) is True  # no /proc at all


def test_environment_outside_slurm_keeps_the_cluster_and_drops_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CONF", "SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "GRIDIRON_TICKET"):
        monkeypatch.setenv(name, "7")
    environment = process.environment_outside_slurm()
    assert [name for name in environment if name.startswith(("SLURM", "GRIDIRON_TICKET"))] == ["SLURM_CONF"]
    assert environment["PATH"] == os.environ["PATH"]


def test_process_is_named_after_its_run() -> None:
    program = ("from src.submission.system import process; process.set_title('007_mine+lr=0.30000'); "
               "print(open('/proc/self/comm').read())")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "007_mine+lr=0.3"


@pytest.mark.parametrize(("ranks", "code"), [("1", -signal.SIGABRT), ("2", 3)])
def test_one_of_several_processes_skips_the_clean_up_of_python(ranks: str, code: int) -> None:
    """Its output is complete, and exit handlers of libraries do not run."""
    program = ("import atexit, os; from src.submission.system import process; "
               "atexit.register(os.abort); print('all output'); "
               "process.exit_process(3)")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "SLURM_STEP_NUM_TASKS": ranks})
    assert done.returncode == code
    assert done.stdout == "all output\n" or code < 0
