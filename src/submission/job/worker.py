"""A worker: imports the heavy libraries once, then forks each unclaimed run of a task file until none is left."""
from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from src import run_folder
from src.errors import BatchError, UserError, one_line
from src.io import machine, slurm_environment
from src.submission.batch import task_files
from src.submission.batch.task_files import Tasks
from src.submission.job import external_program, requeue
from src.submission.slurm import time_limit
from src.submission.system import process
from src.submission.system.signals import STOP_SIGNALS, Waker, signals

_GRACE = 20.0  # seconds that runs have to end after TERM
_LOOK = 1.0  # seconds between looks at whether the starting process still lives
_NOT_OURS = 77  # exit code of a child whose run another worker claimed first

RunSpec = Callable[..., int | None]


def run_tasks(path: str, train: Callable[..., str], warm_up: Callable[..., None], run_spec: RunSpec) -> int:
    """Do what a task file says: one run in a task of a Slurm job array, else a worker's loop. The exit code."""
    listed = task_files.read(path)
    if listed.kind == task_files.WORKER:
        if process.rank():
            print("one process is the worker: the first task of this Slurm job is, this one leaves")
            return 0
        if held := sum(not listed.is_canary_done(name) for name in listed.tickets):
            print(f"left alone: {held} of {len(listed.tickets)} runs, whose canary has not ended well", flush=True)
        return _Worker(path, listed, train, run_spec).work(warm_up)
    names, task = list(listed.tickets), slurm_environment.array_task()
    if task is None or task >= len(names):
        raise BatchError("this task file is for a Slurm job array", where=path,
                         hint="`-r BATCH` submits what is left of a batch")
    name = names[task]
    return run_spec(listed.spec(name), train, listed.tickets[name], in_worker=True) or 0


def redirect_output(folder: str) -> None:
    """What this process prints, from now on, goes to the run's folder."""
    sys.stdout.flush()
    sys.stderr.flush()
    job = slurm_environment.job_id()
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
    start: float  # time.monotonic()


