"""The state of a run: evidence from its folder, its ticket, squeue and sacct, and the ordered rules that decide."""
from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from src import run_folder
from src.frozen import Frozen
from src.submission.batch import heartbeat
from src.submission.batch.journal import COMMENT_PREFIX, LOCAL, Ticket
from src.submission.slurm import job_states
from src.submission.slurm.client import Accounting, Job, Queue
from src.submission.system import process
from src.submission.system.terminal import format_duration

NEW, SUBMITTED, PENDING, RUNNING, STUCK = "new", "submitted", "pending", "running", "stuck"
DONE, EARLY_STOPPED, DIVERGED, PAUSED = "done", "early_stopped", "diverged", "paused"
FAILED, TIMEOUT, OUT_OF_MEMORY, PREEMPTED = "failed", "timeout", "out_of_memory", "preempted"
NODE_FAILED, CANCELLED, LOST, UNKNOWN, DELETED = "node_failed", "cancelled", "lost", "unknown", "deleted"

ALL = (NEW, SUBMITTED, PENDING, RUNNING, STUCK, DONE, EARLY_STOPPED, DIVERGED, PAUSED, FAILED, TIMEOUT,
       OUT_OF_MEMORY, PREEMPTED, NODE_FAILED, CANCELLED, LOST, UNKNOWN, DELETED)

ALIVE = (SUBMITTED, PENDING, RUNNING, STUCK)  # a run in one of these runs, or will without another submission
MAYBE_ALIVE = (*ALIVE, UNKNOWN)

LOST_AFTER = 300.0  # seconds: squeue may not list a new job at once, and sbatch may answer late
OUTPUT_NOT_OPENED = "Slurm could not open the job's output (exit code 0:53): "  # the path follows
ENDING = "its job is ending"  # remark on a running run whose job was cancelled or has left its program
_SIGNAL_STATUS = 128  # a shell's exit status of a program that a signal killed is this plus the signal
_CLOCK_TOLERANCE = 3600.0  # seconds that sacct's clock may be behind when it is compared with a ticket

_DONE_FILE = {run_folder.COMPLETED: DONE, run_folder.EARLY_STOPPED: EARLY_STOPPED, run_folder.DIVERGED: DIVERGED}
# the state of a run by how its Slurm job ended; after COMPLETED its files decide
_SLURM_ENDED = {"TIMEOUT": TIMEOUT, "DEADLINE": TIMEOUT, "OUT_OF_MEMORY": OUT_OF_MEMORY, "PREEMPTED": PREEMPTED,
                "NODE_FAIL": NODE_FAILED, "BOOT_FAIL": NODE_FAILED, "CANCELLED": CANCELLED, "FAILED": FAILED,
                "REVOKED": CANCELLED}
# what happened to a run whose Slurm job ended in one of these states, in words
_SLURM_REMARKS = {"DEADLINE": "reached its deadline", "OUT_OF_MEMORY": "exceeded the memory of its job",
                  "PREEMPTED": "preempted by another job", "NODE_FAIL": "its node failed",
                  "BOOT_FAIL": "its node did not boot", "REVOKED": "revoked by its cluster"}
_ENDED = tuple(dict.fromkeys(_SLURM_ENDED.values()))
# An attempt may end like this before Slurm requeues its job. Only squeue shows the requeue.
_MAY_BE_REQUEUED = (CANCELLED, TIMEOUT, PREEMPTED, NODE_FAILED)
# Reasons of pending Slurm jobs, compiled on demand: a dry run needs none.
_HELD_REASON = "JobHeld|JobHoldMaxRequeue|requeued.(in.)?held"
_STUCK_REASON = (  # reasons that persist until someone acts
    # the job exceeds a limit on one job
    r"PartitionTimeLimit|PartitionNodeLimit|MaxMemPerLimit|(Assoc|QOS)Max\w*Per(Job|Node)|QOSMin\w+|"
    # an administrator, or Slurm itself, holds it; a job that its user holds is pending
    "JobHeldAdmin|JobHoldMaxRequeue|requeued.(in.)?held|JobLaunchFailure|"
    # what it requests or waits for does not exist
    "DependencyNeverSatisfied|BadConstraints|Invalid(Account|QOS)|(Account|QOS)NotAllowed|"
    "Reservation(Deleted|Invalid)|DeadLine")

