"""What is known of a run and of a batch at one moment."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from src.run_folder import RunFolder
from src.submission.batch.journal import History
from src.submission.status.states import State


class Run(NamedTuple):
    """One run as it was found. folder is None if it is gone; ticket is the number of its newest, 0 before any; host is
    the machine that has it, of a copy."""

    name: str
    path: str
    folder: RunFolder | None
    ticket: int
    attempt: dict[str, Any] | None
    state: State
    slurm_jobs: tuple[str, ...] = ()  # in the queue, and may run it: of workers, several
    host: str | None = None


@dataclass(frozen=True)
class Observation:
    """A batch as it was found: its path, journals, and runs by name in order; its canaries apart from them."""

    path: str
    history: History
    runs: dict[str, Run]
    queue_answered: bool
    canaries: dict[str, Run] = field(default_factory=dict)

    def count(self, names: Iterable[str]) -> int:
        """How many runs are in one of the states."""
        wanted = frozenset(names)
        return sum(run.state.name in wanted for run in self.runs.values())
