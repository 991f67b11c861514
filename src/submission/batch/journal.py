"""Journals: one append-only file per submitting process, with its plan first and then what Slurm answered."""
from __future__ import annotations

import bisect
import contextlib
import json
import operator
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from src import run_folder
from src.frozen import Frozen, field
from src.io import files, records
from src.submission.batch import sync_markers
from src.submission.batch.sync_markers import SyncMarker
from src.submission.system import process

SLURM, LOCAL, WRITE_ONLY = "slurm", "local", "write-only"  # modes of a plan
ONE_EACH, ARRAY, WORKERS = "one each", "array", "workers"  # kinds of Units
COMMENT_PREFIX = "gridiron-"  # of the comments of our Slurm jobs
_ANSWER: records.Forms = {"unit": records.is_count, "time": records.is_time}
_REQUIRED: dict[str, records.Forms] = {  # the fields that a record must have, by its kind
    "plan": {"time": records.is_time, "mode": records.is_text, "who": records.is_mapping,
             "tickets": records.mapping_of(records.is_name, records.is_count),
             "way": lambda value: value in (ONE_EACH, ARRAY, WORKERS), "bounds": records.list_of(records.is_count)},
    "sending": _ANSWER, "job": {**_ANSWER, "slurm_job": lambda value: records.is_name(value) and value.isprintable()},
    "refused": _ANSWER, "ended": {}}
# Fields that only some plans and answers have. identity: the options that determine the grid of the batch
_OPTIONAL: records.Forms = {
    "code": records.is_token,
    "stack": lambda value: records.is_count(value) or records.is_text(value),
    "clusters": records.list_of(records.is_text), "argv": records.list_of(records.is_text),
    "points_left_out": records.is_count, "project": records.is_text, "script": records.optional(records.is_text),
    "canaries": records.mapping_of(records.is_name, records.list_of(records.is_count)),
    **dict.fromkeys(("identity", "sbatch", "shape", "command_line", "environment", "sizes"), records.is_mapping),
    **dict.fromkeys(("notify", "container", "idle_gpu"), records.optional(records.is_mapping))}
_FORMS = {kind: {**_OPTIONAL, **required} for kind, required in _REQUIRED.items()}


def new_token(now: float | None = None) -> str:
    """Return a unique name for a submitting process; names sort by time."""
    return f"{time.strftime('%y%m%d-%H%M%S', time.localtime(now))}-{os.urandom(3).hex()}"


def job_comment(token: str, unit: int) -> str:
    """Return the comment of the Slurm job of a plan's unit, which identifies the job if sbatch's answer was lost."""
    return f"{COMMENT_PREFIX}{token}-{unit}"


class Units(NamedTuple):
    """The division of a plan's runs among units. A unit is a call of sbatch.

    kind: ONE_EACH: unit u is run u. ARRAY: unit u is an array of the runs from bounds[u] to bounds[u + 1].
      WORKERS: unit u is a worker, for all runs if bounds is empty, else for those from bounds[2u] to bounds[2u + 1]
    bounds: positions among the runs. Two arrays of three runs: [0, 3, 6]; two workers for runs 0 to 2, and one for runs
      3 to 5: [0, 3, 0, 3, 3, 6]
    """

    kind: str = ONE_EACH
    bounds: Sequence[int] = ()

    def runs(self, unit: int, names: Sequence[str]) -> Sequence[str]:
        """Return the runs that the unit's Slurm job may run."""
        if self.kind == WORKERS:
            return names[self.bounds[2 * unit]:self.bounds[2 * unit + 1]] if self.bounds else names
        return names[self.bounds[unit]:self.bounds[unit + 1]] if self.kind == ARRAY else names[unit:unit + 1]

    def has_unit(self, unit: int, names: Sequence[str]) -> bool:
        """Return whether there is a unit of that number; workers without groups may have any number of units."""
        if self.kind == WORKERS:
            return not self.bounds or unit < len(self.bounds) // 2
        return unit < self.planned_count(names)

    def unit_of(self, position: int) -> int:
        """Return the unit whose job may run the run at `position`; of workers, the first of the group."""
        if self.kind == WORKERS:
            return next((unit for unit, end in enumerate(self.bounds[1::2]) if position < end), 0)
        return bisect.bisect_right(self.bounds, position) - 1 if self.kind == ARRAY else position

    def planned_count(self, names: Sequence[str]) -> int:
        """Return the number of units known from the plan; 0 for workers, whose units appear in later records."""
        return {ONE_EACH: len(names), ARRAY: len(self.bounds) - 1, WORKERS: 0}[self.kind]

    def job_ids(self, slurm_job: str, runs: Sequence[str]) -> list[str]:
        """Return the Slurm job of each of a unit's runs: an array's task, or the job itself."""
        array, semicolon, cluster = slurm_job.partition(";")
        return [f"{array}_{task}{semicolon}{cluster}" for task in range(len(runs))] if self.kind == ARRAY else (
            [slurm_job] * len(runs))


