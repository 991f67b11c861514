"""Processes that train one run together on this machine: their ranks, and what happens when one fails."""
from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.errors import ConfigError, UserError
from src.submission.job import multi_gpu
from src.submission.spec import command_template
from src.submission.system import process
from src.submission.system.signals import Signals, Stopped, signals


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Signals]:
    """Install the signal handlers, and restore those of pytest afterwards."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GRIDIRON_THREADS"):
        monkeypatch.delenv(name, raising=False)
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    signals.listen()
    yield signals
    for number, handler in previous.items():
        signal.signal(number, handler)
    signals.warned, signals.stop_signal = False, None


def work(folder: Path, fate: str) -> str:
    """The function of each process: the second one meets its fate, and the others wait for it."""
    rank = process.rank()
    (folder / f"{rank} of {process.world_size()}, here {process.local_rank()}").touch()
    assert Path(os.environ[multi_gpu.RENDEZVOUS]).is_dir()
    if fate == "end":
        return f"completed by {rank}"
    if fate == "wait for a signal":
        while not (signals.warned or signals.stop_signal):
            time.sleep(0.01)
        if signals.stop_signal:
            raise Stopped(signals.stop_signal)
        return "requeued"
    if rank == 1:
        if fate == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "user error":
            raise ConfigError("there is no such thing", where="model")
        raise ZeroDivisionError("first\nsecond")
    if fate == "lose a peer":
        time.sleep(1)
        raise multi_gpu.PeerLost("another process is gone")
    time.sleep(60)
    return "completed"


def test_processes_get_ranks_and_the_first_returns_the_result(tmp_path: Path) -> None:
    assert multi_gpu.run(3, work, (tmp_path, "end")) == "completed by 0"
    assert {path.name for path in tmp_path.iterdir()} == {f"{rank} of 3, here {rank}" for rank in range(3)}
    assert process.world_size() == 1


@pytest.mark.parametrize("fate", ["crash", "lose a peer"])
def test_crash_is_reported_first_and_ends_the_others(fate: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_gpu, "GRACE", 0.5 if fate == "crash" else 30.0)
    start = time.monotonic()
    with pytest.raises(command_template.CommandFailed, match=r"process 1 of 2: ZeroDivisionError: first\\nsecond"):
        multi_gpu.run(2, work, (tmp_path, fate))
    assert time.monotonic() - start < 30
    assert capfd.readouterr().err.startswith("Traceback (most recent call last):\n")


def test_killed_process_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_gpu, "GRACE", 0.1)
    with pytest.raises(command_template.CommandFailed, match="process 1 of 2: it was killed by signal 9"):
        multi_gpu.run(2, work, (tmp_path, "kill"))


def test_user_error_has_no_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str],
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_gpu, "GRACE", 0.1)
    with pytest.raises(UserError, match="model: there is no such thing"):
        multi_gpu.run(2, work, (tmp_path, "user error"))
    assert not capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_signals_are_forwarded_to_the_first_process(number: int, tmp_path: Path) -> None:
    """The first process exits then; the test signals the second one."""
    def forward(first: multi_gpu._Process) -> None:
        original(first)
        while not any(tmp_path.glob("1 of 2*")):
            time.sleep(0.01)
        os.kill(started[1].process.pid, signal.SIGUSR1)
    started: list[multi_gpu._Process] = []
    original, wait = multi_gpu._forward_signal, multi_gpu._wait

    def waiting(processes: list[multi_gpu._Process]) -> dict[int, tuple[str, object]]:
        started.extend(processes)
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)
        return wait(processes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi_gpu, "_wait", waiting)
        patch.setattr(multi_gpu, "_forward_signal", forward)
        if number == signal.SIGUSR1:
            assert multi_gpu.run(2, work, (tmp_path, "wait for a signal")) == "requeued"
        else:
            with pytest.raises(Stopped, match=signal.Signals(number).name):
                multi_gpu.run(2, work, (tmp_path, "wait for a signal"))


@pytest.mark.parametrize(("environment", "expected"), [
    ({}, (0, 1, 0)),
    ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, (5, 8, 1)),
    ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}, (6, 8, 2))])
def test_rank_world_size_and_local_rank(environment: dict[str, str], expected: tuple[int, int, int],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (process.rank(), process.world_size(), process.local_rank()) == expected
