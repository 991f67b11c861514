"""Submit a plan to Slurm, and print what to do next."""
from __future__ import annotations

import sys

from src.errors import BatchError, experiments_command, retry_command
from src.submission.batch.journal import Journal
from src.submission.execution.canary_dependencies import CanaryDependencies
from src.submission.execution.messages import failure_sent, next_steps
from src.submission.planning.command_line import Options
from src.submission.planning.submission_plan import LaunchSettings, SubmissionPlan
from src.submission.slurm import submit
from src.submission.slurm.circuit_breaker import CircuitBreaker
from src.submission.slurm.queue_limits import QueueFull, QueueLimiter
from src.submission.slurm.submit import SlurmOptions, Submission
from src.submission.status import notify
from src.submission.status.notify import Notifier
from src.submission.system.terminal import Progress, count


def run_on_slurm(plan: SubmissionPlan, launch: LaunchSettings, slurm: SlurmOptions, submission: Submission,
                 journal: Journal, options: Options) -> int:
    """Submit canaries and runs. Return 0, 3 at --max-queued or if runs await canaries, 130 after Ctrl-C."""
    retry = retry_command(plan.batch)
    total = count(len(submission.calls), "Slurm job")
    jobs: list[str] = []
    canaries = CanaryDependencies(launch.canaries) if launch.canaries else None
    limiter = QueueLimiter(plan.batch, options.max_queued, options.wait)
    breaker = CircuitBreaker(plan.batch, options.max_failures)
    try:
        with failure_sent(Notifier(launch.notify, plan.batch, launch.token)):
            if canaries:
                canaries.submit(slurm, launch.token, launch.program_folder, retry, limiter)
            resolve_command = canaries.resolve_command if canaries else None
            if submission.calls:  # canaries may come alone
                with Progress(len(submission.calls), "submitted") as progress:
                    for job in submit.submit_all(submission, journal, retry, limiter, breaker, resolve_command):
                        jobs.append(job)
                        progress.step()
    except KeyboardInterrupt:
        print(f"\nstopped; {len(jobs)} of {total} submitted, and they stay submitted")
        print(next_steps((retry, "submits the rest"),
                         (experiments_command("cancel", plan.batch), "cancels what was submitted")))
        return 130
    except QueueFull:
        print(f"{len(jobs)} of {total} submitted: {options.max_queued} of this batch are queued, as --max-queued "
              "allows; the same command continues, and --wait does so by itself")
        return 3
    finally:  # submitted jobs run, however this ends
        _submit_notify_jobs(plan, launch, slurm, submission, jobs)
    _print_submitted(plan, submission, canaries, jobs)
    return 3 if launch.awaits_canaries else 0


def _submit_notify_jobs(plan: SubmissionPlan, launch: LaunchSettings, slurm: SlurmOptions, submission: Submission,
                        jobs: list[str]) -> None:
    """Submit the Slurm jobs that send messages, if the batch requests messages."""
    if launch.notify and jobs:
        requested = submit.requested_options(submission.calls[0], slurm)
        if error := notify.submit_notify_jobs(launch.notify, plan.batch, launch.token, jobs, plan.project, requested):
            print(error, file=sys.stderr)


def _print_submitted(plan: SubmissionPlan, submission: Submission, canaries: CanaryDependencies | None,
                     jobs: list[str]) -> None:
    """Print the Slurm jobs and the next commands. BatchError if runs are held back because a canary has failed."""
    retry, status = retry_command(plan.batch), experiments_command("status", plan.batch)
    if canaries and canaries.held_back:
        total = count(len(submission.calls), "Slurm job")
        raise BatchError(f"{len(canaries.held_back)} of {total} not submitted, {canaries.held_back[0]} first: the "
                         "canary has failed in the meantime", where=plan.batch,
                         hint=f"`{retry}` tries it again; `{status}` prints why it failed")
    if canaries and canaries.submitted:
        print(f"canaries: {_job_ids(canaries.submitted, ', '.join(canaries.submitted))}")
    if jobs:
        ids = _job_ids(jobs, jobs[0] if len(jobs) == 1 else f"{jobs[0]} to {jobs[-1]}")
        print(f"submitted {count(len(submission.tickets), 'run')}: {ids}")
    print(next_steps(("squeue --me", "what Slurm has queued and running"), (status, "how far each run is"),
                     (retry, "submits again what failed")))


def _job_ids(jobs: list[str], text: str) -> str:
    return f"Slurm job{'s' if len(jobs) > 1 else ''} {text}"
