"""Decide what a worker does next: start a trial, wait, or end. Each decision is made once, whoever makes it.

A decision is computed from the ledger, and the process that creates its file first has made it. The others read that
file and go on from it. Any process may carry out a decision: it makes the run folder, which may be repeated, and the
claim of the run's ticket lets one process run it.
"""
from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from src import run_folder
from src.archive import run_files
from src.io import files, yaml_io
from src.search import asha, hyperband, samplers
from src.search import decision as decisions
from src.search.decision import NEW, PROMOTE, STOP, Decision
from src.search.definition import ASHA, Search
from src.search.history import History
from src.search.ledger import PAUSED, Ledger, Trial, loss_of

NameRun = Callable[[int, Mapping[str, Any]], str]  # the run folder's name of a trial with these parameters


@dataclass(frozen=True)
class Start:
    """Start a trial, or resume it.

    folder: its run folder, which exists
    ticket: claims decide whether this process gets it
    pause_at: epochs (or logged values, if rungs count those) after which it pauses; None: it runs to its end
    """

    decision: Decision
    trial: Trial
    folder: str
    ticket: int
    pause_at: int | None

    @property
    def spec_path(self) -> str:
        return os.path.join(self.folder, run_folder.SPEC)


@dataclass(frozen=True)
class Wait:
    """Nothing can be started before a trial pauses or ends: ask again in about a second."""


@dataclass(frozen=True)
class Finished:
    """Nothing will ever be started again. error: why the search cannot go on; None if it is complete."""

    error: str | None = None


def next_step(history: History, name_run: NameRun, identity: Mapping[str, Any] | None = None
              ) -> Start | Wait | Finished:
    """Return what this worker does next, after deciding it if nobody has.

    identity: of this process, for the record.
    """
    while True:
        history.refresh()
        if history.missing_columns is not None:
            return Finished(_missing_metric(history.search, history.missing_columns))
        if startable := history.take_startable():
            return _start(history, startable.trial, startable.ticket)
        ledger = history.current
        draft = propose(ledger, name_run)
        if draft is None:
            return Finished() if is_complete(ledger) else Wait()
        if not _make(history, draft, identity):
            return Wait()


def settle(history: History, identity: Mapping[str, Any] | None = None) -> None:
    """Decide which running trials go on and which are stopped, for a search whose trials do not pause."""
    while True:
        history.refresh()
        draft = _decide_at_rungs(history.current)
        if draft is None or not _make(history, draft, identity):
            return


def propose(ledger: Ledger, name_run: NameRun, limit: int | None = None) -> Decision | None:
    """Return the next decision, without results, time and process; None if a trial has to pause or end before it.

    limit: number of trials that may be open at a time, by default search.parallel.
    """
    search = ledger.search
    draft = _decide_at_rungs(ledger)
    if draft is None and len(ledger.trials) >= search.trials:
        return None
    takes_slot = draft is None or draft.kind == PROMOTE and search.pauses
    if takes_slot and len(ledger.open_trials()) >= (search.parallel if limit is None else limit):
        return None
    return draft or _start_new(ledger, name_run)


def is_complete(ledger: Ledger) -> bool:
    """Return whether no trial is open, and none will be."""
    return len(ledger.trials) >= ledger.search.trials and not ledger.open_trials() and _decide_at_rungs(ledger) is None


def _start_new(ledger: Ledger, name_run: NameRun) -> Decision:
    number = len(ledger.trials)
    choice = samplers.choose(ledger)
    parameters = ledger.search.space.to_spec(choice.point)
    return Decision(ledger.count, NEW, number, 0, name_run(number, parameters), choice.point, parameters,
                    sampler=choice.sampler, seed=choice.seed, versions=choice.versions)


