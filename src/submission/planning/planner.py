"""What is to be submitted: the new batch of a job spec, what is left of the same one, or a retry."""
from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Sequence

from src import config, run_folder
from src.errors import BatchError, JobSpecError, shell_command
from src.io import files, yaml_io
from src.submission.batch import batch_folder, journal
from src.submission.planning import preview
from src.submission.planning.command_line import key_values
from src.submission.planning.plan import (
    DELETED,
    Plan,
    cut,
    is_missing,
    may_be_alive,
    not_made,
    plan_first,
    plan_next,
    refuse_if_alive,
)
from src.submission.planning.work import Extension, Work
from src.submission.slurm.submit import read_specs
from src.submission.spec import grammar, grid, job_spec, naming
from src.submission.spec.job_spec import JobSpec
from src.submission.status import failures, retry_policy, states
from src.submission.status.observation import Observation, Run
from src.submission.status.observe import observe
from src.submission.system.terminal import count


def plan_grid(spec: JobSpec, options: argparse.Namespace, project: str) -> Work:
    """What a job spec asks for: a new batch, or what is left of the same one."""
    overrides = key_values(options.set, "--set")
    command = options.command if options.command is not None else spec.command
    expanded = grid.expand_job_spec(spec, overrides, None if command else config.check_parameters, options.samples,
                                options.seed)
    names = naming.run_names(spec.name, expanded.specs, expanded.varying)
    specs = expanded.specs
    if spec.tags:
        specs = [{**point, "TAGS": list(dict.fromkeys((*spec.tags, *point.get("TAGS", ()))))} for point in specs]
    if command:
        from src.submission.spec import command_template

        words = command_template.parse_command(command, spec.source)
        specs = [{**point, "COMMAND": words} for point in specs]
    lines = [f"warning: {text}" for text in (*spec.warnings, *expanded.warnings)] + [
        f"note: {text}" for text in expanded.notes] + preview.grid_lines(
            specs, expanded.axes, expanded.varying, [] if options.extend else names)
    if spec.max_runs and not options.max_runs:  # of the whole batch, whichever part of it this is
        if spec.max_runs < len(names):
            lines.append(f"note: only the first {spec.max_runs} of {count(len(names), 'run')}, as run_cap says")
        names, specs = names[:spec.max_runs], specs[:spec.max_runs]
    part, total = None, len(names)
    if options.shard:
        from src.submission.batch import shard  # few batches have several sites

        part = shard.parse(options.shard)
        names, specs = part.cut(names, specs)
    most = None if options.extend else options.max_runs
    work = Work(project, "", names[:most], specs[:most], Plan({}, {}), spec.text, lines=lines,
                identity={"overrides": {key: yaml_io.dump_value(value) if grammar.is_random(value) else value
                                        for key, value in overrides.items()}, "command": options.command,
                          "samples": options.samples, "seed": options.seed, "shard": part and str(part)})
    work = _extend(work, spec, options, expanded.varying) if options.extend else _place(work, spec, options)
    if part:
        work.lines.append(part.line(len(names), total, os.path.basename(work.path)[:len("yy-mm-dd")]))
    return _leave_out_done(work) if options.skip_done else work


def _date(options: argparse.Namespace) -> datetime.date:
    """The date of a new batch: today's, or that of another site. JobSpecError if it is none."""
    if not options.date:
        return batch_folder.today()
    try:
        return datetime.datetime.strptime(options.date, "%y-%m-%d").date()
    except ValueError:
        raise JobSpecError(f"'{options.date}' is no date", where="--date",
                           allowed="yy-mm-dd, as in the batch's name") from None


def _leave_out_done(work: Work) -> Work:
    """The same without the points that another batch beside this one has done."""
    from src.submission.batch import done_points

    done = done_points.done_points(os.path.dirname(work.path) or ".", (work.path, work.overwrites or work.path))
    points = dict(zip(work.names, work.specs, strict=True))
    elsewhere = [name for name in work.plan.tickets if done_points.canonical_hash(points[name]) in done]
    for name in elsewhere:
        del points[name]
        del work.plan.tickets[name]
    work.names, work.specs = list(points), list(points.values())
    if elsewhere:
        work.plan.kept["done elsewhere"] = elsewhere
    return work


