"""Expands a job spec into a grid of run folders and submits each run: to Slurm, or to workers on this machine."""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from src import config, files, run_folder, yaml_io
from src.errors import BatchError, JobSpecError, exits_on_user_error, to_type
from src.submission import batch, failures, foreign, grid, job_spec, journal, naming, show, states, submit, tasks
from src.submission.command_line import key_values, parse
from src.submission.job_spec import JobSpec
from src.submission.journal import LOCAL, SLURM, WRITE_ONLY, History, Journal
from src.submission.observe import Run, observe
from src.submission.plan import (
    DELETED,
    Plan,
    count,
    cut,
    is_missing,
    may_be_alive,
    not_made,
    plan_first,
    plan_next,
    refuse_if_alive,
)
from src.submission.submit import SlurmOptions, Submission, check_script, read_specs

if TYPE_CHECKING:
    from src.submission.canary import Canaries

PROJECT = os.path.dirname(os.path.abspath(__file__))


@dataclass
class Work:
    """A batch and what is to be done with it. new: it is not on disk yet; avoid: nodes to leave out, and why; canaries:
    those that there are; first: those that the runs wait for.
    """

    path: str
    names: list[str]
    specs: list[dict[str, Any]]
    plan: Plan
    job_text: str = ""
    new: bool = False
    overwrites: str | None = None
    lines: list[str] = field(default_factory=list)
    history: History = field(default_factory=History)
    identity: dict[str, Any] = field(default_factory=dict)
    avoid: dict[str, str] = field(default_factory=dict)
    canaries: dict[str, Run] = field(default_factory=dict)
    first: Canaries | None = None


@exits_on_user_error
def main(argv: Sequence[str]) -> int:
    """Read, expand, validate, plan, show, confirm, write, submit. A dry run stops before it writes."""
    options = parse(argv, __doc__)
    spec = None if options.retry else job_spec.read_job_spec(options.path)
    work = plan_retry(options) if spec is None else plan_grid(spec, options)
    token = journal.new_token()
    mode, slurm_options = choose_way(options, spec, work, token)
    if mode != WRITE_ONLY and wants_canaries(options, work):
        slurm_options = put_canaries_first(work, slurm_options, options)
    submission = (slurm_submission(work, slurm_options, token, options.max_queued)
                  if slurm_options and work.plan.tickets else None)
    commands = submission.commands() if submission else local_commands(work)
    if options.json:
        return print_json(work, commands)
    show_plan(work, mode, slurm_options, options)
    if options.dry_run:
        return print_dry_run(work, canary_calls(work, slurm_options, token) + (submission.calls if submission else []),
                             commands, mode)
    if not work.plan.tickets:
        print("nothing to submit")
        return 0
    if mode == SLURM and submission and slurm_options:
        calls = submission.calls
        if work.first:
            from src.submission import canary

            calls = canary.to_try(canary_calls(work, slurm_options, token) + calls)
        ask_slurm_first(work, calls, slurm_options)
    else:
        submission = None  # what is written now is submitted later, with another plan
    if options.smoke:
        smoke_first(work)
    confirm(work, mode, options)
    with files.refusals_told(work.path, "when that is mended, give the same command again: nothing is lost"):
        book = write(work, token, plan_record(work, mode, slurm_options, submission, options, argv), submission,
                     slurm_options)
        return start(work, mode, slurm_options, book, submission, options)


def smoke_first(work: Work) -> None:
    """A batch of each distinct model and data set, here. BatchError if one fails, or if the program is not ours."""
    from src.submission import smoke

    specs = dict(zip(work.names, work.specs, strict=True))
    chosen = [specs[name] for name in work.plan.tickets]
    if any("COMMAND" in spec for spec in chosen):
        raise BatchError("--smoke knows train.py alone, and this batch runs a program of its own", where=work.path)
    for line in smoke.run(chosen, PROJECT):
        print(line, flush=True)


