"""Checks before anything is written: validation by Slurm, a smoke test, and the user's confirmation."""
from __future__ import annotations

import os
from collections.abc import Sequence

from src import metrics
from src.errors import BatchError
from src.submission.batch.journal import LOCAL, SLURM, WRITE_ONLY
from src.submission.batch.task_files import fixed_slots
from src.submission.planning.sbatch_calls import canary_calls
from src.submission.planning.submission_plan import LaunchSettings, SubmissionPlan
from src.submission.slurm.submit import SbatchCall, SlurmOptions, Submission
from src.submission.system import terminal
from src.submission.system.terminal import count


def validate_with_slurm(plan: SubmissionPlan, launch: LaunchSettings, slurm: SlurmOptions,
                        submission: Submission) -> None:
    """Have sbatch check all options, and print when runs would start, warnings, limits of the queue, and costs.

    SlurmError, with the message of sbatch, if it would refuse the submission.
    """
    from src.submission.slurm import client, queue_limits, submit
    from src.submission.usage import costs

    calls: Sequence[SbatchCall] = submission.calls
    if launch.canaries:
        from src.submission.execution.canary_dependencies import without_canaries

        calls = without_canaries(canary_calls(launch) + submission.calls)
    client.require_sbatch()
    for answer in submit.validate_calls(calls, slurm):
        print(answer)
    requests = [(sum(call.tasks for call in group), submit.requested_options(group[0], slurm))
                for group in submit.group_by_options(calls)]
    total = sum(number for number, _ in requests)
    if limit := queue_limits.tightest(requests[0][1], total):
        print(f"limit      {limit.line(total)}")
    cpus, gpus = costs.cpus_and_gpus(requests[0][1])
    slots = fixed_slots(slurm.shape["slots"]) if slurm.by_workers else 1
    specs = [plan.points[name] for name in plan.points if name in plan.to_submit]
    if plan.search:
        from src.submission.searches import preview as search_preview

        estimate = search_preview.hours_line(plan.search, plan.batch, cpus / slots, gpus / slots)
    else:
        estimate = None if launch.stacks.runs else costs.estimate(
            specs, os.path.dirname(plan.batch), cpus / slots, gpus / slots, by_workers=slurm.by_workers)
    for line in (costs.upper_bound(requests), estimate):
        if line:
            print(f"costs      {line}")


def smoke_test(plan: SubmissionPlan, launch: LaunchSettings) -> None:
    """Run one batch of data of each distinct model and data set. BatchError if one fails, or for other programs."""
    from src.submission.execution.smoke import run_smoke_test

    specs = [plan.points[name] for name in plan.to_submit]
    if any("COMMAND" in spec for spec in specs):
        raise BatchError("--smoke can only run train.py, and this batch runs another program", where=plan.batch)
    metric = metrics.read_from_text(plan.job_spec_text) or metrics.read_from_batch(plan.batch)
    for line in run_smoke_test(specs, plan.project, launch.container, metric.goal if metric else None):
        print(line, flush=True)


def confirm(plan: SubmissionPlan, launch: LaunchSettings) -> None:
    """Ask whether to go on; to remove a batch, its name must be typed. BatchError if the answer is no."""
    if plan.replaces:
        name = os.path.basename(plan.replaces)
        question, accepted = f"Type {name} to remove it with all its results: ", [name]
    else:
        verb = {SLURM: "Submit", LOCAL: "Run", WRITE_ONLY: "Write"}[launch.mode]
        action = f"{verb} {count(len(plan.to_submit), 'run')}" if plan.to_submit else "Update the job spec of the batch"
        if launch.submits_canaries and launch.canaries and not plan.to_submit:
            action = f"{verb} {count(len(launch.canaries.to_submit), 'canary run')}"
        if plan.search:
            action = f"{verb} a search of {count(plan.search.trials, 'trial')}"
        question, accepted = f"{action}? [y/N] ", ["y", "yes"]
    if terminal.ask(question).lower() not in (answer.lower() for answer in accepted):
        raise BatchError("stopped: nothing was written or submitted",
                         hint=f"the answer was not {' or '.join(accepted)}")