class Journal:
    """Writes the journal of this submitting process. The plan is on disk before anything is submitted."""

    def __init__(self, batch: str, token: str) -> None:
        self.token = token
        self.path = os.path.join(batch, run_folder.SUBMISSIONS, f"{token}.jsonl")

    def record_plan(self, mode: str, tickets: Mapping[str, int], units: Units | None = None, **details: Any) -> None:
        """Write the plan: mode, the ticket of each run, and the details needed to repeat this submission.

        In the record, `way` is the kind of the units, and `who` the identity of this process.
        """
        units = units or Units()
        record = {"kind": "plan", "time": time.time(), "mode": mode, "who": process.identity(), **details,
                  "way": units.kind, "bounds": units.bounds, "tickets": tickets}
        files.create_exclusive(self.path, json.dumps(record) + "\n")

    def record_sending(self, unit: int, clusters: Sequence[str] = ()) -> None:
        """Record that sbatch is about to be called. Without a later answer, Slurm may or may not have the job.

        clusters: those that sbatch may choose from; none for that of this machine.
        """
        self._append(kind="sending", unit=unit, **({"clusters": list(clusters)} if clusters else {}))

    def record_job(self, unit: int, slurm_job: str) -> None:
        """Record the job id that sbatch has returned, `12;NAME` on another cluster."""
        self._append(kind="job", unit=unit, slurm_job=slurm_job)

    def record_refusal(self, unit: int, message: str) -> None:
        """Record that sbatch has refused the job, with its message."""
        self._append(kind="refused", unit=unit, words=message)

    def record_end(self) -> None:
        """Record that this process submits nothing more, so that missing answers will stay missing."""
        self._append(kind="ended")

    def _append(self, **record: Any) -> None:
        files.append_line(self.path, json.dumps({**record, "time": time.time()}))


class Ticket:
    """One decision to submit a run. Several processes may act on it; one Slurm job or worker claims it: see claims.py.

    number: 1, 2, … for each run
    time: of the newest record, unix seconds
    mode: SLURM or LOCAL
    submitter: identity of the submitting process; empty once that has ended its submission
    comments: pairs of a Slurm job's comment and, in an array, the task
    slurm_jobs: the jobs that may run the run
    sent: sbatch was called, so that an answer may be missing
    shared: its Slurm jobs are workers, which have other runs too
    clusters: on which the jobs may be; "" for the cluster of this machine
    synced_from: marker of the download that the ticket came with, if it was issued on another machine
    """

    __slots__ = ("clusters", "comments", "mode", "number", "sent", "shared", "slurm_jobs", "submitter", "synced_from",
                 "time")

    def __init__(self, number: int, time: float, mode: str, submitter: dict[str, Any],
                 comments: list[tuple[str, str]] | None = None, slurm_jobs: list[str] | None = None,
                 sent: bool = False, shared: bool = False) -> None:
        self.number, self.time, self.mode, self.submitter = number, time, mode, submitter
        self.comments = comments or []
        self.slurm_jobs = slurm_jobs or []
        self.sent, self.shared = sent, shared
        self.synced_from: SyncMarker | None = None
        self.clusters: set[str] = set()


