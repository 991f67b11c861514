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
from src.submission.batch.journal import ARRAY, ONE_EACH, WORKERS, Journal, Units, comment
from src.submission.batch.task_files import Tasks, Team
from src.submission.slurm import client

if TYPE_CHECKING:
    from src.submission.slurm.circuit_breaker import Breaker
    from src.submission.slurm.queue_limits import Room


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
    text: str | None = None
    added: Mapping[str, str] = field(default_factory=dict)
    waits: Mapping[str, str] = field(default_factory=dict)
    _listed: dict[str, dict[str, str]] = field(default_factory=dict, compare=False, repr=False)

    def script_of(self, spec: Mapping[str, Any]) -> str:
        """The absolute path of a grid point's script."""
        return check_script(spec["SCRIPT"]) if spec.get("SCRIPT") else self.script

    def of(self, spec: Mapping[str, Any], name: str = "") -> tuple[str, list[str]]:
        """The script and the sbatch options of a grid point, of the run `name`. JobSpecError if one cannot be used."""
        merged = {**self.batch, **(spec.get("SBATCH") or {}), **self.command_line}
        script = self.script_of(spec)
        added = dict(self.added)
        if wait := self.waits.get(name):
            added |= {"dependency": ",".join(filter(None, (added.get("dependency"), wait))),
                      "kill-on-invalid-dep": "yes"}
        return script, client.option_list({**merged, **self._in_front(added, merged, script)}, "sbatch options")

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
        made = self.text if script == self.script else None
        directives = [line.lstrip("-").replace("=", " ", 1).split(None, 1) for line in client.script_directives(
            made or yaml_io.read_user_file(script))]
        return {"exclude" if words[0] == "x" else "dependency" if words[0] == "d" else words[0]: words[1].strip()
                for words in directives if len(words) == 2}


@dataclass(frozen=True)
class Call:
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
    calls: list[Call]
    tasks: dict[str, Tasks] = field(default_factory=dict)

    def commands(self) -> dict[str, list[str]]:
        """The call that submits each run; of several workers, the first."""
        return {name: self.calls[self.units.unit_of(position)].command for position, name in enumerate(self.tickets)}


@dataclass(frozen=True)
class Place:
    """Where a submission happens: the batch's absolute path, the submission's token, the project's folder."""

    batch: str
    token: str
    project: str

    def submissions(self, name: str) -> str:
        return os.path.join(self.batch, run_folder.SUBMISSIONS, name)


def one_each(tickets: Mapping[str, int], specs: Mapping[str, Mapping[str, Any]], options: SlurmOptions,
             place: Place) -> Submission:
    """A Slurm job for each run, with the run's name, and its output in the run's folder."""
    calls = []
    for unit, (name, ticket) in enumerate(tickets.items()):
        folder = os.path.join(place.batch, name)
        script, words = options.of(specs[name], name)
        tag = comment(place.token, unit)
        calls.append(Call(name, client.sbatch_command(
            name, os.path.join(folder, run_folder.slurm_log_name("%j")), tag, words, script,
            os.path.join(folder, run_folder.SPEC), place.project), tag, ticket))
    return Submission(dict(tickets), Units(ONE_EACH), calls)


