"""A worker: imports the heavy libraries once, then forks each unclaimed run of a task file until none is left."""
from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from src import files, run_folder
from src.errors import BatchError, UserError, one_line
from src.submission import process

_GRACE = 20.0  # seconds that runs have to end after TERM
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_LOOK = 1.0  # seconds between looks at whether the starting process still lives

_NOT_OURS = 77  # exit code of a child whose run another worker claimed first

RunSpec = Callable[..., int | None]


def write_tasks(path: str, batch: str, tickets: dict[str, int], workers: int, slots: int = 1) -> None:
    """Write the task file of `workers` workers, which run `slots` runs at a time each."""
    files.write_json(path, {"batch": os.path.abspath(batch), "tickets": tickets, "workers": workers, "slots": slots})


def run_tasks(path: str, train: Callable[..., str], warm_up: Callable[..., None], run_spec: RunSpec) -> int:
    """Do what a task file says: one run in a task of a Slurm job array, else a worker's loop. The exit code."""
    tasks = files.read_json(path)
    if not isinstance(tasks, dict) or not {"batch", "tickets", "workers", "slots"} <= tasks.keys():
        raise BatchError("this is no task file", where=path, hint="submit_multiple.py writes them")
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        name = list(tasks["tickets"])[int(os.environ["SLURM_ARRAY_TASK_ID"])]
        with _output_to(os.path.join(tasks["batch"], name)):
            return run_spec(os.path.join(tasks["batch"], name, run_folder.SPEC), train, tasks["tickets"][name]) or 0
    return _Worker(tasks, train, run_spec).work(warm_up)


class _output_to:
    """What this process prints, from now on, goes to the run's folder."""

    def __init__(self, folder: str) -> None:
        job = process.slurm_job()
        self._path = os.path.join(folder, run_folder.slurm_log_name(job) if job else run_folder.LOCAL_LOG)

    def __enter__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()


@dataclass
class _Worker:
    tasks: dict[str, Any]
    train: Callable[..., str]
    run_spec: RunSpec
    children: dict[int, str] = field(default_factory=dict)  # process id -> run name
    stopping: bool = False
    failed: bool = False

    def work(self, warm_up: Callable[..., None]) -> int:
        """Run what is unclaimed. 0 if all runs that this worker took ended, 1 if one failed or it was stopped."""
        waker, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only wakes the wait below
        for number in _STOPPING:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        starter = os.getppid()
        self._warm_up(warm_up)
        runs = self._unclaimed()
        while True:
            while not self.stopping and len(self.children) < self.tasks["slots"] and (run := next(runs, None)):
                self._start(*run)
            if not self.children:
                return int(self.failed or self.stopping)
            select.select([waker], [], [], _LOOK)
            _drain(waker)
            self._reap()
            if os.getppid() != starter:  # it was killed: end what runs, begin nothing new
                self.stopping = True

    def _unclaimed(self) -> Iterator[tuple[str, int]]:
        for name, ticket in self.tasks["tickets"].items():
            folder = os.path.join(self.tasks["batch"], name)
            if not os.path.exists(os.path.join(folder, run_folder.claim_name(ticket))):
                yield folder, ticket

    def _warm_up(self, warm_up: Callable[..., None]) -> None:
        """Import what the runs need; with foreign programs alone there is nothing to import."""
        specs = []
        for folder, _ in self._unclaimed():
            try:
                specs.append(run_folder.read_spec(os.path.join(folder, run_folder.SPEC)))
            except UserError:
                continue  # its own run will say so
        specs = [spec for spec in specs if "COMMAND" not in spec]
        if specs:
            warm_up(specs)

    def _start(self, folder: str, ticket: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        # in the child a signal waits until its attempt can record it
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        pid = os.fork()
        if pid:
            self.children[pid] = os.path.basename(folder)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
            return
        code = 1
        try:
            self._become_run()
            with _output_to(folder):
                result = self.run_spec(os.path.join(folder, run_folder.SPEC), self.train, ticket)
                code = _NOT_OURS if result is None else result
        except UserError as error:
            os.write(2, f"error: {one_line(str(error))}\n".encode())
            code = 2
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)  # the parent's exit handlers are not ours to run

    def _become_run(self) -> None:
        """A session of its own, without the worker's signal handlers, and with a run's share of the CPUs."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ["GRIDIRON_THREADS"] = str(max(1, cpus // (self.tasks["workers"] * self.tasks["slots"])))

    def _reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            name = self.children.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if code != _NOT_OURS:
                self.failed |= code != 0
                print(f"ended {code} {name}", flush=True)

    def _stop(self, _number: int, _frame: object) -> None:
        """Ask the runs to end, and end them if they do not."""
        if self.stopping:
            return
        self.stopping = True
        _signal_all(self.children, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE
        while self.children and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.02)
        _signal_all(self.children, signal.SIGKILL)


def _signal_all(pids: dict[int, str], number: int) -> None:
    for pid in pids:
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # not a session of its own yet
            os.kill(pid, number)


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        pass