class History(Frozen):
    """All journals of a batch together.

    tickets: the newest ticket of each run
    recorded_plans: of this machine, in order of time
    sync_markers: of downloads from other machines, the newest first
    remote_plans: the plans that were downloaded
    open_submitters: identities of the processes that have not recorded the end of their submission, as local ones do
      when their workers have ended
    """

    tickets: dict[str, Ticket] = field(default_factory=dict)
    recorded_plans: list[dict[str, Any]] = field(default_factory=list)
    sync_markers: list[SyncMarker] = field(default_factory=list)
    remote_plans: list[dict[str, Any]] = field(default_factory=list)
    open_submitters: list[dict[str, Any]] = field(default_factory=list)

    def all_plans(self) -> list[dict[str, Any]]:
        """Return the plans of this machine and of others, in order of time."""
        return sorted(self.recorded_plans + self.remote_plans, key=lambda plan: plan["time"])

    def sync_marker_of(self, name: str) -> SyncMarker | None:
        """Return the marker of the download that a run came with, even if its journal has not been downloaded yet.

        None if the run is of this machine.
        """
        ticket = self.tickets.get(name)
        if ticket is not None:
            return ticket.synced_from
        is_ours = not self.sync_markers or any(name in plan["tickets"] for plan in self.recorded_plans)
        return None if is_ours else self.sync_markers[0]

    def first_plan(self) -> dict[str, Any]:
        return self.recorded_plans[0] if self.recorded_plans else {}

    def points_left_out(self) -> int:
        """Return the number of points of the job spec that are not in the batch because of --max-runs."""
        numbers = [plan["points_left_out"] for plan in self.recorded_plans if "points_left_out" in plan]
        return numbers[-1] if numbers else 0

    def left_out_line(self) -> str:
        """Return the line about these points; empty if there are none."""
        number = self.points_left_out()
        if not number:
            return ""
        return (f"{number} point{'s' * (number > 1)} of the job spec {'are' if number > 1 else 'is'} not in the batch, "
                "because of --max-runs: the command that made it, without that option, adds "
                f"{'them' if number > 1 else 'it'}")

    def last_slurm_plan(self) -> dict[str, Any]:
        """Return the newest plan with a submit script, submitted or only written: a retry reuses its options."""
        return next((plan for plan in reversed(self.recorded_plans) if plan.get("script")), {})


def read_history(batch: str) -> History:
    """Read all journals of a batch. Incomplete and unknown lines are skipped."""
    folder = os.path.join(batch, run_folder.SUBMISSIONS)
    names = files.list_folder(folder)
    history = History(sync_markers=sync_markers.read_all(folder, names))
    for name in sorted(name for name in names if name.endswith(".jsonl")):
        token = name.removesuffix(".jsonl")
        marker = next((marker for marker in history.sync_markers if token in marker.journals), None)
        plan, *answers = read_records(os.path.join(folder, name)) or [{}]
        if plan.get("kind") == "plan":
            (history.remote_plans if marker else history.recorded_plans).append(plan)
            if not marker and all(answer["kind"] != "ended" for answer in answers):
                history.open_submitters.append(plan["who"])
            if plan["mode"] != WRITE_ONLY:
                _add(history, token, plan, answers, marker)
    history.recorded_plans.sort(key=lambda plan: plan["time"])
    return history


def code_token(batch: str, name: str, ticket: int | None) -> str | None:
    """Return the folder in code/ of the submission that a run's ticket belongs to; None if none was recorded."""
    folder = os.path.join(batch, run_folder.CODE)
    tokens = [token for token in files.list_folder(folder)
              if os.path.exists(os.path.join(folder, token, run_folder.CODE_RECORD))]
    if len(tokens) < 2:
        return next(iter(tokens), None)  # the common case, without parsing journals
    plans = [plan for plan in read_history(batch).all_plans() if plan.get("code") in tokens]
    token: str | None = (plan_of(plans, name, ticket) or plan_of(plans, name, None)).get("code")
    return token


def own_submissions(batch: str) -> dict[str, set[str]]:
    """Return the ids of the Slurm jobs of each submission by this user, by its token; root takes every one for its own.

    The owner of a journal is the user whose process wrote it: nobody can give a file away.
    """
    folder = os.path.join(batch, run_folder.SUBMISSIONS)
    submissions: dict[str, set[str]] = {}
    for name in files.list_folder(folder):
        path = os.path.join(folder, name)
        if name.endswith(".jsonl") and os.geteuid() in (0, os.lstat(path).st_uid):
            submissions[name.removesuffix(".jsonl")] = {
                record["slurm_job"] for record in read_records(path) if record["kind"] == "job"}
    return submissions


def read_records(path: str) -> list[dict[str, Any]]:
    """Return the records of a journal, without incomplete and unknown lines."""
    return [record for line in files.read_json_lines(path) if (record := _checked(line))]


def plans_with_mapping(key: str, batch: str) -> list[dict[str, Any]]:
    """Return all plans of a batch if one of them has a mapping under `key`; otherwise none, without parsing any."""
    folder, lines, pattern = os.path.join(batch, run_folder.SUBMISSIONS), [], f'"{key}": {{'.encode()
    for name in files.list_folder(folder):
        if name.endswith(".jsonl"):
            with contextlib.suppress(OSError), open(files.open_regular(os.path.join(folder, name)), "rb") as file:
                lines.append(file.readline(files.MAX_RECORDS))
    if not any(pattern in line for line in lines):
        return []
    plans = [_checked(files.parse_json(line.decode(errors="replace"))) for line in lines if line.endswith(b"\n")]
    return [plan for plan in plans if plan.get("kind") == "plan"]


