"""What was decided and what Slurm answered: one append-only file per submitting process, the plan first."""
from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from src import files, run_folder
from src.submission import process

SLURM, LOCAL, WRITE_ONLY = "slurm", "local", "write-only"
_ANSWER = frozenset(("run", "ticket", "time"))
_KEYS = {"plan": frozenset(("time", "mode", "who", "tickets")), "sending": _ANSWER, "job": _ANSWER | {"slurm_job"},
         "refused": _ANSWER, "ended": frozenset()}  # what a record of each kind holds at least


def new_token(now: float | None = None) -> str:
    """A name for a submitting process that no other has; names sort by time."""
    return f"{time.strftime('%y%m%d-%H%M%S', time.localtime(now))}-{os.urandom(3).hex()}"


COMMENT = "gridiron-"  # what the comments of our Slurm jobs begin with


def comment(token: str, run: str, ticket: int) -> str:
    """What squeue and sacct find a Slurm job by when sbatch's answer was lost."""
    return f"{COMMENT}{token}-{run.partition('_')[0]}-{ticket}"


class Journal:
    """The file of this submitting process. The plan is on disk before anything is submitted."""

    def __init__(self, batch: str, token: str) -> None:
        self.token = token
        self.path = os.path.join(batch, run_folder.SUBMISSIONS, f"{token}.jsonl")

    def plan(self, mode: str, tickets: Mapping[str, int], **details: Any) -> None:
        """Write the plan record: mode, the ticket of each run, and whatever repeats this submission."""
        record = {"kind": "plan", "time": time.time(), "mode": mode, "who": process.identity(), **details,
                  "tickets": tickets}
        files.create_exclusive(self.path, json.dumps(record) + "\n")

    def sending(self, run: str, ticket: int) -> None:
        """About to call sbatch: without an answer after this line, Slurm may or may not have the job."""
        self._append(kind="sending", run=run, ticket=ticket)

    def accepted(self, run: str, ticket: int, slurm_job: str) -> None:
        """sbatch gave this job id."""
        self._append(kind="job", run=run, ticket=ticket, slurm_job=slurm_job)

    def refused(self, run: str, ticket: int, words: str) -> None:
        """sbatch certainly did not take it, in its own words."""
        self._append(kind="refused", run=run, ticket=ticket, words=words)

    def ended(self) -> None:
        """This process submits no more: what has no answer by now gets none from it."""
        self._append(kind="ended")

    def _append(self, **record: Any) -> None:
        files.append_line(self.path, json.dumps({**record, "time": time.time()}))


@dataclass
class Ticket:
    """One decision to submit a run. Many processes may try it; one Slurm job or worker claims it."""

    number: int
    time: float  # of the newest record, unix seconds
    mode: str
    who: dict[str, Any]  # the submitting process; empty when it has ended its submission
    comments: list[str] = field(default_factory=list)
    slurm_jobs: list[str] = field(default_factory=list)
    sent: bool = False  # sbatch was called, so that an answer may have been lost


@dataclass
class History:
    """All journals of a batch together: the newest ticket of each run, and the plans in order of time."""

    tickets: dict[str, Ticket] = field(default_factory=dict)
    plans: list[dict[str, Any]] = field(default_factory=list)

    def first_plan(self) -> dict[str, Any]:
        return self.plans[0] if self.plans else {}

    def last_slurm_plan(self) -> dict[str, Any]:
        """The newest plan that used Slurm: its script and options serve a retry."""
        return next((plan for plan in reversed(self.plans) if plan["mode"] == SLURM), {})


def read_history(batch: str) -> History:
    """Everything that the journals under `batch` say. Torn or unknown lines are left out."""
    history = History()
    folder = os.path.join(batch, run_folder.SUBMISSIONS)
    names = sorted(name for name in os.listdir(folder) if name.endswith(".jsonl")) if os.path.isdir(folder) else []
    for name in names:
        records = filter(_is_whole, files.read_json_lines(os.path.join(folder, name)))
        _add_records(history, name.removesuffix(".jsonl"), records)
    history.plans.sort(key=lambda plan: plan["time"])
    return history


def _is_whole(record: Any) -> bool:
    return isinstance(record, dict) and record.get("kind") in _KEYS and _KEYS[record["kind"]] <= record.keys()


def _add_records(history: History, token: str, records: Iterable[Any]) -> None:
    own: dict[tuple[str, int], Ticket] = {}
    for record in records:
        if record["kind"] == "plan":
            history.plans.append(record)
            for run, number in record["tickets"].items():
                if record["mode"] == WRITE_ONLY:
                    continue
                ticket = history.tickets.get(run)
                if ticket is None or number > ticket.number:
                    ticket = history.tickets[run] = Ticket(number, record["time"], record["mode"], record["who"])
                elif number == ticket.number:  # tried again, perhaps by another process
                    ticket.time, ticket.who, ticket.mode = record["time"], record["who"], record["mode"]
                else:
                    continue
                ticket.comments.append(comment(token, run, number))
                own[run, number] = ticket
            continue
        if record["kind"] == "ended":
            for ticket in own.values():
                ticket.who = {}
            continue
        ticket = own.get((record["run"], record["ticket"]))
        if ticket is None:
            continue
        ticket.time = max(ticket.time, record["time"])
        ticket.sent = record["kind"] != "refused"
        if record["kind"] == "job":
            ticket.slurm_jobs.append(record["slurm_job"])