# Slurm's exit code of a job whose output could not be opened, in a row of sacct and of squeue
_OUTPUT_NOT_OPENED = r"0:53\Z|RaisedSignal:53\b"


def shown(state: str) -> str:
    """Return the name of a state as messages and the documentation print it."""
    return state.replace("_", " ")


class State(NamedTuple):
    """The state of a run: one of ALL, the reason (of Slurm, the last line of the error, …), and its Slurm job."""

    name: str
    why: str = ""
    slurm_job: str | None = None


class Evidence(Frozen):
    """The evidence from which the state of a run is determined.

    files: the names of its files; None if its folder was deleted;
    ticket: the newest one; None before the first submission;
    queue, accounting: the answers of squeue and sacct;
    claim: the record of the process or Slurm job that claimed the ticket; empty if none has;
    claim_alive, submitter_alive: whether that process of this machine is alive; None if unknown from here;
    last_attempt: the record of the newest attempt, which may be of an earlier ticket;
    now: unix seconds;
    heartbeat_age: returns the seconds since the last sign of life of the attempt in its files.
    """

    files: run_folder.RunFolder | None
    ticket: Ticket | None
    queue: Queue
    accounting: Accounting
    claim: Mapping[str, Any]
    claim_alive: bool | None
    submitter_alive: bool | None
    last_attempt: Mapping[str, Any] | None
    now: float
    heartbeat_age: Callable[[], float] = lambda: math.inf

    @property
    def done_content(self) -> str | None:
        """The content of the run's `done` file; None if there is none."""
        return self.files.ended if self.files else None

    @cached_property
    def attempt(self) -> Mapping[str, Any]:
        """The record of the ticket's newest attempt; empty before the first."""
        attempt = self.last_attempt or {}
        return {} if self.ticket and attempt.get("ticket") != self.ticket.number else attempt

    @property
    def error(self) -> str:
        """The last line of the error that the attempt recorded."""
        return str(self.attempt.get("error") or "")

    @cached_property
    def recorded_end(self) -> str | None:
        """The state that the attempt recorded when it ended."""
        return recorded_end(self.attempt)

    @property
    def is_claimed_locally(self) -> bool:
        """Whether a process outside Slurm claimed the run."""
        return bool(self.claim) and not self.claim.get("slurm_job")

    @property
    def is_for_workers(self) -> bool:
        """Whether the run was submitted to workers, and none has claimed it."""
        return self.ticket is not None and self.ticket.shared and not self.claim

    @property
    def is_local(self) -> bool:
        """Whether the run was not submitted to Slurm."""
        return self.ticket is None or self.ticket.mode == LOCAL

    @cached_property
    def jobs(self) -> list[str]:
        """The ids of the Slurm jobs that may run it, the newest last."""
        return candidate_jobs(self.ticket, self.claim, self.queue)

    @cached_property
    def queue_row(self) -> Job | None:
        """The row of squeue of the newest job that it lists; None if it lists none, or only completed ones."""
        for job in reversed(self.jobs):
            row = self.queue.find(job)
            if row and row.state != job_states.COMPLETED and not self._is_reused(row):
                return row
        return None

    @cached_property
    def state_in_queue(self) -> State | None:
        """The state that squeue shows, of the newest job if there are several; None if it shows none."""
        return _state_in_queue(self.queue_row) if self.queue_row else None

    @property
    def is_held(self) -> bool:
        """Whether Slurm holds the job in the queue until a user or an administrator releases it."""
        row = self.queue_row
        return row is not None and (row.state in job_states.HELD or (
            row.state in job_states.PENDING and re.search(_HELD_REASON, row.reason) is not None))

    def _is_reused(self, row: Job) -> bool:
        """Whether Slurm gave the id to another submission of ours: its numbers restart at 1 if its state is lost."""
        return self.ticket is not None and row.comment.startswith(COMMENT_PREFIX) and row.comment not in [
            comment for comment, _ in self.ticket.comments]

    @cached_property
    def sacct_row(self) -> Job | None:
        """The row of sacct that shows how the newest job ended; None if there is none."""
        return next(self._ended_sacct_rows(), None)

    def _ended_sacct_rows(self) -> Iterator[Job]:
        """The rows of sacct of this ticket's ended jobs, without jobs that ended because the run was requeued."""
        for job in reversed(self.jobs):
            row = self.accounting.jobs.get(job)
            if row is None or row.state not in _SLURM_ENDED or self._has_successor(row):
                continue
            # an earlier job may have had the same id
            if row.submitted is None or self.ticket is None or row.submitted >= self.ticket.time - _CLOCK_TOLERANCE:
                yield row

    def _has_successor(self, row: Job) -> bool:
        """Whether this Slurm job ended because its run continues in another one."""
        return (self.attempt.get("how") == run_folder.REQUEUED and row.state in ("FAILED", "COMPLETED", "PREEMPTED")
                and row.id.partition(";")[0] == self.attempt.get("slurm_job"))

    @cached_property
    def sacct_or_recorded_end(self) -> str | None:
        """The state in which the run ended, from sacct and its own record; None if neither shows an end."""
        # Slurm reports FAILED for any exit code other than 0; the record is more precise
        if self.sacct_row and not (self.recorded_end and self.sacct_row.state == "FAILED"):
            return _SLURM_ENDED[self.sacct_row.state]
        return self.recorded_end

    @cached_property
    def heartbeat_text(self) -> str:
        """`its files changed 9 s ago` if the attempt's heartbeat is fresh; else empty. Reads files."""
        age = self.heartbeat_age()
        return f"its files changed {age:.0f} s ago" if age < heartbeat.TIMEOUT else ""

    @property
    def may_have_workers(self) -> bool:
        """Whether the run waits for workers that squeue does not list, and no proof exists that they have ended."""
        if not (self.is_for_workers and self.queue.answered and self.jobs):
            return False
        if self.unended_in_sacct or all(job in self.accounting.jobs for job in self.jobs):
            return bool(self.unended_in_sacct)
        return self.is_recent or not self.accounting.answered or bool(self.heartbeat_text)

    @cached_property
    def unended_in_sacct(self) -> str:
        """The state of the newest job that sacct lists as not ended; empty if there is none."""
        rows = (self.accounting.jobs.get(job) for job in reversed(self.jobs))
        return next((row.state for row in rows if row and row.state in job_states.PENDING | job_states.RUNNING), "")

    def explain(self, reason: str, slurm_job: str) -> str:
        """Return a reason of Slurm; in words if its own words do not name the cause."""
        if not re.match(_OUTPUT_NOT_OPENED, reason):
            return reason
        output = os.path.join(self.files.path, run_folder.slurm_log_name(slurm_job)) if self.files else "its output"
        return OUTPUT_NOT_OPENED + output

    @property
    def is_recent(self) -> bool:
        """Whether the ticket is recent; the clock may have jumped either way since."""
        return self.ticket is not None and abs(self.now - self.ticket.time) < LOST_AFTER


