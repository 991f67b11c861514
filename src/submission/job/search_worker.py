"""A worker of a search: it decides the next trial from the files and starts it, or waits until others have ended."""
from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from src.errors import BatchError
from src.io import slurm_environment
from src.run_folder import RunFolder
from src.search import definition, summary
from src.search.decide import Finished, Start, next_step, settle
from src.search.decision import GIVEN_UP
from src.search.history import History
from src.submission.batch import claims, heartbeat
from src.submission.job.worker import NOT_STARTED, Worker, signal_all
from src.submission.job.worker_child import Unit
from src.submission.slurm import client, job_states
from src.submission.spec.naming import name_run
from src.submission.system import process

_MAX_FAILED = 5  # trials that failed while none has a result, before the search is stopped
_WARM_UP_DRAWS = 8  # random trials whose models and data sets a worker prepares for
_POLL_INTERVAL = 0.2  # seconds between two attempts to start a trial
_SETTLING_INTERVAL = 1.0  # seconds between two decisions about the trials that run
_QUERY_INTERVAL = 60.0  # seconds between two queries of Slurm about one job
# Seconds after which a Slurm job without a trial ends: others take up what is left, and its resources are free
_MAX_IDLE = 300.0


@dataclass
class SearchWorker(Worker):
    """Starts the trials that a search chooses, until there is none for it.

    pauses: the epoch after which each trial that it has started pauses; None if it runs to its end;
    is_finished: whether there will be no other trial; error: why the search cannot go on;
    idle_since: when it last had a trial to start, time.monotonic();
    stopped: trials that run and that the search has stopped.
    """

    poll_interval: float = _POLL_INTERVAL
    pauses: dict[str, int | None] = field(default_factory=dict)
    is_finished: bool = False
    error: str | None = None
    idle_since: float = field(default_factory=time.monotonic)
    next_settling: float = 0.0
    stopped: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        search = definition.read(self.tasks.batch)
        if search is None:
            raise BatchError("this batch is not a search", where=self.tasks.batch,
                             hint="repeat the submit_multiple.py command of the batch")
        self.search, self.history = search, History(self.tasks.batch, search, HolderCheck().is_gone)
        self.tasks.tickets.clear()  # the decisions of the search name its trials

    def fill_queue(self) -> bool:
        """Decide what to start next, unless a trial is left from before. Return whether a trial can be started now."""
        if self.queue or self.is_finished:
            return bool(self.queue)
        step = next_step(self.history, name_run(self.search), process.identity())
        if isinstance(step, Start):
            name = step.trial.run
            self.tasks.tickets[name], self.pauses[name] = step.ticket, step.pause_at
            self.queue.append(Unit([name]))
            self.idle_since = time.monotonic()
        elif isinstance(step, Finished):
            self._finish(step.error)
        if error := self._only_failures():
            self.queue.clear()
            self._finish(error)
        elif slurm_environment.job_id() and not self.children and time.monotonic() - self.idle_since > _MAX_IDLE:
            print(f"no trial to start for {_MAX_IDLE / 60:.0f} minutes: other workers take what is left", flush=True)
            self.is_finished = True
        return bool(self.queue)

    def _only_failures(self) -> str | None:
        """Return an error if the first trials have all failed and none has a result: the others would fail alike."""
        trials = self.history.current.trials
        ends = [result.end for trial in trials for result in trial.results.values()]
        if len(ends) < _MAX_FAILED or any(end != GIVEN_UP for end in ends):
            return None
        return (f"the first {len(ends)} trials failed, so that the search was stopped; the logs of "
                f"{trials[0].run} show why; when that is corrected, submit it anew with -o")

    def _finish(self, error: str | None) -> None:
        if not summary.is_over(self.tasks.batch, self.search):
            summary.record_end(self.tasks.batch, self.search, error)
        self.is_finished, self.error = True, error

    def is_drained(self) -> bool:
        return self.is_finished and not self.queue

    def specs(self) -> Iterator[dict[str, Any]]:
        """Yield the specs of random trials."""
        for trial in range(_WARM_UP_DRAWS):
            yield self.search.space.to_spec(self.search.space.draw(self.search.seed, trial))

    def run_alone(self, name: str, reason: str = "") -> int:
        """Execute a trial until it pauses or ends. Return its exit code."""
        result = self.run_spec(self.tasks.spec_path(name), self.train, self.tasks.tickets[name], in_worker=True,
                               owns_job=False, pause_after=self.pauses[name])
        return NOT_STARTED if result is None else result

    def end_unpromising(self) -> None:
        """Decide which trials go on at a rung where they do not pause, and end the others."""
        stop, now = self.search.early_stop, time.monotonic()
        if stop is None or stop.resume or now < self.next_settling:
            return
        self.next_settling = now + _SETTLING_INTERVAL
        settle(self.history, process.identity())
        numbers = {trial.run: trial.number for trial in self.history.ledger.trials}
        for pid, child in self.children.items():
            name = child.unit.names[0]
            if name not in self.stopped and self.history.is_stopped(numbers[name]):
                self.stopped.add(name)
                signal_all([pid], signal.SIGTERM)

    def end(self, name: str, code: int) -> None:
        """Note that a trial has paused or ended, and print it."""
        if name in self.stopped:
            self.stopped.remove(name)
            claims.record_pause(self.tasks.run_path(name), self.tasks.tickets[name])
            code = 0
        super().end(name, code)

    def exit_code(self, is_stopping: bool) -> int:
        """Return the exit code of this worker. BatchError if the search cannot go on."""
        if self.error:
            raise BatchError(self.error, where=self.tasks.batch)
        return super().exit_code(is_stopping)

    def submit_successor(self) -> None:
        """Submit another worker for the remaining trials, once; none if the search is over."""
        if self.is_finished:
            self.job_end, self.starts_no_more = None, True
        else:
            super().submit_successor()


class HolderCheck:
    """Check whether the process that holds a trial is gone: by the process table, or by Slurm and the trial's files."""

    def __init__(self) -> None:
        self._queried: dict[tuple[str, str], tuple[float, bool]] = {}  # by Slurm job and run: when, and whether gone

    def is_gone(self, run: RunFolder, identity: dict[str, Any]) -> bool:
        """Return whether the process that has a run is certainly gone."""
        is_alive = process.is_alive(identity)
        job = identity.get("slurm_job")
        if is_alive is not None or not job:
            return is_alive is False
        if job == slurm_environment.job_id():  # on another node of this job, or before Slurm restarted it
            return bool(identity.get("restart", 0) < slurm_environment.restart_count())
        queried, is_gone = self._queried.get((job, run.path), (-_QUERY_INTERVAL, False))
        if not is_gone and time.monotonic() - queried >= _QUERY_INTERVAL:
            is_gone = _is_job_gone(job) and not _shows_life(run)
            self._queried[job, run.path] = time.monotonic(), is_gone
        return is_gone


def _is_job_gone(job: str) -> bool:
    """Return whether Slurm answers and shows no such job. It may be on another cluster all the same."""
    queue = client.squeue([""])
    # the job of another user is not in the own queue
    return queue.answered and queue.find(job) is None and (
        client.show_job(job).get("JobState", job_states.COMPLETED) in job_states.ENDED)


def _shows_life(run: RunFolder) -> bool:
    """Return whether the last attempt of a run has changed its files lately."""
    now = heartbeat.file_system_time(os.path.dirname(run.path))
    return heartbeat.age(run, run.last_attempt(), now) < heartbeat.TIMEOUT
