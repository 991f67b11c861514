"""The ways to run a batch: Slurm jobs, arrays or workers of a submit script or of resources, here, or only written."""
from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from src import run_folder
from src.errors import JobSpecError
from src.submission.batch import batch_folder, task_files
from src.submission.batch.journal import LOCAL, SLURM, WRITE_ONLY
from src.submission.batch.task_files import WorkerGroup
from src.submission.planning.command_line import key_values
from src.submission.slurm import submit
from src.submission.slurm.submit import SlurmOptions, Submission, check_script
from src.submission.spec import notify_spec
from src.submission.spec.job_spec import JobSpec
from src.submission.status.observe import observe

if TYPE_CHECKING:
    from src.submission.planning.work import Work
    from src.submission.spec.container_spec import Container
    from src.submission.spec.notify_spec import Notify


def choose_way(options: argparse.Namespace, spec: JobSpec | None, work: Work,
               token: str) -> tuple[str, SlurmOptions | None]:
    """Slurm, local workers, or writing alone. JobSpecError if neither -s nor --local says which."""
    if options.local:
        return (WRITE_ONLY if options.no_submit else LOCAL), None
    history = work.history
    last = history.plans[-1] if options.retry and history.plans else {}
    if options.retry and not (options.script or options.sbatch or options.no_submit) and last.get("mode") == LOCAL:
        return LOCAL, None
    previous = history.last_slurm_plan() if options.retry else {}
    script = options.script or (spec.script if spec else None) or submit.script_of_plan(previous, work.path)
    made = None
    if spec and spec.resources and not options.script:
        from src.submission.spec import resources

        script = os.path.join(os.path.abspath(work.path), run_folder.SUBMISSIONS, token + run_folder.SCRIPT_SUFFIX)
        one_process = bool(_by_workers(options, work) or options.command or spec.command)
        made = resources.submit_script(spec.resources, spec.name, one_process)
        if spec.resources.ranks > 1 and not one_process:
            work.lines.append(f"processes  {spec.resources.ranks} train each run together")
    if script:
        asked = _slurm_options(options, spec, script, previous, made)
        if _by_workers(options, work):
            asked = replace(asked, shape={**asked.shape, "array": False, "workers": asked.shape["workers"] or 1})
        return (WRITE_ONLY if options.no_submit else SLURM), replace(asked, extra=_added_options(options, work, asked))
    if options.no_submit:
        return WRITE_ONLY, None
    raise JobSpecError("where shall the runs run?", where="command line", hint="on a Slurm cluster: -s SCRIPT, as "
                       "`-s submit_2080.sh`, or job_details.resources (one Slurm job per run); on this machine without "
                       "Slurm: --local (`--local --workers 4` for four runs at a time)")


def _by_workers(options: argparse.Namespace, work: Work) -> bool:
    """Whether workers share runs: as asked, or because a subtest says how many it wants, unless arrays were asked for.
    """
    return bool(options.workers) or not options.array and any("WORKERS" in spec for spec in work.specs)


def _slurm_options(options: argparse.Namespace, spec: JobSpec | None, script: str,
                  previous: dict[str, Any], made: str | None) -> SlurmOptions:
    """How runs go to Slurm. previous: the plan of the last submission, whose ways hold unless others are given; made:
    the text of a script that is yet to be written."""
    given = {"array": options.array, "max_running": options.max_running, "workers": options.workers,
             "slots": options.slots or 1}
    shape = given if options.array or options.workers else {**given, **previous.get("shape", {})}
    return SlurmOptions(
        script if made else check_script(script), (spec.sbatch if spec else previous.get("sbatch")) or {},
        {**(previous.get("command_line") or {}), **key_values(options.sbatch, "--sbatch")}, shape, made)


