"""Expands a job spec into a grid of run folders and submits each run: to Slurm, or to workers on this machine."""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from src import run_folder
from src.errors import BatchError, exits_on_user_error
from src.io import files, yaml_io
from src.submission.batch import journal, task_files
from src.submission.batch.journal import LOCAL, SLURM, WRITE_ONLY
from src.submission.planning import preview
from src.submission.planning.command_line import parse
from src.submission.planning.modes import (
    canary_calls,
    choose_way,
    local_teams,
    put_canaries_first,
    slurm_submission,
    wants_canaries,
    wants_container,
    wants_messages,
    wants_snapshot,
)
from src.submission.planning.planner import plan_grid, plan_retry
from src.submission.planning.work import Work
from src.submission.slurm import submit
from src.submission.slurm.submit import SlurmOptions, Submission
from src.submission.spec import reader
from src.submission.spec.job_spec import JobSpec
from src.submission.system import terminal
from src.submission.system.terminal import count

PROJECT = os.path.dirname(os.path.abspath(__file__))


@exits_on_user_error
def main(argv: Sequence[str]) -> int:
    """Read, expand, validate, plan, show, confirm, write, submit. A dry run stops before it writes."""
    options = parse(argv, __doc__)
    if options.on:
        from src.submission.remote import remote_submit  # ssh and rsync

        if (code := remote_submit.submit(options, argv, PROJECT)) is not None:
            return code
    spec = None if options.retry else reader.read_job_spec(options.path)
    work = plan_retry(options, PROJECT) if spec is None else plan_grid(spec, options, PROJECT)
    token = journal.new_token()
    mode, slurm_options = choose_way(options, spec, work, token)
    slurm_options = complete(work, spec, options, mode, slurm_options, token)
    submission = (slurm_submission(work, slurm_options, token, options.max_queued)
                  if slurm_options and work.plan.tickets else None)
    commands = submission.commands() if submission else local_commands(work)
    if options.json:
        return print_json(work, commands, contained(work, slurm_options, submission))
    show_plan(work, mode, slurm_options, options)
    if options.dry_run:
        return print_dry_run(work, canary_calls(work, slurm_options, token) + (submission.calls if submission else []),
                             commands, mode, contained(work, slurm_options, submission))
    if not work.plan.tickets and not work.extension:
        print("nothing to submit")
        return 0
    if mode == SLURM and submission and slurm_options:
        ask_slurm_first(work, submission, slurm_options, token)
    else:
        submission = None  # what is written now is submitted later, with another plan
    if options.smoke:
        smoke_first(work)
    confirm(work, mode, options)
    with files.report_os_errors(work.path, "when that is mended, give the same command again: nothing is lost"):
        from src.submission.planning import execute  # a dry run does without

        record = execute.plan_record(work, token, mode, slurm_options, submission, options, argv)
        book = execute.write(work, token, record, submission, slurm_options)
        return execute.start(work, mode, slurm_options, book, submission, options)


def complete(work: Work, spec: JobSpec | None, options: argparse.Namespace, mode: str,
             slurm_options: SlurmOptions | None, token: str) -> SlurmOptions | None:
    """What goes with the runs, as far as it is asked for: a container, the state of the code, messages, a snapshot,
    and canaries, for which the options of the others are changed."""
    work.container = wants_container(options, spec, work, mode, slurm_options)
    if options.require_clean or not options.dry_run:
        from src.submission.batch import provenance  # a dry run does without: git takes its time

        work.code = provenance.inspect_code(PROJECT)
        if options.require_clean:
            work.code.require_clean()
    work.notify = wants_messages(spec, work)
    if work.notify and not options.dry_run:
        work.notify.addresses()  # that there are none is told before anything is written
    if wants_snapshot(options, spec, work):
        work.snapshot = os.path.join(os.path.abspath(work.path), run_folder.CODE, token, run_folder.SNAPSHOT)
    if mode != WRITE_ONLY and wants_canaries(options, work):
        return put_canaries_first(work, slurm_options, options)
    return slurm_options


def smoke_first(work: Work) -> None:
    """A batch of each distinct model and data set, here. BatchError if one fails, or if the program is not ours."""
    from src.submission.planning import smoke

    specs = dict(zip(work.names, work.specs, strict=True))
    chosen = [specs[name] for name in work.plan.tickets]
    if any("COMMAND" in spec for spec in chosen):
        raise BatchError("--smoke knows train.py alone, and this batch runs a program of its own", where=work.path)
    for line in smoke.run(chosen, work.project, work.container):
        print(line, flush=True)


def local_commands(work: Work) -> dict[str, list[str]]:
    """What runs each run by hand; local workers do the same without starting Python for each."""
    return {name: _by_hand(work.path, name) for name in work.plan.tickets}


def _by_hand(folder: str, name: str) -> list[str]:
    return [sys.executable, "train.py", os.path.join(folder, name, run_folder.SPEC)]