def plan_of(plans: Iterable[dict[str, Any]], name: str, ticket: int | None) -> dict[str, Any]:
    """Return the newest plan for a run's ticket (None: its newest ticket); empty if there is none."""
    of_run = (plan for plan in plans if name in plan["tickets"] and ticket in (None, plan["tickets"][name]))
    return max(of_run, key=lambda plan: (plan["tickets"][name], plan["time"]), default={})


def _checked(record: Any) -> dict[str, Any]:
    """Return a record, without optional fields that are not of their form; empty if it lacks a required one."""
    kind = record.get("kind") if isinstance(record, dict) else None
    forms = _FORMS.get(kind) if isinstance(kind, str) else None
    if kind is None or forms is None:
        return {}
    checked = records.fields(record, forms)
    if not _REQUIRED[kind].keys() <= checked.keys():
        return {}
    if kind != "plan":
        return checked
    return {**checked, "who": records.identity(checked["who"])} if _has_valid_positions(checked) else {}


def _has_valid_positions(plan: Mapping[str, Any]) -> bool:
    """Return whether the bounds of a plan divide its runs, and its canaries are those of its runs."""
    bounds, runs = plan["bounds"], len(plan["tickets"])
    is_divided = {ONE_EACH: True, ARRAY: bool(bounds) and bounds == sorted(bounds),
                  WORKERS: len(bounds) % 2 == 0 and all(map(operator.le, bounds[::2], bounds[1::2]))}[plan["way"]]
    return is_divided and all(position <= runs for position in bounds) and all(
        position < runs for positions in plan.get("canaries", {}).values() for position in positions)


def _add(history: History, token: str, plan: dict[str, Any], answers: Iterable[dict[str, Any]],
         marker: SyncMarker | None) -> None:
    """Add the tickets of one journal to the history, and apply its records to those that are their run's newest."""
    units, names = Units(plan["way"], plan["bounds"]), list(plan["tickets"])
    tickets = {name: ticket for name in names if (ticket := _open_ticket(history, name, plan))}
    for ticket in tickets.values():
        ticket.synced_from = marker
    for unit in range(units.planned_count(names)):
        comment = job_comment(token, unit)
        for task, name in enumerate(units.runs(unit, names)):
            if name in tickets:
                tickets[name].comments.append((comment, str(task) if units.kind == ARRAY else ""))
    for record in answers:
        if record["kind"] == "ended":
            for ticket in tickets.values():
                ticket.submitter = {}
        elif record["kind"] != "plan" and units.has_unit(record["unit"], names):
            _apply_answer(record, token, units, names, tickets)


def _apply_answer(record: dict[str, Any], token: str, units: Units, names: Sequence[str],
                  tickets: Mapping[str, Ticket]) -> None:
    """Apply a record of a call of sbatch to the tickets of its unit."""
    kind = record["kind"]
    runs = units.runs(record["unit"], names)
    jobs = units.job_ids(record["slurm_job"], runs) if kind == "job" else repeat(None)
    for name, job in zip(runs, jobs, strict=False):
        ticket = tickets.get(name)
        if ticket is None:
            continue
        ticket.time = max(ticket.time, record["time"])
        ticket.shared = units.kind == WORKERS
        ticket.sent = kind != "refused"
        if kind == "sending":
            ticket.clusters.update(record.get("clusters") or [""])
        if job is not None:
            ticket.slurm_jobs.append(job)
        elif ticket.shared and kind == "sending":
            ticket.comments.append((job_comment(token, record["unit"]), ""))


def _open_ticket(history: History, name: str, plan: dict[str, Any]) -> Ticket | None:
    """Return the run's ticket in this plan; None if another plan has a newer one. Plans may share a ticket."""
    number = plan["tickets"][name]
    ticket = history.tickets.get(name)
    if ticket is not None and number < ticket.number:
        return None
    if ticket is None or number > ticket.number:
        ticket = history.tickets[name] = Ticket(number, plan["time"], plan["mode"], plan["who"])
    else:
        ticket.time, ticket.submitter, ticket.mode = plan["time"], plan["who"], plan["mode"]
    return ticket
