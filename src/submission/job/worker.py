"""A worker: imports the heavy libraries once, then forks each unclaimed run or stack of a task file until none is left.

search_worker.py has the one that starts the trials of a search, auto_worker.py the one that decides how many run at a
time.
"""
from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import sys
import time
import traceback
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from src import run_folder
from src.code import code_state
from src.errors import BatchError, UserError
from src.io import machine, slurm_environment
from src.submission.batch import claims, task_files
from src.submission.batch.task_files import Tasks
from src.submission.job import external_program, requeue
from src.submission.job.worker_child import (
    Child,
    Report,
    Unit,
    describe_end,
    gpu_share,
    local_number,
    remove_empty_output,
    report_error,
    send_report,
)
from src.submission.slurm import time_limit
from src.submission.system import process
from src.submission.system.signals import STOP_SIGNALS, Waker, signals
from src.submission.system.terminal import count

_GRACE = 20.0  # seconds that runs have to end after TERM
_POLL_INTERVAL = 1.0  # seconds between checks whether the parent process is alive
NOT_STARTED = 77  # exit code of a child whose run another worker has claimed

RunSpec = Callable[..., int | None]
RunStack = Callable[[Tasks, Sequence[str], int | None, Report], None]
MakeWorker = Callable[[str, Tasks, Callable[..., str], RunSpec], "Worker | None"]


def run_tasks(path: str, train: Callable[..., str], warm_up: Callable[..., None], run_spec: RunSpec,
              run_stack: RunStack | None = None, make_worker: MakeWorker | None = None) -> int:
    """Run a task file: one run in a task of a Slurm job array, the loop of a worker otherwise. Return the exit code.

    run_stack: trains several runs at once; None trains each by itself. make_worker: returns another kind of worker, if
    the tasks require one.
    """
    tasks = task_files.read(path)
    if tasks.kind == task_files.WORKER:
        if process.rank():
            print("the first task of this Slurm job is the worker; this one exits")
            return 0
        if held_back := sum(not tasks.is_canary_done(name) for name in tasks.tickets):
            print(f"held back: {held_back} of {len(tasks.tickets)} runs, as their canary has not ended well",
                  flush=True)
        worker = make_worker and make_worker(path, tasks, train, run_spec)
        return (worker or Worker(path, tasks, train, run_spec, run_stack)).work(warm_up)
    names, index = list(tasks.tickets), slurm_environment.array_task()
    if index is None or index >= len(names):
        raise BatchError("this task file is for a Slurm job array", where=path,
                         hint="`-r BATCH` submits the remaining runs of a batch")
    name = names[index]
    return run_spec(tasks.spec_path(name), train, tasks.tickets[name], in_worker=True) or 0