def contained(work: Work, slurm_options: SlurmOptions | None, submission: submit.Submission | None) -> list[str]:
    """The command that starts the first of the runs, or workers, in its container; none without one."""
    if work.container is None or not work.plan.tickets:
        return []
    from src.submission.job import container

    batch = os.path.abspath(work.path)
    path, gpus = os.path.join(batch, next(iter(work.plan.tickets)), run_folder.SPEC), container.may_use_gpus(os.environ)
    if submission and slurm_options:
        from src.submission.slurm import costs

        call = submission.calls[0]
        path, gpus = call.command[-1], costs.cpus_and_gpus(submit.requested_options(call, slurm_options))[1] > 0
    return container.preview_command(work.container, batch, work.start_in, path, gpus)


def print_json(work: Work, commands: dict[str, list[str]], inside: list[str]) -> int:
    """One JSON object per run that would be submitted. inside: the command in a container of the first."""
    import json

    by_name = dict(zip(work.names, work.specs, strict=True))
    for name, command in commands.items():
        print(json.dumps({"name": name, "folder": os.path.join(work.path, name), "spec": by_name[name],
                          "command": command, **({"container": inside} if inside else {})}))
    return 0


def show_plan(work: Work, mode: str, slurm_options: SlurmOptions | None, options: argparse.Namespace) -> None:
    """The grid, where it goes, and with what."""
    print("\n".join(work.lines))
    print(f"batch      {work.path}")
    if work.code:
        print(f"code       {work.code.line()}{', runs start from a snapshot' if work.snapshot else ''}")
    if slurm_options:
        script = os.path.relpath(slurm_options.script)
        text = slurm_options.script_text or yaml_io.read_user_file(slurm_options.script)
        extra = {**slurm_options.batch, **slurm_options.command_line}
        print(f"resources  {preview.resources(script, text, [f'--{key}={value}' for key, value in extra.items()])}")
        for line in preview.point_options(work.specs):
            print(f"           {line}")
        if slurm_options.script_text and options.dry_run:
            print("".join(f"    {line}\n" for line in slurm_options.script_text.splitlines()), end="")
    if work.container:
        from src.submission.job import container

        print(f"container  {container.summary(work.container)}")
    if mode == LOCAL and work.plan.tickets:
        print(f"workers    {preview.workers(local_teams(options, work))} on this machine")
    elif slurm_options and slurm_options.shape["workers"] and work.plan.tickets:
        specs = dict(zip(work.names, work.specs, strict=True))
        teams = task_files.worker_groups(work.plan.tickets, specs, slurm_options.shape["workers"])
        print(f"workers    {preview.workers(teams)}")
    print(work.plan.summary())


def print_dry_run(work: Work, calls: Sequence[submit.SbatchCall], commands: dict[str, list[str]], mode: str,
                  inside: list[str]) -> int:
    """The exact commands, those of canaries first, and the assurance that nothing happened. inside: as print_json."""
    import shlex

    if mode != WRITE_ONLY:
        first = [_by_hand(work.first.path, name) for name in work.first.plan.tickets] if work.first else []
        print("\n".join(map(shlex.join, [call.command for call in calls] or [*first, *commands.values()])))
    if inside:
        print(f"which starts, in its container (the first of them):\n{shlex.join(inside)}")
    print("dry run: nothing was written or submitted")
    return 0


def ask_slurm_first(work: Work, submission: Submission, options: SlurmOptions, token: str) -> None:
    """What sbatch would refuse is refused before anything is written, in its words; else when it starts, limits, hours.
    """
    from src.submission.slurm import client, costs, queue_limits

    calls: Sequence[submit.SbatchCall] = submission.calls
    if work.first:
        from src.submission.planning import canary

        calls = canary.to_try(canary_calls(work, options, token) + submission.calls)
    client.require_sbatch()
    for start in submit.validate_calls(calls, options):
        print(f"starts     {start}, says Slurm")
    asked = [(sum(call.tasks for call in alike), submit.requested_options(alike[0], options))
             for alike in submit.group_by_options(calls)]
    total = sum(number for number, _ in asked)
    if limit := queue_limits.tightest(asked[0][1], total):
        print(f"limit      {limit.line(total)}")
    cpus, gpus = costs.cpus_and_gpus(asked[0][1])
    slots = options.shape["slots"] if options.shape["workers"] else 1
    todo = [spec for name, spec in zip(work.names, work.specs, strict=True) if name in work.plan.tickets]
    for line in (costs.upper_bound(asked),
                 costs.estimate(todo, os.path.dirname(work.path), cpus / slots, gpus / slots)):
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
        runs = f"{doing} {count(len(work.plan.tickets), 'run')}"
        question = f"{runs if work.plan.tickets else 'Keep the job spec as it is now'}? [y/N] "
        wanted = ["y", "yes"]
    if terminal.ask(question).lower() not in (word.lower() for word in wanted):
        raise BatchError("stopped: nothing was written or submitted", hint=f"the answer was not {' or '.join(wanted)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
