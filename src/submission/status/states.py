"""The state of a run, from its folder, its ticket, squeue's row and sacct's row: one pure function."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from src import run_folder
from src.submission.batch.journal import COMMENT_PREFIX, LOCAL, Ticket
from src.submission.batch.sync_markers import SyncMarker
from src.submission.slurm.client import Job, Queue

NEW, SUBMITTED, PENDING, RUNNING, STUCK = "new", "submitted", "pending", "running", "stuck"
DONE, EARLY_STOPPED, DIVERGED = "done", "early_stopped", "diverged"
FAILED, TIMEOUT, OUT_OF_MEMORY, PREEMPTED = "failed", "timeout", "out_of_memory", "preempted"
NODE_FAILED, CANCELLED, LOST, UNKNOWN = "node_failed", "cancelled", "lost", "unknown"

ALL = (NEW, SUBMITTED, PENDING, RUNNING, STUCK, DONE, EARLY_STOPPED, DIVERGED, FAILED, TIMEOUT, OUT_OF_MEMORY,
       PREEMPTED, NODE_FAILED, CANCELLED, LOST, UNKNOWN)
ENDED_WELL = frozenset((DONE, EARLY_STOPPED, DIVERGED))
ALIVE = frozenset((SUBMITTED, PENDING, RUNNING, STUCK))
RETRIED = frozenset((NEW, FAILED, TIMEOUT, OUT_OF_MEMORY, PREEMPTED, NODE_FAILED, CANCELLED, LOST))

LOST_AFTER = 300.0  # seconds: squeue may not know a job at once, and an answer of sbatch may land late

_ENDS = {run_folder.COMPLETED: DONE, run_folder.EARLY_STOPPED: EARLY_STOPPED, run_folder.DIVERGED: DIVERGED}
_WAITING = frozenset(("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"))
_GOING = frozenset(("RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT",
                    "RESIZING"))
_FINISHED = {"TIMEOUT": TIMEOUT, "DEADLINE": TIMEOUT, "OUT_OF_MEMORY": OUT_OF_MEMORY, "PREEMPTED": PREEMPTED,
             "NODE_FAIL": NODE_FAILED, "BOOT_FAIL": NODE_FAILED, "CANCELLED": CANCELLED, "FAILED": FAILED,
             "REVOKED": CANCELLED}
# How a start may end before Slurm puts its job back into the queue: only squeue tells.
_PERHAPS_REQUEUED = (CANCELLED, TIMEOUT, PREEMPTED, NODE_FAILED)
# Reasons for which a pending Slurm job will never start without somebody's help.
_NEVER = re.compile("PartitionTimeLimit|PartitionNodeLimit|DependencyNeverSatisfied|BadConstraints|InvalidAccount|"
                    "InvalidQOS|JobHeldAdmin|JobHoldMaxRequeue|JobLaunchFailure|launch.failed.requeued.held|"
                    "AccountNotAllowed|QOSNotAllowed")


class State(NamedTuple):
    """A word of ALL, and why (Slurm's reason, the last exception line, …)."""

    name: str
    why: str = ""
    slurm_job: str | None = None


def state_of(run: run_folder.RunFolder | None, ticket: Ticket | None, queue: Queue, accounting: Mapping[str, Job],
             claim: Mapping[str, Any], claim_alive: bool | None, submitter_alive: bool | None,
             attempt: Mapping[str, Any] | None, now: float) -> State:
    """What has become of a run.

    run: its folder, None if it is gone; ticket: its newest; claim: who claimed that ticket (empty: nobody);
    claim_alive and submitter_alive: of local processes, None if not known; attempt: the last start's record.
    """
    if run and run.ended is not None:
        return State(_ENDS.get(run.ended, DONE))
    if ticket is None and not attempt:
        return State(NEW)
    if ticket and attempt and attempt.get("ticket") != ticket.number:
        attempt = None  # of an earlier ticket: it says nothing of this one
    why = str((attempt or {}).get("error") or "")
    jobs = candidate_jobs(ticket, claim, queue)
    for job in reversed(jobs):  # of a run that goes on in a successor, the latest
        row = queue.jobs.get(job)
        if row and not _is_anothers(row, ticket) and (state := _queued(row)):
            if ticket and ticket.shared and not claim:
                return State(PENDING, "waits for a worker", job)
            # a worker's job goes on when one of its runs has failed
            return State(FAILED, why, job) if state.name == RUNNING and _ended(attempt) == FAILED else state
    if claim and not claim.get("slurm_job"):
        return _local(claim, claim_alive, attempt, why)
    if ticket is None or ticket.mode == LOCAL:
        return State(PENDING) if submitter_alive and not claim else State(NEW, why)
    if ticket.shared and not claim and queue.answered and jobs:
        return State(NEW, "its workers have ended")
    if not jobs:  # no answer to sbatch is known
        if submitter_alive:
            return State(SUBMITTED, "being submitted")
        return State(UNKNOWN, "squeue did not answer") if ticket.sent and not queue.answered else State(NEW)
    rows = [accounting[job] for job in reversed(jobs) if job in accounting and not _gave_up(accounting[job], attempt)]
    return _not_queued(jobs[-1], [row for row in rows if row.submitted is None or row.submitted >= ticket.time - 3600],
                       queue.answered, attempt, why, abs(now - ticket.time))


def state_of_copy(copy: SyncMarker, name: str, attempt: Mapping[str, Any] | None) -> State:
    """What has become of a run that another machine has and that had not ended well when it was fetched.

    Neither our Slurm nor our processes know it, so that what may live there is unknown here, and is never begun here.
    """
    known, why = copy.states.get(name, ("", ""))
    if known in RETRIED - {NEW}:
        return State(known, why)
    if not known and _ended(attempt) == FAILED:
        return State(FAILED, str((attempt or {}).get("error") or ""))
    return State(UNKNOWN, f"{known.replace('_', ' ') or 'perhaps running'} on {copy.host}, as of {copy.when()}")


def _not_queued(job: str, rows: Iterable[Job], answered: bool, attempt: Mapping[str, Any] | None, why: str,
                age: float) -> State:
    """The state of a run whose Slurm jobs squeue does not show. age: of its ticket, in seconds, by a clock that may
    have jumped either way."""
    row = next((row for row in rows if row.state in _FINISHED), None)
    own = _ended(attempt)
    # Slurm says FAILED of any exit code that is not 0; the run knows better
    ended = _FINISHED[row.state] if row and not (own and row.state == "FAILED") else own
    if ended and (answered or ended not in _PERHAPS_REQUEUED):
        return State(ended, why or (row.state if row else ""), row.id if row else job)
    if not answered:
        return State(UNKNOWN, "squeue did not answer", job)
    if age < LOST_AFTER:
        return State(UNKNOWN, "squeue does not know it (yet, or any more)", job)
    return State(LOST, why or "squeue does not know it", job)


def candidate_jobs(ticket: Ticket | None, claim: Mapping[str, Any], queue: Queue) -> list[str]:
    """The Slurm jobs that may run it: the one that claimed, or all that were submitted for the ticket."""
    if claim.get("slurm_job"):
        return [claim["slurm_job"]]
    if ticket is None:
        return []
    found = queue.job_ids(ticket.comments)
    return ticket.slurm_jobs if found in ([], ticket.slurm_jobs) else list(dict.fromkeys([*ticket.slurm_jobs, *found]))


def _gave_up(row: Job, attempt: Mapping[str, Any] | None) -> bool:
    """Whether this Slurm job ended because its run goes on in another."""
    return (attempt or {}).get("how") == run_folder.REQUEUED and row.id == (attempt or {}).get("slurm_job") and (
        row.state in ("FAILED", "COMPLETED", "PREEMPTED"))


def _is_anothers(job: Job, ticket: Ticket | None) -> bool:
    """Whether Slurm gave the id to another submission of ours: its numbers begin anew when its state is lost."""
    return ticket is not None and job.comment.startswith(COMMENT_PREFIX) and job.comment not in [
        known for known, _ in ticket.comments]


def _queued(job: Job) -> State | None:
    if job.state in _GOING:
        return State(RUNNING, "", job.id)
    if job.state in _WAITING:
        return State(STUCK if _NEVER.search(job.reason) else PENDING, job.reason.strip("()"), job.id)
    if job.state in _FINISHED:
        return State(_FINISHED[job.state], job.reason.strip("()"), job.id)
    return None


def _local(claim: Mapping[str, Any], alive: bool | None, attempt: Mapping[str, Any] | None, why: str) -> State:
    if ended := _ended(attempt):
        return State(ended, why)
    if alive:
        return State(RUNNING)
    if alive is None:
        return State(UNKNOWN, f"it runs, or ran, on {claim.get('host', 'another host')}; if that is gone, remove the "
                     "run's newest claim file")
    return State(LOST, "its process is gone without a word (killed, or the machine went down)")


def _ended(attempt: Mapping[str, Any] | None) -> str | None:
    """The state in which an attempt ended by its own record; None if it has not, or there is none, or another start
    goes on."""
    how = (attempt or {}).get("how")
    return None if not how or how == run_folder.REQUEUED else how if how in ALL else FAILED