def plan_grid(spec: JobSpec, options: argparse.Namespace) -> Work:
    """What a job spec asks for: a new batch, or what is left of the same one."""
    overrides = key_values(options.set, "--set")
    command = options.command if options.command is not None else spec.command
    expanded = grid.expand(spec.parameters, spec.source, overrides, None if command else config.check_parameters)
    names = naming.run_names(spec.name, expanded.specs, expanded.varying)
    specs = expanded.specs
    if spec.tags:
        specs = [{**point, "TAGS": list(dict.fromkeys((*spec.tags, *point.get("TAGS", ()))))} for point in specs]
    if command:
        words = foreign.parse_command(command, spec.source)
        specs = [{**point, "COMMAND": words} for point in specs]
    lines = [f"warning: {text}" for text in (*spec.warnings, *expanded.warnings)] + [
        f"note: {text}" for text in expanded.notes] + show.grid_lines(specs, expanded.axes, expanded.varying, names)
    work = Work("", names[:options.max_runs], specs[:options.max_runs], Plan({}, {}), spec.text, lines=lines,
                identity={"overrides": overrides, "command": options.command})
    work = place(work, spec, options)
    return leave_out_done(work) if options.skip_done else work


def leave_out_done(work: Work) -> Work:
    """The same without the points that another batch beside this one has done."""
    from src.submission import missing

    done = missing.done_points(os.path.dirname(work.path) or ".", but=(work.path, work.overwrites or work.path))
    points = dict(zip(work.names, work.specs, strict=True))
    elsewhere = [name for name in work.plan.tickets if missing.canonical_hash(points[name]) in done]
    for name in elsewhere:
        del points[name]
        del work.plan.tickets[name]
    work.names, work.specs = list(points), list(points.values())
    if elsewhere:
        work.plan.kept["done elsewhere"] = elsewhere
    return work


def place(work: Work, spec: JobSpec, options: argparse.Namespace) -> Work:
    """Find the batch that this grid belongs to, and plan what is left of it. BatchError if it must not be touched."""
    chosen = job_spec.check_output_dir(options.output_dir, "--output-dir") if options.output_dir else spec.output_dir
    output_dir = os.path.normpath(files.expand(chosen, "output_dir"))
    today = batch.path_for(output_dir, naming.batch_name(spec.name, batch.today()))
    earlier = batch.find(output_dir, spec.name)
    if options.overwrite and earlier:
        observation, = observe([earlier[-1]])
        refuse_if_alive(observation, "overwrite this batch")
        work.overwrites = earlier[-1]
        work.lines.append(f"removes    {earlier[-1]} ({count(len(observation.runs), 'run')}, "
                          f"{observation.count(states.ENDED_WELL)} ended)")
    elif earlier:
        history = journal.read_history(earlier[-1])
        changes = changed(earlier[-1], history, spec, work)
        if not changes:
            return plan_continue(work, earlier[-1], history)
        if earlier[-1] == today:
            alive = may_be_alive(observe([today])[0])
            exists = BatchError(f"this batch exists, made from another job spec ({'; '.join(changes[:5])})",
                                where=today, hint=f"use another name{'' if alive else ', or -o to remove it first'}")
            if not options.dry_run:
                raise exists
            work.lines.append(f"note: submitting this would be an error: {exists}")
    elif os.path.lexists(today):
        raise BatchError("this folder exists and is no batch", where=today, hint="move it away, or use another name")
    work.path, work.new, work.plan = today, True, plan_first(work.names)
    return work


def retry_command(path: str, *words: str) -> str:
    """What to type to go on with a batch."""
    return to_type("python", "submit_multiple.py", "-r", path, *words)


def next_steps(*steps: tuple[str, str]) -> str:
    """Commands and what they do, aligned, a line each."""
    return "\n".join(show.table(steps, indent="  "))


def changed(path: str, history: History, spec: JobSpec, work: Work) -> list[str]:
    """What differs between the batch on disk and what is asked for now."""
    source = os.path.join(path, run_folder.JOB_SPEC)
    first = {"overrides": {}, "command": None, **history.first_plan().get("identity", {})}
    try:
        made_from = yaml_io.load_file(source)
    except JobSpecError as error:
        return [f"its {run_folder.JOB_SPEC}: {error.what}"]
    return batch.differences(made_from, yaml_io.load(spec.text, spec.source)) + batch.differences(first, work.identity)


