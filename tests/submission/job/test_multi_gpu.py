"""Processes that train together on this machine: their places, and what becomes of the others when one ends badly."""
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
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Signals]:
    """Signals are heard, and pytest has its own handlers back."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GRIDIRON_THREADS"):
        monkeypatch.delenv(name, raising=False)
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    signals.listen()
    yield signals
    for number, handler in kept.items():
        signal.signal(number, handler)
    signals.warned, signals.stop_signal = False, None


def work(folder: Path, how: str) -> str:
    """What a process does; the second has a fate, and the others wait for it."""
    rank = process.rank()
    (folder / f"{rank} of {process.world_size()}, here {process.local_rank()}").touch()
    assert Path(os.environ[multi_gpu.RENDEZVOUS]).is_dir()
    if how == "end":
        return f"completed by {rank}"
    if how == "tell":
        while not (signals.warned or signals.stop_signal):
            time.sleep(0.01)
        if signals.stop_signal:
            raise Stopped(signals.stop_signal)
        return "requeued"
    if rank == 1:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "mistake":
            raise ConfigError("there is no such thing", where="model")
        raise ZeroDivisionError("first\nsecond")
    if how == "miss":
        time.sleep(1)
        raise multi_gpu.PeerLost("another process is gone")
    time.sleep(60)
    return "completed"


def test_each_has_its_place_and_the_first_is_heard(tmp_path: Path) -> None:
    assert multi_gpu.run(3, work, (tmp_path, "end")) == "completed by 0"
    assert {path.name for path in tmp_path.iterdir()} == {f"{rank} of 3, here {rank}" for rank in range(3)}
    assert process.world_size() == 1


@pytest.mark.parametrize("how", ["crash", "miss"])
def test_a_crash_comes_first_in_the_log_and_ends_the_others(how: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_gpu, "GRACE", 0.5 if how == "crash" else 30.0)
    start = time.monotonic()
    with pytest.raises(command_template.CommandFailed, match=r"process 1 of 2: ZeroDivisionError: first\\nsecond"):
        multi_gpu.run(2, work, (tmp_path, how))
    assert time.monotonic() - start < 30
    assert capfd.readouterr().err.startswith("Traceback (most recent call last):\n")


def test_one_that_is_killed_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_gpu, "GRACE", 0.1)
    with pytest.raises(command_template.CommandFailed, match="process 1 of 2: it was killed by signal 9"):
        multi_gpu.run(2, work, (tmp_path, "kill"))


def test_a_mistake_is_told_without_a_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_gpu, "GRACE", 0.1)
    with pytest.raises(UserError, match="model: there is no such thing"):
        multi_gpu.run(2, work, (tmp_path, "mistake"))
    assert not capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(number: int, tmp_path: Path) -> None:
    """To the first alone, which here says so by leaving; the second is told by the test."""
    def pass_on(first: multi_gpu._Worker) -> None:
        original(first)
        while not any(tmp_path.glob("1 of 2*")):
            time.sleep(0.01)
        os.kill(started[1].process.pid, signal.SIGUSR1)
    started: list[multi_gpu._Worker] = []
    original, wait = multi_gpu._forward_signal, multi_gpu._wait

    def waiting(processes: list[multi_gpu._Worker]) -> dict[int, tuple[str, object]]:
        started.extend(processes)
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)
        return wait(processes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi_gpu, "_wait", waiting)
        patch.setattr(multi_gpu, "_forward_signal", pass_on)
        if number == signal.SIGUSR1:
            assert multi_gpu.run(2, work, (tmp_path, "tell")) == "requeued"
        else:
            with pytest.raises(Stopped, match=signal.Signals(number).name):
                multi_gpu.run(2, work, (tmp_path, "tell"))


@pytest.mark.parametrize(("environment", "place"), [
    ({}, (0, 1, 0)),
    ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, (5, 8, 1)),
    ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}, (6, 8, 2))])
def test_places(environment: dict[str, str], place: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (process.rank(), process.world_size(), process.local_rank()) == place