def _added_options(options: argparse.Namespace, work: Work, asked: SlurmOptions) -> dict[str, str]:
    """What this submission alone asks for: the nodes that it avoids, and the batch that it waits for."""
    found: dict[str, str] = {}
    if work.avoid and asked.command_line.get("exclude", "") is not None:
        found["exclude"] = ",".join(work.avoid)
        work.lines += [f"excludes   {node}: {why}" for node, why in work.avoid.items()]
    if options.after:
        from src.submission.planning import dependency

        observation, = observe([batch_folder.require_batch(options.after)])
        found |= (waits := dependency.dependency(observation))
        work.lines.append(f"after      {observation.path}{'' if waits else ' (all of it has ended)'}")
    return found


def wants_canaries(options: argparse.Namespace, work: Work) -> bool:
    """As the command line says, else as the batch's last submission did."""
    if options.canary is not None:
        return bool(options.canary)
    return next((bool(plan["canary"]) for plan in reversed(work.history.plans) if "canary" in plan), False)


def wants_snapshot(options: argparse.Namespace, spec: JobSpec | None, work: Work) -> bool:
    """As the job spec says; a retry, as the batch's last submission did."""
    if spec is not None:
        return spec.snapshot
    return bool(work.history.plans and work.history.plans[-1].get("snapshot"))


def wants_messages(spec: JobSpec | None, work: Work) -> Notify | None:
    """As the job spec says; a retry, as the batch's last submission did."""
    if spec is not None:
        return spec.notify
    kept = work.history.plans[-1].get("notify") if work.history.plans else None
    if not kept:
        return None

    return notify_spec.Notify(**kept)


def wants_container(options: argparse.Namespace, spec: JobSpec | None, work: Work, mode: str,
                    asked: SlurmOptions | None) -> Container | None:
    """As the command line says, else as the job spec does; a retry, as the batch's last submission did. UserError if
    something of it is not here that must be."""
    kept = work.history.plans[-1].get("container") if spec is None and work.history.plans else None
    if not (options.container or kept or spec and spec.container):
        return None
    from src.submission.job import container

    folders = [work.project, *container.data_folders(work.specs), *([os.path.dirname(asked.script)] if asked else [])]
    return container.choose_container(options.container, spec.container if spec else None, kept, folders,
                                      here=mode == LOCAL)


def put_canaries_first(work: Work, asked: SlurmOptions | None, options: argparse.Namespace) -> SlurmOptions | None:
    """Plan the canaries; the options by which the runs wait for them. Runs that one holds back leave the plan."""
    from src.submission.planning import canary

    points = dict(zip(work.names, work.specs, strict=True))
    work.first, lines, asked = canary.of_submission(work.path, work.plan, points, asked, work.canaries, options.retry)
    work.lines += lines
    return asked


def canary_calls(work: Work, options: SlurmOptions | None, token: str) -> list[submit.SbatchCall]:
    """The calls of sbatch for the canaries that are to be submitted."""
    if work.first is None or options is None:
        return []
    from src.submission.planning import canary

    return canary.submission_of(work.first, options, token, work.start_in).calls


def slurm_submission(work: Work, options: SlurmOptions, token: str, queued: int | None) -> Submission:
    """The calls of sbatch for the runs that are to be submitted: one per run, arrays of what may be queued, workers."""
    from src.submission.slurm import client

    specs = dict(zip(work.names, work.specs, strict=True))
    place = submit.SubmissionContext(os.path.abspath(work.path), token, work.start_in)
    shape = options.shape
    if shape["array"]:
        size = min(client.max_array_size(), queued or sys.maxsize)
        return submit.plan_arrays(work.plan.tickets, specs, options, place, size, shape["max_running"])
    if shape["workers"]:
        return submit.plan_workers(task_files.worker_groups(work.plan.tickets, specs, shape["workers"]), specs, options,
                              place,
                              shape["slots"], work.first.of if work.first else {})
    return submit.plan_single_jobs(work.plan.tickets, specs, options, place)


def local_teams(options: argparse.Namespace, work: Work) -> list[WorkerGroup]:
    """The local workers, by who takes which runs."""
    from src.submission.job import local_workers

    return task_files.worker_groups(work.plan.tickets, dict(zip(work.names, work.specs, strict=True)),
                       options.workers or local_workers.default_workers())
