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

from src import code_state, run_folder
from src.errors import BatchError, UserError, one_line
from src.io import files, machine, slurm_environment
from src.submission.batch import claims, task_files
from src.submission.batch.task_files import Tasks
from src.submission.job import external_program, requeue
from src.submission.slurm import time_limit
from src.submission.system import process
from src.submission.system.signals import STOP_SIGNALS, Waker, signals

_GRACE = 20.0  # seconds that runs have to end after TERM
_POLL_INTERVAL = 1.0  # seconds between checks whether the parent process is alive
_NOT_STARTED = 77  # exit code of a child whose run another worker has claimed

RunSpec = Callable[..., int | None]


def run_tasks(path: str, train: Callable[..., str], warm_up: Callable[..., None], run_spec: RunSpec) -> int:
    """Run a task file: one run in a task of a Slurm job array, the loop of a worker otherwise. Return the exit code."""
    tasks = task_files.read(path)
    if tasks.kind == task_files.WORKER:
        if process.rank():
            print("the first task of this Slurm job is the worker; this one exits")
            return 0
        if held_back := sum(not tasks.is_canary_done(name) for name in tasks.tickets):
            print(f"held back: {held_back} of {len(tasks.tickets)} runs, as their canary has not ended well",
                  flush=True)
        return _Worker(path, tasks, train, run_spec).work(warm_up)
    names, index = list(tasks.tickets), slurm_environment.array_task()
    if index is None or index >= len(names):
        raise BatchError("this task file is for a Slurm job array", where=path,
                         hint="`-r BATCH` submits the remaining runs of a batch")
    name = names[index]
    return run_spec(tasks.spec_path(name), train, tasks.tickets[name], in_worker=True) or 0


