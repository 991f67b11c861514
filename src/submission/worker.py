"""A worker: imports the heavy libraries once, then forks each unclaimed run of a task file until none is left."""
from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from src import run_folder
from src.errors import BatchError, UserError, one_line
from src.submission import handover, process, tasks
from src.submission.tasks import Tasks

_GRACE = 20.0  # seconds that runs have to end after TERM
_LOOK = 1.0  # seconds between looks at whether the starting process still lives
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_NOT_OURS = 77  # exit code of a child whose run another worker claimed first

RunSpec = Callable[..., int | None]


def run_tasks(path: str, train: Callable[..., str], warm_up: Callable[..., None], run_spec: RunSpec) -> int:
    """Do what a task file says: one run in a task of a Slurm job array, else a worker's loop. The exit code."""
    listed = tasks.read(path)
    if listed.kind == tasks.WORKER:
        return _Worker(path, listed, train, run_spec).work(warm_up)
    try:
        name = list(listed.tickets)[int(os.environ["SLURM_ARRAY_TASK_ID"])]
    except (KeyError, IndexError):
        raise BatchError("this task file is for a Slurm job array", where=path,
                         hint="`-r BATCH` submits what is left of a batch") from None
    return run_spec(listed.spec(name), train, listed.tickets[name], own_log=True) or 0


def send_output_to(folder: str) -> None:
    """What this process prints, from now on, goes to the run's folder."""
    sys.stdout.flush()
    sys.stderr.flush()
    job = process.slurm_job()
    name = run_folder.slurm_log_name(job) if job else run_folder.LOCAL_LOG
    descriptor = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


@dataclass(frozen=True)
class _Child:
    """A run under way."""

    name: str
    slot: int
    start: float


@dataclass
class _Worker:
    path: str
    tasks: Tasks
    train: Callable[..., str]
    run_spec: RunSpec
    children: dict[int, _Child] = field(default_factory=dict)  # by process id
    took: list[float] = field(default_factory=list)  # seconds, of runs that have ended
    end: float | None = None  # when the time limit ends this Slurm job, unix seconds
    stopping: bool = False  # was told to end, with its runs
    leaving: bool = False  # takes no more runs, for lack of time
    failed: bool = False

    def work(self, warm_up: Callable[..., None]) -> int:
        """Run what is unclaimed. 0 if all runs that this worker took ended, 1 if one failed or it was stopped."""
        waker = self._listen()
        starter = os.getppid()
        self.end = handover.end_of_job()
        self.took = handover.durations(self.tasks) if self.end else []
        self._warm_up(warm_up)
        runs = self.tasks.unclaimed(process.slurm_job() if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else None)
        while True:
            while (slot := self._free_slot()) is not None and (name := next(runs, None)):
                self._start(name, slot)
            if self.leaving:
                self._hand_over()
            if not self.children:
                return int(self.failed or self.stopping)
            select.select([waker], [], [], _LOOK)
            _drain(waker)
            self._reap()
            if os.getppid() != starter and not process.slurm_job():  # it was killed: begin nothing new
                self.stopping = True

    def _listen(self) -> int:
        """Install the signal handlers. A descriptor that wakes the loop when a run ends or a signal comes."""
        waker, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _STOPPING:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGUSR1, self._leave)
        return waker

    def _warm_up(self, warm_up: Callable[..., None]) -> None:
        """Import what the runs need; with foreign programs alone there is nothing to import."""
        specs = []
        for name in self.tasks.unclaimed():
            with contextlib.suppress(UserError):  # its own run will say so
                specs.append(run_folder.read_spec(self.tasks.spec(name)))
        specs = [spec for spec in specs if "COMMAND" not in spec]
        if specs:
            warm_up(specs)

    def _free_slot(self) -> int | None:
        """A slot for another run; None if all are taken, or nothing more is to be begun."""
        taken = {child.slot for child in self.children.values()}
        free = [slot for slot in range(self.tasks.slots) if slot not in taken]
        if not free or self.stopping or self.leaving:
            return None
        self.leaving = not handover.fits(self.end, self.took)
        return None if self.leaving else free[0]

    def _hand_over(self) -> None:
        """Once: another worker for what is left, while there is time to ask for it."""
        if self.end is not None and (job := handover.succeed(self.path, self.tasks)):
            print(f"time is short: Slurm job {job} goes on", flush=True)
        self.end = None

    def _start(self, name: str, slot: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        # in the child a signal waits until its attempt can record it
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        pid = os.fork()
        if pid:
            self.children[pid] = _Child(name, slot, time.monotonic())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
            return
        code = 1
        try:
            self._become_run(slot)
            result = self.run_spec(self.tasks.spec(name), self.train, self.tasks.tickets[name], own_log=True)
            code = _NOT_OURS if result is None else result
        except UserError as error:
            send_output_to(self.tasks.folder(name))  # also if it came before the claim
            os.write(2, f"error: {one_line(str(error))}\n".encode())
            code = 2
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # the parent's exit handlers are not ours to run

    def _become_run(self, slot: int) -> None:
        """A session of its own, without the worker's signal handlers, with a slot's share of the CPUs and GPUs."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if given := os.environ.get("SLURM_CPUS_PER_TASK"):
            cpus = min(cpus, int(given))
        os.environ["GRIDIRON_THREADS"] = str(max(1, cpus // (self.tasks.workers * self.tasks.slots)))
        if gpus := self._gpus(slot):
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)

    def _gpus(self, slot: int) -> list[str]:
        """The GPUs of a slot, by the ids that CUDA_VISIBLE_DEVICES takes; empty if there is nothing to share out."""
        visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        position = int(os.environ.get("GRIDIRON_WORKER", "0")) * self.tasks.slots + slot
        return share(self.tasks.gpus or visible, position, self.tasks.workers * self.tasks.slots)

    def _reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self.children.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if code != _NOT_OURS:
                self.took.append(time.monotonic() - child.start)
                self.failed |= code != 0
                print(f"ended {code} {child.name}", flush=True)

    def _leave(self, _number: int, _frame: object) -> None:
        """USR1: the time limit is near. Take nothing more, and tell the runs."""
        self.leaving = True
        for pid in self.children:
            os.kill(pid, signal.SIGUSR1)

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


def share(gpus: list[str], position: int, places: int) -> list[str]:
    """What the place `position` of `places` gets: GPUs of its own while there are enough, else one with others."""
    if not gpus or places == 1:
        return gpus
    return gpus[position::places] if len(gpus) >= places else [gpus[position % len(gpus)]]


def _signal_all(pids: dict[int, _Child], number: int) -> None:
    for pid in pids:
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # not a session of its own yet
            os.kill(pid, number)


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass
