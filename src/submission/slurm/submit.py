"""Plan and make the calls of sbatch: one per run, job arrays or workers; each step is journalled before it is made."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from src import run_folder
from src.errors import BatchError, JobSpecError
from src.frozen import Frozen, field
from src.io import yaml_io
from src.submission.batch import batch_folder, task_files
from src.submission.batch.journal import ARRAY, ONE_EACH, WORKERS, Journal, Units, job_comment
from src.submission.batch.task_files import NO_STACKS, Stacks, Tasks, WorkerGroup
from src.submission.slurm import client, directives, sbatch_messages, script_options
from src.submission.slurm.sizes import NO_SIZE, Size, smaller_request
from src.submission.spec.job_spec import AUTO

if TYPE_CHECKING:
    from src.submission.slurm.circuit_breaker import CircuitBreaker
    from src.submission.slurm.queue_limits import QueueLimiter

_KILL_ON_INVALID_DEPENDENCY = "kill-on-invalid-dep"
# options that differ between jobs with the same resources
_OPTIONS_OF_ONE_JOB = ("--job-name=", "--output=", "--comment=", "--array=")


class SlurmOptions(Frozen):
    """The submit script and the options of sbatch.

    The command line overrides the grid point, which overrides the batch, which overrides the environment, which
    overrides the script.

    script: absolute path;
    batch: job_details.sbatch;
    command_line: --sbatch;
    shape: array, max_running, workers, slots and, if runs are stacked, stack, as requested;
    script_text: of a script that is generated from resources and not written yet;
    extra: `exclude` and `dependency` of this submission alone, which a retry does not repeat; they are appended to the
        values that are requested otherwise;
    dependencies: of single runs, by name;
    environment: SBATCH_* variables, as options;
    sizes: what runs need, by usage_history.key_of: their jobs request no more than that, with a margin, except for the
        options of the command line.
    """

    script: str
    batch: Mapping[str, Any] = field(default_factory=dict)
    command_line: Mapping[str, Any] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)
    script_text: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    dependencies: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Size] = field(default_factory=dict)

    @property
    def by_workers(self) -> bool:
        """Whether Slurm jobs run task files: workers that share runs, or one job for each stack."""
        return bool(self.shape.get("workers") or self.shape.get("stack"))

    def script_of(self, spec: Mapping[str, Any]) -> str:
        """Return the absolute path of a grid point's script."""
        return check_script(spec["SCRIPT"]) if spec.get("SCRIPT") else self.script

    def text_of(self, script: str) -> str:
        """Return the text of a script, also if it is not written yet. A file is read once."""
        if script not in self._texts:
            self._texts[script] = self.unwritten_text(script) or yaml_io.read_user_file(script)
        return self._texts[script]

    def unwritten_text(self, script: str) -> str | None:
        """Return the text of a script that is not written yet; None for a file that exists."""
        return self.script_text if script == self.script else None

    def resolve(self, spec: Mapping[str, Any], name: str = "") -> tuple[str, list[str]]:
        """Return the script and the sbatch options of the run `name`. JobSpecError if an option is invalid."""
        script, of_point = self.script_of(spec), spec.get("SBATCH") or {}
        size = self._size_of(spec) if self.sizes else NO_SIZE
        key = script, repr(of_point), size
        if key not in self._checked:  # most points of a grid request the same
            self._checked[key] = self._check(script, of_point, size)
        options = self._checked[key]
        if extra := self._extra_of(name):
            options = options | _append(extra, {**directives.effective(self.text_of(script)), **options})
        return script, client.option_arguments(options, "sbatch options")

    def _size_of(self, spec: Mapping[str, Any]) -> Size:
        from src.submission.batch import usage_history  # few submissions have sizes

        return self.sizes.get(usage_history.key_of(spec), NO_SIZE)

    def _check(self, script: str, of_point: Mapping[str, Any], size: Size) -> dict[str, Any]:
        """Return the options beside those of a script. JobSpecError if they contradict it."""
        options = {str(key).replace("_", "-"): value
                   for layer in (self.environment, self.batch, of_point, self.command_line)
                   for key, value in layer.items()}
        script_options.check(os.path.relpath(script), self.text_of(script), options,
                             is_generated=self.unwritten_text(script) is not None)
        if size != NO_SIZE:
            fixed = [str(key).replace("_", "-") for key in self.command_line]
            options |= smaller_request(size, {**directives.effective(self.text_of(script)), **options}, fixed)
        if "signal" not in options and (signal := script_options.scaled_signal(
                self.text_of(script), str(options.get("time") or ""))):
            options["signal"] = signal
        return options

    @cached_property
    def _checked(self) -> dict[tuple[str, str, Size], dict[str, Any]]:
        return {}

    def _extra_of(self, name: str) -> dict[str, str]:
        """The extra options of a run."""
        extra = dict(self.extra)
        if dependency := self.dependencies.get(name):
            extra["dependency"] = ",".join(filter(None, (extra.get("dependency"), dependency)))
            extra[_KILL_ON_INVALID_DEPENDENCY] = "yes"
        return extra

    @cached_property
    def _texts(self) -> dict[str, str]:
        return {}


