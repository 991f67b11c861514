"""Types: a run and a batch as they were observed at one moment."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from src.frozen import Frozen, field
from src.run_folder import RunFolder
from src.submission.batch.journal import History
from src.submission.status.states import State


class Run(NamedTuple):
    """One run.

    files: the names of its files; None if its folder was deleted;
    ticket: its newest number, 0 before the first submission;
    attempt: the record of its newest attempt;
    slurm_jobs: those in the queue that may run it, several if it is shared by workers;
    host: the machine that runs it, if the batch was synced from another one;
    unseen_jobs: if its state is unknown, the Slurm jobs that may run it, by the journal;
    error_log: the file of its Slurm job's --error, as a pattern for glob; empty if its output has the errors too.
    """

    name: str
    path: str
    files: RunFolder | None
    ticket: int
    attempt: dict[str, Any] | None
    state: State
    slurm_jobs: tuple[str, ...] = ()
    host: str | None = None
    unseen_jobs: tuple[str, ...] = ()
    error_log: str = ""


class Observation(Frozen):
    """A batch: its path, its journals, and its runs and canaries by name, in order."""

    path: str
    history: History
    runs: dict[str, Run]
    queue_answered: bool
    canaries: dict[str, Run] = field(default_factory=dict)

    def count(self, names: Iterable[str]) -> int:
        """Return how many runs are in one of the states."""
        selected = frozenset(names)
        return sum(run.state.name in selected for run in self.runs.values())
