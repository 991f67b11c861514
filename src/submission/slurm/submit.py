"""From a plan to calls of sbatch: one per run, arrays, or workers; each step in the journal before it is taken."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from src import run_folder
from src.errors import BatchError, JobSpecError
from src.io import yaml_io
from src.submission.batch import task_files
from src.submission.batch.journal import ARRAY, ONE_EACH, WORKERS, Journal, Units, job_comment
from src.submission.batch.task_files import Tasks, WorkerGroup
from src.submission.slurm import client

if TYPE_CHECKING:
    from src.submission.slurm.circuit_breaker import CircuitBreaker
    from src.submission.slurm.queue_limits import QueueLimiter


@dataclass(frozen=True)
class SlurmOptions:
    """How runs go to Slurm: the submit script and sbatch options, from the command line over the point over the batch.

    batch: job_details.sbatch; command_line: --sbatch; shape: array, max_running, workers and slots, as asked for; text:
    of a script that is made from resources and written with the batch; added: of this submission alone, not kept for a
    retry, `exclude` and `dependency` beside what is asked for anyway; waits: the dependency of single runs, by name.
    """

    script: str
    batch: Mapping[str, Any] = field(default_factory=dict)
    command_line: Mapping[str, Any] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)
    script_text: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    dependencies: Mapping[str, str] = field(default_factory=dict)
    _listed: dict[str, dict[str, str]] = field(default_factory=dict, compare=False, repr=False)

    def script_of(self, spec: Mapping[str, Any]) -> str:
        """The absolute path of a grid point's script."""
        return check_script(spec["SCRIPT"]) if spec.get("SCRIPT") else self.script

    def resolve(self, spec: Mapping[str, Any], name: str = "") -> tuple[str, list[str]]:
        """The script and the sbatch options of a grid point, of the run `name`. JobSpecError if one cannot be used."""
        merged = {**self.batch, **(spec.get("SBATCH") or {}), **self.command_line}
        script = self.script_of(spec)
        added = dict(self.extra)
        if wait := self.dependencies.get(name):
            added |= {"dependency": ",".join(filter(None, (added.get("dependency"), wait))),
                      "kill-on-invalid-dep": "yes"}
        return script, client.option_arguments({**merged, **self._in_front(added, merged, script)}, "sbatch options")

    def _in_front(self, added: Mapping[str, str], asked: Mapping[str, Any], script: str) -> dict[str, str]:
        """The added options, with the lists that were asked for already in front."""
        if not added:
            return {}
        if script not in self._listed:
            self._listed[script] = self._lists_of(script)
        in_script = self._listed[script]
        return {key: value if key == "kill-on-invalid-dep" else ",".join(
            str(part) for part in (asked.get(key, in_script.get(key)), value) if part)
            for key, value in added.items()}

    def _lists_of(self, script: str) -> dict[str, str]:
        """What a script's directives ask for, by the long names of those options that take lists."""
        made = self.script_text if script == self.script else None
        directives = [line.lstrip("-").replace("=", " ", 1).split(None, 1) for line in client.script_directives(
            made or yaml_io.read_user_file(script))]
        return {"exclude" if words[0] == "x" else "dependency" if words[0] == "d" else words[0]: words[1].strip()
                for words in directives if len(words) == 2}


@dataclass(frozen=True)
class SbatchCall:
    """One call of sbatch. label: what messages name; ticket: of the only run that it may run, if it is one;
    tasks: of an array.
    """

    label: str
    command: list[str]
    comment: str
    ticket: int | None = None
    tasks: int = 1


@dataclass(frozen=True)
class Submission:
    """Calls of sbatch that submit a plan; call u is unit u of the journal. tasks: the task files that they name."""

    tickets: dict[str, int]
    units: Units
    calls: list[SbatchCall]
    tasks: dict[str, Tasks] = field(default_factory=dict)

    def commands(self) -> dict[str, list[str]]:
        """The call that submits each run; of several workers, the first."""
        return {name: self.calls[self.units.unit_of(position)].command for position, name in enumerate(self.tickets)}


@dataclass(frozen=True)
class SubmissionContext:
    """Where a submission happens: the batch's absolute path, the submission's token, the project's folder."""

    batch: str
    token: str
    project: str

    def path_of(self, name: str) -> str:
        return os.path.join(self.batch, run_folder.SUBMISSIONS, name)


