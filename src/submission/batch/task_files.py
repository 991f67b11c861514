"""Task files: what one Slurm job, or one local worker, may run when it is more than one run."""
from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from src import run_folder
from src.errors import BatchError
from src.io import files

ARRAY, WORKER = "array", "worker"


class WorkerGroup(NamedTuple):
    """Workers that take the same runs, and no others. name: of their subtest, empty for those that take the rest."""

    name: str
    workers: int
    tickets: dict[str, int]


def worker_groups(tickets: Mapping[str, int], specs: Mapping[str, Mapping[str, Any]], others: int) -> list[WorkerGroup]:
    """Who takes which runs: for each subtest as many workers as its WORKERS say, and `others` for what says nothing;
    never more than there are runs."""
    found: dict[tuple[str, int], dict[str, int]] = {}
    for name, ticket in tickets.items():
        spec = specs[name]
        number = spec.get("WORKERS")
        label = "" if number is None else (spec.get("SUBTESTS") or [",".join(spec.get("TAGS", ()))])[0]
        found.setdefault((label, number or others), {})[name] = ticket
    return [WorkerGroup(label, min(number, len(of_team)), of_team) for (label, number), of_team in
            sorted(found.items(), key=lambda item: not item[0][0])]  # what says nothing comes last


@dataclass(frozen=True)
class Tasks:
    """kind: task i of an ARRAY runs the i-th run; a WORKER takes unclaimed runs until none is left.

    batch: absolute path; tickets: by run name; slots: runs at a time in a worker; workers: how many share a machine
    (1 under Slurm); gpus: of the machine, shared out among all slots (empty: as Slurm gave them); command: the call of
    sbatch that makes another worker like this one; canaries: the one that a run waits for, by run name.
    """

    kind: str
    batch: str
    tickets: dict[str, int]
    slots: int = 1
    workers: int = 1
    gpus: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    canaries: dict[str, str] = field(default_factory=dict)

    def folder(self, name: str) -> str:
        return os.path.join(self.batch, name)

    def spec(self, name: str) -> str:
        return os.path.join(self.batch, name, run_folder.SPEC)

    def startable(self) -> Iterator[str]:
        """The runs that nobody has under their ticket, looked up one by one."""
        return filter(self.can_start, self.tickets)

    def can_start(self, name: str, requeued: str | None = None) -> bool:
        """Whether nobody has the run (it is unclaimed, or saved itself and wants another start) and its canary is done.

        requeued: a Slurm job that was started again; what it had claimed and not ended is free for it.
        """
        if not self.is_canary_done(name):
            return False
        claim = os.path.join(self.batch, name, run_folder.claim_name(self.tickets[name]))
        if not os.path.exists(claim):
            return True
        run = run_folder.RunFolder.read(self.folder(name))
        if run.ended is not None:
            return False
        last = run.last_attempt() or {}
        if last.get("how") == run_folder.REQUEUED and last["ticket"] == self.tickets[name]:
            return True
        return requeued is not None and run.claim(self.tickets[name]).get("slurm_job") == requeued

    def is_canary_done(self, name: str) -> bool:
        """Whether the run waits for no canary, or for one that ended well."""
        first = self.canaries.get(name)
        return first is None or os.path.exists(os.path.join(self.batch, run_folder.CANARY, first, run_folder.DONE))


def file_name(token: str, team: int = 0, teams: int = 1) -> str:
    """The task file of a submission's workers, in submissions/: begins with its token, up to the first dot."""
    return f"{token}{f'.{team}' if teams > 1 else ''}{run_folder.TASKS_SUFFIX}"


def write(path: str, tasks: Tasks) -> None:
    """Write a task file, whole."""
    files.write_json(path, dataclasses.asdict(tasks))


def read(path: str) -> Tasks:
    """The tasks in a file. BatchError if it is no task file."""
    value = files.read_json(path)
    try:
        return Tasks(**value)
    except TypeError:
        raise BatchError("this is no task file", where=path, hint="submit_multiple.py writes them") from None
