"""The preview of a submission: the grid, the batch, resources, workers, and the commands of a dry run."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from src.errors import retry_command
from src.io import slurm_environment
from src.submission.batch.journal import LOCAL, WRITE_ONLY
from src.submission.batch.task_files import WorkerGroup
from src.submission.planning import sbatch_calls
from src.submission.slurm import directives, script_options
from src.submission.spec.job_spec import AUTO
from src.submission.spec.naming import format_value
from src.submission.status import retry_policy
from src.submission.system.terminal import count, table

if TYPE_CHECKING:
    from src.submission.planning.command_line import Options
    from src.submission.planning.submission_plan import LaunchSettings, SubmissionPlan
    from src.submission.slurm.submit import SlurmOptions, Submission

_MAX_WIDTH = 88  # characters of a row of values
# options of every submit script, which say nothing about resources
_NO_RESOURCES = ("requeue", "open-mode", "signal", "output", "error", "job-name")


def grid_lines(specs: Sequence[Mapping[str, Any]], axes: Sequence[tuple[str, int]], varying: Sequence[str],
               names: Sequence[str]) -> list[str]:
    """Describe a grid: its size, a table of the varying parameters, and the first and last run names."""
    product = " x ".join(f"{number} {key}" for key, number in axes)
    lines = [f"{count(len(specs), 'run')}{f': {product}' if product else ''}"]
    lines += subtest_lines(specs)
    rows = [(key, f"{len(values)}", _abbreviated(values, _MAX_WIDTH)) for key in varying
            for values in [list(dict.fromkeys(_cell(spec[key]) for spec in specs if key in spec))]]
    lines += table(rows, indent="  ")
    if names:
        lines.append(f"first run  {names[0]}")
    if len(names) > 1:
        lines.append(f"last run   {names[-1]}")
    return lines


def subtest_lines(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line with the number of runs of each subtest of a composite; a shared run counts for each subtest."""
    numbers = Counter(name for spec in specs if "SUBTESTS" in spec for name in spec["SUBTESTS"])
    return table([("subtest", name, count(number, "run")) for name, number in numbers.items()], indent="  ")


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}'" if "," in value else value
    return format_value(value)


