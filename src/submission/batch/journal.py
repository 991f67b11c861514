"""What was decided and what Slurm answered: one append-only file per submitting process, the plan first."""
from __future__ import annotations

import bisect
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from src import run_folder
from src.io import files
from src.submission.batch import sync_markers
from src.submission.batch.sync_markers import SyncMarker
from src.submission.system import process

SLURM, LOCAL, WRITE_ONLY = "slurm", "local", "write-only"
# the ways in which a plan's runs become Slurm jobs: one each, an array cut into chunks, or workers that share them
ONE_EACH, ARRAY, WORKERS = "one each", "array", "workers"
_ANSWER = frozenset(("unit", "time"))
_KEYS: dict[str, frozenset[str]] = {  # what a record of each kind holds at least
    "plan": frozenset(("time", "mode", "who", "tickets", "way", "bounds")), "sending": _ANSWER,
    "job": _ANSWER | {"slurm_job"}, "refused": _ANSWER, "ended": frozenset()}


def new_token(now: float | None = None) -> str:
    """A name for a submitting process that no other has; names sort by time."""
    return f"{time.strftime('%y%m%d-%H%M%S', time.localtime(now))}-{os.urandom(3).hex()}"


COMMENT_PREFIX = "gridiron-"  # what the comments of our Slurm jobs begin with


def job_comment(token: str, unit: int) -> str:
    """What squeue and sacct find the Slurm job of a plan's unit by when sbatch's answer was lost."""
    return f"{COMMENT_PREFIX}{token}-{unit}"


@dataclass(frozen=True)
class Units:
    """How a plan is cut into calls of sbatch: unit u of ONE_EACH is run u, of ARRAY chunk u, of WORKERS all runs, or
    those of its team.

    bounds: of ARRAY, the positions at which chunks begin, and the end; of WORKERS in teams, begin and end for each.
    """

    kind: str = ONE_EACH
    bounds: list[int] = field(default_factory=list)

    def runs(self, unit: int, names: Sequence[str]) -> Sequence[str]:
        """The runs that the unit's Slurm job may run."""
        if self.kind == WORKERS:
            return names[self.bounds[2 * unit]:self.bounds[2 * unit + 1]] if self.bounds else names
        return names[self.bounds[unit]:self.bounds[unit + 1]] if self.kind == ARRAY else names[unit:unit + 1]

    def unit_of(self, position: int) -> int:
        """The unit whose job may run the run at `position`; of workers, the first of the team."""
        if self.kind == WORKERS:
            return next((unit for unit, end in enumerate(self.bounds[1::2]) if position < end), 0)
        return bisect.bisect_right(self.bounds, position) - 1 if self.kind == ARRAY else position

    def planned_count(self, names: Sequence[str]) -> int:
        """How many units there are, as far as the plan says; of workers, their own records tell."""
        return {ONE_EACH: len(names), ARRAY: len(self.bounds) - 1, WORKERS: 0}[self.kind]

    def job_ids(self, slurm_job: str, runs: Sequence[str]) -> list[str]:
        """The Slurm job of each of a unit's runs: an array's task, or the job itself."""
        return [f"{slurm_job}_{task}" for task in range(len(runs))] if self.kind == ARRAY else [slurm_job] * len(runs)


class Journal:
    """The file of this submitting process. The plan is on disk before anything is submitted."""

    def __init__(self, batch: str, token: str) -> None:
        self.token = token
        self.path = os.path.join(batch, run_folder.SUBMISSIONS, f"{token}.jsonl")

    def record_plan(self, mode: str, tickets: Mapping[str, int], units: Units | None = None, **details: Any) -> None:
        """Write the plan record: mode, the ticket of each run, and whatever repeats this submission."""
        units = units or Units()
        record = {"kind": "plan", "time": time.time(), "mode": mode, "who": process.identity(), **details,
                  "way": units.kind, "bounds": units.bounds, "tickets": tickets}
        files.create_exclusive(self.path, json.dumps(record) + "\n")

    def record_sending(self, unit: int) -> None:
        """About to call sbatch: without an answer after this line, Slurm may or may not have the job."""
        self._append(kind="sending", unit=unit)

    def record_job(self, unit: int, slurm_job: str) -> None:
        """sbatch gave this job id."""
        self._append(kind="job", unit=unit, slurm_job=slurm_job)

    def record_refusal(self, unit: int, words: str) -> None:
        """sbatch certainly did not take it, in its own words."""
        self._append(kind="refused", unit=unit, words=words)

    def record_end(self) -> None:
        """This process submits no more: what has no answer by now gets none from it."""
        self._append(kind="ended")

    def _append(self, **record: Any) -> None:
        files.append_line(self.path, json.dumps({**record, "time": time.time()}))


@dataclass(slots=True)
class Ticket:
    """One decision to submit a run. Many processes may try it; one Slurm job or worker claims it.

    comments: pairs of a Slurm job's comment and, in an array, the task; slurm_jobs: those that may run it; copy: of
    which the decision is part, if it was taken on another machine.
    """

    number: int
    time: float  # of the newest record, unix seconds
    mode: str
    submitter: dict[str, Any]  # the submitting process; empty when it has ended its submission
    comments: list[tuple[str, str]] = field(default_factory=list)
    slurm_jobs: list[str] = field(default_factory=list)
    sent: bool = False  # sbatch was called, so that an answer may have been lost
    shared: bool = False  # its Slurm jobs are workers, which have other runs too
    synced_from: SyncMarker | None = None


