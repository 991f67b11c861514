"""Who goes on when a Slurm job ends before its runs do: the same job put back, or a successor."""
from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from src import run_folder
from src.errors import BatchError, UserError, one_line
from src.io import files, slurm_environment
from src.run_folder import RunFolder
from src.submission.batch import journal
from src.submission.batch.journal import Journal, Units
from src.submission.batch.task_files import Tasks
from src.submission.slurm import client

if TYPE_CHECKING:
    from src.submission.slurm.submit import SbatchCall

MAX_SUCCESSORS = 1000  # of one submission: an end to a chain that makes no progress
# what a plan hands on to those that come after it
_REPEATED = ("argv", "identity", "project", "script", "sbatch", "shape", "command_line", "code", "container")
_MARGIN = 1.2  # a run fits if the time left is that many times the longest earlier duration
_LOOKED_AT = 200  # runs whose durations are looked up when a worker starts
_PAUSES = (5, 10, 20, 40)  # seconds between tries while a limit of queued jobs is reached


class RequeueRefused(Exception):
    """The run cannot be started again: why, in words."""


def classify_stop(can_go_on: bool = True) -> str:
    """What TERM meant: requeued, if this Slurm job is preempted and nobody starts it again unless it is asked for (as
    with PreemptMode=CANCEL, or when it ends before its GraceTime is over); preempted, if Slurm has put it back into the
    queue; else cancelled.

    can_go_on: where it was; what would begin anew is left at preempted if sbatch's option no-requeue says so.
    """
    job = slurm_environment.job_id()
    told = client.show_job(job) if job else {}
    if int(told.get("Restarts", "0")) > slurm_environment.restart_count():
        return run_folder.PREEMPTED
    if told.get("PreemptTime", "None") == "None":
        return run_folder.CANCELLED
    return run_folder.REQUEUED if can_go_on or told.get("Requeue") == "1" else run_folder.PREEMPTED


def run_durations(tasks: Tasks) -> list[float]:
    """Seconds that finished runs of the batch took, as their attempts say; of the first few hundred only."""
    found = []
    for name in run_folder.run_names(tasks.batch)[:_LOOKED_AT]:
        try:
            run = RunFolder.read(tasks.folder(name))
        except OSError:
            continue
        attempt = run.last_attempt() if run_folder.DONE in run.names else None
        if attempt and attempt.get("end"):
            found.append(attempt["end"] - attempt["start"])
    return found


def fits_in_time(end: float | None, took: Iterable[float], now: float | None = None) -> bool:
    """Whether another run fits before `end`, to judge by what others took. The first run always does."""
    longest = max(took, default=None)
    return end is None or longest is None or (time.time() if now is None else now) + _MARGIN * longest < end


def requeue_run(folder: str, ticket: int) -> str:
    """Have a run started again; words that say how. Its attempt must be recorded as requeued.

    Slurm is asked to put this job back into the queue, and where it refuses, to take another job for the run, with
    the same ticket. Refused if neither is to be had.
    """
    job = slurm_environment.job_id()
    if job is None:
        raise RequeueRefused("the run saved itself and wants another start, which only Slurm gives")
    words = client.requeue(job)
    if words is None:
        return f"Slurm job {job} goes back into the queue"
    try:
        return f"Slurm job {_submit_successor(folder, ticket)} goes on ({words})"
    except (client.SbatchError, UserError) as error:
        if isinstance(error, client.SbatchError) and error.kind == "ambiguous":
            return f"Slurm may have taken another job for it, and its answer was lost: {error.message} ({words})"
        why = error.message if isinstance(error, client.SbatchError) else one_line(str(error))
        raise RequeueRefused(f"{words}; and no other job goes on: {why}") from None


def _submit_successor(folder: str, ticket: int) -> str:
    """Another Slurm job for one run, by the options of the submission that the ticket is of; its id."""
    from src.submission.slurm import submit

    batch, name = os.path.split(folder)
    plan = next((plan for plan in reversed(journal.read_history(batch).plans)
                 if plan.get("script") and plan["tickets"].get(name) == ticket), None)
    if plan is None:
        raise BatchError("the job was not submitted by submit_multiple.py", where=folder)
    options = submit.SlurmOptions(submit.script_of_plan(plan, batch) or "", plan.get("sbatch") or {},
                                  plan.get("command_line") or {})
    place = submit.SubmissionContext(batch, journal.new_token(), plan.get("project") or os.getcwd())
    submission = submit.plan_single_jobs({name: ticket}, submit.read_specs(batch, [name]), options, place)
    book = Journal(batch, place.token)
    book.record_plan(journal.SLURM, submission.tickets, submission.units, **_repeated(plan))
    try:
        return _submit(submission.calls[0], book)
    finally:
        book.record_end()


def _submit(call: SbatchCall, book: Journal) -> str:
    """The id of the call's Slurm job; Refusal if there is none. A limit is waited for, while this job has time."""
    for pause in (*_PAUSES, None):
        book.record_sending(0)
        try:
            job = client.submit_with_retries(call.command, call.ticket, call.comment)
        except client.SbatchError as refusal:
            if refusal.kind != "ambiguous":
                book.record_refusal(0, refusal.message)
            if refusal.kind != "limit" or pause is None:
                raise
            time.sleep(pause)
        else:
            book.record_job(0, job)
            return job
    raise AssertionError("unreachable")


def _repeated(plan: dict[str, Any]) -> dict[str, Any]:
    return {key: plan[key] for key in _REPEATED if key in plan}


def submit_successor(path: str, tasks: Tasks, begun: Collection[str] = (), last: bool = False) -> str | None:
    """Submit another worker for what is unclaimed; its Slurm job id, None if Slurm refuses or the chain is too long.

    path: of the task file, whose name begins with the token of the submission; begun: runs that this worker has or
    had, which the other may have to go on with; last: it is for these alone, and another may be there already.
    """
    left = {name: tasks.tickets[name] for name in tasks.startable()}
    token = os.path.basename(path).partition(".")[0]
    folder = os.path.join(tasks.batch, run_folder.SUBMISSIONS)
    earlier = glob.glob(f"{glob.escape(os.path.join(folder, token))}.*.jsonl")
    if not left or not tasks.command or len(earlier) >= MAX_SUCCESSORS:
        return None
    restart = slurm_environment.restart_count()
    book = Journal(tasks.batch, f"{token}.{slurm_environment.job_id()}-{restart}{'-last' if last else ''}")
    if os.path.exists(book.path):
        return None  # this job has one already
    parent = json.loads((files.read_text(os.path.join(folder, f"{token}.jsonl")) or "{}").partition("\n")[0] or "{}")
    left |= {name: tasks.tickets[name] for name in begun}
    book.record_plan(journal.SLURM, left, Units(journal.WORKERS), **_repeated(parent))
    tag = journal.job_comment(book.token, 0)
    command = [f"--comment={tag}" if word.startswith("--comment=") else word for word in tasks.command]
    book.record_sending(0)
    try:
        job = client.submit_with_retries(command, None, tag)
    except client.SbatchError as refusal:
        book.record_refusal(0, refusal.message)
        return None
    else:
        book.record_job(0, job)
        return job
    finally:
        book.record_end()
