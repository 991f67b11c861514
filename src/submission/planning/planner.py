"""Plan the submission of a job spec: a new batch, the rest of the same batch, or an extension of it."""
from __future__ import annotations

import datetime
import functools
import os
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from src import config, run_folder
from src.checks import registered_names
from src.errors import BatchError, ConfigError, JobSpecError, UserError
from src.io import files, yaml_io
from src.submission.batch import batch_folder, journal
from src.submission.planning import preview
from src.submission.planning.command_line import Options
from src.submission.planning.submission_plan import RequestedBatch, SubmissionPlan
from src.submission.planning.tickets import (
    first_tickets,
    is_deleted,
    new_run,
    next_tickets,
    observe_batch,
    require_none_alive,
    runs_maybe_alive,
)
from src.submission.spec import grammar, grid, naming
from src.submission.spec.grammar import Spec
from src.submission.spec.job_spec import JobSpec, check_output_dir
from src.submission.status import retry_policy, states
from src.submission.system.terminal import count

if TYPE_CHECKING:
    from src.metrics import Metric
    from src.submission.batch.extension import Extension

# fields that decide by which columns a run chooses its best epoch
_CHOOSING_FIELDS = ("best_checkpoint_metric", "best_checkpoint_goal", "task", "dataset", "loss", "targets",
                    "data_splits_map", "eval_datasets", "eval_at_end", "eval_models", "averaging", "metrics")
_SHARED_FOLDER = ("all runs work in the project's folder, and may overwrite each other's files: add {folder} to the "
                  "command or `cwd: \"{folder}\"` to job_details, or use $GRIDIRON_RUN_FOLDER in the program")
_checked_choices: set[tuple[Metric | None, str]] = set()  # values of these fields that were checked already


def plan_job_spec(job_spec: JobSpec, options: Options, project: str) -> SubmissionPlan:
    """Plan the submission of a job spec. UserError if the job spec is wrong or its batch must not be touched."""
    requested = _request_search(job_spec, options, project) if job_spec.search else _expand(job_spec, options, project)
    total, shard = len(requested.points), None
    if options.shard:
        from src.submission.batch import shard as shards  # few batches have several sites

        shard = shards.parse(options.shard)
        requested = requested._replace(points=shard.select(requested.points),
                                       grid_options={**requested.grid_options, "shard": str(shard)})
    in_shard = len(requested.points)
    if options.extend:
        plan = _plan_extension(requested, options, project)._replace(points_left_out=0)
    else:
        maximum = None if requested.search else options.max_runs
        requested = requested._replace(points=_first_points(requested.points, maximum))
        plan = _plan_batch(requested, options, project)._replace(points_left_out=in_shard - len(requested.points))
    if shard:
        date = os.path.basename(plan.batch)[:len("yy-mm-dd")]
        plan = plan.with_lines(shard.line(in_shard, total, date))
    return _without_done_points(plan) if options.skip_done else plan


def _expand(job_spec: JobSpec, options: Options, project: str) -> RequestedBatch:
    """Expand the grid of a job spec, and name its runs."""
    command = options.command if options.command is not None else job_spec.command
    check = None if command else functools.partial(check_point, job_spec.metric)
    try:
        expanded = grid.expand_job_spec(job_spec, options.overrides, check, options.samples, options.seed)
    except ConfigError as error:
        if job_spec.program and error.what.startswith("unknown parameter"):
            error.hint = (f"{error.hint}; or if {job_spec.program} is a program of your own and not that of this "
                          "project, name it otherwise: program: my_train.py, or program: /path/to/its/train.py")
        raise
    specs, warnings = expanded.specs, [*job_spec.warnings, *expanded.warnings]
    if job_spec.tags:
        specs = [{**point, "TAGS": list(dict.fromkeys((*job_spec.tags, *point.get("TAGS", ()))))} for point in specs]
    if command:
        from src.submission.spec import command_template

        words = command_template.parse_command(command, job_spec.source)
        external = {"COMMAND": words, **({"CWD": job_spec.cwd} if job_spec.cwd else {})}
        specs = [{**point, **external} for point in specs]
        if len(specs) > 1 and command_template.share_folder(specs[0]):
            warnings.append(_SHARED_FOLDER)
        warnings += _metric_warnings(words, project)
    elif job_spec.cwd:
        warnings.append("cwd is used only with `command`")
    names = naming.run_names(job_spec.name, expanded.specs, expanded.varying)
    points = dict(zip(names, specs, strict=True))
    # an extension numbers its runs itself
    shown_names = [] if options.extend else names
    lines = [*(f"warning: {text}" for text in warnings),
             *(f"note: {text}" for text in expanded.notes),
             *preview.grid_lines(specs, expanded.axes, expanded.varying, shown_names)]
    if job_spec.max_runs and not options.max_runs:  # applies to the whole batch, not to one shard
        if job_spec.max_runs < len(points):
            lines.append(f"note: only the first {job_spec.max_runs} of {count(len(points), 'run')}, because of run_cap "
                         "in the sweep file")
        points = _first_points(points, job_spec.max_runs)
    return RequestedBatch(job_spec, points, expanded.varying, _grid_options(options), _output_dir(job_spec, options),
                          tuple(lines))


