"""Execute a plan: write the batch, then submit it to Slurm, run it by local workers, or leave it for later."""
from __future__ import annotations

from collections.abc import Sequence

from src import run_folder
from src.errors import retry_command
from src.io import files
from src.submission.batch.journal import LOCAL, SLURM, Journal
from src.submission.execution.messages import next_steps
from src.submission.execution.write_batch import write_batch
from src.submission.planning.command_line import Options
from src.submission.planning.submission_plan import LaunchSettings, SubmissionPlan
from src.submission.slurm.submit import Submission
from src.submission.system.terminal import count


def execute(plan: SubmissionPlan, launch: LaunchSettings, submission: Submission | None, options: Options,
            argv: Sequence[str]) -> int:
    """Write the batch and start its runs. Return the exit code."""
    with files.report_os_errors(plan.batch, "when that is fixed, give the same command again: nothing is lost"):
        journal = write_batch(plan, launch, submission, argv)
        try:
            return _start(plan, launch, submission, journal, options)
        finally:
            journal.record_end()


def _start(plan: SubmissionPlan, launch: LaunchSettings, submission: Submission | None, journal: Journal,
           options: Options) -> int:
    if not (plan.has_work or launch.submits_canaries):
        print(f"no new run to submit; {plan.batch}/{run_folder.JOB_SPEC} holds the current job spec")
        return 0
    if launch.mode == LOCAL:
        from src.submission.execution.run_locally import run_locally

        return run_locally(plan, launch, options)
    if launch.mode == SLURM and submission and launch.slurm:
        from src.submission.execution.run_on_slurm import run_on_slurm

        return run_on_slurm(plan, launch, launch.slurm, submission, journal, options)
    print(f"wrote {count(len(plan.points), 'run folder')} in {plan.batch}")
    if options.local:
        print(next_steps((retry_command(plan.batch, "--local"), "runs them")))
    else:
        print(next_steps((retry_command(plan.batch, *([] if launch.slurm else ["-s", "SCRIPT"])), "submits them")))
    return 0
