"""From plan and launch settings to the calls of sbatch, or to the local workers that take the runs."""
from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from src import run_folder
from src.submission.batch import task_files
from src.submission.batch.task_files import WorkerGroup
from src.submission.planning.command_line import Options
from src.submission.planning.submission_plan import LaunchSettings, SubmissionPlan
from src.submission.slurm import submit
from src.submission.spec.job_spec import AUTO

if TYPE_CHECKING:
    from src.search.definition import Search
    from src.submission.slurm.submit import SbatchCall, Submission


def plan_submission(plan: SubmissionPlan, launch: LaunchSettings, max_queued: int | None) -> Submission | None:
    """Return the calls of sbatch for the runs to submit: one per run, arrays, or workers. None without Slurm.

    max_queued: maximum number of tasks of an array; None: no limit
    """
    if launch.slurm is None or not (plan.has_work or launch.submits_canaries):
        return None
    context = submit.SubmissionContext(os.path.abspath(plan.batch), launch.token, launch.program_folder)
    shape = launch.slurm.shape
    if shape["array"]:
        from src.submission.slurm import client

        size = min(client.max_array_size(), max_queued or sys.maxsize)
        return submit.plan_arrays(plan.to_submit, plan.points, launch.slurm, context, size, shape["max_running"])
    if launch.slurm.by_workers:
        return submit.plan_workers(_slurm_worker_groups(plan, launch), plan.points, launch.slurm, context,
                                   shape["slots"], launch.canaries.canary_of if launch.canaries else {}, launch.stacks,
                                   plan.search is not None)
    return submit.plan_single_jobs(plan.to_submit, plan.points, launch.slurm, context)


def canary_calls(launch: LaunchSettings) -> list[SbatchCall]:
    """Return the calls of sbatch for the canaries to submit."""
    if launch.canaries is None or launch.slurm is None:
        return []
    from src.submission.planning.canary import canary_submission

    return canary_submission(launch.canaries, launch.slurm, launch.token, launch.program_folder).calls


def _slurm_worker_groups(plan: SubmissionPlan, launch: LaunchSettings) -> list[WorkerGroup]:
    """Return the workers that share the runs; one worker for each stack if no number of workers is given."""
    assert launch.slurm is not None
    if workers := launch.slurm.shape["workers"]:
        return worker_groups(plan, workers)
    stacks, = launch.stacks.divide([plan.to_submit])
    return [WorkerGroup("", 1, {name: plan.to_submit[name] for name in unit})
            for unit in task_files.units(list(plan.to_submit), stacks)]


def count_slots(plan: SubmissionPlan, launch: LaunchSettings, options: Options) -> int | None:
    """Return how many runs or stacks the workers can have at the same time; None if each has a Slurm job of its own."""
    if launch.slurm is None:
        groups = local_worker_groups(plan, options)
        return task_files.fixed_slots(options.slots) * sum(group.workers for group in groups)
    shape = launch.slurm.shape
    if not shape["workers"]:
        return None
    groups = worker_groups(plan, shape["workers"])
    return task_files.fixed_slots(shape["slots"]) * sum(group.workers for group in groups)


def worker_groups(plan: SubmissionPlan, workers: int) -> list[WorkerGroup]:
    """Return workers, grouped by the runs that they take; those of a search take all."""
    if plan.search:
        return [WorkerGroup("", workers, plan.to_submit)]
    return task_files.worker_groups(plan.to_submit, plan.points, workers)


def search_workers(search: Search, slots: int) -> int:
    """Return the number of workers that run all trials that a search runs at a time."""
    return -(-search.parallel // slots)


def local_worker_groups(plan: SubmissionPlan, options: Options) -> list[WorkerGroup]:
    """Return the local workers, grouped by the runs that they take."""
    from src.submission.job import local_workers

    if plan.search:
        default = search_workers(plan.search, task_files.fixed_slots(options.slots))
    else:
        default = 1 if options.slots == AUTO else local_workers.default_workers()
    return worker_groups(plan, options.workers or default)


def local_command(batch: str, name: str) -> list[str]:
    """Return the command that runs one run by hand; local workers do the same without starting Python for each run."""
    return [sys.executable, "train.py", os.path.join(batch, name, run_folder.SPEC)]


def container_command(plan: SubmissionPlan, launch: LaunchSettings, submission: Submission | None) -> list[str]:
    """Return the command that starts the first run, or worker, in its container; empty without a container."""
    if launch.container is None or not plan.has_work:
        return []
    from src.submission.job import container

    batch = os.path.abspath(plan.batch)
    if submission and launch.slurm:
        from src.submission.usage import costs

        call = submission.calls[0]
        path = call.command[-1]
        has_gpus = costs.cpus_and_gpus(submit.requested_options(call, launch.slurm))[1] > 0
    else:
        path = os.path.join(batch, next(iter(plan.to_submit), ""), run_folder.SPEC)
        has_gpus = container.may_use_gpus(os.environ)
    return container.preview_command(launch.container, batch, launch.program_folder, path, has_gpus)