class Rule(NamedTuple):
    """A row of the table of states.

    condition: what `applies` checks, in words;
    states: those that the rule can lead to;
    explanation: for the documentation; empty if the condition says it all.
    """

    condition: str
    states: tuple[str, ...]
    applies: Callable[[Evidence], Any]
    conclude: Callable[[Evidence], State]
    explanation: str = ""


def _always(name: str, why: str = "") -> Callable[[Evidence], State]:
    return lambda evidence: State(name, why)


def _queue_state(evidence: Evidence) -> State:
    assert evidence.state_in_queue
    return evidence.state_in_queue


def _waiting(evidence: Evidence) -> State:
    """The state of a pending job; its reason names the next start of a run that has been started.

    Slurm's reason is left out where it says only that the job waits, as BeginTime, two minutes after a requeue.
    """
    state = _queue_state(evidence)
    if not evidence.attempt.get("end") or not evidence.files:
        return state
    reason = "" if state.why in ("", "BeginTime") else f", {state.why}"
    return state._replace(why=f"continues (start {len(evidence.files.attempts) + 1}){reason}")


def _ended_in_queue(evidence: Evidence) -> State:
    assert evidence.queue_row
    return _queue_state(evidence)._replace(why=_describe_end(evidence, evidence.queue_row))


def _squeue_shows(name: str) -> Callable[[Evidence], bool]:
    return lambda evidence: evidence.state_in_queue is not None and evidence.state_in_queue.name == name