def plan_continue(work: Work, path: str, history: History) -> Work:
    """The same job spec again: submit what never reached Slurm or a worker. BatchError if that is nothing."""
    work.path, work.history = path, history
    observation, = observe([path])
    work.canaries = observation.canaries
    known: dict[str, Run] = {}
    for name in work.names:
        run = observation.runs.get(name)
        known[name] = not_made(path, name, run) if run is None or is_missing(run) else run
    work.plan = plan_next(known, {states.NEW})
    work.lines.append(f"continues  {path}")
    if not work.plan.tickets:
        left = observation.count(states.RETRIED)
        retry = f"`{retry_command(path)}` submits the {left} that failed or were lost; " if left else ""
        removes = "" if may_be_alive(observation) else "-o removes it first; "
        raise BatchError(f"this batch exists and nothing of it is left to submit ({work.plan.summary()})", where=path,
                         hint=f"{retry}{removes}another name makes another batch")
    return work


def plan_retry(options: argparse.Namespace) -> Work:
    """An existing batch: what is not done and not pending or running."""
    for given, name in ((options.set, "--set"), (options.command, "--command"), (options.output_dir, "--output-dir")):
        if given:
            raise JobSpecError(f"{name} would change the runs of a batch that exists", where="command line",
                               hint="submit the job spec under another name instead")
    path = batch.check(options.path)
    observation, = observe([path])
    runs = observation.runs
    wanted = set(options.state or states.RETRIED)
    lines = [f"retries    {path}"]
    hungry = sum(run.state.name == states.OUT_OF_MEMORY for run in runs.values())
    if hungry and states.OUT_OF_MEMORY in wanted and not (options.local or failures.asks_for_memory(options.sbatch)):
        wanted.discard(states.OUT_OF_MEMORY)
        more = retry_command(path, "--state", states.OUT_OF_MEMORY, "--sbatch", "mem=32G")
        lines.append(f"note: {count(hungry, 'run')} out of memory left alone: they need more, as by `{more}`")
    plan = cut(plan_next(runs, wanted), options.max_runs)
    if deleted := plan.kept.get(DELETED):
        lines.append(f"note: {count(len(deleted), 'run folder')} deleted; the command that made the batch makes "
                     "deleted ones again")
    lines += [f"  {found.line()}" for found in failures.group(runs[name] for name in plan.tickets)]
    return Work(path, list(plan.tickets), list(read_specs(path, list(plan.tickets)).values()), plan,
                history=observation.history, lines=lines, avoid=failures.nodes_to_avoid(observation.runs.values()),
                canaries=observation.canaries)


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
    script = options.script or (spec.script if spec else None) or submit.earlier_script(previous, work.path)
    made = None
    if spec and spec.resources and not options.script:
        from src.submission import resources

        script = os.path.join(os.path.abspath(work.path), run_folder.SUBMISSIONS, token + run_folder.SCRIPT_SUFFIX)
        one_process = bool(options.workers or options.command or spec.command)
        made = resources.script(spec.resources, spec.name, one_process)
        if spec.resources.ranks > 1 and not one_process:
            work.lines.append(f"warning: {spec.source}, resources: {spec.resources.ranks} processes for each run, and "
                              "train.py as it is trains in one and refuses to start")
    if script:
        asked = slurm_options(options, spec, script, previous, made)
        return (WRITE_ONLY if options.no_submit else SLURM), replace(asked, added=added_options(options, work, asked))
    if options.no_submit:
        return WRITE_ONLY, None
    raise JobSpecError("where shall the runs run?", where="command line", hint="on a Slurm cluster: -s SCRIPT, as "
                       "`-s submit_2080.sh`, or job_details.resources (one Slurm job per run); on this machine without "
                       "Slurm: --local (`--local --workers 4` for four runs at a time)")