def _append(extra: Mapping[str, str], requested: Mapping[str, Any]) -> dict[str, str]:
    """Append each extra value to the list that is requested for the same option."""
    return {name: value if name == _KILL_ON_INVALID_DEPENDENCY or not requested.get(name) else
            f"{requested[name]},{value}" for name, value in extra.items()}


class SbatchCall(NamedTuple):
    """One call of sbatch.

    label: its name in messages;
    comment: identifies its Slurm job in the queue;
    ticket: of the run, if it can run only one;
    tasks: number of array tasks, 1 outside arrays.
    """

    label: str
    command: list[str]
    comment: str
    ticket: int | None = None
    tasks: int = 1


class Submission(NamedTuple):
    """The calls of sbatch that submit a plan; call u is unit u of the journal. tasks: the task files that they name."""

    tickets: dict[str, int]
    units: Units
    calls: list[SbatchCall]
    tasks: Mapping[str, Tasks] = {}

    def commands(self) -> dict[str, list[str]]:
        """Return the command that submits each run; the first one if several workers share it."""
        return {name: self.calls[self.units.unit_of(position)].command for position, name in enumerate(self.tickets)}


class SubmissionContext(NamedTuple):
    """The context of a submission: the batch's absolute path, the token of its journal, the project's folder."""

    batch: str
    token: str
    project: str

    def path_of(self, name: str) -> str:
        """Return the path of a file in the batch's submissions folder."""
        return os.path.join(self.batch, run_folder.SUBMISSIONS, name)

    def job_name(self, suffix: str = "") -> str:
        """Return the name of Slurm jobs that run several runs: the batch's name, then its date.

        The date comes last since squeue prints the first 8 characters only.
        """
        date, name = batch_folder.split_name(os.path.basename(self.batch))
        return f"{name}{suffix}{f'-{date[:-1]}' if date else ''}"


def plan_single_jobs(tickets: Mapping[str, int], specs: Mapping[str, Mapping[str, Any]], options: SlurmOptions,
                     context: SubmissionContext) -> Submission:
    """Plan one Slurm job per run, with the run's name, and its output in the run's folder."""
    calls = []
    for unit, (name, ticket) in enumerate(tickets.items()):
        folder = os.path.join(context.batch, name)
        script, arguments = options.resolve(specs[name], name)
        comment = job_comment(context.token, unit)
        calls.append(SbatchCall(name, client.sbatch_command(
            name, os.path.join(folder, run_folder.slurm_log_name("%j")), comment, arguments, script,
            os.path.join(folder, run_folder.SPEC), context.project), comment, ticket))
    return Submission(dict(tickets), Units(ONE_EACH), calls)


