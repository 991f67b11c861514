"""A process that a worker has forked: the runs that it executes, its output, and what a stack reports to its worker."""
from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from src import run_folder
from src.errors import UserError, one_line
from src.frozen import Frozen
from src.io import files, slurm_environment
from src.submission.system import process

# as PyTorch, CUDA, the kernel, loaders and programs report it
_OUT_OF_MEMORY = (r"(?i)out ?of ?memory|cannot allocate memory|can't allocate memory|bad_alloc|ALLOC_FAILED|"
                  r"MemoryError|is killed by signal: Killed")
Report = Callable[[dict[str, Any]], None]  # sends what a stack has done to its worker: see Child.read_reports


class Unit(Frozen):
    """The runs that one process executes.

    names: one run, or those of a stack
    size: how many of them to train at once, if that is known
    reason: why runs of a stack are started one by one
    """

    names: Sequence[str]
    size: int | None = None
    reason: str = ""


@dataclass
class Child:
    """A process that executes a run, or a stack.

    reports: descriptor of the pipe by which a stack reports; None for a single run
    claimed: of a stack, the runs that it has claimed and that have not ended; None before it has claimed any
    start: time.monotonic()
    """

    unit: Unit
    slot: int
    reports: int | None = None
    claimed: list[str] | None = None
    start: float = field(default_factory=time.monotonic)
    _unread: bytes = b""

    @property
    def running(self) -> list[str]:
        """The runs that it may have claimed."""
        return list(self.unit.names) if self.reports is None else self.claimed or []

    def close(self) -> None:
        """Close the pipe."""
        if self.reports is not None:
            os.close(self.reports)

    def read_reports(self) -> Iterator[dict[str, Any]]:
        """Yield what a stack has reported since the last time.

        Once `claimed` (names), `size` (how many are trained at once; 1: none) and the `reason` for that; then
        `ended` (a name) and `code` for each run that has ended.
        """
        if self.reports is None:
            return
        os.set_blocking(self.reports, False)
        while chunk := _read_available(self.reports):
            *lines, self._unread = (self._unread + chunk).split(b"\n")
            yield from map(json.loads, lines)


def _read_available(descriptor: int) -> bytes:
    """Return what can be read now; empty if that is nothing, or the other side is closed."""
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""


def send_report(descriptor: int, report: dict[str, Any]) -> None:
    """Send a report to the worker, unless that was killed."""
    with contextlib.suppress(OSError):
        os.write(descriptor, json.dumps(report).encode() + b"\n")


def describe_end(code: int) -> str:
    """Return how the process of a stack has ended, by its exit code."""
    return process.killed_by(-code) if code < 0 else f"the process of its stack ended with exit code {code}"


def redirect_output(folder: str) -> None:
    """Append stdout and stderr of this process to a log in the run's folder from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = files.open_for_append(_output_path(folder))
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a lack of memory, of the machine or a GPU, or of a process killed for it."""
    return isinstance(error, MemoryError) or re.search(_OUT_OF_MEMORY, f"{type(error).__name__}: {error}") is not None


def _output_path(folder: str) -> str:
    job = slurm_environment.job_id()
    return os.path.join(folder, run_folder.slurm_log_name(job) if job else run_folder.LOCAL_LOG)


def remove_empty_output(folder: str) -> None:
    """Remove the output of a run whose process has exited, if it is empty and the run has ended well."""
    path = _output_path(folder)
    with contextlib.suppress(OSError):
        if os.lstat(path).st_size == 0 and os.path.exists(os.path.join(folder, run_folder.DONE)):
            os.unlink(path)


def report_error(folder: str, error: UserError | OSError) -> int:
    """Print a user's error, or a file's, to the log in a run's folder, if there can be one. Return the exit code."""
    if isinstance(error, UserError):
        with contextlib.suppress(OSError):  # its folder may be what is wrong
            redirect_output(folder)
        os.write(2, f"error: {one_line(str(error))}\n".encode())
        return 2
    os.write(2, f"error: {folder}: {error.strerror}\n".encode())
    return 1


def local_number() -> int:
    """Return the number of this worker among those of this machine; 0 under Slurm."""
    return int(os.environ.get("GRIDIRON_WORKER", "0"))


def gpu_share(gpus: list[str], position: int, slots: int) -> list[str]:
    """Return the GPUs of slot `position` of `slots`: its own while there are enough, otherwise a shared one."""
    if not gpus or slots == 1:
        return gpus
    return gpus[position::slots] if len(gpus) >= slots else [gpus[position % len(gpus)]]