def slurm_options(options: argparse.Namespace, spec: JobSpec | None, script: str,
                  previous: dict[str, Any], made: str | None) -> SlurmOptions:
    """How runs go to Slurm. previous: the plan of the last submission, whose ways hold unless others are given; made:
    the text of a script that is yet to be written."""
    given = {"array": options.array, "max_running": options.max_running, "workers": options.workers,
             "slots": options.slots or 1}
    shape = given if options.array or options.workers else {**given, **previous.get("shape", {})}
    return SlurmOptions(
        script if made else check_script(script), (spec.sbatch if spec else previous.get("sbatch")) or {},
        {**(previous.get("command_line") or {}), **key_values(options.sbatch, "--sbatch")}, shape, made)


def added_options(options: argparse.Namespace, work: Work, asked: SlurmOptions) -> dict[str, str]:
    """What this submission alone asks for: the nodes that it avoids, and the batch that it waits for."""
    found: dict[str, str] = {}
    if work.avoid and asked.command_line.get("exclude", "") is not None:
        found["exclude"] = ",".join(work.avoid)
        work.lines += [f"excludes   {node}: {why}" for node, why in work.avoid.items()]
    if options.after:
        from src.submission import after

        observation, = observe([batch.check(options.after)])
        found |= (waits := after.dependency(observation))
        work.lines.append(f"after      {observation.path}{'' if waits else ' (all of it has ended)'}")
    return found


def wants_canaries(options: argparse.Namespace, work: Work) -> bool:
    """As the command line says, else as the batch's last submission did."""
    if options.canary is not None:
        return bool(options.canary)
    return next((bool(plan["canary"]) for plan in reversed(work.history.plans) if "canary" in plan), False)


def put_canaries_first(work: Work, asked: SlurmOptions | None, options: argparse.Namespace) -> SlurmOptions | None:
    """Plan the canaries; the options by which the runs wait for them. Runs that one holds back leave the plan."""
    from src.submission import canary

    points = dict(zip(work.names, work.specs, strict=True))
    work.first, lines, asked = canary.of_submission(work.path, work.plan, points, asked, work.canaries, options.retry)
    work.lines += lines
    return asked


def canary_calls(work: Work, options: SlurmOptions | None, token: str) -> list[submit.Call]:
    """The calls of sbatch for the canaries that are to be submitted."""
    if work.first is None or options is None:
        return []
    from src.submission import canary

    return canary.submission_of(work.first, options, token, PROJECT).calls


def slurm_submission(work: Work, options: SlurmOptions, token: str, queued: int | None) -> Submission:
    """The calls of sbatch for the runs that are to be submitted: one per run, arrays of what may be queued, workers."""
    from src.submission import slurm

    specs = dict(zip(work.names, work.specs, strict=True))
    place = submit.Place(os.path.abspath(work.path), token, PROJECT)
    shape = options.shape
    if shape["array"]:
        size = min(slurm.max_array_size(), queued or sys.maxsize)
        return submit.arrays(work.plan.tickets, specs, options, place, size, shape["max_running"])
    if shape["workers"]:
        return submit.workers(work.plan.tickets, specs, options, place, shape["workers"], shape["slots"],
                              work.first.of if work.first else {})
    return submit.one_each(work.plan.tickets, specs, options, place)


def local_commands(work: Work) -> dict[str, list[str]]:
    """What runs each run by hand; local workers do the same without starting Python for each."""
    return {name: _by_hand(work.path, name) for name in work.plan.tickets}


def _by_hand(folder: str, name: str) -> list[str]:
    return [sys.executable, "train.py", os.path.join(folder, name, run_folder.SPEC)]


def print_json(work: Work, commands: dict[str, list[str]]) -> int:
    """One JSON object per run that would be submitted."""
    import json

    by_name = dict(zip(work.names, work.specs, strict=True))
    for name, command in commands.items():
        print(json.dumps({"name": name, "folder": os.path.join(work.path, name), "spec": by_name[name],
                          "command": command}))
    return 0