def _end_by_sacct(evidence: Evidence) -> State:
    row, end = evidence.sacct_row, evidence.sacct_or_recorded_end or UNKNOWN
    # Slurm knows better why it ended a job, unless the attempt recorded the same end, or a failure before
    why = evidence.error if row is None or evidence.recorded_end in (end, FAILED) else ""
    return State(end, why or (_describe_end(evidence, row) if row else ""), row.id if row else evidence.jobs[-1])


def _describe_end(evidence: Evidence, row: Job) -> str:
    """Describe how a Slurm job ended, by its row of sacct, whose reason is the exit code, or of squeue."""
    if (explanation := evidence.explain(row.reason.strip("()"), row.id)) != row.reason.strip("()"):
        return explanation
    if row.state == "TIMEOUT":
        return f"reached its time limit{f' of {format_duration(row.time_limit)}' if row.time_limit else ''}"
    if row.state == "CANCELLED":
        return "cancelled by scancel" if evidence.attempt else (
            "cancelled before it started, by scancel or because a dependency failed")
    if row.state != "FAILED":
        return _SLURM_REMARKS[row.state]
    match = re.match(r"(?:RaisedSignal|(\d+)):(\d+)", row.reason)
    code, number = (int(match[1] or 0), int(match[2])) if match else (0, 0)
    if number or code > _SIGNAL_STATUS:
        return process.killed_by(number or code - _SIGNAL_STATUS)
    return f"its job ended with exit status {code}" if code else "its job failed"


def _is_deleted(evidence: Evidence) -> bool:
    """Return whether the run's folder was deleted, and no other rule finds that it may be alive."""
    return evidence.files is None and next(
        rule for rule in RULES if DELETED not in rule.states and rule.applies(evidence)).conclude(
            evidence).name not in MAYBE_ALIVE


