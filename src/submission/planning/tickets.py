"""Tickets: which runs are submitted, with which ticket number, and which are left alone, and why."""
from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from src import run_folder
from src.errors import BatchError, experiments_command
from src.submission.status import retry_policy, states
from src.submission.system.terminal import count

if TYPE_CHECKING:
    from src.submission.status.observation import Observation, Run

# reasons to leave a run alone: it is beyond --max-runs; or --right-size needs the result of its canary
LATER, AWAITS_CANARY = "for later", "waiting for a canary"


class Tickets(NamedTuple):
    """Which runs are submitted.

    to_submit: the ticket number of each run to submit, in order
    left_alone: the other runs, by the state or the reason why they are not submitted
    """

    to_submit: dict[str, int]
    left_alone: dict[str, list[str]]

    def summary(self) -> str:
        """Return one line: `24 runs: 20 to submit, 4 left alone (3 done, 1 running)`."""
        reasons = ", ".join(f"{len(names)} {_in_words(reason)}" for reason, names in self.left_alone.items())
        number = sum(map(len, self.left_alone.values()))
        left_alone = f", {number} left alone ({reasons})" if reasons else ""
        return f"{count(len(self.to_submit) + number, 'run')}: {len(self.to_submit)} to submit{left_alone}"

    def progress(self) -> str:
        """Return why no run is submitted: `20 of 24 done, 3 running, 1 failed`."""
        numbers = {reason: len(names) for reason, names in self.left_alone.items()}
        total = sum(numbers.values())
        return ", ".join([f"{numbers.pop(states.DONE, 0)} of {total} done",
                          *(f"{number} {_in_words(reason)}" for reason, number in numbers.items())])

    def require_decided(self, batch: str) -> None:
        """Raise BatchError if nothing can be submitted and some runs are in the state submitted or unknown."""
        if not self.to_submit and self.left_alone.keys() & {states.SUBMITTED, states.UNKNOWN}:
            status = experiments_command("status", batch)
            raise BatchError(f"no run can be submitted now ({self.progress()})", where=batch,
                             hint=f"give the same command again in a few minutes; `{status}` shows why")

    def without(self, names: Iterable[str], reason: str) -> Tickets:
        """Return the tickets with some runs left alone for a reason."""
        names = list(names)
        if not names:
            return self
        removed = set(names)
        return Tickets({name: ticket for name, ticket in self.to_submit.items() if name not in removed},
                       {**self.left_alone, reason: [*self.left_alone.get(reason, []), *names]})

    def first(self, maximum: int | None) -> Tickets:
        """Return the tickets with only the first `maximum` runs to submit; None: with all."""
        return self if maximum is None else self.without(list(self.to_submit)[maximum:], LATER)


def _in_words(reason: str) -> str:
    """Return a state as messages print it; any other reason, which may name a host, unchanged."""
    return states.shown(reason) if reason in states.ALL else reason


def first_tickets(names: Iterable[str]) -> Tickets:
    """Give every run of a new batch its first ticket."""
    return Tickets(dict.fromkeys(names, 1), {})


def next_tickets(runs: Mapping[str, Run], submitted_states: Collection[str]) -> Tickets:
    """Give the runs of an existing batch that are in one of the states a ticket.

    A run that was planned but reached neither Slurm nor a worker keeps its ticket, so that one process at most runs it
    however often it is submitted. A run that was started gets the next ticket.
    """
    to_submit: dict[str, int] = {}
    left_alone: dict[str, list[str]] = {}
    for name, run in runs.items():
        if run.files is not None and run.state.name in submitted_states:
            keeps_ticket = run.state.name == states.NEW and run.ticket not in run.files.claims
            to_submit[name] = max(run.ticket, 1) if keeps_ticket else run.ticket + 1  # 0: without a ticket so far
        else:
            left_alone.setdefault(run.state.name, []).append(name)
    return Tickets(to_submit, left_alone)


def new_run(batch: str, name: str, deleted: Run | None) -> Run:
    """Return a run whose folder is to be created. deleted: the run that had this folder, whose next ticket it gets."""
    from src.submission.status.observation import Run

    folder = os.path.join(batch, name)
    return Run(name, folder, run_folder.RunFolder(folder, frozenset()), deleted.ticket + 1 if deleted else 0, None,
               states.State(states.NEW))


def is_deleted(run: Run) -> bool:
    """Return whether the folder of a run was deleted, and no Slurm job or worker will start it."""
    return run.state.name == states.DELETED


def observe_batch(batch: str, dry_run: bool) -> Observation:
    """Observe a batch that may be continued. First finish an extension that was interrupted; a dry run only reads."""
    from src.submission.batch.extension import finish_extensions  # new batches need neither
    from src.submission.status.observe import observe

    if not dry_run:
        finish_extensions(batch)
    return observe([batch], read_only=dry_run)[0]


def runs_maybe_alive(observation: Observation) -> list[Run]:
    """Return the runs, canaries included, that are pending or running, or might be."""
    return [run for run in (*observation.runs.values(), *observation.canaries.values())
            if run.state.name in retry_policy.MAYBE_ALIVE]


def require_none_alive(observation: Observation, action: str) -> None:
    """Raise BatchError if a run of a batch is pending or running, or might be."""
    if alive := runs_maybe_alive(observation):
        wait = experiments_command("wait", observation.path)
        cancel = experiments_command("cancel", observation.path)
        raise BatchError(f"cannot {action}: {count(len(alive), 'run')} of it may be pending or running "
                         f"({alive[0].name}: {alive[0].state.name})", where=observation.path,
                         hint=f"their jobs are ending: wait a few seconds, or run `{wait}` first"
                         if all(run.state.why == states.ENDING for run in alive)
                         else f"wait for them, or run `{cancel}` first")