def _request_search(job_spec: JobSpec, options: Options, project: str) -> RequestedBatch:
    """Define the search of a job spec, and name its first trials."""
    from src.submission.planning import search_plan  # few job specs are searches
    from src.submission.searches import define
    from src.submission.searches import preview as search_preview

    workers = options.workers or 1
    if options.local and not options.workers:
        from src.submission.job import local_workers

        workers = local_workers.default_workers()
    search = define.define_search(job_spec, options, workers, check_point)
    points = search_plan.first_points(search)
    words: list[str] = next((spec["COMMAND"] for spec in points.values() if "COMMAND" in spec), [])
    lines = search_preview.lines(search, list(points), [*job_spec.warnings, *_metric_warnings(words, project)])
    grid_options = _grid_options(options)
    if options.max_runs:
        grid_options["max_runs"] = options.max_runs
    return RequestedBatch(job_spec, points, list(search.varying), grid_options, _output_dir(job_spec, options),
                          tuple(lines), search)


def _output_dir(job_spec: JobSpec, options: Options) -> str:
    """Return the folder of the batch: --output-dir, or that of the job spec."""
    output_dir = job_spec.output_dir
    if options.output_dir:
        output_dir = check_output_dir(options.output_dir, "--output-dir")
    return os.path.normpath(files.expand_path(output_dir, "output_dir"))


def _metric_warnings(words: list[str], project: str) -> list[str]:
    """Return a warning if a program logs its metrics where nothing here reads them."""
    from src.code import program_files  # few batches run an external program

    logger = program_files.wandb_logger(words, project)
    return [f"{logger} logs metrics by wandb.log, which only W&B reads: to have them in status, report and big_df, "
            "write them to stats.csv as well (docs/sweeps.md#metrics has a helper of three lines)"] if logger else []


