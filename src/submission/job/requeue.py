"""Requeue a Slurm job, or submit a successor, when it ends before its runs do."""
from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from src import run_folder
from src.errors import BatchError, UserError, one_line, retry_command
from src.io import files, slurm_environment
from src.run_folder import RunFolder
from src.submission.batch import claims, journal, task_files
from src.submission.batch.journal import Journal, Units
from src.submission.batch.task_files import Tasks
from src.submission.slurm import client, directives, sbatch_messages, sizes
from src.submission.system.terminal import format_duration

if TYPE_CHECKING:
    from src.submission.slurm.submit import SbatchCall, Submission

MAX_SUCCESSORS = 1000  # of one submission: ends a chain of successors that makes no progress
# keys of a plan that its successors' plans repeat
_REPEATED = ("argv", "identity", "project", "script", "sbatch", "shape", "command_line", "environment", "code",
             "container", "stack", "sizes", "idle_gpu")
_MARGIN = 1.2  # a run fits if this multiple of the longest earlier duration is left
_MAX_DURATIONS = 200  # runs whose durations a worker looks up when it starts
_BACK_OFF = (5, 10, 20, 40)  # seconds between calls of sbatch while a limit on queued jobs is reached


class RequeueRefused(Exception):
    """No Slurm job will go on with a run, or with the runs of a worker; the message gives the reason."""


class Stop(NamedTuple):
    """The end of an attempt that received TERM: `how`, as in its record, and `why`, in words."""

    how: str
    why: str


def classify_stop(can_resume: bool = True, warned: bool = False) -> Stop:
    """Return how to record a TERM signal, requeued, preempted, timeout or cancelled, and why.

    requeued: the run has to request another start, since Slurm preempts this job and will not restart it unless
      requested, as with PreemptMode=CANCEL, or when the job ends before its GraceTime is over.
    preempted: Slurm has put the job back into the queue.
    can_resume: the run continues from where it was. One that would start from the beginning is left at preempted if the
      job was submitted with --no-requeue.
    warned: a signal warned of the time limit; it decides where Slurm does not show how long the job has run.
    """
    job = slurm_environment.job_id()
    details = client.show_job(job) if job else {}
    if int(details.get("Restarts", "0")) > slurm_environment.restart_count():
        return Stop(run_folder.PREEMPTED, "preempted by another job")
    if details.get("PreemptTime", "None") != "None":
        return Stop(run_folder.REQUEUED if can_resume or details.get("Requeue") == "1" else run_folder.PREEMPTED,
                    "preempted by another job")
    limit, elapsed = (directives.parse_time(details.get(key, "")) for key in ("TimeLimit", "RunTime"))
    has_timed_out = warned if limit is None or elapsed is None else elapsed >= limit
    if has_timed_out:
        return Stop(run_folder.TIMEOUT, f"reached its time limit{f' of {format_duration(limit)}' if limit else ''}")
    return Stop(run_folder.CANCELLED, "cancelled by scancel" if job else "stopped by SIGTERM")


def run_durations(tasks: Tasks) -> list[float]:
    """Return the seconds that completed runs among the first _MAX_DURATIONS of the batch took in their last attempt."""
    durations = []
    for name in run_folder.run_names(tasks.batch)[:_MAX_DURATIONS]:
        try:
            run = RunFolder.read(tasks.run_path(name))
        except OSError:
            continue
        attempt = run.last_attempt() if run_folder.DONE in run.names else None
        if attempt and attempt.get("end"):
            durations.append(attempt["end"] - attempt["start"])
    return durations


def fits_in_time(end: float | None, durations: Iterable[float], now: float | None = None) -> bool:
    """Return whether another run would finish before `end`, judging by earlier durations; True if there are none.

    end, now: unix seconds; end is None without a time limit.
    """
    longest = max(durations, default=None)
    return end is None or longest is None or (time.time() if now is None else now) + _MARGIN * longest < end


def requeue_run(folder: str, ticket: int) -> str:
    """Have a run started again, and return a message about it. Its attempt must be recorded as requeued.

    Requests that Slurm requeue this job; where Slurm refuses, submits another job for the run with the same ticket.
    RequeueRefused if both fail.
    """
    job = slurm_environment.job_id()
    if job is None:
        raise RequeueRefused("the run saved a resume checkpoint, but is not restarted automatically outside Slurm")
    refusal = client.requeue(job)
    if refusal is None:
        return f"Slurm job {job} is requeued"
    try:
        return f"Slurm job {_submit_successor_of_run(folder, ticket)} will resume it ({refusal})"
    except (client.SbatchError, UserError) as error:
        if isinstance(error, client.SbatchError) and error.kind == sbatch_messages.AMBIGUOUS:
            return (f"another Slurm job may have been submitted for it, but the answer was lost: {error.message} "
                    f"({refusal})")
        reason = error.message if isinstance(error, client.SbatchError) else one_line(str(error))
        raise RequeueRefused(f"{refusal}; and no other job could be submitted: {reason}") from None


def successor_command(batch: str, name: str | None, path: str, ticket: int | None) -> list[str] | None:
    """Return the command of sbatch that continues a run or a worker in another Slurm job; only its comment will differ.

    name, ticket: of the run. path: of the task file, if `name` is None for a worker. None outside Slurm, or if the run
    or worker has no such command.
    """
    if slurm_environment.job_id() is None:
        return None
    try:
        if name is None:
            return task_files.read(path).command or None
        folder = os.path.join(batch, name)
        return _plan_successor_of_run(folder, ticket or claims.newest_ticket(folder))[0].calls[0].command
    except (UserError, OSError):
        return None