def plan_single_jobs(tickets: Mapping[str, int], specs: Mapping[str, Mapping[str, Any]], options: SlurmOptions,
             place: SubmissionContext) -> Submission:
    """A Slurm job for each run, with the run's name, and its output in the run's folder."""
    calls = []
    for unit, (name, ticket) in enumerate(tickets.items()):
        folder = os.path.join(place.batch, name)
        script, words = options.resolve(specs[name], name)
        tag = job_comment(place.token, unit)
        calls.append(SbatchCall(name, client.sbatch_command(
            name, os.path.join(folder, run_folder.slurm_log_name("%j")), tag, words, script,
            os.path.join(folder, run_folder.SPEC), place.project), tag, ticket))
    return Submission(dict(tickets), Units(ONE_EACH), calls)


def plan_arrays(tickets: Mapping[str, int], specs: Mapping[str, Mapping[str, Any]], options: SlurmOptions,
                place: SubmissionContext, size: int, running: int | None) -> Submission:
    """Job arrays of at most `size` runs, each for runs that ask for the same; at most `running` tasks run at a time."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in tickets:
        script, words = options.resolve(specs[name], name)
        groups.setdefault((script, *words), []).append(name)
    calls: list[SbatchCall] = []
    bounds, tasks = [0], {}
    for (script, *words), names in groups.items():
        for start in range(0, len(names), size):
            chunk = names[start:start + size]
            tag = job_comment(place.token, len(calls))
            path = place.path_of(f"{place.token}.{len(calls)}{run_folder.TASKS_SUFFIX}")
            span = f"--array=0-{len(chunk) - 1}{f'%{running}' if running else ''}"
            calls.append(SbatchCall(f"array {len(calls)} ({len(chunk)} runs)", client.sbatch_command(
                os.path.basename(place.batch), place.path_of("%A.out"), tag,
                [span, "--open-mode=append", *words], script, path, place.project), tag, tasks=len(chunk)))
            tasks[path] = Tasks(task_files.ARRAY, place.batch, {name: tickets[name] for name in chunk})
            bounds.append(bounds[-1] + len(chunk))
    ordered = {name: tickets[name] for names in groups.values() for name in names}
    return Submission(ordered, Units(ARRAY, bounds), calls, tasks)


def plan_workers(teams: Sequence[WorkerGroup], specs: Mapping[str, Mapping[str, Any]], options: SlurmOptions,
                 place: SubmissionContext, slots: int, canaries: Mapping[str, str]) -> Submission:
    """Slurm jobs that share the runs of their team, `slots` at a time each. JobSpecError if runs of one team ask for
    different jobs.

    canaries: by run, the one that a worker looks at before it takes the run.
    """
    calls: list[SbatchCall] = []
    tickets: dict[str, int] = {}
    bounds, tasks = [], {}
    for number, team in enumerate(teams):
        asked = {(script, *words) for script, words in (options.resolve(specs[name], name) for name in team.tickets)}
        if len(asked) > 1:
            raise JobSpecError("workers share their Slurm jobs, and the points of this grid ask for different ones "
                               "(SBATCH or SCRIPT)", where=f"workers of {team.name}" if team.name else "--workers",
                               hint="use --array, or leave both out: one job per run")
        (script, *words), = asked
        path = place.path_of(task_files.file_name(place.token, number, len(teams)))
        begin, first = len(tickets), len(calls)
        tickets |= team.tickets
        for unit in range(first, first + team.workers):
            tag = job_comment(place.token, unit)
            calls.append(SbatchCall(f"worker {unit}", client.sbatch_command(
                f"{os.path.basename(place.batch)}-worker", place.path_of(run_folder.slurm_log_name("%j")), tag,
                words, script, path, place.project), tag))
            bounds += [begin, len(tickets)]
        tasks[path] = Tasks(
            task_files.WORKER, place.batch, team.tickets, slots=slots,
            canaries={name: canaries[name] for name in team.tickets if name in canaries},
            # the dependency is met when a worker starts
            command=[word for word in calls[first].command if not word.startswith("--dependency=")])
    return Submission(tickets, Units(WORKERS, bounds if len(teams) > 1 else []), calls, tasks)


def script_of_plan(plan: Mapping[str, Any], batch: str) -> str | None:
    """The submit script of an earlier plan; one that was made from resources moves with its batch."""
    script = plan.get("script")
    kept = os.path.join(batch, run_folder.SUBMISSIONS, os.path.basename(script or ""))
    return kept if script and os.path.isfile(kept) else script


def check_script(path: str) -> str:
    """The absolute path of a submit script. JobSpecError unless sbatch will take it for one."""
    text = yaml_io.read_user_file(path)
    if not text.startswith("#!"):
        raise JobSpecError("sbatch takes only scripts that name their interpreter", where=f"{path}, line 1",
                           hint="begin it with the line `#!/bin/bash`")
    if "\r\n" in text:
        raise JobSpecError("the script has DOS line breaks, which sbatch refuses", where=path,
                           hint=f"`sed -i 's/\\r$//' {path}` mends it")
    return os.path.abspath(path)


_UNLIKE = ("--job-name=", "--output=", "--comment=", "--array=")  # what differs between jobs that ask for the same


def group_by_options(calls: Sequence[SbatchCall]) -> list[list[SbatchCall]]:
    """The calls, those together that ask for the same."""
    found: dict[tuple[str, ...], list[SbatchCall]] = {}
    for call in calls:
        found.setdefault(tuple(word for word in call.command[:-1] if not word.startswith(_UNLIKE)), []).append(call)
    return list(found.values())


def requested_options(call: SbatchCall, options: SlurmOptions) -> dict[str, str]:
    """What the Slurm job of a call asks for, by the long names of options: its script's directives, then its words."""
    from src.submission.slurm import costs

    *words, script, _ = call.command
    made = options.script_text if script == options.script else None
    return costs.requested(made or yaml_io.read_user_file(script), words[1:])


