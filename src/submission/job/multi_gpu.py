"""Start the processes that train one run together on this machine, and end them all when one fails."""
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

from src.errors import UserError, exception_line
from src.io import machine
from src.submission.spec import command_template
from src.submission.system.process import killed_by
from src.submission.system.signals import Stopped, signals

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

RENDEZVOUS = "GRIDIRON_RENDEZVOUS"  # environment variable: the folder in which the processes find each other
GRACE = 10.0  # seconds that the other processes have to end by themselves after one has failed


class PeerLost(command_template.CommandFailed):
    """Another process of this start has failed, and reports the reason itself."""


@dataclass
class _Process:
    """A started process.

    result: pipe through which it sends how it ended, as JSON: one of ended, stopped, lost, user_error, failed, and the
      return value, signal number or message
    """

    process: Any
    result: Connection
    rank: int


def run(count: int, function: Callable[..., str], arguments: tuple[Any, ...]) -> str:
    """Call `function` in `count` processes with the environment that torchrun would set. Return the first's result.

    Signals are forwarded to the first process, which agrees with the others on what follows. If one fails, the others
    are killed after a grace period. CommandFailed, UserError or Stopped reports the first failure.
    """
    with tempfile.TemporaryDirectory(prefix="gridiron-") as rendezvous:
        workers: list[_Process] = []
        try:
            for rank in range(count):
                workers.append(_start(rank, count, rendezvous, function, arguments))
            with signals.on_stop(lambda: _forward_signal(workers[0])):
                results = _wait(workers)
        finally:
            for worker in workers:
                if worker.process.is_alive():
                    worker.process.kill()
                worker.process.join()
    signals.raise_if_stopped()
    return str(results[0])


def _start(rank: int, count: int, rendezvous: str, function: Callable[..., str],
           arguments: tuple[Any, ...]) -> _Process:
    import multiprocessing  # few runs need it, and a dry run never does

    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads and locks of torch
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(rank, count, rendezvous, writer, function, arguments))
    process.start()
    writer.close()
    return _Process(process, reader, rank)


def _forward_signal(first: _Process) -> None:
    """Forward a signal to the first process: TERM for a stop, USR1 for the time limit.

    Ctrl-C is forwarded as TERM: the terminal sends SIGINT to all processes, and a second SIGINT would end the run at
    once.
    """
    if first.process.is_alive():
        os.kill(first.process.pid, signal.SIGTERM if signals.stop_signal else signal.SIGUSR1)


def _wait(workers: list[_Process]) -> dict[int, Any]:
    """Wait for all processes, and return their results by rank. Raises as described in `run` if one fails."""
    from multiprocessing.connection import wait

    running, results, deadline = {worker.process.sentinel: worker for worker in workers}, {}, None
    failures: list[tuple[str, Any, int]] = []
    while running:
        for sentinel in wait([*running], None if deadline is None else max(0.0, deadline - time.monotonic())):
            worker = running.pop(sentinel)
            kind, results[worker.rank] = _read_result(worker)
            if kind != "ended":
                failures.append((kind, results[worker.rank], worker.rank))
                deadline = deadline or time.monotonic() + GRACE
        if deadline is not None and time.monotonic() >= deadline:
            for worker in running.values():
                worker.process.kill()
    if failures:
        _raise(failures, len(workers))
    return results


def _read_result(worker: _Process) -> tuple[str, Any]:
    """Return how a process ended, and its result or the error."""
    worker.process.join()
    try:
        kind, result = json.loads(worker.result.recv_bytes())
    except EOFError:
        code = worker.process.exitcode
        return "failed", f"it was {killed_by(-code)}" if code < 0 else f"it ended with exit code {code}"
    return kind, result


def _raise(failures: list[tuple[str, Any, int]], count: int) -> None:
    """Raise the first failure; processes that only lost a peer come last."""
    kind, error, rank = min(failures, key=lambda failure: failure[0] == "lost")
    if kind == "stopped":
        signals.raise_if_stopped()  # with the signal that this process received
        raise Stopped(error)
    if kind == "user_error":
        raise UserError(error)
    raise command_template.CommandFailed(f"process {rank} of {count}: {error}")


def _main(rank: int, count: int, rendezvous: str, writer: Connection, function: Callable[..., str],
          arguments: tuple[Any, ...]) -> None:
    """The main function of a started process: call `function`, and send how it ended."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank), RENDEZVOUS: rendezvous}
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["GRIDIRON_THREADS"] = str(max(1, machine.allotted_cpus() // count))
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    signals.listen()
    result: tuple[str, Any]
    try:
        result = "ended", function(*arguments)
    except Stopped as stopped:
        result = "stopped", stopped.number
    except PeerLost as lost:
        result = "lost", str(lost)
    except UserError as error:
        result = "user_error", str(error)
    except BaseException as error:
        traceback.print_exc()
        result = "failed", exception_line(error)
    writer.send_bytes(json.dumps(result).encode())
    if result[0] != "ended":
        os._exit(1)  # at once: the clean-up of libraries may wait for the other processes


def _exit_with_parent() -> None:
    """Wait until the parent process, which has claimed the run, is gone, and exit: nobody may write for it any more."""
    from multiprocessing import parent_process

    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