def plan_arrays(tickets: Mapping[str, int], specs: Mapping[str, Mapping[str, Any]], options: SlurmOptions,
                context: SubmissionContext, size: int, max_running: int | None) -> Submission:
    """Plan job arrays of at most `size` runs with the same options each; at most `max_running` tasks run at a time."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in tickets:
        script, arguments = options.resolve(specs[name], name)
        groups.setdefault((script, *arguments), []).append(name)
    calls: list[SbatchCall] = []
    bounds, tasks = [0], {}
    for (script, *arguments), names in groups.items():
        for start in range(0, len(names), size):
            chunk = names[start:start + size]
            comment = job_comment(context.token, len(calls))
            path = context.path_of(f"{context.token}.{len(calls)}{run_folder.TASKS_SUFFIX}")
            indices = f"--array=0-{len(chunk) - 1}{f'%{max_running}' if max_running else ''}"
            calls.append(SbatchCall(f"array {len(calls)} ({len(chunk)} runs)", client.sbatch_command(
                context.job_name(), context.path_of("%A.out"), comment,
                [indices, "--open-mode=append", *arguments], script, path, context.project), comment, tasks=len(chunk)))
            tasks[path] = Tasks(task_files.ARRAY, context.batch, {name: tickets[name] for name in chunk})
            bounds.append(bounds[-1] + len(chunk))
    ordered = {name: tickets[name] for names in groups.values() for name in names}
    return Submission(ordered, Units(ARRAY, bounds), calls, tasks)


def plan_workers(groups: Sequence[WorkerGroup], specs: Mapping[str, Mapping[str, Any]], options: SlurmOptions,
                 context: SubmissionContext, slots: int | str, canaries: Mapping[str, str],
                 stacks: Stacks = NO_STACKS, is_search: bool = False) -> Submission:
    """Plan Slurm jobs that share the runs of their group, `slots` at a time each, or as many as they find out (AUTO).

    canaries: the canary of each run that has one; a worker checks it before it starts the run.
    stacks: the runs that are trained at once. is_search: the workers also start further trials of a search.
    JobSpecError if runs of one group request different jobs.
    """
    calls: list[SbatchCall] = []
    tickets: dict[str, int] = {}
    bounds, tasks = [], {}
    kind = "worker" if options.shape.get("workers") or not options.shape.get("stack") else "stack"
    divided = stacks.divide(group.tickets for group in groups)
    for number, (group, positions) in enumerate(zip(groups, divided, strict=True)):
        script, arguments = _common_options(group, specs, options)
        path = context.path_of(task_files.file_name(context.token, number, len(groups)))
        begin, first = len(tickets), len(calls)
        tickets |= group.tickets
        for unit in range(first, first + group.workers):
            comment = job_comment(context.token, unit)
            calls.append(SbatchCall(f"{kind} {unit}", client.sbatch_command(
                context.job_name(f"-{kind}"), context.path_of(run_folder.slurm_log_name("%j")), comment,
                arguments, script, path, context.project), comment))
            bounds += [begin, len(tickets)]
        tasks[path] = Tasks(
            task_files.WORKER, context.batch, group.tickets,
            slots=task_files.fixed_slots(slots), is_auto=slots == AUTO,
            canaries={name: canaries[name] for name in group.tickets if name in canaries},
            stacks=positions, stack_size=stacks.size, is_search=is_search,
            # the dependency is met when a worker starts
            command=[word for word in calls[first].command if not word.startswith("--dependency=")])
    return Submission(tickets, Units(WORKERS, bounds if len(groups) > 1 else []), calls, tasks)


def _common_options(group: WorkerGroup, specs: Mapping[str, Mapping[str, Any]],
                    options: SlurmOptions) -> tuple[str, list[str]]:
    """The script and the options that all runs of a group share. JobSpecError if they differ."""
    # a search may be continued without a run that is known yet
    resolved = [options.resolve(specs[name], name) for name in group.tickets] or [options.resolve({})]
    if any(other != resolved[0] for other in resolved):
        raise JobSpecError("workers share their Slurm jobs, but points of this grid request different ones (SBATCH or "
                           "SCRIPT)", where=f"workers of {group.name}" if group.name else "--workers",
                           hint="use --array, or neither: one job per run")
    return resolved[0]


def script_of_plan(plan: Mapping[str, Any], batch: str) -> str | None:
    """Return the submit script of an earlier plan; a generated one moves with its batch."""
    script = plan.get("script")
    generated = os.path.join(batch, run_folder.SUBMISSIONS, os.path.basename(script or ""))
    return generated if script and os.path.isfile(generated) else script


def check_script(path: str) -> str:
    """Return the absolute path of a submit script. JobSpecError if sbatch would reject it as a script."""
    text = yaml_io.read_user_file(path)
    if not text.startswith("#!"):
        raise JobSpecError("the script does not name its interpreter, which sbatch requires", where=f"{path}, line 1",
                           hint="begin it with the line `#!/bin/bash`")
    if "\r\n" in text:
        raise JobSpecError("the script has DOS line breaks, which sbatch rejects", where=path,
                           hint=f"`sed -i 's/\\r$//' {path}` converts it")
    return os.path.abspath(path)


def group_by_options(calls: Sequence[SbatchCall]) -> list[list[SbatchCall]]:
    """Group the calls whose Slurm jobs have the same script and options."""
    groups: dict[tuple[str, ...], list[SbatchCall]] = {}
    for call in calls:
        key = tuple(word for word in call.command[:-1] if not word.startswith(_OPTIONS_OF_ONE_JOB))
        groups.setdefault(key, []).append(call)
    return list(groups.values())


def requested_options(call: SbatchCall, options: SlurmOptions) -> dict[str, str]:
    """Return the options of a call's Slurm job, of its script and of its command, by long name."""
    _, *arguments, script, _ = call.command
    return directives.effective(options.text_of(script), arguments)


