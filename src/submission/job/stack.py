"""Train runs of a task file as a stack: claim each, train all in one process, and record how each of them ends."""
from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from src import run_folder
from src.errors import UserError, one_line
from src.monitoring.gpu_idle import IdleNow
from src.run_folder import RunFolder
from src.submission.batch import heartbeat
from src.submission.batch.task_files import Tasks
from src.submission.job import requeue, worker
from src.submission.job.attempt import Attempt, Train
from src.submission.job.worker_child import Report, redirect_output, report_error
from src.submission.system.signals import STOP_SIGNALS, Stopped, signals
from src.submission.usage.resource_meter import ResourceMeter

_SIGNALS = (*STOP_SIGNALS, signal.SIGUSR1)


class StackMember(NamedTuple):
    """A run of a stack: its spec, its folder, and a function that raises if it must not write any more."""

    spec: dict[str, Any]
    folder: str
    check: Callable[[], None]


class Stacker(NamedTuple):
    """The functions that train stacks.

    choose: returns how many runs of these specs to train at once, and the reason. Its second argument is the largest
        number; None: what is fastest. A UserError of one spec counts as 1.
    train: trains runs, and yields the index of each run that has ended with how it ended, or with the exception that
        ended it. Runs that are never yielded remain to be trained.
    """

    choose: Callable[[Sequence[dict[str, Any]], int | None], tuple[int, str]]
    train: Callable[[Sequence[StackMember]], Generator[tuple[int, str | BaseException], None, None]]


