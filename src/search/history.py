"""The history of a search as one process sees it: all decisions, and what the files of open trials add to them."""
from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from src.errors import BatchError
from src.search import decision as decisions
from src.search import ledger as ledgers
from src.search import progress
from src.search.decision import Decision, Result
from src.search.definition import Search
from src.search.ledger import Ledger, Trial

GRACE = 5.0  # seconds for which a trial is left to the process that decided to start it
_HAND_OUT_AGAIN = 60.0  # seconds after which a trial is given to a worker again if it is still unclaimed


class Startable(NamedTuple):
    """A trial that a worker may start under a ticket. seen: when this process first saw that, time.monotonic()."""

    trial: Trial
    ticket: int
    seen: float


class History:
    """Reads a search again and again; each refresh reads new decisions and the files of open trials only.

    ledger: of the decisions that exist
    results: what the files of open trials show beyond them
    missing_columns: if trials have results without the metric, and none has it: the columns of one of them

    is_dead: returns True if the process of an identity is certainly gone; by default nothing is known of processes.
    grace: see GRACE.
    """

    def __init__(self, batch: str, search: Search, is_dead: progress.IsDead | None = None, grace: float = GRACE,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.batch, self.search = batch, search
        self.ledger = Ledger(search)
        self.decisions: list[Decision] = []
        self.results: tuple[Result, ...] = ()
        self.missing_columns: tuple[str, ...] | None = None
        self._is_dead, self._grace, self._clock = is_dead, grace, clock
        self._startable: dict[tuple[int, int], Startable] = {}  # by trial and ticket
        self._handed_out: dict[tuple[int, int], float] = {}
        self._own: set[int] = set()

    def refresh(self) -> None:
        """Read what has changed. BatchError if a decision is damaged."""
        self.read_decisions()
        now, before = self._clock(), self._startable
        self._startable = {}
        results: list[Result] = []
        columns = None
        for trial in self.ledger.open_trials():
            seen = progress.read(self.batch, self.search, trial, self._is_dead)
            results += seen.results
            columns = seen.columns or columns
            if seen.ticket is not None:
                key = trial.number, seen.ticket
                self._startable[key] = before.get(key) or Startable(trial, seen.ticket, now)
        self.results = tuple(results)
        self.missing_columns = None if any(
            result.value is not None for trial in self.current.trials for result in trial.results.values()) else columns

    def read_decisions(self) -> None:
        """Read the decisions that were made since the last time, in order."""
        while (decision := decisions.read(self.batch, len(self.decisions))) is not None:
            self.append(decision)

    def append(self, decision: Decision, own: bool = False) -> None:
        """Add the next decision. own: this process has made it. BatchError if it cannot follow on those before."""
        if problem := ledgers.check(self.ledger, decision):
            raise BatchError(f"this decision does not follow from those before it: {problem}",
                             where=decisions.path(self.batch, decision.number),
                             hint="restore the files of the search from a backup, or submit it anew")
        self.decisions.append(decision)
        self.ledger = self.ledger.after(decision)
        recorded = {(result.trial, result.rung) for result in decision.results}
        self.results = tuple(result for result in self.results if (result.trial, result.rung) not in recorded)
        if own:
            self._own.add(decision.number)

    @property
    def current(self) -> Ledger:
        """The ledger with the results that no decision has recorded yet."""
        return self.ledger.with_results(self.results) if self.results else self.ledger

    def take_startable(self) -> Startable | None:
        """Return a trial that this process may start, which is then handed out; None if there is none.

        Its own come first. A trial that another worker has decided to start a moment ago is left to that worker; those
        of the submission, and those left over, are taken in random order, so that few workers take the same one.
        """
        now = self._clock()
        free = [key for key in self._startable
                if now - self._handed_out.get(key, -_HAND_OUT_AGAIN) >= _HAND_OUT_AGAIN]
        own = [key for key in free if self._startable[key].trial.decided in self._own]
        others = [key for key in free if self._is_for_anybody(self._startable[key], now)]
        if not own and not others:
            return None
        key = own[0] if own else random.choice(others)
        self._handed_out[key] = now
        return self._startable[key]

    def _is_for_anybody(self, startable: Startable, now: float) -> bool:
        has_worker = bool(self.decisions[startable.trial.decided].who)
        return not has_worker or now - startable.seen >= self._grace

    def resumable_runs(self) -> list[str]:
        """Return the runs of the trials that workers may start or resume: open ones, and those paused at a rung."""
        return [trial.run for trial in self.current.trials if trial.state in (ledgers.OPEN, ledgers.PAUSED)]

    def is_stopped(self, trial: int) -> bool:
        """Return whether a decision has stopped a trial, which may still run."""
        return self.ledger.trials[trial].is_stopped