def validate_calls(calls: Sequence[SbatchCall], options: SlurmOptions) -> list[str]:
    """Have sbatch try each set of options once, without a job: a line for each, of when it would start.

    SlurmError in sbatch's words if it refuses one for good.
    """
    lines = []
    alike = group_by_options(calls)
    for call, *others in alike:
        try:
            start = client.validate(call.command, options.script_text if call.command[-2] == options.script else None)
        except client.SbatchError as refusal:
            from src.submission.slurm import sbatch_errors

            raise sbatch_errors.explain(refusal, call.label, "give the same command again; nothing was written or "
                                        "submitted") from None
        if start:
            which = f" ({call.label}{f' and {len(others)} more' if others else ''})" if len(alike) > 1 else ""
            lines.append(start.replace("T", " ") + which)
    return lines


def submit_all(submission: Submission, journal: Journal, again: str, room: QueueLimiter, breaker: CircuitBreaker,
               resolve_command: Callable[[SbatchCall], list[str] | None] | None = None) -> Iterator[str]:
    """Call sbatch for each unit, in order, when there is room, and give the Slurm job ids one by one.

    again: the command that continues after a failure; resolve_command: returns the command of a call with the Slurm
    job ids of the canaries that it depends on, None if it must not be submitted.
    SlurmError, with the message of sbatch and the number of submitted jobs, as soon as one is refused for good;
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
            if room.acquire(call.tasks):
                command = resolve_command(call) if resolve_command else call.command
                if command is None:
                    break
                job = _submit(unit, replace(call, command=command), journal, room, where, again)
        if job is None:
            continue
        for name in submission.units.runs(unit, names):
            breaker.add(name, submission.tickets[name], job)
        yield job


def _submit(unit: int, call: SbatchCall, journal: Journal, room: QueueLimiter, where: str, again: str) -> str | None:
    """The id of the unit's Slurm job; None if a limit of the cluster was reached and waited for."""
    journal.record_sending(unit)
    try:
        job = client.submit_with_retries(call.command, call.ticket, call.comment)
    except client.SbatchError as refusal:
        if refusal.kind != "ambiguous":
            journal.record_refusal(unit, refusal.message)
        if refusal.kind == "limit" and room.should_wait:
            room.back_off()
            return None
        from src.submission.slurm import sbatch_errors

        raise sbatch_errors.explain(refusal, where, f"`{again}` goes on where it stopped") from None
    journal.record_job(unit, job)
    room.submitted(call.tasks)
    return job


def read_specs(batch: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The specs of runs that are on disk, by name."""
    return {name: run_folder.read_spec(os.path.join(batch, name, run_folder.SPEC)) for name in names}