def run_stack(stacker: Stacker, train: Train, tasks: Tasks, names: Sequence[str], size: int | None,
              report: Report) -> None:
    """Claim free runs of a stack and train them. Return when all that were claimed have ended.

    train: trains a single run, where one is left. names: the runs. size: how many to train at once, if an earlier
    stack has found it. report: called with what was claimed, then with the end of each run.
    """
    specs = _read_specs(tasks, names)
    reason = ""
    if size is None:
        size, reason = _choose(stacker, list(specs.values()), tasks.stack_size)
        size = -(-len(specs) // -(-len(specs) // max(1, size)))  # equal parts: 9 and 9 of 18 runs, not 16 and 2
    # from the first claim on, signals wait until the attempts can record them
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    stack = _Stack(tasks, stacker, train, report)
    try:
        if size > 1:
            stack.claim(specs, size)
            if not stack.attempts:  # others have them by now, or they cannot be claimed; what is left starts one by one
                size, reason = 1, ""
        report({"claimed": list(stack.attempts), "size": size, "reason": reason})
        if stack.attempts:
            stack.run()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _read_specs(tasks: Tasks, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the specs of runs by name, without those that cannot be read: such a run reports that itself."""
    specs = {}
    for name in names:
        with contextlib.suppress(UserError, OSError):
            specs[name] = run_folder.read_spec(tasks.spec_path(name))
    return specs


def _choose(stacker: Stacker, specs: Sequence[dict[str, Any]], largest: int | None) -> tuple[int, str]:
    """Return how many runs to train at once, and the reason. A signal ends the process: nothing is claimed."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if len(specs) < 2:
        return 1, ""
    try:
        return stacker.choose(specs, largest)
    except UserError as error:
        return 1, one_line(str(error))


class _Stack:
    """The claimed runs of a stack.

    attempts: of the runs that have not ended, by name
    """

    def __init__(self, tasks: Tasks, stacker: Stacker, train: Train, report: Report) -> None:
        self.tasks, self.stacker, self.train, self.report = tasks, stacker, train, report
        self.attempts: dict[str, Attempt] = {}
        self.specs: dict[str, dict[str, Any]] = {}
        self.records: set[str] = set()  # of the attempts whose heartbeats are renewed

    def claim(self, specs: Mapping[str, dict[str, Any]], size: int) -> None:
        """Begin attempts of the first `size` runs that nobody else has, and that can be claimed."""
        classify_stop = functools.cache(requeue.classify_stop)  # Slurm is asked once for all of them
        for name, spec in specs.items():
            if len(self.attempts) == size:
                break
            if not self.tasks.can_start(name, worker.restarted_job()):
                continue
            attempt = None
            with contextlib.suppress(UserError, OSError):  # started by itself, it reports what is wrong
                if RunFolder.read(self.tasks.run_path(name)).ended is None:
                    attempt = Attempt.begin(self.tasks.run_path(name), self.tasks.tickets[name], in_worker=True)
            if attempt:
                attempt.classify_stop = classify_stop
                self.attempts[name], self.specs[name] = attempt, spec
                self.records.add(attempt.record_path)

    def run(self) -> None:
        """Train the runs together, as long as that ends some of them, and those that are left one after another."""
        signals.listen()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        try:
            meter = ResourceMeter(self._record_idle, next(iter(self.attempts.values())).idle_limits,
                                  stacked=len(self.attempts))
            for attempt in self.attempts.values():
                attempt.meter = meter
            with heartbeat.beating(self.records, meter.sample):
                for name, attempt in list(self.attempts.items()):
                    try:
                        attempt.check_current()  # a late Slurm job leaves the runs that a later ticket has
                    except Exception as error:
                        self._settle(name, error)
                self._announce()
                self._train_together()
                self._train_singly()
        except Stopped as stopped:
            self._settle_all(stopped)

    def _record_idle(self, idle: IdleNow | None) -> None:
        for attempt in list(self.attempts.values()):
            attempt.record_idle(idle)

    def _announce(self) -> None:
        """Note in the log of each run that it is in a stack, and send the output to the first of them."""
        for name in self.attempts:
            with self._output_to(name):
                print(f"trained in a stack of {len(self.attempts)}; its output is in the log of its first run that has "
                      "not ended")
        self._send_output_to_first()

    def _send_output_to_first(self) -> None:
        """Send the output to the first run that has not ended, so that `cancel` sees which batch this process is of."""
        for name in self.attempts:
            with contextlib.suppress(OSError):
                redirect_output(self.tasks.run_path(name))
                return

    def _train_together(self) -> None:
        """Train stacks of the runs until none, or a single one, is left, or no stack ends any of them."""
        number = 0
        while 1 < len(self.attempts) != number:
            number, names = len(self.attempts), list(self.attempts)
            members = [StackMember(self.specs[name], self.attempts[name].folder, self.attempts[name].check_current)
                       for name in names]
            try:
                with contextlib.closing(self.stacker.train(members)) as outcomes:
                    for index, outcome in outcomes:
                        self._settle(names[index], outcome)
            except Exception as error:  # not of one run: each run by itself may do better
                traceback.print_exception(error)
                return

    def _train_singly(self) -> None:
        """Train the runs that no stack has ended, one after another."""
        for name in list(self.attempts):
            signals.raise_if_stopped()
            if signals.warned:  # the time limit is near
                self._settle(name, run_folder.REQUEUED)
                continue
            attempt, spec = self._pop(name)
            with self._output_to(name):
                try:
                    code = attempt.run(spec, self.train, owns_job=False)
                except UserError as error:
                    code = report_error(attempt.folder, error)
            self.report({"ended": name, "code": code})

    def _settle_all(self, error: BaseException) -> None:
        for name in list(self.attempts):
            self._settle(name, error)

    def _settle(self, name: str, outcome: str | BaseException) -> None:
        """Record and report how a run has ended."""
        def end() -> str:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        attempt, spec = self._pop(name)
        # a stop waits until it finds the training, which saves all runs, and not only this one
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            with self._output_to(name):
                try:
                    code = attempt.settle(spec, end, owns_job=False)
                except UserError as error:
                    code = report_error(attempt.folder, error)
            self.report({"ended": name, "code": code})
            self._send_output_to_first()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _pop(self, name: str) -> tuple[Attempt, dict[str, Any]]:
        attempt = self.attempts.pop(name)
        self.records.discard(attempt.record_path)
        return attempt, self.specs[name]

    @contextlib.contextmanager
    def _output_to(self, name: str) -> Iterator[None]:
        """Send the output of this process to the log of a run during the block, unless its folder is gone."""
        sys.stdout.flush()
        sys.stderr.flush()
        before = [os.dup(1), os.dup(2)]
        try:
            with contextlib.suppress(OSError):
                redirect_output(self.tasks.run_path(name))
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, target in zip(before, (1, 2), strict=True):
                os.dup2(descriptor, target)
                os.close(descriptor)
