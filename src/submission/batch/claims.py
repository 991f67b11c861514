"""The claim protocol: which process may run a run, and which start of it may write.

Every submission of a run has a ticket, a number that the batch's journals hold: 1 at first, one more each time a run
that was started is submitted again. Several processes may hold the same ticket: a Slurm job before and after a requeue,
a second job because the answer of sbatch was lost, workers that share a task file, a successor. Files in the run's
folder decide between them; their names are in `run_folder.py`:

    claim-TICKET           the identity of the first process that tried this ticket; created exclusively
    attempt-TICKET-N.json  start N = 0, 1, … under this ticket; created exclusively, and its creator runs the run.
                           Keys: `who` (the identity of the process), `start`, `end`, `how` it ended, `error`.
                           While it runs, its modification time is renewed: see heartbeat.py
    done                   the run has ended: completed, early_stopped or diverged
    left-START             the first process of a start of several processes (srun, torchrun) began no attempt, so that
                           the others exit
    failed-START           the first failure of one of these processes

The states of a run, and the files that move it from one to the next:

    unclaimed --- claim-T, attempt-T-0 ---> running --- done ---> ended well
        ^                                    |   ^ |
        |                                    |   | +--- how: requeued, or Slurm restarts the job ---> pending
        |    how: failed, timeout, cancelled |   |                                                      |
        |    or its process died             |   +---------------- attempt-T-(N+1) ---------------------+
        |                                    v
        +--- submitted again: ticket T+1 --- failed, timeout, cancelled, lost, …

Attempts are ordered by (ticket, N); the last one supersedes all others. Before every row, checkpoint and `done`, an
attempt checks that it is still the last (`check_current`), and if it is not, writes nothing more. So a Slurm job that
was thought lost and comes late does no harm.

Which process may start a run whose ticket is claimed already (`claim`):

    holder of the ticket                                  may start the run
    an attempt that ended as requeued                     any Slurm job or worker with this ticket: attempt N+1
    the same Slurm job, before Slurm restarted it         this Slurm job: attempt N+1
    the same Slurm job, if its attempt ended or died      this Slurm job, unless it is a worker: attempt N+1
    any other whose attempt ended or whose process died   a user who calls train.py by hand, also on a terminal
                                                          of a Slurm job: ticket T+1
    a process that is alive, or on another machine        nobody

`experiments.py archive` claims the next ticket of a run that has ended, with the key `archives`, before it removes the
folder (archiving.py). A process that starts the run at that moment finds this claim, or no folder.
"""
from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

from src import run_folder
from src.archive import run_files
from src.errors import BatchError, experiments_command
from src.io import files, slurm_environment
from src.run_folder import RunFolder
from src.submission.batch import journal
from src.submission.system import process

YIELDED = "yielded"  # key of an attempt's record: it made way for other runs of its worker, which starts it again


class Superseded(Exception):
    """A later attempt has taken over the run: this one must not write any more."""


class RunDeleted(Exception):
    """The run's folder, or the attempt's record in it, is gone: write nothing more, and do not make the folder anew."""


def claim(folder: str, ticket: int | None, in_worker: bool) -> tuple[int, int] | None:
    """Return the (ticket, number) of the attempt that this process may create; None if it must leave the run alone.

    ticket: None for the newest. in_worker: the process got the run from a task file.
    Several processes may be given the same pair; the one that creates the attempt's record has the run.
    BatchError if the run was started by hand and is running.
    """
    # A process without a ticket was started by hand if it is outside Slurm or has a terminal, as in an interactive job.
    # Some sites drop the ticket of submitted jobs; those have no terminal.
    by_hand = ticket is None and (slurm_environment.job_id() is None or os.isatty(0))
    if ticket is None:
        ticket = newest_ticket(folder)
    identity = process.identity()
    # not synced: the attempt's record follows immediately, has the same content, and is synced
    try:
        is_first = files.create_exclusive(os.path.join(folder, run_folder.claim_name(ticket)),
                                          json.dumps(identity) + "\n", sync=False)
    except FileNotFoundError:
        run_files.require_folder(folder, "started")
        raise
    run = RunFolder.read(folder)
    next_attempt = ticket, 1 + max((number for other, number in run.attempts if other == ticket), default=-1)
    if is_first:
        return next_attempt
    last = run.last_attempt() or {}
    is_of_ticket = last.get("ticket") == ticket  # if not, a later ticket will supersede this process
    holder = last["who"] if is_of_ticket and "who" in last else run.claim(ticket)
    if (identity["slurm_job"] or in_worker) and is_of_ticket and last.get("how") == run_folder.REQUEUED:
        return next_attempt
    if identity["slurm_job"] and holder.get("slurm_job") == identity["slurm_job"]:
        # started again after a requeue, or by a script that calls train.py twice
        has_ended = last.get("how") or not process.is_alive(holder)
        if identity["restart"] > holder.get("restart", 0) or has_ended and not in_worker:
            return next_attempt
    elif by_hand:
        if last.get("how") and not holder.get(run_folder.ARCHIVES) or process.is_alive(holder) is False:
            return claim(folder, ticket + 1, in_worker=True)  # no message if another process is faster
        doing = "being archived" if holder.get(run_folder.ARCHIVES) else "already running"
        status = experiments_command("status", os.path.dirname(folder))
        raise BatchError(f"this run is {doing}: {process.describe(holder)}", where=folder,
                         hint=f"`{status}` shows its progress")
    if not in_worker:  # workers try every run; a Slurm job has its log to itself
        print(f"{folder}: run already claimed by {process.describe(holder)}; exiting")
    return None