def _abbreviated(values: Sequence[str], width: int) -> str:
    """Join values with commas; if that is too wide, as many as fit, two thirds from the start, one from the end."""
    text = ", ".join(values)
    if len(text) <= width:
        return text
    values = [value if len(value) <= width // 2 - 3 else f"{value[:width // 2 - 4]}…" for value in values]
    for number in range(min(len(values), width), 1, -1):
        last = number // 3
        text = ", ".join([*values[:number - last], *["…"] * (number < len(values)), *values[len(values) - last:]])
        if len(text) <= width:
            break
    return text


def print_plan(plan: SubmissionPlan, launch: LaunchSettings, options: Options) -> None:
    """Print the grid, the batch, and how its runs are started."""
    print("\n".join((*plan.lines, *launch.lines)))
    print(f"batch      {plan.batch}")
    if launch.code:
        print(f"code       {launch.code.line()}{', runs start from a snapshot' if launch.has_snapshot else ''}")
    if launch.slurm:
        _print_resources(plan, launch.slurm, options.dry_run)
    if launch.container:
        from src.submission.job import container

        print(f"container  {container.summary(launch.container)}")
    if program := _first_program(plan):
        print(f"runs       {program}")
    if launch.mode == LOCAL and plan.has_work:
        print(f"workers    {describe_workers(sbatch_calls.local_worker_groups(plan, options))} on this machine")
    elif launch.slurm and launch.slurm.shape["workers"] and plan.has_work:
        print(f"workers    {describe_workers(sbatch_calls.worker_groups(plan, launch.slurm.shape['workers']))}")
    if plan.has_work and AUTO in (options.slots, launch.slurm and launch.slurm.shape["slots"]):
        print("slots      auto: each worker starts one run, or as many as an earlier batch found, and adds others\n"
              "           while they fit and the rate of all of them rises by 5 %")
    if launch.stack_plan and plan.to_submit:
        print("\n".join(launch.stack_plan.lines()))
    if plan.search:
        from src.submission.searches import preview as search_preview  # few job specs are searches

        if line := search_preview.hours_line(plan.search, plan.batch):
            print(f"           {line}")
    print(plan.tickets.summary())


def _first_program(plan: SubmissionPlan) -> str:
    """Return the command line of the first run to submit, and its working directory; empty for train.py."""
    import shlex

    name = next((name for name in plan.to_submit if "COMMAND" in plan.points[name]), None)
    if name is None:
        return ""
    from src.submission.spec.command_template import CommandFailed

    try:
        command, cwd = _program(plan, name)
    except CommandFailed as error:
        return f"nothing: {error}"
    return shlex.join(command) + (f" in {cwd}" if cwd else "")


def _program(plan: SubmissionPlan, name: str) -> tuple[list[str], str | None]:
    """Return the command of a run of an external program, and its working directory, if not the project's.

    CommandFailed if an environment variable that the command names is not set.
    """
    from src.submission.job import external_program  # few batches have one

    return external_program.resolve_command(plan.points[name], os.path.abspath(os.path.join(plan.batch, name)))


def print_nothing_to_submit(plan: SubmissionPlan) -> None:
    """Print why nothing is submitted, and, if the same job spec was submitted again, how to run it anew."""
    print(f"nothing to submit: {plan.tickets.progress()}")
    if plan.grid_options is None or plan.is_new:
        return
    left_alone = plan.tickets.left_alone
    if retried := sum(len(left_alone.get(state, ())) for state in retry_policy.RETRIED):
        print(f"`{retry_command(plan.batch)}` submits {count(retried, 'run')} that did not end well")
    overwrite = ("" if retry_policy.MAYBE_ALIVE & left_alone.keys() else
                 "-o removes this batch and runs all of it again; ")
    print(f"to run it again: {overwrite}another job_details.name makes another batch")


def _print_resources(plan: SubmissionPlan, slurm: SlurmOptions, dry_run: bool) -> None:
    from src.io import yaml_io

    script_text = slurm.script_text or yaml_io.read_user_file(slurm.script)
    sources = {"job_details.sbatch": slurm.batch, "--sbatch": slurm.command_line}
    layers = [*((slurm_environment.sbatch_variable(option), {option: value})
                for option, value in slurm.environment.items()), *sources.items()]
    print(f"resources  {describe_resources(os.path.relpath(slurm.script), script_text, layers)}")
    specs = [plan.points[name] for name in plan.to_submit]
    for line in (*script_options.notes(script_text), *point_option_lines(plan.points.values()),
                 *_signal_lines(specs, slurm)):
        print(f"           {line}")
    if slurm.script_text and dry_run:
        print("".join(f"    {line}\n" for line in slurm.script_text.splitlines()), end="")


def describe_resources(script: str, script_text: str, layers: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Return `submit_2080.sh: partition owner (SBATCH_PARTITION), mem 8G`: what is requested, and where it comes from.

    layers: sources and their options, each overriding the earlier ones and the script, which is not named.
    """
    requested = {name: f"{name} {value}".strip() for name, value in directives.effective(script_text).items()}
    for source, options in layers:
        for key, value in options.items():
            name = str(key).replace("_", "-")
            if value is None or value is False:
                requested.pop(name, None)
            else:
                requested[name] = f"{name} ({source})" if value is True else f"{name} {value} ({source})"
    parts = ", ".join(text for name, text in requested.items() if name not in _NO_RESOURCES)
    return f"{script}: {parts or 'no directives'}"


def point_option_lines(specs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the options of single grid points, with the number of runs that have them: `12 runs: mem 16G`."""
    numbers: Counter[str] = Counter()
    for spec in specs:
        options = [f"without {key}" if value is None or value is False else f"{key} {value}"
                   for key, value in (spec.get("SBATCH") or {}).items()]
        if spec.get("SCRIPT"):
            options.append(f"script {spec['SCRIPT']}")
        if options:
            numbers[", ".join(options)] += 1
    return [f"{count(number, 'run')}: {options}" for options, number in numbers.items()]


def _signal_lines(specs: Iterable[Mapping[str, Any]], slurm: SlurmOptions) -> list[str]:
    """The lines about the signal before the time limit, of each distinct request."""
    requests = {(spec.get("SCRIPT"), repr(spec.get("SBATCH"))): spec for spec in specs}
    lines: dict[str, None] = {}
    for spec in requests.values():
        script, arguments = slurm.resolve(spec)
        text = slurm.text_of(script)
        lines |= dict.fromkeys(script_options.signal_notes(text, directives.effective(text, arguments),
                                                           is_external="COMMAND" in spec))
    return list(lines)


def describe_workers(groups: Sequence[WorkerGroup]) -> str:
    """Return `2 for adam small, 1 for sgd, 4 for the rest`, or `4`."""
    if len(groups) < 2 and not any(group.name for group in groups):
        return str(sum(group.workers for group in groups))
    return ", ".join(f"{group.workers} for {group.name.replace(',', ' ') or 'the rest'}" for group in groups)


def print_json(plan: SubmissionPlan, launch: LaunchSettings, submission: Submission | None) -> None:
    """Print one JSON object per run to submit."""
    import json

    commands = submission.commands() if submission else {
        name: sbatch_calls.local_command(plan.batch, name) for name in plan.to_submit}
    container_command = sbatch_calls.container_command(plan, launch, submission)
    stack_of = {name: number for number, stack in enumerate(launch.stacks.runs) for name in stack}
    for name, command in commands.items():
        print(json.dumps({"name": name, "folder": os.path.join(plan.batch, name), "spec": plan.points[name],
                          "command": command, **({"stack": stack_of[name]} if name in stack_of else {}),
                          **_program_document(plan, name),
                          **({"container": container_command} if container_command else {})}))


def _program_document(plan: SubmissionPlan, name: str) -> dict[str, Any]:
    """Return the command of a run of an external program for JSON; empty for train.py."""
    if "COMMAND" not in plan.points[name]:
        return {}
    from src.errors import JobSpecError
    from src.submission.spec.command_template import CommandFailed

    try:
        return {"program": _program(plan, name)[0]}
    except CommandFailed as error:
        raise JobSpecError(str(error), where="command") from None


def print_commands(plan: SubmissionPlan, launch: LaunchSettings, submission: Submission | None) -> None:
    """Print the exact commands of a dry run, those of canaries first."""
    import shlex

    if launch.mode != WRITE_ONLY:
        calls = [*sbatch_calls.canary_calls(launch), *(submission.calls if submission else [])]
        commands = [call.command for call in calls]
        if not commands:
            canaries = launch.canaries
            commands = [sbatch_calls.local_command(canaries.folder, name) for name in canaries.to_submit
                        ] if canaries else []
            commands += [sbatch_calls.local_command(plan.batch, name) for name in plan.to_submit]
        print("\n".join(map(shlex.join, commands)))
    if container_command := sbatch_calls.container_command(plan, launch, submission):
        print(f"in its container, the first of these starts:\n{shlex.join(container_command)}")
    print("dry run: nothing was written or submitted")