@dataclass
class _Worker:
    path: str
    tasks: Tasks
    train: Callable[..., str]
    run_spec: RunSpec
    children: dict[int, _Child] = field(default_factory=dict)  # by process id
    took: list[float] = field(default_factory=list)  # seconds, of runs that have ended
    end: float | None = None  # when the time limit ends this Slurm job, unix seconds
    asked: int = 0  # how often a signal asked it to stop
    warned: bool = False  # a signal said that the time limit is near
    saved: list[str] = field(default_factory=list)  # runs that want another start
    deadline: float | None = None  # when runs that were asked to end are killed
    failed: bool = False

    def work(self, warm_up: Callable[..., None]) -> int:
        """Run what is unclaimed. 0 if all runs that this worker took ended, 1 if one failed or it was stopped."""
        starter_lives = process.watch_parent()
        self._warm_up(warm_up)  # a signal ends it at once: nothing runs yet
        with Waker() as waker:
            self._listen()
            return self._loop(waker, starter_lives)

    def _loop(self, waker: Waker, starter_lives: Callable[[], bool]) -> int:
        """Start what there is a slot for, sleep until something happens, and see what."""
        stopping = self.asked > 0
        self.end = time_limit.end_of_job()
        self.took = requeue.run_durations(self.tasks) if self.end else []
        runs = deque(self.tasks.tickets)
        while True:
            leaving = self._lacks_time()
            while not (stopping or leaving) and runs and (slot := self._free_slot()) is not None:
                if not self._start(runs[0], slot):
                    break
                runs.popleft()
            if leaving and not stopping:
                self._hand_over()
            if not self.children and (stopping or leaving or not runs):
                self._hand_over_saved()
                return int(self.failed or stopping)
            waker.wait(_LOOK)
            self._reap()
            if self.asked:
                self._end_runs()
            # when the starter was killed, what runs goes on and nothing new begins
            stopping = self.asked > 0 or not slurm_environment.job_id() and not starter_lives()

    def _listen(self) -> None:
        signal.signal(signal.SIGUSR1, self._warn)
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        signals.register_with_host()

    def _stop(self, _number: int, _frame: object) -> None:
        self.asked += 1

    def _warn(self, _number: int, _frame: object) -> None:
        """The time limit is near: take nothing more, and tell the runs."""
        self.warned = True
        for pid in self.children:
            os.kill(pid, signal.SIGUSR1)

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
        for name in self.tasks.startable():
            with contextlib.suppress(UserError):  # the run itself will say so
                specs.append(run_folder.read_spec(self.tasks.spec(name)))
        specs = [spec for spec in specs if "COMMAND" not in spec]
        if specs:
            warm_up(specs)
        # a collection in a child would write into every page that it shares with this process, and so copy it
        gc.collect()
        gc.freeze()

    def _lacks_time(self) -> bool:
        """Whether another run would not end before the time limit."""
        return self.warned or not requeue.fits_in_time(self.end, self.took)

    def _hand_over(self) -> None:
        """Once: another worker for what is left, while there is time to ask for it."""
        begun = [child.name for child in self.children.values()]
        if self.end is not None and (job := requeue.submit_successor(self.path, self.tasks, begun)):
            print(f"time is short: Slurm job {job} goes on", flush=True)
        self.end, self.warned = None, True

    def _hand_over_saved(self) -> None:
        """Another worker for runs that saved themselves; the one that was submitted may have looked at them before."""
        if self.saved and (job := requeue.submit_successor(self.path, self.tasks, self.saved, last=True)):
            print(f"Slurm job {job} goes on with {', '.join(self.saved)}", flush=True)
        elif self.asked and requeue.classify_stop() == run_folder.REQUEUED and (
                job := requeue.submit_successor(self.path, self.tasks)):
            print(f"preempted: Slurm job {job} goes on", flush=True)

    def _free_slot(self) -> int | None:
        taken = {child.slot for child in self.children.values()}
        return next((slot for slot in range(self.tasks.slots) if slot not in taken), None)

    def _start(self, name: str, slot: int) -> bool:
        """Run it in a child, unless it is claimed. False if there can be no more processes until one of ours ends."""
        if not self.tasks.can_start(name, _requeued_job()):
            return True
        sys.stdout.flush()
        sys.stderr.flush()
        # in the child a signal waits until its attempt can record it
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._run(name, slot)
            self.children[pid] = _Child(name, slot, time.monotonic())
            return True
        except OSError as error:
            if not self.children:
                raise BatchError(f"no process can be started: {error.strerror}", where=name) from None
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _run(self, name: str, slot: int) -> NoReturn:
        """The child's life."""
        code = 1
        try:
            self._become_run(slot)
            result = self.run_spec(self.tasks.spec(name), self.train, self.tasks.tickets[name], in_worker=True,
                                   alone=False)
            code = _NOT_OURS if result is None else result
        except UserError as error:
            with contextlib.suppress(OSError):  # its folder may be what is wrong
                redirect_output(self.tasks.folder(name))
            os.write(2, f"error: {one_line(str(error))}\n".encode())
            code = 2
        except OSError as error:
            os.write(2, f"error: {self.tasks.folder(name)}: {error.strerror}\n".encode())
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            with contextlib.suppress(OSError):
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
        os.environ["GRIDIRON_THREADS"] = str(max(1, machine.allotted_cpus() // (self.tasks.workers * self.tasks.slots)))
        if gpus := self._gpus(slot):
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)

    def _gpus(self, slot: int) -> list[str]:
        """The GPUs of a slot, by the ids that CUDA_VISIBLE_DEVICES takes; empty if there is nothing to share out."""
        visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        position = int(os.environ.get("GRIDIRON_WORKER", "0")) * self.tasks.slots + slot
        return gpu_share(self.tasks.gpus or visible, position, self.tasks.workers * self.tasks.slots)

    def _reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self.children.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if code != _NOT_OURS:
                self.took.append(time.monotonic() - child.start)
                self.failed |= code not in (0, external_program.SAVED)
                self.saved += [child.name] * (code == external_program.SAVED)
                print(f"ended {code} {child.name}", flush=True)


def gpu_share(gpus: list[str], position: int, places: int) -> list[str]:
    """What the place `position` of `places` gets: GPUs of its own while there are enough, else one with others."""
    if not gpus or places == 1:
        return gpus
    return gpus[position::places] if len(gpus) >= places else [gpus[position % len(gpus)]]


def _requeued_job() -> str | None:
    """This Slurm job, if it was started before: what it had claimed and not ended is its to take again."""
    return slurm_environment.job_id() if slurm_environment.restart_count() > 0 else None


def _signal_all(pids: dict[int, _Child], number: int) -> None:
    for pid in pids:
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # not a session of its own yet; unreaped, so its number is not another's
            os.kill(pid, number)