def _output_dir(spec: JobSpec, options: argparse.Namespace) -> str:
    chosen = job_spec.check_output_dir(options.output_dir, "--output-dir") if options.output_dir else spec.output_dir
    return os.path.normpath(files.expand_path(chosen, "output_dir"))


def _extend(work: Work, spec: JobSpec, options: argparse.Namespace, varying: Sequence[str]) -> Work:
    """What this grid adds to the newest batch of its name. BatchError if there is none, or nothing is new."""
    from src.submission.planning import extend

    output_dir = _output_dir(spec, options)
    earlier = batch_folder.find(output_dir, spec.name)
    if not earlier:
        raise BatchError(f"there is no batch '{spec.name}' in {output_dir} to extend", where=spec.source,
                         hint="without --extend the command makes it")
    return extend.plan(work, earlier[-1], spec.name, varying, options.max_runs, options.dry_run)


def _place(work: Work, spec: JobSpec, options: argparse.Namespace) -> Work:
    """Find the batch that this grid belongs to, and plan what is left of it. BatchError if it must not be touched."""
    output_dir = _output_dir(spec, options)
    today = batch_folder.path_for(output_dir, naming.batch_name(spec.name, _date(options)))
    earlier = batch_folder.find(output_dir, spec.name)
    if options.overwrite and earlier:
        observation, = observe([earlier[-1]])
        refuse_if_alive(observation, "overwrite this batch")
        work.overwrites = earlier[-1]
        work.lines.append(f"removes    {earlier[-1]} ({count(len(observation.runs), 'run')}, "
                          f"{observation.count(retry_policy.ENDED_WELL)} ended)")
    elif earlier:
        from src.submission.planning import extend

        extension = extend.last(earlier[-1])
        changes = _changed(earlier[-1], extension, spec, work)
        if not changes:
            return _plan_continue(work, earlier[-1], extension, options.dry_run)
        if earlier[-1] == today:
            alive = may_be_alive(observe([today])[0])
            exists = BatchError(f"this batch exists, made from another job spec ({'; '.join(changes[:5])})",
                                where=today, hint=f"{'' if options.shard else '--extend adds to it what is new, or '}"
                                f"use another name{'' if alive else ', or -o to remove it first'}")
            if not options.dry_run:
                raise exists
            work.lines.append(f"note: submitting this would be an error: {exists}")
        else:
            work.lines.append(f"note: {earlier[-1]} was made from another job spec"
                              f"{'' if options.shard else '; --extend would add to it what is new'}")
    elif os.path.lexists(today):
        raise BatchError("this folder exists and is no batch", where=today, hint="move it away, or use another name")
    work.path, work.new, work.plan = today, True, plan_first(work.names)
    return work


def retry_command(path: str, *words: str) -> str:
    """What to type to go on with a batch."""
    return shell_command("python", "submit_multiple.py", "-r", path, *words)


def _changed(path: str, extension: Extension | None, spec: JobSpec, work: Work) -> list[str]:
    """What differs between the batch on disk, since its last extension, and what is asked for now."""
    from src.submission.planning import extend

    history = journal.read_history(path)
    identity = extension.identity if extension else history.first_plan().get("identity", {})
    first = {"overrides": {}, "command": None, "samples": None, "seed": None, "shard": None, **identity}
    if not history.plans and history.remote_plans:  # another site's, of which this one takes a part that nobody has
        theirs = [plan.get("identity", {}) for plan in history.remote_plans]
        first |= theirs[0]
        if work.identity["shard"] not in [None, *(identity.get("shard") for identity in theirs)]:
            first["shard"] = work.identity["shard"]
    try:
        made_from = yaml_io.load_file(extend.job_spec_of(path, extension))
    except JobSpecError as error:
        return [f"its {run_folder.JOB_SPEC}: {error.what}"]
    return batch_folder.differences(made_from, yaml_io.load(spec.text, spec.source)) + batch_folder.differences(
        first, work.identity)


