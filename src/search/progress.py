"""The progress of a trial, by the files of its run folder: results that are in no decision yet, and the next ticket."""
from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from src import metrics, run_folder, stats_csv
from src.archive import run_files
from src.run_folder import RunFolder
from src.search.decision import GIVEN_UP, Result
from src.search.definition import VALUES, Search
from src.search.ledger import Trial

# whether the process of an identity, which has this run, is certainly gone
IsDead = Callable[[RunFolder, dict[str, Any]], bool | None]

_NO_FAILURES = (None, run_folder.PAUSED, run_folder.REQUEUED, run_folder.PREEMPTED, run_folder.CANCELLED,
                *run_folder.ENDS)
_LOST = "lost"


@dataclass(frozen=True)
class Progress:
    """The progress of an open trial, by its files.

    results: new ones, the lowest rung first
    ticket: a worker may start the trial under this ticket; None if it runs, or has a result
    columns: of its stats.csv if it has a result without the metric, otherwise None
    """

    results: tuple[Result, ...] = ()
    ticket: int | None = None
    columns: tuple[str, ...] | None = None


def read(batch: str, search: Search, trial: Trial, is_dead: IsDead | None = None) -> Progress:
    """Read the progress of a trial that is open."""
    folder = os.path.join(batch, trial.run)
    try:
        run = RunFolder.read(folder)
    except (FileNotFoundError, NotADirectoryError):  # not made yet
        return Progress(ticket=1)
    if not run.claims:
        return Progress(ticket=_free_ticket(run, 1))
    if run.ended is not None:
        return _Curve.read(folder, search).ended(trial, run.ended)
    runs_on = search.early_stop is not None and not search.pauses
    how = _last_end(run, is_dead)
    if (how == run_folder.PAUSED or runs_on) and (progress := _Curve.read(folder, search).reached(trial)):
        return progress
    if how is None:
        return Progress()
    if how == run_folder.REQUEUED:
        return Progress(ticket=run.claims[-1])
    if failures(run, is_dead) > search.max_trial_failures:
        return Progress((Result(trial.number, trial.target, None, None, GIVEN_UP),))
    return Progress(ticket=_free_ticket(run, run.claims[-1] + 1))


def failures(run: RunFolder, is_dead: IsDead | None = None) -> int:
    """Return how many starts of a run failed or were lost."""
    ends = [run.attempt(*attempt).get("how") for attempt in run.attempts]
    # an attempt without an end that a later one follows was lost
    return (ends[:-1].count(None) + sum(how not in _NO_FAILURES for how in ends)
            + (_last_end(run, is_dead) == _LOST))


def _last_end(run: RunFolder, is_dead: IsDead | None) -> str | None:
    """Return how the last start ended, _LOST if its process is gone; None if it runs, as far as is known."""
    if not run.claims:
        return None
    newest, last = run.claims[-1], run.last_attempt()
    is_current = last is not None and last["ticket"] == newest
    holder = {} if is_current else run.claim(newest)
    if last and (is_current or holder.get(run_folder.ARCHIVES)):  # a claim to archive the run starts nothing
        if how := last.get("how"):
            return str(how)
        holder = last.get("who") or run.claim(last["ticket"])
    return _LOST if holder and is_dead is not None and is_dead(run, holder) and not _is_outdated(run) else None


def _is_outdated(run: RunFolder) -> bool:
    """Return whether the run has ended, or its newest ticket has another attempt, though the listing does not show it:
    a network file system may list names late, but looks a single name up on its server.
    """
    newest = run.claims[-1]
    following = 1 + max((number for ticket, number in run.attempts if ticket == newest), default=-1)
    return any(run_files.exists(run.path, name)
               for name in (run_folder.DONE, run_folder.attempt_name(newest, following)))


def _free_ticket(run: RunFolder, ticket: int) -> int | None:
    """Return the ticket unless its claim exists, which a listing may show late."""
    return None if run_files.exists(run.path, run_folder.claim_name(ticket)) else ticket


@dataclass(frozen=True)
class _Curve:
    """The metric of a trial.

    points: pairs of an epoch and the loss after it, for epochs that have a value; the loss of NaN is inf
    progress: the epochs, or logged values, that rungs are compared with
    columns: of stats.csv
    """

    search: Search
    points: list[tuple[int, float]]
    progress: int
    columns: tuple[str, ...]

    @classmethod
    def read(cls, folder: str, search: Search) -> _Curve:
        stats = stats_csv.read(folder)
        goal = metrics.MAXIMIZE if search.maximize else metrics.MINIMIZE
        named = metrics.by_preference(metrics.Metric(search.metric, goal).find(stats.names))
        points: list[tuple[int, float]] = []
        if named:
            position = stats.names.index(named[0])
            points = [(epoch, _loss(search, row[position]))
                      for epoch, row in zip(stats.epochs, stats.rows, strict=True) if row[position]]
        if _counts_values(search):
            points = [point for point in points if math.isfinite(point[1])]
            return cls(search, points, len(points), tuple(filter(None, stats.names)))
        return cls(search, points, max(stats.epochs, default=0), tuple(filter(None, stats.names)))

    def reached(self, trial: Trial) -> Progress | None:
        """Return the result at the trial's target; None if it has not reached it."""
        if self.search.rungs[trial.target] > self.progress:
            return None
        return self._progress([self._result(trial.number, trial.target)])

    def ended(self, trial: Trial, end: str) -> Progress:
        """Return the results of a trial that has ended: at each rung that it passed, and its end with the last one."""
        rungs = [rung for rung in range(trial.target, len(self.search.rungs))
                 if self.search.rungs[rung] <= self.progress]
        last = rungs[-1] if rungs else trial.target - 1
        if not rungs or self.progress > self.search.rungs[last] and last + 1 < len(self.search.rungs):
            rungs.append(last + 1)  # it ended before this one, and counts there with its last value
        results = [self._result(trial.number, rung) for rung in rungs]
        return self._progress([*results[:-1], replace(results[-1], end=end)])

    def _progress(self, results: list[Result]) -> Progress:
        lacks_metric = not self.points and results[-1].end != run_folder.DIVERGED
        return Progress(tuple(results), columns=self.columns if lacks_metric else None)

    def _result(self, trial: int, rung: int) -> Result:
        """Return the result at a rung."""
        limit = self.search.rungs[rung]
        until = self.points[:limit] if _counts_values(self.search) else [
            point for point in self.points if point[0] <= limit]
        if not until or not math.isfinite(until[-1][1]):
            return Result(trial, rung, None)
        best = min(loss for _, loss in until)
        return Result(trial, rung, self.search.loss(until[-1][1]), self.search.loss(best))  # twice negated


def _counts_values(search: Search) -> bool:
    return search.early_stop is not None and search.early_stop.counts == VALUES


def _loss(search: Search, cell: str) -> float:
    loss = search.loss(stats_csv.to_number(cell))
    return loss if math.isfinite(loss) else math.inf