# The first rule that applies decides. Every rule but the first five may rely on those before it.
RULES: tuple[Rule, ...] = (
    Rule("the run has a `done` file", (DONE, EARLY_STOPPED, DIVERGED),
         lambda evidence: evidence.done_content is not None,
         lambda evidence: State(_DONE_FILE.get(evidence.done_content or "", DONE)), "whatever Slurm says"),
    Rule("the run's folder was deleted, and the rules below do not find that it may be alive", (DELETED,), _is_deleted,
         _always(DELETED), f"alive are {', '.join(ALIVE)} and {UNKNOWN}"),
    Rule("the attempt recorded that it paused at a rung of its search", (PAUSED,),
         lambda evidence: evidence.recorded_end == PAUSED, _always(PAUSED),
         "the job of its worker continues with other trials"),
    Rule("no ticket and no attempt", (NEW,), lambda evidence: evidence.ticket is None and not evidence.last_attempt,
         _always(NEW)),
    Rule("squeue lists the workers that may take the run, and none has claimed it", (PENDING,),
         lambda evidence: evidence.is_for_workers and evidence.state_in_queue,
         lambda evidence: State(PENDING, "waits for a worker", _queue_state(evidence).slurm_job)),
    Rule("squeue lists the job as running or held, and the attempt recorded a failure", (FAILED,),
         lambda evidence: (evidence.is_held or _squeue_shows(RUNNING)(evidence)) and evidence.recorded_end == FAILED,
         lambda evidence: State(FAILED, evidence.error, _queue_state(evidence).slurm_job),
         "a worker's job continues after one of its runs has failed; a held job does not start again"),
    Rule("squeue lists the job as running, or in a state that Gridiron does not know", (RUNNING,),
         _squeue_shows(RUNNING), _queue_state),
    Rule("squeue lists the job as pending, for a reason that persists until someone acts", (STUCK,),
         _squeue_shows(STUCK), _queue_state, "for example PartitionTimeLimit, or a limit on one job"),
    Rule("squeue lists the job as pending", (PENDING,), _squeue_shows(PENDING), _waiting,
         "after a start that was requeued or preempted, the remark is `continues (start 2)`"),
    Rule("squeue lists the job as ended", _ENDED, lambda evidence: evidence.state_in_queue, _ended_in_queue),
    Rule("a process outside Slurm claimed the run, and the attempt recorded its end", _ENDED,
         lambda evidence: evidence.is_claimed_locally and evidence.recorded_end,
         lambda evidence: State(evidence.recorded_end or FAILED, evidence.error)),
    Rule("a process outside Slurm claimed the run and is alive", (RUNNING,),
         lambda evidence: evidence.is_claimed_locally and evidence.claim_alive, _always(RUNNING)),
    Rule("a process of another machine claimed the run, outside Slurm", (UNKNOWN,),
         lambda evidence: evidence.is_claimed_locally and evidence.claim_alive is None,
         lambda evidence: State(UNKNOWN, f"it runs, or ran, on {evidence.claim.get('host', 'another host')}; if that "
                                "is gone, remove the run's newest claim file")),
    Rule("a process outside Slurm claimed the run and is dead", (LOST,),
         lambda evidence: evidence.is_claimed_locally,
         _always(LOST, "its process died without recording an exit status (killed, or the machine went down)")),
    Rule("submitted to local workers, which are alive", (PENDING,),
         lambda evidence: evidence.is_local and evidence.submitter_alive and not evidence.claim, _always(PENDING)),
    Rule("not submitted to Slurm", (NEW,), lambda evidence: evidence.is_local,
         lambda evidence: State(NEW, evidence.error)),
    Rule("squeue does not list the workers that may take the run, but sacct lists one of them as pending or running or "
         "fails, one of their runs has a fresh heartbeat, or they were submitted less than "
         f"{LOST_AFTER / 60:.0f} minutes ago", (UNKNOWN,),
         lambda evidence: evidence.may_have_workers,
         lambda evidence: State(UNKNOWN, "squeue does not list its workers, which may be running", evidence.jobs[-1])),
    Rule("the workers that may take the run have ended, and none has claimed it", (NEW,),
         lambda evidence: evidence.is_for_workers and evidence.queue.answered and evidence.jobs,
         lambda evidence: State(NEW, "its workers have ended", evidence.jobs[-1])),
    Rule("no Slurm job is known, and the submitting process is alive", (SUBMITTED,),
         lambda evidence: not evidence.jobs and evidence.submitter_alive, _always(SUBMITTED, "being submitted")),
    Rule("no Slurm job is known, sbatch was called, and squeue does not answer", (UNKNOWN,),
         lambda evidence: not evidence.jobs and evidence.ticket and evidence.ticket.sent
         and not evidence.queue.answered,
         _always(UNKNOWN, "squeue did not answer"), "sbatch's answer may have been lost"),
    Rule("no Slurm job is known", (NEW,), lambda evidence: not evidence.jobs, _always(NEW)),
    Rule(f"sacct shows that the node failed, but the run's files changed less than {heartbeat.TIMEOUT:.0f} s ago",
         (UNKNOWN,), lambda evidence: evidence.sacct_or_recorded_end == NODE_FAILED and evidence.heartbeat_text,
         lambda evidence: State(UNKNOWN, f"its node failed, but {evidence.heartbeat_text}", evidence.jobs[-1]),
         "a node that Slurm cannot reach may still run it"),
    Rule("sacct or the attempt's record shows an end: any end if squeue answers, otherwise only "
         f"{' or '.join(shown(name) for name in _ENDED if name not in _MAY_BE_REQUEUED)}", _ENDED,
         lambda evidence: evidence.sacct_or_recorded_end and (
             evidence.queue.answered or evidence.sacct_or_recorded_end not in _MAY_BE_REQUEUED), _end_by_sacct,
         "after any other end Slurm may have requeued the job, which only squeue shows"),
    Rule("squeue does not answer", (UNKNOWN,), lambda evidence: not evidence.queue.answered,
         lambda evidence: State(UNKNOWN, "squeue did not answer", evidence.jobs[-1])),
    Rule(f"submitted less than {LOST_AFTER / 60:.0f} minutes ago", (UNKNOWN,), lambda evidence: evidence.is_recent,
         lambda evidence: State(UNKNOWN, "squeue does not list it (yet, or any more)", evidence.jobs[-1]),
         "squeue may not list a new job at once"),
    Rule("sacct lists the job as pending or running", (UNKNOWN,), lambda evidence: evidence.unended_in_sacct,
         lambda evidence: State(UNKNOWN, f"sacct lists it as {evidence.unended_in_sacct}, squeue does not list it",
                                evidence.jobs[-1])),
    Rule("there is accounting, but sacct fails", (UNKNOWN,), lambda evidence: not evidence.accounting.answered,
         lambda evidence: State(UNKNOWN, "squeue does not list it, and sacct did not answer", evidence.jobs[-1])),
    Rule(f"the run's files changed less than {heartbeat.TIMEOUT:.0f} s ago", (UNKNOWN,),
         lambda evidence: evidence.heartbeat_text,
         lambda evidence: State(UNKNOWN, f"squeue does not list it, but {evidence.heartbeat_text}", evidence.jobs[-1]),
         f"a running attempt leaves a heartbeat every {heartbeat.INTERVAL:.0f} s"),
    Rule("otherwise", (LOST,), lambda evidence: True,
         lambda evidence: State(LOST, evidence.error or "squeue does not list it", evidence.jobs[-1]),
         "its job left the queue without a trace"),
)