def show_plan(work: Work, mode: str, slurm_options: SlurmOptions | None, options: argparse.Namespace) -> None:
    """The grid, where it goes, and with what."""
    print("\n".join(work.lines))
    print(f"batch      {work.path}")
    if slurm_options:
        script = os.path.relpath(slurm_options.script)
        text = slurm_options.text or yaml_io.read_user_file(slurm_options.script)
        extra = {**slurm_options.batch, **slurm_options.command_line}
        print(f"resources  {show.resources(script, text, [f'--{key}={value}' for key, value in extra.items()])}")
        for line in show.point_options(work.specs):
            print(f"           {line}")
        if slurm_options.text and options.dry_run:
            print("".join(f"    {line}\n" for line in slurm_options.text.splitlines()), end="")
    if mode == LOCAL:
        print(f"workers    {workers(options, work)} on this machine")
    print(work.plan.summary())


def workers(options: argparse.Namespace, work: Work) -> int:
    """How many local workers: as asked, never more than there are runs."""
    from src.submission import local

    return min(options.workers or local.default_workers(), max(len(work.plan.tickets), 1))


def print_dry_run(work: Work, calls: Sequence[submit.Call], commands: dict[str, list[str]], mode: str) -> int:
    """The exact commands, those of canaries first, and the assurance that nothing happened."""
    import shlex

    if mode != WRITE_ONLY:
        first = [_by_hand(work.first.path, name) for name in work.first.plan.tickets] if work.first else []
        print("\n".join(map(shlex.join, [call.command for call in calls] or [*first, *commands.values()])))
    print("dry run: nothing was written or submitted")
    return 0


def ask_slurm_first(work: Work, calls: Sequence[submit.Call], options: SlurmOptions) -> None:
    """What sbatch would refuse is refused before anything is written, in its words; else when it starts, limits, hours.
    """
    from src.submission import costs, limits, slurm

    slurm.require()
    for start in submit.try_all(calls, options):
        print(f"starts     {start}, says Slurm")
    asked = [(sum(call.tasks for call in alike), submit.requested(alike[0], options)) for alike in submit.kinds(calls)]
    total = sum(number for number, _ in asked)
    if limit := limits.tightest(asked[0][1], total):
        print(f"limit      {limit.line(total)}")
    cpus, gpus = costs.cpus_and_gpus(asked[0][1])
    slots = options.shape["slots"] if options.shape["workers"] else 1
    todo = [spec for name, spec in zip(work.names, work.specs, strict=True) if name in work.plan.tickets]
    for line in (costs.at_most(asked), costs.probably(todo, os.path.dirname(work.path), cpus / slots, gpus / slots)):
        if line:
            print(f"costs      {line}")


def confirm(work: Work, mode: str, options: argparse.Namespace) -> None:
    """Ask, unless -y; a batch that is to be removed is asked for by its name. BatchError if the answer is no."""
    if options.yes:
        return
    if work.overwrites:
        name = os.path.basename(work.overwrites)
        question, wanted = f"Type {name} to remove it with all its results: ", [name]
    else:
        doing = {SLURM: "Submit", LOCAL: "Run", WRITE_ONLY: "Write"}[mode]
        question, wanted = f"{doing} {count(len(work.plan.tickets), 'run')}? [y/N] ", ["y", "yes"]
    if show.ask(question).lower() not in (word.lower() for word in wanted):
        raise BatchError("stopped: nothing was written or submitted", hint=f"the answer was not {' or '.join(wanted)}")


