"""What a submission will do, and why, decided before anything is written."""
from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from src import run_folder
from src.errors import BatchError, shell_command
from src.submission.batch import claims
from src.submission.status import states
from src.submission.status.observation import Observation, Run
from src.submission.status.retry_policy import HELD
from src.submission.system.terminal import count

DELETED = "deleted"  # in Plan.kept: runs without a folder
LATER = "for later"  # in Plan.kept: runs beyond --max-runs


@dataclass(frozen=True)
class Plan:
    """tickets: the runs to submit with their ticket's number, in order; kept: the runs left alone, by their state."""

    tickets: dict[str, int]
    kept: dict[str, list[str]]

    def summary(self) -> str:
        """One line: `24 runs: 20 to submit, 4 left alone (3 done, 1 running)`."""
        kept = ", ".join(f"{len(names)} {state}" for state, names in self.kept.items())
        total = len(self.tickets) + sum(map(len, self.kept.values()))
        left = f", {total - len(self.tickets)} left alone ({kept})" if kept else ""
        return f"{count(total, 'run')}: {len(self.tickets)} to submit{left}"


def plan_first(names: Collection[str]) -> Plan:
    """A new batch: every run gets its first ticket."""
    return Plan(dict.fromkeys(names, 1), {})


def plan_next(runs: Mapping[str, Run], submit: Collection[str]) -> Plan:
    """An existing batch: the runs whose state is in `submit` get a ticket.

    A run that was planned but reached neither Slurm nor a worker keeps its ticket, so that however often it is tried,
    one process runs it; a run that was started gets the next one.
    """
    tickets: dict[str, int] = {}
    kept: dict[str, list[str]] = {}
    for name, run in runs.items():
        if is_missing(run):
            kept.setdefault(DELETED, []).append(name)
        elif run.folder is not None and run.state.name in submit:
            fresh = run.state.name == states.NEW and not claims.is_claimed(run.folder, run.ticket)
            tickets[name] = max(run.ticket, 1) if fresh else run.ticket + 1
        else:
            kept.setdefault(run.state.name, []).append(name)
    return Plan(tickets, kept)


def not_made(batch: str, name: str, deleted: Run | None) -> Run:
    """A run whose folder is yet to be made, or made again: then with a ticket of its own."""
    folder = os.path.join(batch, name)
    return Run(name, folder, run_folder.RunFolder(folder, frozenset()), deleted.ticket + 1 if deleted else 0, None,
               states.State(states.NEW))


def is_missing(run: Run) -> bool:
    """Whether a run's folder was deleted and no Slurm job or worker is left that will look for it."""
    return run.folder is None and run.state.name not in HELD


def may_be_alive(observation: Observation) -> list[Run]:
    """The runs, canaries too, that are pending or running, or might be."""
    return [run for run in (*observation.runs.values(), *observation.canaries.values()) if run.state.name in HELD]


def cut(plan: Plan, most: int | None) -> Plan:
    """The plan with its first `most` submissions alone."""
    later = list(plan.tickets)[most:] if most is not None else []
    if not later:
        return plan
    return Plan({name: ticket for name, ticket in plan.tickets.items() if name not in set(later)},
                {**plan.kept, LATER: later})


def refuse_if_alive(observation: Observation, doing: str) -> None:
    """BatchError if a run is pending or running, or might be."""
    if alive := may_be_alive(observation):
        raise BatchError(f"cannot {doing}: {count(len(alive), 'run')} of it may be pending or running "
                         f"({alive[0].name}: {alive[0].state.name})", where=observation.path,
                         hint="wait for them, or first "
                         f"`{shell_command('python', 'experiments.py', 'cancel', observation.path)}`")
