"""Observe batches again and again: their files often, Slurm only from time to time, as sites request."""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from src.errors import BatchError, experiments_command
from src.search import summary
from src.submission.batch import journal
from src.submission.slurm import client
from src.submission.slurm.client import Queue
from src.submission.status import retry_policy, states
from src.submission.status.observation import Observation, Run
from src.submission.status.observe import SlurmView, observe
from src.submission.system import process

T = TypeVar("T")
FIRST_INTERVAL, LATER_INTERVAL = 30.0, 60.0  # seconds between queries of Slurm: at first, and later
FIRST_PERIOD = 600.0  # seconds for which the first interval applies
_SEARCH_INTERVAL = 5.0  # seconds between two observations of a search none of whose trials runs
_EARLIEST = 10.0  # seconds after a query until files that show the end of a run may cause another

# states that change by themselves
_WAITED_FOR = (states.SUBMITTED, states.PENDING, states.RUNNING, states.UNKNOWN)


class Poller:
    """Decides when an observation queries Slurm.

    interval: seconds between queries; None for 30, and 60 after ten minutes. After files have shown that a run ended
    in a way that only Slurm can explain, the next query is ten seconds after the last one at the latest.
    """

    def __init__(self, interval: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.slurm = SlurmView()
        self._interval, self._clock, self._start, self._last_query = interval, clock, clock(), -math.inf
        self._workers, self._workers_query = Queue(), -math.inf  # of searches: the answer of squeue, and its time

    def poll(self, read: Callable[[SlurmView], T]) -> T:
        """Return what `read` returns, which observes batches by the view of Slurm that it is given."""
        now = self._clock()
        self.slurm.is_due = self.slurm.is_due or now - self._last_query >= self._pause(now)
        result = read(self.slurm)
        if self.slurm.was_queried:
            self._last_query = now
        self.slurm.is_due = False
        return result

    def _pause(self, now: float) -> float:
        interval = FIRST_INTERVAL if now - self._start < FIRST_PERIOD else LATER_INTERVAL
        interval = interval if self._interval is None else self._interval
        return min(interval, _EARLIEST) if self.slurm.is_outdated else interval

    def goes_on(self, observations: Sequence[Observation]) -> bool:
        """Return whether a search goes on, though none of its trials is waited for.

        Slurm is queried as often as for runs, and before it is said that no search goes on.
        """
        now = self._clock()
        is_due = now - self._workers_query >= self._pause(now)
        if not is_due and search_workers(observations, lambda _: self._workers):
            return True

        def query(clusters: set[str]) -> Queue:
            self._workers, self._workers_query = client.squeue(clusters), now
            return self._workers
        return bool(search_workers(observations, query))

    def is_current(self, runs: Iterable[Run]) -> bool:
        """Return whether the states of runs need no newer answer of Slurm; else the next observation queries it."""
        self.slurm.is_due = not self.slurm.was_queried and any(
            run.state.name not in retry_policy.CLOSED for run in runs)
        return not self.slurm.is_due


class Workers(NamedTuple):
    """The workers of a search.

    slurm_jobs: the ids of those in the queue; are_seen: squeue has listed them. If it did not answer, they are all
    Slurm jobs that this user has submitted for the search.
    """

    slurm_jobs: list[str]
    are_seen: bool = True


def wait_for_batches(paths: Sequence[str], every: float, interval: float | None = None,
                     show: Callable[[list[Observation]], object] = lambda _: None) -> list[Observation]:
    """Read the files of batches every `every` seconds until every run has ended or is stuck. Return the last
    observations. interval: seconds between queries of Slurm, as for Poller; show: called with each observation.

    BatchError for a copy of a batch, whose runs are on another machine.
    """
    for path in paths:
        reject_copy(path, "wait")
    observations: list[Observation] = []
    for observations, _ in watch(lambda slurm: observe(paths, slurm), every, interval):
        show(observations)
    return observations


def watch(read: Callable[[SlurmView], list[Observation]], every: float, interval: float | None = None,
          pause: Callable[[float], object] | None = None) -> Iterator[tuple[list[Observation], SlurmView]]:
    """Read batches every `every` seconds until every run has ended or is stuck; yield them, with Slurm's answers.

    interval: seconds between queries of Slurm, as for Poller; pause: called in place of time.sleep.
    """
    poller, pause = Poller(interval), pause or time.sleep
    while True:
        observations = poller.poll(read)
        yield observations, poller.slurm
        runs = [run for observation in observations for run in observation.runs.values()]
        if any(run.state.name in _WAITED_FOR and not run.host for run in runs):
            pause(every)
        elif poller.goes_on(observations):
            pause(max(every, _SEARCH_INTERVAL))
        elif poller.is_current(runs):
            return


def search_workers(observations: Iterable[Observation], squeue: Callable[[set[str]], Queue] | None = None,
                   ) -> dict[str, Workers]:
    """Return the workers of each search whose workers choose further trials, by the path of its batch.

    squeue: called once, with the clusters of all searches; by default that of `client`.
    """
    searches = [observation for observation in observations if summary.may_continue(observation.path)]
    submissions = {observation.path: journal.own_submissions(observation.path) for observation in searches}
    clusters = {job.partition(";")[2] for own in submissions.values() for ids in own.values() for job in ids}
    queue = (squeue or client.squeue)(clusters) if clusters else Queue(True)
    workers = {path: _workers(own, queue) for path, own in submissions.items()}
    return {observation.path: workers[observation.path] for observation in searches if
            workers[observation.path].slurm_jobs or any(map(process.is_alive, observation.history.open_submitters))}


def _workers(submissions: Mapping[str, set[str]], queue: Queue) -> Workers:
    """The workers among the Slurm jobs of submissions, given by token; all of them if squeue did not answer."""
    jobs = sorted({job for ids in submissions.values() for job in ids})
    if not queue.answered:
        return Workers(jobs, False)
    comments = tuple(f"{journal.COMMENT_PREFIX}{token}-" for token in submissions)
    return Workers([job for job in jobs if (row := queue.find(job)) and row.comment.startswith(comments)])


def reject_copy(path: str, command: str) -> None:
    """Raise BatchError if all of a batch was downloaded from another machine, which alone can observe its runs."""
    history = journal.read_history(path)
    if history.sync_markers and not history.recorded_plans:
        host = history.sync_markers[0].host
        remote_command = experiments_command(command, path, "--on", host)
        raise BatchError(f"this batch is a copy; its runs are on {host}", where=path,
                         hint=f"run `{remote_command}` instead")