def plan_record(work: Work, mode: str, slurm_options: SlurmOptions | None, submission: Submission | None,
                options: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """What the journal keeps of a plan: its tickets, and all that repeats this submission."""
    details: dict[str, Any] = {
        "project": PROJECT, "script": slurm_options.script, "sbatch": dict(slurm_options.batch),
        "shape": dict(slurm_options.shape),
        "command_line": dict(slurm_options.command_line)} if slurm_options else {}
    if submission:
        details["units"] = submission.units
    if (wanted := wants_canaries(options, work)) or options.canary is not None:
        details["canary"] = wanted
    if work.first:
        details["canaries"] = work.first.record(submission.tickets if submission else work.plan.tickets)
    identity = work.history.first_plan().get("identity") if work.history.plans else work.identity
    return {"mode": mode, "tickets": submission.tickets if submission else work.plan.tickets,
            "argv": list(argv), "identity": identity, **details}


def write(work: Work, token: str, record: dict[str, Any], submission: Submission | None,
          slurm_options: SlurmOptions | None) -> Journal:
    """Make the batch with its plan in it, or the run folders that it lacks and then the plan; then the task files."""
    if work.overwrites:
        observation, = observe([work.overwrites])  # things may have changed while we asked
        refuse_if_alive(observation, "overwrite this batch")
    texts = grid.spec_texts(work.specs)

    def write_plan(folder: str) -> None:
        if slurm_options and slurm_options.text:
            files.write_atomic(os.path.join(folder, run_folder.SUBMISSIONS, token + run_folder.SCRIPT_SUFFIX),
                               slurm_options.text)
        if work.first and work.first.plan.tickets:
            from src.submission import canary

            canary.write(work.first, folder, token, record["mode"])
        Journal(folder, token).plan(**record)

    if not work.new:
        batch.mend_specs(work.path, work.names, texts)
        write_plan(work.path)
    elif not batch.write(work.path, work.job_text, work.names, texts, write_plan, work.overwrites):
        raise BatchError("another process made this batch a moment ago", where=work.path,
                         hint="the same command again continues it")
    for path, listed in (submission.tasks if submission else {}).items():
        tasks.write(path, listed)
    return Journal(work.path, token)


def start(work: Work, mode: str, slurm_options: SlurmOptions | None, book: Journal,
          submission: Submission | None, options: argparse.Namespace) -> int:
    """Submit to Slurm or run here, what the journal says."""
    try:
        if mode == LOCAL:
            return run_here(work, book.token, options)
        if mode == SLURM and submission and slurm_options:
            return run_on_slurm(work, book, submission, slurm_options, options)
        print(f"wrote {count(len(work.names), 'run folder')} in {work.path}")
        way = ("--local",) if options.local else () if slurm_options else ("-s", "SCRIPT")
        print(next_steps((retry_command(work.path, *way), "runs them" if options.local else "submits them")))
        return 0
    finally:
        book.ended()


def run_on_slurm(work: Work, book: Journal, submission: Submission, slurm_options: SlurmOptions,
                 options: argparse.Namespace) -> int:
    """The calls of sbatch, and what to type next. 0 if all were submitted, 3 at --max-queued, 130 after Ctrl-C."""
    from src.submission import limits
    from src.submission.breaker import Breaker

    jobs: list[str] = []
    again, number = retry_command(work.path), len(submission.calls)
    waits = None
    room = limits.Room(work.path, options.max_queued, options.wait)
    breaker = Breaker(work.path, options.max_failures)
    try:
        if work.first:
            from src.submission import canary

            waits = canary.Waits(work.first)
            waits.submit(canary.submission_of(work.first, slurm_options, book.token, PROJECT), again, room)
        with show.Progress(number, "submitted") as progress:
            for job in submit.submit_all(submission, book, again, room, breaker, waits):
                jobs.append(job)
                progress.step()
    except KeyboardInterrupt:
        total = count(number, "Slurm job")
        print(f"\nstopped; {len(jobs)} of {total} submitted, and they stay submitted")
        print(next_steps((again, "submits the rest"),
                         (to_type("python", "experiments.py", "cancel", work.path), "cancels what was submitted")))
        return 130
    except limits.Full:
        print(f"{len(jobs)} of {count(number, 'Slurm job')} submitted: {options.max_queued} of this "
              "batch are queued, as --max-queued allows; the same command goes on, --wait does so by itself")
        return 3
    if waits and waits.held:
        raise BatchError(f"{len(waits.held)} of {count(number, 'Slurm job')} not submitted, {waits.held[0]} first: the "
                         "canary has failed meanwhile", where=work.path, hint=f"`{again}` tries it again; `"
                         f"{to_type('python', 'experiments.py', 'status', work.path)}` says why it failed")
    if waits and waits.submitted:
        print(f"canaries: Slurm job{'s' if len(waits.submitted) > 1 else ''} {', '.join(waits.submitted)}")
    span = jobs[0] if len(jobs) == 1 else f"{jobs[0]} to {jobs[-1]}"
    print(f"submitted {count(len(submission.tickets), 'run')}: Slurm job{'s' if len(jobs) > 1 else ''} {span}")
    print(next_steps(("squeue --me", "what Slurm has queued and running"),
                     (to_type("python", "experiments.py", "status", work.path), "how far each run is"),
                     (retry_command(work.path), "submits again what failed")))
    return 0


def run_here(work: Work, token: str, options: argparse.Namespace) -> int:
    """Run the plan by local workers, with one progress bar. 0 if all runs ended, 1 if one failed, 130 after Ctrl-C."""
    from src.submission import local
    from src.submission.breaker import Breaker

    pinned: list[str] = []
    if options.gpus:
        from src.submission import gpus

        pinned, busy = gpus.choose(options.gpus)
        print("\n".join([*busy, f"GPUs       {', '.join(pinned)}"]))

    def on_end(name: str, code: int) -> None:
        progress.step(failed=code != 0)
        breaker.ended(name)

    progress: show.Progress

    def run(path: str, tickets: dict[str, int], noun: str, told: Callable[[str, int], None]) -> bool:
        nonlocal progress
        with show.Progress(len(tickets), noun) as progress:
            return local.run(path, token, tickets, workers(options, work), os.path.join(PROJECT, "train.py"), told,
                             options.slots or 1, pinned)

    breaker = Breaker(work.path, options.max_failures)
    log = os.path.join(work.path, run_folder.SUBMISSIONS, f"{token}.workers.log")
    again = retry_command(work.path, "--local")
    finished, held = True, []
    if work.first and work.first.plan.tickets:
        from src.submission import canary

        finished = run(work.first.path, work.first.plan.tickets, "canaries",
                       lambda _, code: progress.step(failed=code != 0))
        held = canary.leave_out_held(work.first, work.plan) if finished else []
        print("".join(f"{line}\n" for line in held), end="")
        if finished and not work.plan.tickets:
            raise BatchError("no run was begun: every canary failed", where=work.path,
                             hint=f"when that is mended, `{again}` tries them again")
    finished = finished and run(work.path, work.plan.tickets, "runs", on_end)
    if not finished:
        print("stopped; what was finished is kept")
        print(next_steps((again, "goes on")))
        return 130
    return max(tell_how_it_ended(work, log, again), int(bool(held)))


def tell_how_it_ended(work: Work, log: str, again: str) -> int:
    """What the runs of a local batch have come to, and what to type next. 0 if all ended, 1 if not.

    log: what the workers printed; again: the command that goes on. BatchError if some runs never began.
    """
    observation, = observe([work.path])
    left = {name: state for name in work.plan.tickets
            if (state := observation.runs[name].state.name) not in states.ENDED_WELL}
    untouched = [name for name, state in left.items() if state in (states.NEW, states.PENDING)]
    failed = [name for name, state in left.items() if state not in (states.RUNNING, states.UNKNOWN)]
    if untouched:
        raise BatchError(f"the workers ended before {count(len(untouched), 'run')} began", where=log,
                         hint=f"read that file; then `{again}`")
    steps = [(to_type("python", "experiments.py", "status", work.path), "shows each run"),
             (to_type("python", "experiments.py", "report", work.path), "makes a page with pictures")]
    if failed:
        print(f"{count(len(failed), 'run')} failed")
        steps = [(to_type("python", "experiments.py", "logs", os.path.join(work.path, failed[0])), "says why"),
                 (again, "runs what failed again"), *steps]
    if len(left) > len(failed):
        print(f"{count(len(left) - len(failed), 'run')} still running in other processes")
    print(next_steps(*steps))
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
