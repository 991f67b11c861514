"""The progress of a search, by its decisions: a line for each rung, and one for its trials; and whether it is over.

A search between two trials looks like one that is over. So the worker that finds nothing to start any more records that
in search/finished.json.
"""
from __future__ import annotations

import math
import os
import time
from collections import Counter
from typing import Any, NamedTuple

from src import run_folder
from src.io import files, records
from src.search.decision import PROMOTE
from src.search.definition import Search, read
from src.search.history import History
from src.search.ledger import OPEN, STOPPED, Ledger
from src.search.settings import UNKNOWN_LENGTH

FILE = f"{run_folder.SEARCH}/finished.json"
_FORMS: records.Forms = {"trials": records.is_count, "error": records.optional(records.is_text),
                         "time": records.is_time}
_SHOWN = {OPEN: "running", run_folder.COMPLETED: "done"}  # names of states, where they differ from the ledger's
_TOP = "end"  # of a trial whose length in epochs is not known


class Rung(NamedTuple):
    """One rung.

    epochs: at which it is; None if a whole trial's are not known;
    reached: trials with a result at it; promoted: trials that were promoted from it; stopped: trials that ended at it;
    best: value of the metric; run: of the trial that has it; None before the first result.
    """

    epochs: int | None
    reached: int
    promoted: int
    stopped: int
    best: float | None
    run: str | None


class Summary(NamedTuple):
    """A search.

    trials: trials that were started; planned: trials that it will have;
    states: trials by state, as the ledger has them; stopped: the runs of those that it has stopped;
    is_over: whether no trial will be started any more; error: why the search could not go on
    """

    metric: str
    trials: int
    planned: int
    states: dict[str, int]
    stopped: list[str]
    rungs: list[Rung]
    is_over: bool
    error: str | None

    def rows(self) -> list[list[str]]:
        """Return a table of the rungs as rows of cells, with a header."""
        rows = [["rung", "trials", "promoted", "best", ""]]
        for rung in self.rungs:
            rows.append([str(rung.epochs or _TOP), str(rung.reached), str(rung.promoted or ""),
                         "" if rung.best is None else f"{rung.best:.4g} {self.metric}", rung.run or ""])
        return rows

    def headline(self) -> str:
        """Return `search     18 of 27 trials started: 3 done, 12 paused, 3 running`."""
        states = ", ".join(f"{number} {_SHOWN.get(name, name.replace('_', ' '))}"
                           for name, number in sorted(self.states.items()))
        end = f"; stopped: {self.error}" if self.error else "; over" if self.is_over else ""
        return f"search     {self.trials} of {self.planned} trials started{f': {states}' if states else ''}{end}"


def summarize(batch: str | os.PathLike[str]) -> Summary | None:
    """Return the summary of a batch's search; None if it is no search."""
    search = read(batch)
    if search is None:
        return None
    history = History(os.fspath(batch), search)
    history.refresh()
    ledger = history.current
    promoted = Counter(decision.rung - 1 for decision in history.decisions if decision.kind == PROMOTE)
    return Summary(
        search.metric, len(ledger.trials), search.trials, dict(Counter(trial.state for trial in ledger.trials)),
        [trial.run for trial in ledger.trials if trial.state == STOPPED],
        [_rung(search, ledger, index, promoted[index]) for index in range(len(search.rungs))],
        is_over(batch, search), stop_reason(batch))


def _rung(search: Search, ledger: Ledger, index: int, promoted: int) -> Rung:
    losses = ledger.losses(index)
    number = min(losses, key=lambda trial: (losses[trial], trial), default=None)
    best = None if number is None or losses[number] == math.inf else ledger.trials[number]
    epochs = search.rungs[index]
    return Rung(None if epochs == UNKNOWN_LENGTH else epochs, len(losses), promoted,
                sum(trial.state == STOPPED and trial.target == index for trial in ledger.trials),
                search.loss(losses[best.number]) if best else None, best.run if best else None)  # twice negated


def record_end(batch: str | os.PathLike[str], search: Search, error: str | None) -> None:
    """Record that no trial will be started any more. Any number of processes may do so.

    error: why the search cannot go on; None if it is complete.
    """
    files.write_json(os.path.join(batch, FILE), {"trials": search.trials, "error": error, "time": time.time()})


def is_over(batch: str | os.PathLike[str], search: Search) -> bool:
    """Return whether the search has ended with as many trials as it has now; False after an extension."""
    return bool(_read(batch).get("trials", -1) >= search.trials)


def may_continue(batch: str | os.PathLike[str]) -> bool:
    """Return whether a batch is a search that is not over: its workers, or later ones, may start and resume trials."""
    search = read(batch)
    return search is not None and not is_over(batch, search)


def unfinished(batch: str | os.PathLike[str]) -> str | None:
    """Return `10 of 30 trials started`, or why it could not go on, for a search that is not complete; else None."""
    search = read(batch)
    if search is None or (is_over(batch, search) and not stop_reason(batch)):
        return None
    history = History(os.fspath(batch), search)
    history.refresh()
    return stop_reason(batch) or f"{len(history.current.trials)} of {search.trials} trials started"


def stop_reason(batch: str | os.PathLike[str]) -> str | None:
    """Return why the search could not go on; None if it could."""
    text: str | None = _read(batch).get("error")
    return text


def _read(batch: str | os.PathLike[str]) -> dict[str, Any]:
    return records.fields(files.read_json(os.path.join(batch, FILE)), _FORMS)