def _plan_continue(work: Work, path: str, extension: Extension | None, dry_run: bool) -> Work:
    """The same job spec again: submit what never reached Slurm or a worker. BatchError if that is nothing."""
    if extension:
        from src.submission.planning import extend

        if not dry_run:
            extend.finish(path)
        work.names = extension.names[:len(work.specs)]
        if len(work.names) < len(work.specs):
            raise BatchError(f"the job spec has {len(work.specs)} points, and had {len(work.names)} when the batch was "
                             "extended", where=path, hint="--extend adds what is new")
    observation, = observe([path])
    work.path, work.history, work.canaries = path, observation.history, observation.canaries
    known: dict[str, Run] = {}
    for name in work.names:
        run = observation.runs.get(name)
        known[name] = not_made(path, name, run) if run is None or is_missing(run) else run
    work.plan = plan_next(known, {states.NEW})
    work.lines.append(f"continues  {path}")
    if not work.plan.tickets:
        left = observation.count(retry_policy.RETRIED)
        retry = f"`{retry_command(path)}` submits the {left} that failed or were lost; " if left else ""
        removes = "" if may_be_alive(observation) else "-o removes it first; "
        raise BatchError(f"this batch exists and nothing of it is left to submit ({work.plan.summary()})", where=path,
                         hint=f"{retry}{removes}another name makes another batch")
    return work


def _own(observation: Observation) -> tuple[dict[str, Run], dict[str, list[str]]]:
    """The runs that this site may submit, and those that it may not by where they are. BatchError if it has none."""
    part = None
    if words := observation.history.first_plan().get("identity", {}).get("shard"):
        from src.submission.batch import shard

        part = shard.parse(words)
    runs: dict[str, Run] = {}
    elsewhere: dict[str, list[str]] = {}
    for name, run in observation.runs.items():
        if run.host:
            elsewhere.setdefault(f"on {run.host}", []).append(name)
        elif part and not part.contains(name):
            elsewhere.setdefault("in another shard", []).append(name)
        else:
            runs[name] = run
    if not runs and observation.history.sync_markers:
        host = observation.history.sync_markers[0].host
        raise BatchError(f"this is a copy of a batch that is on {host}", where=observation.path,
                         hint=f"`{retry_command(observation.path, '--on', host)}` goes on with it there")
    return runs, elsewhere


def plan_retry(options: argparse.Namespace, project: str) -> Work:
    """An existing batch: what is not done and not pending or running."""
    for given, name in ((options.set, "--set"), (options.command, "--command"), (options.output_dir, "--output-dir"),
                        (options.samples, "--samples"), (options.seed is not None, "--seed")):
        if given:
            raise JobSpecError(f"{name} would change the runs of a batch that exists", where="command line",
                               hint="submit the job spec under another name instead")
    path = batch_folder.require_batch(options.path)
    if not options.dry_run:
        from src.submission.planning import extend

        extend.finish(path)
    observation, = observe([path])
    runs, elsewhere = _own(observation)
    wanted = set(options.state or retry_policy.RETRIED)
    lines = [f"retries    {path}"]
    more_memory = retry_policy.NEEDS_MORE_MEMORY & wanted
    hungry = sum(run.state.name in more_memory for run in runs.values())
    if hungry and not (options.local or failures.requests_memory(options.sbatch)):
        wanted -= more_memory
        selected = [word for state in sorted(more_memory) for word in ("--state", state)]
        more = retry_command(path, *selected, "--sbatch", "mem=32G")
        lines.append(f"note: {count(hungry, 'run')} out of memory left alone: they need more, as by `{more}`")
    plan = cut(plan_next(runs, wanted), options.max_runs)
    plan.kept.update(elsewhere)
    if deleted := plan.kept.get(DELETED):
        lines.append(f"note: {count(len(deleted), 'run folder')} deleted; the command that made the batch makes "
                     "deleted ones again")
    lines += [f"  {found.line()}" for found in failures.group_failures(runs[name] for name in plan.tickets)]
    return Work(project, path, list(plan.tickets), list(read_specs(path, list(plan.tickets)).values()), plan,
                history=observation.history, lines=lines, avoid=failures.nodes_to_avoid(observation.runs.values()),
                canaries=observation.canaries)