@dataclass
class Worker:
    """Starts the runs of a task file in child processes, and waits for them."""

    path: str
    tasks: Tasks
    train: Callable[..., str]
    run_spec: RunSpec
    run_stack: RunStack | None = None
    queue: deque[Unit] = field(default_factory=deque)
    children: dict[int, Child] = field(default_factory=dict)  # by process id
    durations: list[float] = field(default_factory=list)  # seconds, of runs that have ended
    job_end: float | None = None  # when the time limit ends this Slurm job, unix seconds
    stop_count: int = 0  # signals that requested a stop
    starts_no_more: bool = False  # a signal warned that the time limit is near, or a successor was submitted
    to_resume: list[str] = field(default_factory=list)  # runs that saved their state and need another start
    is_refused: bool = False  # sbatch refused a successor
    kill_deadline: float | None = None  # time.monotonic() at which runs that were sent TERM are killed
    failed: bool = False  # a run failed
    poll_interval: float = _POLL_INTERVAL

    def work(self, warm_up: Callable[..., None]) -> int:
        """Start runs until none is left. Return 0 if all runs of this worker ended, 1 if one failed or a stop came."""
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
        self.queue.extend(self._units())
        while True:
            # another run would not end before the time limit
            lacks_time = self.starts_no_more or not requeue.fits_in_time(self.job_end, self.durations)
            while not (is_stopping or lacks_time) and (slot := self._free_slot()) is not None and self.fill_queue():
                if not self._start(self.queue[0], slot):
                    break
                self.queue.popleft()
            if lacks_time and not is_stopping:
                self.submit_successor()
            if not self.children and (is_stopping or lacks_time or self.is_drained()):
                self._submit_successor_for_saved()
                return self.exit_code(is_stopping)
            pipes = (child.reports for child in self.children.values() if child.reports is not None)
            waker.wait(self.poll_interval, *pipes)
            self._reap()
            self.end_unpromising()
            if self.stop_count:
                self._stop_runs()
            # if the parent was killed, started runs continue and no other is started
            is_stopping = self.stop_count > 0 or not slurm_environment.job_id() and not is_parent_alive()

    def fill_queue(self) -> bool:
        """Return whether a run can be started now."""
        return bool(self.queue)

    def is_drained(self) -> bool:
        """Return whether there will be no other run for this worker."""
        return not self.queue

    def end_unpromising(self) -> None:
        """End runs that are to end early."""

    def exit_code(self, is_stopping: bool) -> int:
        """Return the exit code of this worker."""
        return int(self.failed or is_stopping)

    def specs(self) -> Iterator[dict[str, Any]]:
        """Yield the specs of runs, whose libraries and data are loaded once."""
        for name in self.tasks.startable():
            with contextlib.suppress(UserError):  # the run itself reports it
                yield run_folder.read_spec(self.tasks.spec_path(name))

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
            signal_all(self.children, signal.SIGTERM)
        elif self.stop_count > 1 or time.monotonic() > self.kill_deadline:
            signal_all(self.children, signal.SIGKILL)

    def _warm_up(self, warm_up: Callable[..., None]) -> None:
        """Import what the runs need; external programs need nothing."""
        specs = [spec for spec in self.specs() if "COMMAND" not in spec]
        if specs:
            warm_up(specs)
            code_state.compare_loaded(os.path.join(self.tasks.batch, run_folder.CODE, task_files.token_of(self.path)),
                                      code_state.project_folder())
        # a garbage collection in a child would write into, and so copy, every memory page that it shares with this one
        gc.collect()
        gc.freeze()

    def submit_successor(self) -> None:
        """Submit another worker for the remaining runs, once."""
        started = [*self.to_resume, *(name for child in self.children.values() for name in child.running)]
        if self.job_end is not None and (job := self._hand_over(started)):
            print(f"time limit is near: Slurm job {job} runs the rest", flush=True)
        self.job_end, self.starts_no_more = None, True

    def _submit_successor_for_saved(self) -> None:
        """Submit another worker for runs that saved their state, or requeue this one if its successor was refused.

        An earlier successor may have skipped them, because they were still running.
        """
        if self.to_resume and (job := self._hand_over(self.to_resume, is_last=True)):
            print(f"Slurm job {job} resumes {', '.join(self.to_resume)}", flush=True)
        elif self.stop_count and requeue.classify_stop().how == run_folder.REQUEUED and (job := self._hand_over()):
            print(f"preempted: Slurm job {job} runs the rest", flush=True)
        if self.is_refused and not self.stop_count and (
                self.to_resume or self.tasks.is_search or any(self.tasks.startable())):
            print(requeue.requeue_worker(self.tasks.batch), flush=True)

    def _hand_over(self, to_resume: Collection[str] = (), is_last: bool = False) -> str | None:
        """Submit a successor, and return its Slurm job id; None if there is none. A refusal is printed."""
        try:
            job = requeue.submit_successor(self.path, self.tasks, to_resume, is_last)
        except requeue.RequeueRefused as refusal:
            print(refusal, flush=True)
            self.is_refused = True
            return None
        self.is_refused = self.is_refused and job is None
        return job

    def _units(self) -> Iterator[Unit]:
        """Yield what this worker starts, in order. If there are stacks, each worker begins at a different unit, since
        nothing of a stack is claimed while it is measured.
        """
        units = self.tasks.units() if self.run_stack else [[name] for name in self.tasks.tickets]
        first = 0
        if self.tasks.stacks and self.run_stack:
            job, workers = slurm_environment.job_id(), self.tasks.workers
            share = zlib.crc32(job.encode()) / 2**32 if job else local_number() % workers / workers
            first = int(share * len(units))
        return map(Unit, units[first:] + units[:first])

    def _free_slot(self) -> int | None:
        used = {child.slot for child in self.children.values()}
        return next((slot for slot in range(self.tasks.slots) if slot not in used), None)

    def _start(self, unit: Unit, slot: int) -> bool:
        """Start a run, or the free runs of a stack, in a child process, if any is unclaimed. Return False if no process
        can be created now.

        True: go on to the next unit; False: try again when a child has ended.
        """
        names = [name for name in unit.names if self.tasks.can_start(name, restarted_job())]
        if not names:
            return True
        unit = unit._replace(names=names)
        reports = os.pipe() if len(names) > 1 else None
        sys.stdout.flush()
        sys.stderr.flush()
        # in the child a signal waits until its attempt can record it
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._run_child(unit, slot, reports)
            self.children[pid] = Child(unit, slot, reports and os.dup(reports[0]))
            return True
        except OSError as error:
            if not self.children:
                raise BatchError(f"cannot start a process: {error.strerror}", where=names[0]) from None
            return False
        finally:
            for descriptor in reports or ():
                os.close(descriptor)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _run_child(self, unit: Unit, slot: int, reports: tuple[int, int] | None) -> NoReturn:
        """Execute a run, or a stack that reports to a pipe, in this child process, and end the process."""
        code = 1
        try:
            self._prepare_child(unit.names[0], slot)
            if reports is None or self.run_stack is None:
                code = self.run_alone(unit.names[0], unit.reason)
            else:
                os.close(reports[0])  # so that writing does not wait for a worker that was killed
                self.run_stack(self.tasks, unit.names, unit.size, functools.partial(send_report, reports[1]))
                code = 0
        except (UserError, OSError) as error:
            code = report_error(self.tasks.run_path(unit.names[0]), error)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)  # the exit handlers are the parent's

    def run_alone(self, name: str, reason: str = "") -> int:
        """Execute a run. Return its exit code. reason: why it is in no stack, for its log."""
        def train(*arguments: Any) -> str:
            print(f"trained alone, not in a stack: {reason}", flush=True)
            return self.train(*arguments)

        result = self.run_spec(self.tasks.spec_path(name), train if reason else self.train, self.tasks.tickets[name],
                               in_worker=True, owns_job=False)
        return NOT_STARTED if result is None else result

    def _prepare_child(self, name: str, slot: int) -> None:
        """Begin a session, drop what belongs to the worker, and set the run's share of the CPUs and GPUs."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        for child in self.children.values():
            child.close()
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ["GRIDIRON_THREADS"] = str(self._threads(name, slot))
        if gpus := self._gpus(slot):
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)

    def _threads(self, _name: str, _slot: int) -> int:
        """Return the number of CPUs of a run."""
        return max(1, machine.allotted_cpus() // (self.tasks.workers * self.tasks.slots))

    def _gpus(self, slot: int) -> list[str]:
        """Return the GPUs of a slot, as CUDA_VISIBLE_DEVICES takes them; empty if there is nothing to divide."""
        visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        position = local_number() * self.tasks.slots + slot
        return gpu_share(self.tasks.gpus or visible, position, self.tasks.workers * self.tasks.slots)

    def _reap(self) -> None:
        """Read the reports of stacks, collect the children that have ended, and print a line for each ended run."""
        for child in self.children.values():
            self._take_reports(child)
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self.children.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if child.reports is not None:
                self._take_reports(child)
                child.close()
                self._end_stack(child, code)
                continue
            if self.takes_back(child, code):
                continue
            if code < 0 and not self.stop_count:
                self._record_kill(child.unit.names[0], process.killed_by(-code))
            if code == 0:
                remove_empty_output(self.tasks.run_path(child.unit.names[0]))
            if code != NOT_STARTED:
                self.durations.append(time.monotonic() - child.start)
                self.end(child.unit.names[0], code)

    def takes_back(self, _child: Child, _code: int) -> bool:
        """Return whether a run whose process has ended is back in the queue."""
        return False

    def end(self, name: str, code: int) -> None:
        """Note that a run has ended, and print it."""
        self.failed |= code not in (0, external_program.SAVED)
        self.to_resume += [name] * (code == external_program.SAVED)
        print(f"ended {code} {name}", flush=True)

    def _take_reports(self, child: Child) -> None:
        """Note which runs a stack has claimed, and which of them have ended; put the others back."""
        for report in child.read_reports():
            if "ended" in report:
                self.end(report["ended"], report["code"])
                child.claimed = [name for name in child.claimed or () if name != report["ended"]]
            else:
                child.claimed = report["claimed"]
                size, reason, claimed = report["size"], report["reason"], set(report["claimed"])
                if reason:
                    how = f"{size} at a time" if size > 1 else "one by one"
                    print(f"{count(len(child.unit.names), 'run')} of a stack train {how}: {reason}", file=sys.stderr,
                          flush=True)
                self._put_back([name for name in child.unit.names if name not in claimed], size, reason)

    def _put_back(self, names: Sequence[str], size: int, reason: str) -> None:
        """Put runs that a stack has left at the front of the queue: as one stack, or as single runs if size is 1."""
        units = [Unit(names, size)] if size > 1 and names else [Unit([name], reason=reason) for name in names]
        self.queue.extendleft(reversed(units))

    def _end_stack(self, child: Child, code: int) -> None:
        """Note that the process of a stack has ended. After a kill, what is left of the stack is divided further."""
        if child.claimed is None:  # killed while it was measured: its runs may do better one by one
            if not (self.stop_count or self.starts_no_more):
                self._put_back(child.unit.names, 1, describe_end(code))
            return
        self.durations.append(time.monotonic() - child.start)
        for name in child.claimed:
            if not self.stop_count:
                self._record_kill(name, describe_end(code))
            self.end(name, code or 1)
        if code < 0:
            self.queue = deque(unit._replace(size=max(1, unit.size // 2)) if unit.size and (
                unit.names[0] in child.unit.names) else unit for unit in self.queue)

    def _record_kill(self, name: str, error: str) -> None:
        """Record that a run was killed, which it could not do by itself."""
        folder, ticket = self.tasks.run_path(name), self.tasks.tickets[name]
        if claims.record_kill(folder, ticket, error) and slurm_environment.job_id():
            from src.submission.status import notify

            notify.notify_failure(folder, ticket)


def restarted_job() -> str | None:
    """Return this Slurm job if Slurm has restarted it: it may resume what it had claimed before."""
    return slurm_environment.job_id() if slurm_environment.restart_count() else None


def signal_all(pids: Iterable[int], number: int) -> None:
    """Send a signal to child processes, and to what they have started."""
    for pid in pids:
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # it has no session yet; it is not reaped, so the number is still its own
            os.kill(pid, number)