def _submit_successor_of_run(folder: str, ticket: int) -> str:
    """Submit another Slurm job for one run, with the options of its ticket's submission. Return its id."""
    submission, token, plan = _plan_successor_of_run(folder, ticket)
    journal_file = Journal(os.path.dirname(folder), token)
    journal_file.record_plan(journal.SLURM, submission.tickets, submission.units, **_repeated(plan))
    try:
        return _submit(submission.calls[0], journal_file)
    finally:
        journal_file.record_end()


def _plan_successor_of_run(folder: str, ticket: int) -> tuple[Submission, str, dict[str, Any]]:
    """Return the submission of another Slurm job for one run, its token, and the plan that issued the ticket."""
    from src.submission.slurm import submit

    batch, name = os.path.split(folder)
    plans = journal.read_history(batch).recorded_plans
    plan = journal.plan_of((plan for plan in plans if plan.get("script")), name, ticket)
    if not plan:
        raise BatchError("the job was not submitted by submit_multiple.py", where=folder)
    options = submit.SlurmOptions(submit.script_of_plan(plan, batch) or "", plan.get("sbatch") or {},
                                  plan.get("command_line") or {}, environment=plan.get("environment") or {},
                                  sizes=sizes.from_record(plan.get("sizes")))
    context = submit.SubmissionContext(batch, journal.new_token(), plan.get("project") or os.getcwd())
    submission = submit.plan_single_jobs({name: ticket}, submit.read_specs(batch, [name]), options, context)
    return submission, context.token, plan


def _submit(call: SbatchCall, journal_file: Journal) -> str:
    """Call sbatch and return the job's id; wait and repeat while a limit is reached. SbatchError if it is refused."""
    from src.submission.slurm import submit

    for pause in _BACK_OFF:
        try:
            return submit.call_sbatch(0, call, journal_file)
        except client.SbatchError as error:
            if error.kind != sbatch_messages.LIMIT:
                raise
            time.sleep(pause)
    return submit.call_sbatch(0, call, journal_file)


def _repeated(plan: dict[str, Any]) -> dict[str, Any]:
    return {key: plan[key] for key in _REPEATED if key in plan}


def submit_successor(path: str, tasks: Tasks, to_resume: Collection[str] = (), is_last: bool = False) -> str | None:
    """Submit another worker for the runs that may be started. Return its Slurm job id.

    None if there is nothing to run, the submission has had MAX_SUCCESSORS, or the answer of sbatch is lost, which is
    printed. RequeueRefused if sbatch refuses the job: only then is it certain that Slurm has none, and the journal
    records it.
    path: of the task file, whose name begins with the token of the submission.
    to_resume: runs that this worker has started, and that the other one may have to resume: with is_last if there is
    no other run, too, and if this job has submitted a successor before.
    """
    tickets = {name: tasks.tickets[name] for name in tasks.startable() if is_last or name not in to_resume}
    token = task_files.token_of(path)
    folder = os.path.join(tasks.batch, run_folder.SUBMISSIONS)
    earlier = glob.glob(f"{glob.escape(os.path.join(folder, token))}.*.jsonl")
    if not (tickets or tasks.is_search) or not tasks.command or len(earlier) >= MAX_SUCCESSORS:
        return None
    job, restart = slurm_environment.job_id(), slurm_environment.restart_count()
    journal_file = Journal(tasks.batch, f"{token}.{job}-{restart}{'-last' if is_last else ''}")
    if os.path.exists(journal_file.path):
        return None  # this job has submitted one already
    parent = json.loads((files.read_text(os.path.join(folder, f"{token}.jsonl")) or "{}").partition("\n")[0] or "{}")
    tickets |= {name: tasks.tickets[name] for name in to_resume}
    journal_file.record_plan(journal.SLURM, tickets, Units(journal.WORKERS), **_repeated(parent))
    comment = journal.job_comment(journal_file.token, 0)
    command = [f"--comment={comment}" if word.startswith("--comment=") else word for word in tasks.command]
    from src.submission.slurm import submit

    try:
        return submit.call_sbatch(0, submit.SbatchCall("successor", command, comment), journal_file)
    except client.SbatchError as error:
        if error.kind != sbatch_messages.AMBIGUOUS:
            raise RequeueRefused(f"no other Slurm job was submitted for the rest: {error.message}") from None
        print(f"another Slurm job may have been submitted for the rest, but the answer was lost: {error.message}",
              flush=True)
        return None
    finally:
        journal_file.record_end()


def requeue_worker(batch: str) -> str:
    """Have Slurm put the job of this worker of a batch back into the queue, and return a message about it.

    For a worker that has run as long as it may and could not submit a successor, as where the limit on submitted jobs
    counts its own job: no other job would run the rest.
    """
    job = slurm_environment.job_id()
    refusal = client.requeue(job) if job else "not a Slurm job"
    return (f"nothing runs the rest: {refusal}; `{retry_command(batch)}` submits it" if refusal else
            f"Slurm job {job} is requeued and runs the rest")