def _decide_at_rungs(ledger: Ledger) -> Decision | None:
    """Return a decision to promote or to stop a trial that has reached a rung; None if there is none to make."""
    search = ledger.search
    if search.early_stop is None:
        return None
    if search.early_stop.method == ASHA and search.pauses:
        rungs = range(len(search.rungs))
        closed = [{trial.number for trial in ledger.trials if trial.target > rung or trial.state != PAUSED}
                  for rung in rungs]
        promotion = asha.next_promotion([ledger.losses(rung) for rung in rungs], closed, search.early_stop.eta)
        return Decision(ledger.count, PROMOTE, *promotion) if promotion else None
    for trial in ledger.trials:
        if trial.state == PAUSED and trial.target < len(search.rungs) - 1:
            if _is_stopped(ledger, trial):
                return Decision(ledger.count, STOP, trial.number, trial.target)
            return Decision(ledger.count, PROMOTE, trial.number, trial.target + 1)
    return None


def _is_stopped(ledger: Ledger, trial: Trial) -> bool:
    """Return whether a trial ends at the rung that it has reached, where it is decided once and for all."""
    search, stop = ledger.search, ledger.search.early_stop
    assert stop is not None
    losses = ledger.losses(trial.target)
    if stop.method == ASHA:
        return not asha.may_continue(losses, trial.number, stop.eta)
    result = trial.results[trial.target]
    return hyperband.is_stopped(loss_of(result, search), loss_of(result, search, best=True),
                                hyperband.threshold(losses.values(), stop.eta), stop.strict)


def _make(history: History, draft: Decision, identity: Mapping[str, Any] | None) -> bool:
    """Create the file of a decision, or read the one that another process has made in the meantime.

    Return False if that one cannot be seen yet: some network file systems show new names late.
    """
    decision = replace(draft, results=history.results, time=time.time(), who=dict(identity or {}))
    if decisions.create(history.batch, decision):
        history.append(decision, own=True)
        return True
    history.read_decisions()
    return len(history.decisions) > decision.number


def _start(history: History, trial: Trial, ticket: int) -> Start | Wait:
    """Return how to start a trial, after making its run folder. Several processes may make it at once.

    Wait if it is archived.
    """
    folder = os.path.join(history.batch, trial.run)
    spec = os.path.join(folder, run_folder.SPEC)
    if not files.read_text(spec):  # missing, or empty after a power cut
        if run_files.is_archived(folder):  # the search is over, with an error: a new folder would hide the archived one
            return Wait()
        files.make_folder(folder)
        files.write_atomic(spec, yaml_io.dump_flat(dict(trial.parameters)))
    search = history.search
    is_last = trial.target == len(search.rungs) - 1
    return Start(history.decisions[trial.decided], trial, folder, ticket,
                 search.rungs[trial.target] if search.pauses and not is_last else None)


def _missing_metric(search: Search, columns: tuple[str, ...]) -> str:
    names = ", ".join(columns) or "nothing"
    return (f"no trial has the metric {search.metric!r}, so that the search cannot go on; stats.csv has {names}; "
            "correct job_details.metric and submit the search anew")


@dataclass(frozen=True)
class Difference:
    """A decision that would be made differently today.

    recorded, computed: the keys that differ, with their values
    """

    number: int
    recorded: Mapping[str, Any]
    computed: Mapping[str, Any]
    versions: str = ""


_COMPUTED = ("kind", "trial", "rung", "run", "point", "parameters", "sampler", "seed")


def replay(batch: str, search: Search, name_run: NameRun) -> tuple[int, list[Difference]]:
    """Compute all decisions of a search again. Return their number, and those that differ from the recorded ones."""
    history = History(batch, search)
    history.read_decisions()
    ledger, differences = Ledger(search), []
    for decision in history.decisions:
        computed = propose(ledger.with_results(decision.results), name_run, limit=len(history.decisions) + 1)
        if difference := _compare(decision, computed):
            differences.append(difference)
        ledger = ledger.after(decision)
    return len(history.decisions), differences


def _compare(recorded: Decision, computed: Decision | None) -> Difference | None:
    values = {key: getattr(computed, key) if computed else None for key in _COMPUTED}
    different = [key for key in _COMPUTED if values[key] != getattr(recorded, key)]
    if not different:
        return None
    changed = [f"{name} {version} then, {(computed.versions if computed else {}).get(name, 'none')} now"
               for name, version in recorded.versions.items()
               if computed and computed.versions.get(name) != version]
    return Difference(recorded.number, {key: getattr(recorded, key) for key in different},
                      {key: values[key] for key in different}, "; ".join(changed))