def arrays(tickets: Mapping[str, int], specs: Mapping[str, Mapping[str, Any]], options: SlurmOptions, place: Place,
           size: int, running: int | None) -> Submission:
    """Job arrays of at most `size` runs, each for runs that ask for the same; at most `running` tasks run at a time."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in tickets:
        script, words = options.of(specs[name], name)
        groups.setdefault((script, *words), []).append(name)
    calls: list[Call] = []
    bounds, tasks = [0], {}
    for (script, *words), names in groups.items():
        for start in range(0, len(names), size):
            chunk = names[start:start + size]
            tag = comment(place.token, len(calls))
            path = place.submissions(f"{place.token}.{len(calls)}{run_folder.TASKS_SUFFIX}")
            span = f"--array=0-{len(chunk) - 1}{f'%{running}' if running else ''}"
            calls.append(Call(f"array {len(calls)} ({len(chunk)} runs)", client.sbatch_command(
                os.path.basename(place.batch), place.submissions("%A.out"), tag,
                [span, "--open-mode=append", *words], script, path, place.project), tag, tasks=len(chunk)))
            tasks[path] = Tasks(task_files.ARRAY, place.batch, {name: tickets[name] for name in chunk})
            bounds.append(bounds[-1] + len(chunk))
    ordered = {name: tickets[name] for names in groups.values() for name in names}
    return Submission(ordered, Units(ARRAY, bounds), calls, tasks)


def workers(teams: Sequence[Team], specs: Mapping[str, Mapping[str, Any]], options: SlurmOptions, place: Place,
            slots: int, canaries: Mapping[str, str]) -> Submission:
    """Slurm jobs that share the runs of their team, `slots` at a time each. JobSpecError if runs of one team ask for
    different jobs.

    canaries: by run, the one that a worker looks at before it takes the run.
    """
    calls: list[Call] = []
    tickets: dict[str, int] = {}
    bounds, tasks = [], {}
    for number, team in enumerate(teams):
        asked = {(script, *words) for script, words in (options.of(specs[name], name) for name in team.tickets)}
        if len(asked) > 1:
            raise JobSpecError("workers share their Slurm jobs, and the points of this grid ask for different ones "
                               "(SBATCH or SCRIPT)", where=f"workers of {team.name}" if team.name else "--workers",
                               hint="use --array, or leave both out: one job per run")
        (script, *words), = asked
        path = place.submissions(task_files.name(place.token, number, len(teams)))
        begin, first = len(tickets), len(calls)
        tickets |= team.tickets
        for unit in range(first, first + team.workers):
            tag = comment(place.token, unit)
            calls.append(Call(f"worker {unit}", client.sbatch_command(
                f"{os.path.basename(place.batch)}-worker", place.submissions(run_folder.slurm_log_name("%j")), tag,
                words, script, path, place.project), tag))
            bounds += [begin, len(tickets)]
        tasks[path] = Tasks(
            task_files.WORKER, place.batch, team.tickets, slots=slots,
            canaries={name: canaries[name] for name in team.tickets if name in canaries},
            # the dependency is met when a worker starts
            command=[word for word in calls[first].command if not word.startswith("--dependency=")])
    return Submission(tickets, Units(WORKERS, bounds if len(teams) > 1 else []), calls, tasks)


def earlier_script(plan: Mapping[str, Any], batch: str) -> str | None:
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


def kinds(calls: Sequence[Call]) -> list[list[Call]]:
    """The calls, those together that ask for the same."""
    found: dict[tuple[str, ...], list[Call]] = {}
    for call in calls:
        found.setdefault(tuple(word for word in call.command[:-1] if not word.startswith(_UNLIKE)), []).append(call)
    return list(found.values())


def requested(call: Call, options: SlurmOptions) -> dict[str, str]:
    """What the Slurm job of a call asks for, by the long names of options: its script's directives, then its words."""
    from src.submission.slurm import costs

    *words, script, _ = call.command
    made = options.text if script == options.script else None
    return costs.requested(made or yaml_io.read_user_file(script), words[1:])


def try_all(calls: Sequence[Call], options: SlurmOptions) -> list[str]:
    """Have sbatch try each set of options once, without a job: a line for each, of when it would start.

    SlurmError in sbatch's words if it refuses one for good.
    """
    lines = []
    alike = kinds(calls)
    for call, *others in alike:
        try:
            start = client.try_out(call.command, options.text if call.command[-2] == options.script else None)
        except client.Refusal as refusal:
            from src.submission.slurm import sbatch_errors

            raise sbatch_errors.explain(refusal, call.label, "give the same command again; nothing was written or "
                                        "submitted") from None
        if start:
            which = f" ({call.label}{f' and {len(others)} more' if others else ''})" if len(alike) > 1 else ""
            lines.append(start.replace("T", " ") + which)
    return lines


def submit_all(submission: Submission, journal: Journal, again: str, room: Room, breaker: Breaker,
               fill_in: Callable[[Call], list[str] | None] | None = None) -> Iterator[str]:
    """Call sbatch for each unit, in order, when there is room, and give the Slurm job ids one by one.

    again: the command that continues after a failure; fill_in: returns the command of a call with the Slurm job ids of
    the canaries that it depends on, None if it must not be submitted. SlurmError, with sbatch's message and the number
    of submitted jobs, as soon as one is refused for good; BatchError if the breaker trips; Full if there is no room.
    """
    names = list(submission.tickets)
    for unit, call in enumerate(submission.calls):
        where = f"{unit} of {len(submission.calls)} submitted, stopped at {call.label}"
        job = None
        while job is None:
            try:
                breaker.look()
            except BatchError as error:
                raise error.at(where) from None
            if room.enter(call.tasks):
                command = fill_in(call) if fill_in else call.command
                if command is None:
                    break
                job = _submit(unit, replace(call, command=command), journal, room, where, again)
        if job is None:
            continue
        for name in submission.units.runs(unit, names):
            breaker.submitted(name, submission.tickets[name], job)
        yield job


def _submit(unit: int, call: Call, journal: Journal, room: Room, where: str, again: str) -> str | None:
    """The id of the unit's Slurm job; None if a limit of the cluster was reached and waited for."""
    journal.sending(unit)
    try:
        job = client.submit_patiently(call.command, call.ticket, call.comment)
    except client.Refusal as refusal:
        if refusal.kind != "ambiguous":
            journal.refused(unit, refusal.words)
        if refusal.kind == "limit" and room.wait:
            room.pause()
            return None
        from src.submission.slurm import sbatch_errors

        raise sbatch_errors.explain(refusal, where, f"`{again}` goes on where it stopped") from None
    journal.accepted(unit, job)
    room.entered(call.tasks)
    return job


def read_specs(batch: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The specs of runs that are on disk, by name."""
    return {name: run_folder.read_spec(os.path.join(batch, name, run_folder.SPEC)) for name in names}