def check_point(metric: Metric | None, point: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError unless Config accepts a point, and the metric of its best epoch has a known direction.

    metric: of the job spec.
    """
    config.check_parameters(point, where)
    if point.get("save_best_checkpoint") or point.get("early_stopping_patience"):
        value = {name: point.get(name, config.DEFAULTS[name]) for name in _CHOOSING_FIELDS}
        key = metric, repr(value)
        if key not in _checked_choices:
            _check_choice(metric, value, where)
            _checked_choices.add(key)


def _check_choice(metric: Metric | None, value: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError unless best_checkpoint_metric matches metrics of each epoch that have one known direction."""
    from src import metrics  # few points choose an epoch

    pattern = value["best_checkpoint_metric"]
    if goal := value["best_checkpoint_goal"]:
        metric = metrics.Metric(pattern, goal)
    try:
        if columns := _epoch_columns(value):
            metrics.choosing_columns(pattern, columns, metric)
        else:
            metrics.check_known(pattern, metric, "best_checkpoint_metric")
    except UserError as error:
        raise error.at(where) from None


def _epoch_columns(value: Mapping[str, Any]) -> list[str]:
    """Return the metrics that have a value in each epoch; empty if code of the user decides what is measured."""
    if value["task"] or ":" in value["dataset"] or ":" in value["loss"]:
        return []
    names = registered_names.TRAINING_METRICS[registered_names.task_of(value["loss"], value["targets"])]
    splits = [name for name in (*value["data_splits_map"], *(value["eval_datasets"] or {}))
              if name != "train" and name not in (value["eval_at_end"] or ())]
    models = value["eval_models"] or (["last", "av"] if value["averaging"] else ["last"])
    further = [name.rpartition(":")[2] for name in value["metrics"] or ()]
    return [f"train/{name}" for name in names] + [
        f"{split}/{model}/{name}" for split in splits for model in models for name in (*names, *further)]


def _grid_options(options: Options) -> dict[str, Any]:
    """Return the options that determine the points of a batch, as the journal keeps them."""
    overrides = {key: yaml_io.dump_value(value) if grammar.is_random(value) else value
                 for key, value in options.overrides.items()}
    return {"overrides": overrides, "command": options.command, "samples": options.samples, "seed": options.seed,
            "shard": None}


def _first_points(points: Mapping[str, Spec], maximum: int | None) -> dict[str, Spec]:
    return dict(islice(points.items(), maximum))


def _plan_extension(requested: RequestedBatch, options: Options, project: str) -> SubmissionPlan:
    """Plan what the grid adds to the newest batch of its name. BatchError if there is no such batch."""
    from src.submission.planning import extend  # few submissions extend a batch

    job_spec = requested.job_spec
    earlier = batch_folder.find(requested.output_dir, job_spec.name)
    if not earlier:
        raise BatchError(f"there is no batch '{job_spec.name}' in {requested.output_dir} to extend",
                         where=job_spec.source, hint="submit it without --extend first")
    if requested.search:
        from src.submission.planning import search_plan

        return search_plan.plan_extension(requested, earlier[-1], project, options)
    return extend.plan_extension(requested, earlier[-1], project, options.max_runs, options.dry_run)


def _plan_batch(requested: RequestedBatch, options: Options, project: str) -> SubmissionPlan:
    """Plan a new batch, or the rest of the newest batch of that name if it has the same points."""
    name = requested.job_spec.name
    new_batch = os.path.join(requested.output_dir, naming.batch_name(name, _batch_date(options)))
    plan = SubmissionPlan(project, new_batch, requested.points, first_tickets(requested.points), requested.lines,
                          journal.History(), {}, {}, requested.job_spec.text, requested.grid_options, is_new=True,
                          search=requested.search)
    earlier = batch_folder.find(requested.output_dir, name)
    if not earlier:
        if os.path.lexists(new_batch):
            raise BatchError("this folder exists and is not a batch", where=new_batch,
                             hint="move it away, or use another name")
        return plan
    if options.overwrite:
        return _replacing(plan, earlier[-1], options.dry_run)
    from src.submission.batch.extension import last_extension

    extension = last_extension(earlier[-1])
    changes = _changes(requested, earlier[-1], extension)
    if not changes and requested.search:
        from src.submission.planning import search_plan

        return search_plan.plan_workers(earlier[-1], project, requested, options)
    if not changes:
        return _plan_rest(requested, earlier[-1], extension, project, options.dry_run)
    return plan.with_lines(_other_batch_note(new_batch, earlier[-1], changes, options))


def _batch_date(options: Options) -> datetime.date:
    """Return the date of a new batch: today, or --date. JobSpecError if that is invalid."""
    if not options.date:
        return batch_folder.today()
    try:
        return datetime.datetime.strptime(options.date, "%y-%m-%d").date()
    except ValueError:
        raise JobSpecError(f"invalid date '{options.date}'", where="--date",
                           allowed="yy-mm-dd, as in the name of the batch") from None


def _replacing(plan: SubmissionPlan, earlier: str, dry_run: bool) -> SubmissionPlan:
    """Let a new batch replace an earlier one. BatchError if runs of the earlier one may be alive."""
    observation = observe_batch(earlier, dry_run)
    require_none_alive(observation, "overwrite this batch")
    line = (f"removes    {earlier} ({count(len(observation.runs), 'run')}, "
            f"{observation.count(retry_policy.ENDED_WELL)} ended)")
    return plan.with_lines(line)._replace(replaces=earlier)


def _other_batch_note(new_batch: str, earlier: str, changes: list[str], options: Options) -> str:
    """Return a note that the newest batch of that name has other points. BatchError if the new one needs its folder."""
    if earlier != new_batch:
        extend_hint = "" if options.shard else "; --extend would add the new points to it"
        return f"note: {earlier} was made from another job spec{extend_hint}"
    is_alive = bool(runs_maybe_alive(observe_batch(earlier, options.dry_run)))
    extend_hint = "" if options.shard else "use --extend to add the new points to it, or "
    error = BatchError(f"this batch exists, made from another job spec ({'; '.join(changes[:5])})", where=earlier,
                       hint=f"{extend_hint}use another name{'' if is_alive else ', or -o to remove it first'}")
    if not options.dry_run:
        raise error
    return f"note: submitting this would be an error: {error}"


def _changes(requested: RequestedBatch, batch: str, extension: Extension | None) -> list[str]:
    """Return the differences between a batch, since its last extension, and what is requested."""
    from src.submission.batch.extension import job_spec_path

    history = journal.read_history(batch)
    recorded = extension.grid_options if extension else history.first_plan().get("identity", {})
    grid_options = {"overrides": {}, "command": None, "samples": None, "seed": None, "shard": None, **recorded}
    if not history.recorded_plans and history.remote_plans:  # a batch of another site, of which this site takes a part
        remote = [plan.get("identity", {}) for plan in history.remote_plans]
        grid_options |= remote[0]
        if requested.grid_options["shard"] not in [None, *(recorded.get("shard") for recorded in remote)]:
            grid_options["shard"] = requested.grid_options["shard"]
    try:
        document = yaml_io.load_file(job_spec_path(batch, extension))
    except JobSpecError as error:
        return [f"its {run_folder.JOB_SPEC}: {error.what}"]
    return batch_folder.differences(document, yaml_io.load(requested.job_spec.text, requested.job_spec.source)) + (
        batch_folder.differences(grid_options, requested.grid_options))


def _plan_rest(requested: RequestedBatch, batch: str, extension: Extension | None, project: str,
               dry_run: bool) -> SubmissionPlan:
    """Plan the runs of a batch that reached neither Slurm nor a worker. BatchError if it is unknown which they are."""
    points = requested.points
    if extension:
        if len(extension.names) < len(points):
            raise BatchError(f"the job spec has {len(points)} points, and had {len(extension.names)} when the batch "
                             "was extended", where=batch, hint="--extend adds what is new")
        points = dict(zip(extension.names, points.values(), strict=False))
    observation = observe_batch(batch, dry_run)
    runs = {name: run if (run := observation.runs.get(name)) and not is_deleted(run) else new_run(batch, name, run)
            for name in points}
    tickets = next_tickets(runs, {states.NEW})
    tickets.require_decided(batch)
    lines = [*requested.lines, f"continues  {batch}"]
    if tickets.to_submit:
        from src.submission.planning.code_note import code_lines

        lines += code_lines(project, observation)
    return SubmissionPlan(project, batch, points, tickets, tuple(lines), observation.history, observation.canaries, {},
                          requested.job_spec.text, requested.grid_options)


def _without_done_points(plan: SubmissionPlan) -> SubmissionPlan:
    """Leave out the points that another batch in the same output_dir has done."""
    from src.submission.batch import done_points

    done = done_points.done_points(os.path.dirname(plan.batch) or ".", (plan.batch, plan.replaces or plan.batch))
    elsewhere = {name for name in plan.to_submit if done_points.canonical_hash(plan.points[name]) in done}
    points = {name: spec for name, spec in plan.points.items() if name not in elsewhere}
    return plan._replace(points=points, tickets=plan.tickets.without(
        [name for name in plan.to_submit if name in elsewhere], "done elsewhere"))