def claim_to_archive(folder: str, ticket: int) -> str | None:
    """Claim a run that has ended, so that nobody starts it while its folder is removed. Return the name of the claim;
    None if another process has just started it, or archives it.

    ticket: its newest. The claim is of the next one.
    """
    name = run_folder.claim_name(ticket + 1)
    record = {**process.identity(), run_folder.ARCHIVES: True}
    return name if files.create_exclusive(os.path.join(folder, name), json.dumps(record) + "\n", sync=False) else None


def is_claim_to_archive(run: RunFolder, ticket: int) -> bool:
    """Return whether a claim is of a process that archived the run, and was interrupted."""
    return bool(run.claim(ticket).get(run_folder.ARCHIVES))


def create_attempt(folder: str, ticket: int, number: int, record: dict[str, Any]) -> bool:
    """Create the record of an attempt; False if another process has created it and so has the run."""
    path = os.path.join(folder, run_folder.attempt_name(ticket, number))
    return files.create_exclusive(path, json.dumps(record) + "\n")


def record_kill(folder: str, ticket: int, error: str, is_yield: bool = False) -> bool:
    """Record that the last attempt under a ticket failed, for a process that was killed. Return whether it was open.

    is_yield: it was killed because too many runs ran at a time, so that its worker starts it again.
    """
    with contextlib.suppress(OSError):  # a deleted run, or a full disk: status then relies on the process
        run = RunFolder.read(folder)
        record = run.last_attempt()
        if record and record["ticket"] == ticket and not record.get("how") and run.ended is None:
            path = run.file(run_folder.attempt_name(ticket, record["number"]))
            end = {"how": run_folder.REQUEUED, YIELDED: True} if is_yield else {"how": run_folder.FAILED}
            files.write_atomic(path, json.dumps({**record, "end": time.time(), "error": error, **end}) + "\n")
            return True
    return False


def record_pause(folder: str, ticket: int) -> None:
    """Record that the last attempt under a ticket paused, if it was ended because its search stopped its trial."""
    with contextlib.suppress(OSError):  # it stays cancelled; the search has recorded the stop
        run = RunFolder.read(folder)
        record = run.last_attempt()
        if record and record["ticket"] == ticket and run.ended is None:
            path = run.file(run_folder.attempt_name(ticket, record["number"]))
            files.write_atomic(path, json.dumps({"end": time.time(), **record, "how": run_folder.PAUSED,
                                                 "error": None}) + "\n")


def check_current(folder: str, ticket: int, number: int) -> None:
    """Raise Superseded if there is a later attempt, RunDeleted if the attempt's record is gone."""
    attempts = run_folder.attempts_on_disk(folder)
    if (ticket, number) not in attempts:
        raise RunDeleted(f"{folder}: this run's folder, or this attempt's record in it, was deleted or moved")
    if attempts[-1] != (ticket, number):
        raise Superseded(f"{folder}: a later attempt has taken over this run; exiting")


def newest_ticket(folder: str) -> int:
    """Return the newest ticket of a run by its batch's journals and the claims in its folder; 1 before any."""
    batch, name = os.path.split(folder)
    ticket = journal.read_history(batch).tickets.get(name)
    return max(1, ticket.number if ticket else 0, *RunFolder.read(folder).claims)


def can_start(folder: str, ticket: int, restarted_job: str | None = None) -> bool:
    """Return whether a worker may start the run: it is unclaimed, or its last attempt requested another start.

    restarted_job: the worker's Slurm job if Slurm has restarted it; it resumes what it had claimed before.
    """
    if not run_files.exists(folder, run_folder.claim_name(ticket)):
        return not run_files.is_archived(folder)
    run = RunFolder.read(folder)
    if run.ended is not None or run_files.is_archived(folder):
        return False
    if how_ended(run, ticket) == run_folder.REQUEUED:
        return True
    return restarted_job is not None and run.claim(ticket).get("slurm_job") == restarted_job


def how_ended(run: RunFolder, ticket: int | None) -> str | None:
    """Return how the last attempt ended if it is of this ticket: completed, requeued, failed, …; None if it runs."""
    last = run.last_attempt() or {}
    return last.get("how") if last.get("ticket") == ticket else None


def holder(run: RunFolder, ticket: int, last_attempt: dict[str, Any] | None) -> dict[str, Any]:
    """Return the identity of the process that holds the ticket; empty if nobody does, or if the run may be resumed.

    It is that of the last attempt; the claim's is older, and is used while no attempt is recorded.
    """
    if last_attempt and last_attempt["ticket"] == ticket:
        if last_attempt.get("how") == run_folder.REQUEUED:
            return {}
        if "who" in last_attempt:
            identity: dict[str, Any] = last_attempt["who"]
            return identity
    return run.claim(ticket) if ticket in run.claims else {}


def was_claimed_by(run: RunFolder, slurm_job: str) -> bool:
    """Return whether a Slurm job has claimed the run under any ticket."""
    return any(run.claim(ticket).get("slurm_job") == slurm_job for ticket in run.claims)


def requeue_count(folder: str, ticket: int) -> int:
    """Return how many attempts under a ticket requested another start, other than for other runs of their worker."""
    run = RunFolder.read(folder)
    attempts = (run.attempt(*attempt) for attempt in run.attempts if attempt[0] == ticket)
    return sum(record.get("how") == run_folder.REQUEUED and not record.get(YIELDED) for record in attempts)


def attempt_of_start(run: RunFolder, start: str) -> tuple[int, int, bool] | None:
    """Return ticket and number of the attempt that a start of several processes made, and whether it has ended."""
    for ticket, number in reversed(run.attempts):
        record = run.attempt(ticket, number)
        if record.get("started_by") == start:
            return ticket, number, bool(record.get("how"))
    return None
