"""Task files: the runs of one Slurm job or local worker, if it may have several."""
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from src import run_folder
from src.errors import BatchError
from src.frozen import Frozen, field
from src.io import files, records
from src.submission.batch import claims

ARRAY, WORKER = "array", "worker"


class WorkerGroup(NamedTuple):
    """Workers that share the same runs.

    name: the subtest that the runs belong to; empty for runs whose points set no WORKERS.
    """

    name: str
    workers: int
    tickets: dict[str, int]


def worker_groups(tickets: Mapping[str, int], specs: Mapping[str, Mapping[str, Any]],
                  default_workers: int) -> list[WorkerGroup]:
    """Divide runs into groups of workers: by subtest where points set WORKERS, and one group for all other runs.

    No group has more workers than runs. default_workers: for the runs whose points set none.
    """
    grouped: dict[tuple[str, int], dict[str, int]] = {}
    for name, ticket in tickets.items():
        spec = specs[name]
        workers = spec.get("WORKERS")
        label = "" if workers is None else (spec.get("SUBTESTS") or [",".join(spec.get("TAGS", ()))])[0]
        grouped.setdefault((label, workers or default_workers), {})[name] = ticket
    return [WorkerGroup(label, min(workers, len(members)), members)
            for (label, workers), members in sorted(grouped.items(), key=lambda item: not item[0][0])]  # "" comes last


class Tasks(Frozen):
    """The content of a task file.

    kind: task i of an ARRAY runs the i-th run; a WORKER starts unclaimed runs until none is left
    batch: absolute path
    tickets: by run name
    slots: runs at a time in one worker
    workers: number of workers that share this machine (1 under Slurm)
    gpus: of the machine, divided among all slots; empty: as Slurm assigned them
    command: the sbatch call that submits another worker like this one
    canaries: by run name, the canary that must have ended well before the run starts
    stacks: the runs that are trained at once in one process, as far as they are free, by their positions in tickets
    stack_size: the largest number of runs to train at once; None: what is fastest
    is_search: a WORKER also starts the further trials of the batch's search
    is_auto: a WORKER measures how many runs at a time are the fastest, and `slots` does not count
    """

    kind: str
    batch: str
    tickets: dict[str, int]
    slots: int = 1
    workers: int = 1
    gpus: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    canaries: dict[str, str] = field(default_factory=dict)
    stacks: list[list[int]] = field(default_factory=list)
    stack_size: int | None = None
    is_search: bool = False
    is_auto: bool = False

    def run_path(self, name: str) -> str:
        return os.path.join(self.batch, name)

    def spec_path(self, name: str) -> str:
        return os.path.join(self.batch, name, run_folder.SPEC)

    def units(self) -> list[list[str]]:
        """Return what a worker starts, in order: stacks, each at the place of its first run, and single runs."""
        return units(list(self.tickets), self.stacks)

    def startable(self) -> Iterator[str]:
        """Yield the runs that a worker may start, each looked up when it is its turn."""
        return filter(self.can_start, self.tickets)

    def can_start(self, name: str, restarted_job: str | None = None) -> bool:
        """Return whether a worker may start the run: see claims.can_start. Its canary, if any, must have ended well."""
        return self.is_canary_done(name) and claims.can_start(self.run_path(name), self.tickets[name], restarted_job)

    def is_canary_done(self, name: str) -> bool:
        """Return whether the run has no canary, or one that has ended well."""
        canary = self.canaries.get(name)
        return canary is None or os.path.exists(os.path.join(self.batch, run_folder.CANARY, canary, run_folder.DONE))


class Stacks(Frozen):
    """Runs to train at once.

    runs: the names of those of each stack
    size: the largest number at once; None: what is fastest
    """

    runs: Sequence[Sequence[str]] = ()
    size: int | None = None

    def divide(self, groups: Iterable[Iterable[str]]) -> Iterator[list[list[int]]]:
        """Yield for each group of runs the stacks among them, as positions in the group."""
        stack_of = {name: number for number, stack in enumerate(self.runs) for name in stack}
        for group in groups:
            positions: dict[int, list[int]] = {}
            for position, name in enumerate(group):
                if name in stack_of:
                    positions.setdefault(stack_of[name], []).append(position)
            yield [stack for stack in positions.values() if len(stack) > 1]


NO_STACKS = Stacks()


def units(names: Sequence[str], stacks: Sequence[Sequence[int]]) -> list[list[str]]:
    """Return the runs of each stack, at the place of its first run, and every other run by itself.

    stacks: positions among the names
    """
    stack_of = {positions[0]: positions for positions in stacks if positions}
    stacked = {position for positions in stacks for position in positions[1:]}
    return [[names[member] for member in stack_of.get(position, [position])]
            for position in range(len(names)) if position not in stacked]


def fixed_slots(slots: int | str | None) -> int:
    """Return the runs at a time in each worker by --slots; 1 without it, and where the workers find out how many."""
    return slots if isinstance(slots, int) else 1


def file_name(token: str, group: int = 0, groups: int = 1) -> str:
    """Return the name of a task file in submissions/. It begins with the submission's token, up to the first dot."""
    return f"{token}{f'.{group}' if groups > 1 else ''}{run_folder.TASKS_SUFFIX}"


def token_of(path: str) -> str:
    """Return the token of the submission that a task file belongs to, by the file's name."""
    return os.path.basename(path).partition(".")[0]


def write(path: str, tasks: Tasks) -> None:
    """Write a task file atomically."""
    files.write_json(path, tasks._asdict())


_FORMS: records.Forms = {
    "kind": lambda value: value in (ARRAY, WORKER), "batch": records.is_text,
    "tickets": records.mapping_of(records.is_name, records.is_count), "slots": records.is_count,
    "is_auto": lambda value: isinstance(value, bool),
    "workers": records.is_count, "gpus": records.list_of(records.is_text), "command": records.list_of(records.is_text),
    "canaries": records.mapping_of(records.is_name, records.is_name),
    "stacks": records.list_of(records.list_of(records.is_count)), "stack_size": records.optional(records.is_count)}


def read(path: str) -> Tasks:
    """Read a task file. BatchError if the file is not one."""
    content = files.read_json(path)
    checked = records.fields(content, _FORMS)
    try:
        tasks = Tasks(**checked)
        if len(checked) < len(content) or any(position >= len(tasks.tickets) for stack in tasks.stacks
                                              for position in stack):
            raise TypeError
        return tasks
    except TypeError:
        raise BatchError("not a task file", where=path, hint="submit_multiple.py writes task files") from None