def state_of(evidence: Evidence) -> State:
    """Return the state of a run."""
    return rule_of(evidence).conclude(evidence)


def rule_of(evidence: Evidence) -> Rule:
    """Return the first rule that applies."""
    for rule in RULES:
        if rule.applies(evidence):
            return rule
    raise AssertionError("the last rule always applies")


def as_markdown() -> str:
    """Return the table of rules for docs/architecture.md."""
    rows = [f"| {number} | {rule.condition} | {', '.join(map(shown, rule.states))} | {rule.explanation} |"
            for number, rule in enumerate(RULES, 1)]
    return "\n".join(["| | evidence: the first row that applies decides | state | remark |", "|---|---|---|---|",
                      *rows])


def candidate_jobs(ticket: Ticket | None, claim: Mapping[str, Any], queue: Queue) -> list[str]:
    """Return the Slurm jobs that may run it: the one that claimed it, or all that were submitted for the ticket."""
    if job := claim.get("slurm_job"):  # without its cluster, which the journal holds
        submitted = ticket.slurm_jobs if ticket else []
        return [next((full_id for full_id in submitted if full_id.startswith(f"{job};")), job)]
    if ticket is None:
        return []
    queued = queue.job_ids(ticket.comments)
    if queued in ([], ticket.slurm_jobs):
        return ticket.slurm_jobs
    return list(dict.fromkeys([*ticket.slurm_jobs, *queued]))


def recorded_end(attempt: Mapping[str, Any]) -> str | None:
    """Return the state in which an attempt ended by its own record; None if it has not, or if it was requeued."""
    how = attempt.get("how")
    return None if not how or how == run_folder.REQUEUED else how if how in ALL else FAILED


def _state_in_queue(row: Job) -> State:
    """The state that a row of squeue shows. A word that is not known, of a newer Slurm, counts as running."""
    reason = row.reason.strip("()")
    reason = "" if reason == "None" else reason  # squeue's word for no reason
    if row.state in job_states.PENDING:
        is_stuck = row.state in job_states.HELD or re.search(_STUCK_REASON, row.reason)
        return State(STUCK if is_stuck else PENDING, reason, row.id)
    if row.state in _SLURM_ENDED:
        return State(_SLURM_ENDED[row.state], reason, row.id)
    remark = ENDING if row.state == "COMPLETING" else "" if row.state in job_states.RUNNING else row.state
    return State(RUNNING, remark, row.id)