def redirect_output(folder: str) -> None:
    """Append stdout and stderr of this process to a log in the run's folder from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    job = slurm_environment.job_id()
    name = run_folder.slurm_log_name(job) if job else run_folder.LOCAL_LOG
    descriptor = files.open_for_append(os.path.join(folder, name))
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


@dataclass(frozen=True)
class _Child:
    """A process that executes a run."""

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
    durations: list[float] = field(default_factory=list)  # seconds, of runs that have ended
    job_end: float | None = None  # when the time limit ends this Slurm job, unix seconds
    stop_count: int = 0  # signals that requested a stop
    starts_no_more: bool = False  # a signal warned that the time limit is near, or a successor was submitted
    to_resume: list[str] = field(default_factory=list)  # runs that saved their state and need another start
    kill_deadline: float | None = None  # time.monotonic() at which runs that were sent TERM are killed
    failed: bool = False  # a run failed

    def work(self, warm_up: Callable[..., None]) -> int:
        """Start runs until none is left. Return 0 if all runs of this worker ended, 1 if one failed or it was stopped.
        """
        is_parent_alive = process.watch_parent()
        self._warm_up(warm_up)  # a signal ends the worker at once: no run has started yet
        with Waker() as waker:
            self._install_handlers()
            return self._loop(waker, is_parent_alive)

    def _loop(self, waker: Waker, is_parent_alive: Callable[[], bool]) -> int:
        """Start a run in each free slot, sleep until a signal or the end of a child, and handle it."""
        is_stopping = self.stop_count > 0
        self.job_end = time_limit.end_of_job()
        self.durations = requeue.run_durations(self.tasks) if self.job_end else []
        queue = deque(self.tasks.tickets)
        while True:
            lacks_time = self._lacks_time()
            while not (is_stopping or lacks_time) and queue and (slot := self._free_slot()) is not None:
                if not self._start(queue[0], slot):
                    break
                queue.popleft()
            if lacks_time and not is_stopping:
                self._submit_successor()
            if not self.children and (is_stopping or lacks_time or not queue):
                self._submit_successor_for_saved()
                return int(self.failed or is_stopping)
            waker.wait(_POLL_INTERVAL)
            self._reap()
            if self.stop_count:
                self._stop_runs()
            # if the parent was killed, started runs continue and no other is started
            is_stopping = self.stop_count > 0 or not slurm_environment.job_id() and not is_parent_alive()

    def _install_handlers(self) -> None:
        signal.signal(signal.SIGUSR1, self._on_warning)
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_stop)
        signals.register_with_host()

    def _on_stop(self, _number: int, _frame: object) -> None:
        self.stop_count += 1

    def _on_warning(self, _number: int, _frame: object) -> None:
        """The time limit is near: start no more runs, and pass the signal on to those that run."""
        self.starts_no_more = True
        for pid in self.children:
            os.kill(pid, signal.SIGUSR1)

    def _stop_runs(self) -> None:
        """Send TERM to the runs; after the grace period, or at the second signal, kill them."""
        if self.kill_deadline is None:
            self.kill_deadline = time.monotonic() + _GRACE
            _signal_all(self.children, signal.SIGTERM)
        elif self.stop_count > 1 or time.monotonic() > self.kill_deadline:
            _signal_all(self.children, signal.SIGKILL)

    def _warm_up(self, warm_up: Callable[..., None]) -> None:
        """Import what the runs need; external programs need nothing."""
        specs = []
        for name in self.tasks.startable():
            with contextlib.suppress(UserError):  # the run itself reports it
                specs.append(run_folder.read_spec(self.tasks.spec_path(name)))
        specs = [spec for spec in specs if "COMMAND" not in spec]
        if specs:
            warm_up(specs)
            token = os.path.basename(self.path).partition(".")[0]
            code_state.compare_loaded(os.path.join(self.tasks.batch, run_folder.CODE, token),
                                      code_state.project_folder())
        # a garbage collection in a child would write into, and so copy, every memory page that it shares with this one
        gc.collect()
        gc.freeze()

    def _lacks_time(self) -> bool:
        """Return whether another run would not end before the time limit."""
        return self.starts_no_more or not requeue.fits_in_time(self.job_end, self.durations)

    def _submit_successor(self) -> None:
        """Submit another worker for the remaining runs, once."""
        running = [child.name for child in self.children.values()]
        if self.job_end is not None and (job := requeue.submit_successor(self.path, self.tasks, running)):
            print(f"time limit is near: Slurm job {job} runs the rest", flush=True)
        self.job_end, self.starts_no_more = None, True

    def _submit_successor_for_saved(self) -> None:
        """Submit another worker for runs that saved their state.

        An earlier successor may have skipped them, because they were still running.
        """
        if self.to_resume and (job := requeue.submit_successor(self.path, self.tasks, self.to_resume, is_last=True)):
            print(f"Slurm job {job} resumes {', '.join(self.to_resume)}", flush=True)
        elif self.stop_count and requeue.classify_stop().how == run_folder.REQUEUED and (
                job := requeue.submit_successor(self.path, self.tasks)):
            print(f"preempted: Slurm job {job} runs the rest", flush=True)

    def _free_slot(self) -> int | None:
        used = {child.slot for child in self.children.values()}
        return next((slot for slot in range(self.tasks.slots) if slot not in used), None)

    def _start(self, name: str, slot: int) -> bool:
        """Start a run in a child process unless it is claimed. Return False if no process can be created now.

        True: go on to the next run; False: try again when a child has ended.
        """
        if not self.tasks.can_start(name, _restarted_job()):
            return True
        sys.stdout.flush()
        sys.stderr.flush()
        # in the child a signal waits until its attempt can record it
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._run_child(name, slot)
            self.children[pid] = _Child(name, slot, time.monotonic())
            return True
        except OSError as error:
            if not self.children:
                raise BatchError(f"cannot start a process: {error.strerror}", where=name) from None
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _run_child(self, name: str, slot: int) -> NoReturn:
        """Execute a run in this child process, and end the process."""
        code = 1
        try:
            self._prepare_child(slot)
            result = self.run_spec(self.tasks.spec_path(name), self.train, self.tasks.tickets[name], in_worker=True,
                                   owns_job=False)
            code = _NOT_STARTED if result is None else result
        except UserError as error:
            with contextlib.suppress(OSError):  # its folder may be what is wrong
                redirect_output(self.tasks.run_path(name))
            os.write(2, f"error: {one_line(str(error))}\n".encode())
            code = 2
        except OSError as error:
            os.write(2, f"error: {self.tasks.run_path(name)}: {error.strerror}\n".encode())
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)  # the exit handlers are the parent's

    def _prepare_child(self, slot: int) -> None:
        """Begin a session, drop the worker's signal handlers, and set the slot's share of the CPUs and GPUs."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ["GRIDIRON_THREADS"] = str(max(1, machine.allotted_cpus() // (self.tasks.workers * self.tasks.slots)))
        if gpus := self._gpus(slot):
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)

    def _gpus(self, slot: int) -> list[str]:
        """Return the GPUs of a slot, as CUDA_VISIBLE_DEVICES takes them; empty if there is nothing to divide."""
        visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        position = int(os.environ.get("GRIDIRON_WORKER", "0")) * self.tasks.slots + slot
        return gpu_share(self.tasks.gpus or visible, position, self.tasks.workers * self.tasks.slots)

    def _reap(self) -> None:
        """Collect the children that have ended, and print a line for each."""
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self.children.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if code < 0 and not self.stop_count:
                self._record_kill(child.name, -code)
            if code != _NOT_STARTED:
                self.durations.append(time.monotonic() - child.start)
                self.failed |= code not in (0, external_program.SAVED)
                self.to_resume += [child.name] * (code == external_program.SAVED)
                print(f"ended {code} {child.name}", flush=True)

    def _record_kill(self, name: str, number: int) -> None:
        """Record that a signal killed a run, which the run itself could not do."""
        folder, ticket = self.tasks.run_path(name), self.tasks.tickets[name]
        if claims.record_kill(folder, ticket, process.killed_by(number)) and slurm_environment.job_id():
            from src.submission.status import notify

            notify.notify_failure(folder, ticket)


def gpu_share(gpus: list[str], position: int, slots: int) -> list[str]:
    """Return the GPUs of slot `position` of `slots`: its own while there are enough, otherwise a shared one."""
    if not gpus or slots == 1:
        return gpus
    return gpus[position::slots] if len(gpus) >= slots else [gpus[position % len(gpus)]]


def _restarted_job() -> str | None:
    """Return this Slurm job if Slurm has restarted it: it may resume what it had claimed before."""
    return slurm_environment.job_id() if slurm_environment.restart_count() else None


def _signal_all(pids: dict[int, _Child], number: int) -> None:
    for pid in pids:
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # it has no session yet; it is not reaped, so the number is still its own
            os.kill(pid, number)