def validate_calls(calls: Sequence[SbatchCall], options: SlurmOptions) -> list[str]:
    """Check each distinct set of options once with sbatch, without submitting. Return lines for the plan: each expected
    start, and warnings about jobs that Slurm queues but cannot plan now.

    SlurmError, with the message of sbatch, if it would never accept one.
    """
    lines = []
    groups = group_by_options(calls)
    for call, *others in groups:
        try:
            validation = client.validate(call.command, options.unwritten_text(call.command[-2]))
        except client.SbatchError as error:
            from src.submission.slurm import sbatch_errors

            raise sbatch_errors.explain(error, call.label, "run the same command again; nothing was written or "
                                        "submitted") from None
        runs = f" ({call.label}{f' and {len(others)} more' if others else ''})" if len(groups) > 1 else ""
        if validation.start:
            lines.append(f"starts     {validation.start.replace('T', ' ')}{runs} (Slurm's estimate)")
        if validation.warning:
            lines.append(f"warning    no start is known yet{runs}: {validation.warning}")
    return lines


def submit_all(submission: Submission, journal: Journal, resume_command: str, limiter: QueueLimiter,
               breaker: CircuitBreaker, resolve_command: Callable[[SbatchCall], list[str] | None] | None = None,
               ) -> Iterator[str]:
    """Call sbatch for each unit, in order, as soon as there is room. Yield the Slurm job ids.

    resume_command: continues after an error;
    resolve_command: returns the command of a call with the Slurm job ids of the canaries that it depends on, None if it
        must not be submitted.
    SlurmError, with the message of sbatch and the number of submitted jobs, after an error that cannot be retried;
    BatchError if the breaker trips; QueueFull if there is no room.
    """
    names = list(submission.tickets)
    for unit, call in enumerate(submission.calls):
        where = f"{unit} of {len(submission.calls)} submitted, stopped at {call.label}"
        job = None
        while job is None:
            try:
                breaker.check()
            except BatchError as error:
                raise error.at(where) from None
            if limiter.acquire(call.tasks):
                command = resolve_command(call) if resolve_command else call.command
                if command is None:
                    break
                job = _submit(unit, call._replace(command=command), journal, limiter, where, resume_command)
        if job is None:
            continue
        for name in submission.units.runs(unit, names):
            breaker.add(name, submission.tickets[name], job)
        yield job


def _submit(unit: int, call: SbatchCall, journal: Journal, limiter: QueueLimiter, where: str,
            resume_command: str) -> str | None:
    """Submit a unit. Return the id of its Slurm job; None after waiting because a limit of the cluster was reached."""
    try:
        job = call_sbatch(unit, call, journal)
    except client.SbatchError as error:
        if error.kind == sbatch_messages.LIMIT and limiter.should_wait:
            limiter.back_off()
            return None
        from src.submission.slurm import sbatch_errors

        raise sbatch_errors.explain(error, where, f"`{resume_command}` continues where it stopped") from None
    limiter.submitted(call.tasks)
    return job


def call_sbatch(unit: int, call: SbatchCall, journal: Journal) -> str:
    """Submit a unit, and record that with the answer. Return the id of its Slurm job. SbatchError if it is refused."""
    journal.record_sending(unit, client.target_clusters(call.command))
    try:
        job = client.submit_with_retries(call.command, call.ticket, call.comment)
    except client.SbatchError as error:
        if error.kind != sbatch_messages.AMBIGUOUS:
            journal.record_refusal(unit, error.message)
        raise
    journal.record_job(unit, job)
    return job


def read_specs(batch: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the specs of runs that are on disk, by name."""
    return {name: run_folder.read_spec(os.path.join(batch, name, run_folder.SPEC)) for name in names}
