"""Write what a submission needs on disk: run folders, the plan in a journal, provenance, task files."""
from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from src import run_folder
from src.errors import BatchError
from src.io import deletion, files
from src.submission.batch import batch_folder, provenance, task_files
from src.submission.batch.extension import Extension
from src.submission.batch.journal import Journal
from src.submission.planning.submission_plan import LaunchSettings, SubmissionPlan
from src.submission.planning.tickets import require_none_alive
from src.submission.slurm import sizes
from src.submission.slurm.submit import Submission
from src.submission.spec import grid
from src.submission.spec.grammar import Spec
from src.submission.status.observe import observe


def write_batch(plan: SubmissionPlan, launch: LaunchSettings, submission: Submission | None,
                argv: Sequence[str]) -> Journal:
    """Write a new batch with the plan in it, or missing run folders and then the plan; then the task files.

    argv: the command line, for the records. BatchError if another process has written the batch in the meantime.
    """
    replaces_id = deletion.folder_id(plan.replaces) if plan.replaces and not os.path.islink(plan.replaces) else None
    if plan.replaces:
        observation, = observe([plan.replaces])  # again: runs may have started while the user was asked
        require_none_alive(observation, "overwrite this batch")
    if not plan.is_new:
        for folder in ("", run_folder.SUBMISSIONS, run_folder.CODE, run_folder.CANARY):
            files.reject_foreign_link(os.path.join(plan.batch, folder))
    record = _plan_record(plan, launch, submission, argv)

    def write_records(folder: str) -> None:
        _write_records(folder, plan, launch, argv)

    def write_journal(folder: str) -> None:
        Journal(folder, launch.token).record_plan(**record)

    def write_both(folder: str) -> None:
        write_records(folder)
        write_journal(folder)

    if plan.extension:
        _extend(plan, plan.extension, write_records, write_journal)
    elif not plan.is_new:
        _repair_specs(plan.batch, plan.points)
        write_both(plan.batch)
    elif not batch_folder.create(plan.batch, plan.job_spec_text, list(plan.points),
                                 grid.spec_texts(list(plan.points.values())), write_both, plan.replaces, replaces_id):
        raise BatchError("another process made this batch a moment ago", where=plan.batch,
                         hint="the same command again continues it")
    if not plan.is_new:
        from src.submission.storage import archiving  # most submissions make a new batch

        archiving.restore_submitted(plan.batch, [*record["tickets"], *_resumable_trials(plan)])
    for path, tasks in (submission.tasks if submission else {}).items():
        task_files.write(path, tasks)
    return Journal(plan.batch, launch.token)


def _resumable_trials(plan: SubmissionPlan) -> list[str]:
    """Return the runs that workers of a search may resume; they have no tickets, since their workers choose them."""
    if not plan.search:
        return []
    from src.search.history import History  # few batches are searches

    history = History(plan.batch, plan.search)
    history.refresh()
    return history.resumable_runs()


def _plan_record(plan: SubmissionPlan, launch: LaunchSettings, submission: Submission | None,
                 argv: Sequence[str]) -> dict[str, Any]:
    """Return what the journal stores: the tickets, and the settings that later submissions repeat."""
    tickets = submission.tickets if submission else plan.to_submit
    grid_options = plan.history.first_plan().get("identity") if plan.history.recorded_plans else plan.grid_options
    record: dict[str, Any] = {
        "mode": launch.mode, "tickets": tickets, "argv": list(argv), "identity": grid_options, "code": launch.token,
        "snapshot": launch.has_snapshot, "notify": launch.notify and launch.notify._asdict()}
    if launch.idle_gpu:
        record["idle_gpu"] = launch.idle_gpu._asdict()
    if launch.slurm:
        record |= {"project": launch.program_folder, "script": launch.slurm.script, "sbatch": dict(launch.slurm.batch),
                   "shape": dict(launch.slurm.shape), "command_line": dict(launch.slurm.command_line),
                   "environment": dict(launch.slurm.environment)}
        if launch.right_size:
            record["sizes"] = sizes.as_record(launch.slurm.sizes)
    if submission:
        record["units"] = submission.units
    if launch.stack_plan:
        record["stack"] = launch.stack_plan.requested
    if plan.points_left_out is not None:
        record["points_left_out"] = plan.points_left_out
    if launch.uses_canaries is not None:
        record["canary"] = launch.uses_canaries
    if launch.container:
        record["container"] = vars(launch.container)
    if launch.canaries:
        record["canaries"] = launch.canaries.record(tickets)
    return record


def _write_records(folder: str, plan: SubmissionPlan, launch: LaunchSettings, argv: Sequence[str]) -> None:
    """Write into a batch folder, or its staging folder, all but the journal: script, canaries, provenance."""
    slurm = launch.slurm
    if plan.search and (plan.is_new or plan.extension):
        from src.submission.planning import search_plan  # few batches are searches

        search_plan.write_search(folder, plan.search, is_new=plan.is_new)
    if slurm and slurm.script_text:
        files.write_atomic(os.path.join(folder, run_folder.SUBMISSIONS, launch.token + run_folder.SCRIPT_SUFFIX),
                           slurm.script_text)
    if launch.canaries and launch.canaries.to_submit:
        _write_canaries(folder, launch)
    slurm_record = {"script": slurm.script, "options": {**slurm.environment, **slurm.batch, **slurm.command_line},
                    "shape": dict(slurm.shape)} if slurm else None
    provenance.write_record(os.path.join(folder, run_folder.CODE, launch.token), provenance.inspect_code(plan.project),
                            list(argv), slurm_record, launch.has_snapshot)


def _write_canaries(folder: str, launch: LaunchSettings) -> None:
    """Write the run folders of the canaries to submit, and a journal of their own."""
    from src.submission.planning.canary import canary_token

    assert launch.canaries is not None
    path = os.path.join(folder, run_folder.CANARY)
    files.make_folder(os.path.join(path, run_folder.SUBMISSIONS))
    _repair_specs(path, launch.canaries.points)
    Journal(path, canary_token(launch.token)).record_plan(
        launch.mode, launch.canaries.to_submit, container=vars(launch.container) if launch.container else None)


def _repair_specs(folder: str, points: Mapping[str, Spec]) -> None:
    """Write the run folders and specs that are missing."""
    batch_folder.repair_specs(folder, list(points), grid.spec_texts(list(points.values())))


def _extend(plan: SubmissionPlan, extension: Extension, write_records: Callable[[str], None],
            write_journal: Callable[[str], None]) -> None:
    """Add runs to a batch. BatchError if another process has extended it in the meantime."""
    from src.submission.batch import extension as extensions

    _repair_specs(plan.batch, {name: spec for name, spec in plan.points.items() if name not in extension.new})
    write_records(plan.batch)
    new_points = {name: spec for name, spec in plan.points.items() if name in extension.new}
    if not extensions.create(plan.batch, extension, plan.job_spec_text, list(new_points),
                             grid.spec_texts(list(new_points.values())), write_journal):
        raise BatchError("another process extended this batch a moment ago", where=plan.batch,
                         hint="the same command again adds what is new now")