@dataclass
class History:
    """All journals of a batch together: the newest ticket of each run, and the plans in order of time.

    sync_markers: what was fetched from other machines, newest first; remote_plans: the plans of those.
    """

    tickets: dict[str, Ticket] = field(default_factory=dict)
    plans: list[dict[str, Any]] = field(default_factory=list)
    sync_markers: list[SyncMarker] = field(default_factory=list)
    remote_plans: list[dict[str, Any]] = field(default_factory=list)

    def all_plans(self) -> list[dict[str, Any]]:
        """The plans of this machine and of others, in order of time."""
        return sorted(self.plans + self.remote_plans, key=lambda plan: plan["time"])

    def sync_marker_of(self, name: str) -> SyncMarker | None:
        """The copy that a run is part of, if it is another machine's. Its journal may be yet to come."""
        ticket = self.tickets.get(name)
        if ticket is not None:
            return ticket.synced_from
        ours = any(name in plan["tickets"] for plan in self.plans) if self.sync_markers else True
        return None if ours else self.sync_markers[0]

    def first_plan(self) -> dict[str, Any]:
        return self.plans[0] if self.plans else {}

    def last_slurm_plan(self) -> dict[str, Any]:
        """The newest plan with a submit script, submitted or only written: its options serve a retry too."""
        return next((plan for plan in reversed(self.plans) if plan.get("script")), {})


def read_history(batch: str) -> History:
    """Everything that the journals under `batch` say. Torn or unknown lines are left out."""
    history = History()
    folder = os.path.join(batch, run_folder.SUBMISSIONS)
    found = os.listdir(folder) if os.path.isdir(folder) else []
    history.sync_markers = sync_markers.read_all(folder, found)
    for name in sorted(name for name in found if name.endswith(".jsonl")):
        token = name.removesuffix(".jsonl")
        copy = next((copy for copy in history.sync_markers if token in copy.journals), None)
        plan, *records = [record for record in files.read_json_lines(os.path.join(folder, name))
                          if _is_whole(record)] or [{}]
        if plan.get("kind") == "plan":
            (history.remote_plans if copy else history.plans).append(plan)
            if plan["mode"] != WRITE_ONLY:
                _add(history, token, plan, records, copy)
    history.plans.sort(key=lambda plan: plan["time"])
    return history


def plans_with_mapping(key: str, batch: str) -> list[dict[str, Any]]:
    """All plans of a batch, if one of them has a mapping under `key`; else none, and no line is parsed for that."""
    folder, lines, words = os.path.join(batch, run_folder.SUBMISSIONS), [], f'"{key}": {{'.encode()
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name.endswith(".jsonl"):
            with open(os.path.join(folder, name), "rb") as file:
                lines.append(file.readline())
    if not any(words in line for line in lines):
        return []
    records = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [record for record in records if _is_whole(record) and record["kind"] == "plan"]


def plan_of(plans: Iterable[dict[str, Any]], name: str, ticket: int | None) -> dict[str, Any]:
    """The newest plan for a run's ticket, or for its newest ticket; empty if there is none."""
    of_run = (plan for plan in plans if name in plan["tickets"] and ticket in (None, plan["tickets"][name]))
    return max(of_run, key=lambda plan: (plan["tickets"][name], plan["time"]), default={})


def _is_whole(record: Any) -> bool:
    needed = _KEYS.get(record.get("kind", "")) if isinstance(record, dict) else None
    return needed is not None and needed <= record.keys()


def _add(history: History, token: str, plan: dict[str, Any], records: Iterable[dict[str, Any]],
         copy: SyncMarker | None) -> None:
    """One journal's tickets, and what became of them."""
    units, names = Units(plan["way"], plan["bounds"]), list(plan["tickets"])
    own = {name: ticket for name in names if (ticket := _open_ticket(history, name, plan))}
    for ticket in own.values():
        ticket.synced_from = copy
    for unit in range(units.planned_count(names)):
        tag = job_comment(token, unit)
        for task, name in enumerate(units.runs(unit, names)):
            if name in own:
                own[name].comments.append((tag, str(task) if units.kind == ARRAY else ""))
    for record in records:
        kind = record["kind"]
        if kind == "ended":
            for ticket in own.values():
                ticket.submitter = {}
            continue
        if kind == "plan":
            continue
        runs = units.runs(record["unit"], names)
        jobs = units.job_ids(record["slurm_job"], runs) if kind == "job" else repeat(None)
        for name, job in zip(runs, jobs, strict=False):
            ticket = own.get(name)
            if ticket is None:
                continue
            ticket.time = max(ticket.time, record["time"])
            ticket.shared = units.kind == WORKERS
            ticket.sent = kind != "refused"
            if job is not None:
                ticket.slurm_jobs.append(job)
            elif ticket.shared and kind == "sending":
                ticket.comments.append((job_comment(token, record["unit"]), ""))


def _open_ticket(history: History, name: str, plan: dict[str, Any]) -> Ticket | None:
    """The run's newest ticket if it is this plan's; tried again, perhaps by another process, it stays the same one."""
    number = plan["tickets"][name]
    ticket = history.tickets.get(name)
    if ticket is not None and number < ticket.number:
        return None
    if ticket is None or number > ticket.number:
        ticket = history.tickets[name] = Ticket(number, plan["time"], plan["mode"], plan["who"])
    else:
        ticket.time, ticket.submitter, ticket.mode = plan["time"], plan["who"], plan["mode"]
    return ticket
