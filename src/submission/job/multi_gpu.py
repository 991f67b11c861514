"""Starts the processes that train one run together on this machine, and ends them all when one fails."""
from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.errors import UserError, one_line
from src.io import slurm_environment
from src.submission.spec import command_template
from src.submission.system.signals import Stopped, signals

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

RENDEZVOUS = "GRIDIRON_MEETING"  # the variable that tells the processes in which folder they find each other
GRACE = 10.0  # seconds that the others have to end by themselves, when one has failed


class PeerLost(command_template.CommandFailed):
    """The others of this start are gone: one of them has failed, and says why itself."""


@dataclass
class _Process:
    process: Any
    word: Connection  # what it says as it ends
    number: int


def run(count: int, work: Callable[..., str], arguments: tuple[Any, ...]) -> str:
    """Do `work` in `count` processes, which find their places as those of torchrun do; what the first returned.

    Signals are passed on to the first, which agrees with the others on what follows. If one fails, the others are
    ended within ten seconds, and Failed, UserError or Stopped tells of the first to fail.
    """
    with tempfile.TemporaryDirectory(prefix="gridiron-") as meeting:
        started: list[_Process] = []
        try:
            for number in range(count):
                started.append(_start(number, count, meeting, work, arguments))
            with signals.on_stop(lambda: _pass_on(started[0])):
                words = _wait(started)
        finally:
            for one in started:
                if one.process.is_alive():
                    one.process.kill()
                one.process.join()
    signals.raise_if_stopped()
    kind, word = words[0]
    assert kind == "ended", words
    return str(word)


def _start(number: int, count: int, meeting: str, work: Callable[..., str], arguments: tuple[Any, ...]) -> _Process:
    import multiprocessing  # few runs need it, and a dry run never does

    context = multiprocessing.get_context("spawn")  # a fork would take torch's threads and locks along
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_live, args=(number, count, meeting, theirs, work, arguments))
    process.start()
    theirs.close()
    return _Process(process, ours, number)


def _pass_on(first: _Process) -> None:
    """TERM stands for Ctrl-C too: the terminal has told the process of that, and the second would end it at once."""
    if first.process.is_alive():
        os.kill(first.process.pid, signal.SIGTERM if signals.stop_signal else signal.SIGUSR1)


def _wait(started: list[_Process]) -> dict[int, tuple[str, Any]]:
    """What each process said as it ended, if all ended well."""
    from multiprocessing.connection import wait

    left, words, deadline = {one.process.sentinel: one for one in started}, {}, None
    failures: list[tuple[str, Any, int]] = []
    while left:
        for sentinel in wait([*left], None if deadline is None else max(0.0, deadline - time.monotonic())):
            one = left.pop(sentinel)
            kind, word = words[one.number] = _last_word(one)
            if kind != "ended":
                failures.append((kind, word, one.number))
                deadline = deadline or time.monotonic() + GRACE
        if deadline is not None and time.monotonic() >= deadline:
            for one in left.values():
                one.process.kill()
    if failures:
        _raise(failures, len(started))
    return words


def _last_word(one: _Process) -> tuple[str, Any]:
    one.process.join()
    try:
        kind, word = json.loads(one.word.recv_bytes())
    except EOFError:
        code = one.process.exitcode
        return "failed", f"it was killed by signal {-code}" if code < 0 else f"it left with exit code {code}"
    return kind, word


def _raise(failures: list[tuple[str, Any, int]], count: int) -> None:
    """Those who miss the others know least, so the first of the rest counts."""
    kind, word, number = min(failures, key=lambda failure: failure[0] == "lost")
    if kind == "stopped":
        signals.raise_if_stopped()  # as this process was told
        raise Stopped(word)
    if kind == "mistaken":
        raise UserError(word)
    raise command_template.CommandFailed(f"process {number} of {count}: {word}")


def _live(number: int, count: int, meeting: str, word: Connection, work: Callable[..., str],
          arguments: tuple[Any, ...]) -> None:
    """The life of a process."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_RANK": str(number), RENDEZVOUS: meeting}
    if (cpus := _cpus()) and "OMP_NUM_THREADS" not in os.environ:
        os.environ["GRIDIRON_THREADS"] = str(max(1, cpus // count))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signals.listen()
    try:
        said: tuple[str, Any] = "ended", work(*arguments)
    except Stopped as stopped:
        said = "stopped", stopped.number
    except PeerLost as lost:
        said = "lost", str(lost)
    except UserError as error:
        said = "mistaken", str(error)
    except BaseException as error:
        traceback.print_exc()
        said = "failed", one_line(traceback.format_exception_only(error)[-1].strip())[:2000]
    word.send_bytes(json.dumps(said).encode())
    if said[0] != "ended":
        os._exit(1)  # at once: what libraries do at the end may wait for the others


def _cpus() -> int:
    """The CPUs of the run."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("GRIDIRON_THREADS") or slurm_environment.cpus_per_task() or seen)


def _end_with_parent() -> None:
    """Whoever claimed the run is gone: nobody may write for it any more."""
    from multiprocessing import parent_process

    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
