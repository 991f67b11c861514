"""Expand a job spec into a grid of run folders, and submit each run: to Slurm, or to workers on this machine."""
from __future__ import annotations

import gc

gc.disable()  # what imports create stays, and would be visited again and again

import os
import sys
from collections.abc import Sequence

from src import printable, python_check, run_folder  # noqa: F401  ends here in an unsuitable Python
from src.commands.command_output import print_document, redirected_output
from src.errors import BatchError, discard_output, exits_on_user_error
from src.io import files
from src.submission.batch import journal
from src.submission.batch.journal import SLURM
from src.submission.planning import preview
from src.submission.planning.command_line import Options, parse
from src.submission.planning.launch import choose_launch
from src.submission.planning.planner import plan_job_spec
from src.submission.planning.sbatch_calls import plan_submission
from src.submission.planning.submission_plan import LaunchSettings, SubmissionPlan
from src.submission.slurm.submit import Submission
from src.submission.spec.reader import read_job_spec

gc.freeze()
gc.enable()
_CANARY_INTERVAL = 5.0  # seconds between readings of the files of canaries that --wait waits for
PROJECT = os.path.dirname(os.path.abspath(__file__))


@exits_on_user_error
def main(argv: Sequence[str]) -> int:
    """Read the job spec, plan, print, validate, confirm, write, submit. A dry run stops when the plan is printed."""
    options = parse(argv, __doc__)
    if options.on:
        from src.submission.remote import remote_submit

        exit_code = remote_submit.submit(
            argv, PROJECT, options.on, None if options.retry else options.path, options.script,
            ignores_host_output_dir=options.retry or options.output_dir is not None, dry_run=options.dry_run,
            json_output=options.json)
        if exit_code is not None:
            return exit_code

    plan, launch, submission = plan_runs(options)
    try:
        return print_or_submit(plan, launch, submission, options, argv)
    except BrokenPipeError:  # `… | head`, which must not look like a submission
        if options.dry_run:
            raise
        discard_output()
        raise BatchError("the output was closed before the submission had ended", where=plan.batch,
                         hint="the same command continues; it stops at `| head`") from None


def print_or_submit(plan: SubmissionPlan, launch: LaunchSettings, submission: Submission | None, options: Options,
                    argv: Sequence[str]) -> int:
    """Print the plan and, unless it is a dry run, check, confirm and execute it. Return the exit code."""
    if options.json and options.dry_run:
        preview.print_json(plan, launch, submission)
        return 0
    with redirected_output(options.json):
        exit_code = _print_and_submit(plan, launch, submission, options, argv)
        while exit_code == 3 and launch.awaits_canaries and options.wait:
            from src.submission.status import wait

            wait.wait_for_batches([os.path.join(plan.batch, run_folder.CANARY)], _CANARY_INTERVAL)
            options = options._replace(yes=True, overwrite=False)
            plan, launch, submission = plan_runs(options)
            exit_code = _print_and_submit(plan, launch, submission, options, argv)
    if options.json:
        from src.submission.execution.messages import submission_document

        print_document(submission_document(plan, exit_code))
    return exit_code


def _print_and_submit(plan: SubmissionPlan, launch: LaunchSettings, submission: Submission | None, options: Options,
                      argv: Sequence[str]) -> int:
    preview.print_plan(plan, launch, options)
    if not (plan.has_work or plan.extension or launch.submits_canaries):
        preview.print_nothing_to_submit(plan)
        return 3 if launch.awaits_canaries else 0
    if options.dry_run:
        preview.print_commands(plan, launch, submission)
        return 0

    # validate and confirm before the batch is written
    sys.stdout.flush()  # to a closed pipe it is an error
    from src.submission.execution import preflight
    from src.submission.execution.execute import execute

    if launch.mode != SLURM:
        submission = None  # run folders that are only written now are submitted later, by another plan
    if submission and launch.slurm:
        preflight.validate_with_slurm(plan, launch, launch.slurm, submission)
    if options.smoke:
        preflight.smoke_test(plan, launch)
    if not options.yes:
        preflight.confirm(plan, launch)

    return execute(plan, launch, submission, options, argv)


def plan_runs(options: Options) -> tuple[SubmissionPlan, LaunchSettings, Submission | None]:
    """Return which runs of which batch to submit, how they are started, and the calls of sbatch."""
    if options.retry:
        from src.submission.planning.retry import plan_retry

        job_spec, plan = None, plan_retry(options, PROJECT)
    else:
        job_spec = read_job_spec(options.path)
        plan = plan_job_spec(job_spec, options, PROJECT)
    plan, launch = choose_launch(plan, job_spec, options, journal.new_token())
    return plan, launch, plan_submission(plan, launch, options.max_queued)


if __name__ == "__main__":
    files.limit_umask()
    printable.filter_output()
    sys.exit(main(sys.argv[1:]))
