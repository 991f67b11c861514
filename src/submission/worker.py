"""A worker: imports the heavy libraries once, then forks each unclaimed run of a task file until none is left."""
from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

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
            spec = os.path.join(tasks["batch"], name, run_folder.SPEC)
            return run_spec(spec, train, tasks["tickets"][name]) or 0
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
    asked: int = 0  # how often a signal asked it to stop
    deadline: float | None = None  # when runs that were asked to end are killed
    failed: bool = False

    def work(self, warm_up: Callable[..., None]) -> int:
        """Run what is unclaimed. 0 if all runs that this worker took ended, 1 if one failed or it was stopped."""
        starter, orphaned = os.getppid(), False
        self._warm_up(warm_up)  # a signal ends it at once: nothing runs yet
        waker = self._listen()
        runs = deque(self.tasks["tickets"].items())
        while True:
            stopping = self.asked > 0 or orphaned
            while not stopping and runs and len(self.children) < self.tasks["slots"]:
                if not self._start(*runs[0]):
                    break
                runs.popleft()
            if not self.children and (stopping or not runs):
                return int(self.failed or stopping)
            select.select([waker], [], [], _LOOK)
            _drain(waker)
            self._reap()
            if self.asked:
                self._end_runs()
            orphaned = os.getppid() != starter  # the starter was killed: what runs goes on, nothing new begins

    def _listen(self) -> int:
        """Have signals and ends of runs wake `select`: the descriptor to wait for."""
        waker, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        for number in _STOPPING:
            signal.signal(number, self._stop)
        return waker

    def _stop(self, _number: int, _frame: object) -> None:
        self.asked += 1

    def _end_runs(self) -> None:
        """Ask the runs to end; kill them when their time is up, or at the second signal."""
        if self.deadline is None:
            self.deadline = time.monotonic() + _GRACE
            _signal_all(self.children, signal.SIGTERM)
        elif self.asked > 1 or time.monotonic() > self.deadline:
            _signal_all(self.children, signal.SIGKILL)

    def _warm_up(self, warm_up: Callable[..., None]) -> None:
        """Import what the runs need; with foreign programs alone there is nothing to import."""
        specs = []
        for name, ticket in self.tasks["tickets"].items():
            if not self._is_claimed(name, ticket):
                with contextlib.suppress(UserError):  # the run itself will say so
                    specs.append(run_folder.read_spec(os.path.join(self.tasks["batch"], name, run_folder.SPEC)))
        specs = [spec for spec in specs if "COMMAND" not in spec]
        if specs:
            warm_up(specs)

    def _is_claimed(self, name: str, ticket: int) -> bool:
        return os.path.exists(os.path.join(self.tasks["batch"], name, run_folder.claim_name(ticket)))

    def _start(self, name: str, ticket: int) -> bool:
        """Run it in a child, unless it is claimed. False if there can be no more processes until one of ours ends."""
        if self._is_claimed(name, ticket):
            return True
        sys.stdout.flush()
        sys.stderr.flush()
        # in the child a signal waits until its attempt can record it
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            pid = os.fork()
            if pid == 0:
                self._run(os.path.join(self.tasks["batch"], name), ticket)
            self.children[pid] = name
            return True
        except OSError as error:
            if not self.children:
                raise BatchError(f"no process can be started: {error.strerror}", where=name) from None
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)

    def _run(self, folder: str, ticket: int) -> NoReturn:
        """The child's life."""
        code = 1
        try:
            self._become_run()
            with _output_to(folder):
                result = self.run_spec(os.path.join(folder, run_folder.SPEC), self.train, ticket, in_worker=True)
                code = _NOT_OURS if result is None else result
        except UserError as error:
            os.write(2, f"error: {one_line(str(error))}\n".encode())
            code = 2
        except OSError as error:
            os.write(2, f"error: {folder}: {error.strerror}\n".encode())
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


def _signal_all(pids: dict[int, str], number: int) -> None:
    for pid in pids:
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # not a session of its own yet; unreaped, so its number is not another's
            os.kill(pid, number)


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        pass
