"""Canaries, an epoch of each distinct script, model and data set: which ones a submission needs; submits them first."""
from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from src import config, run_folder
from src.errors import BatchError, JobSpecError, shell_command
from src.submission.batch import claims
from src.submission.batch.batch_folder import repair_specs
from src.submission.batch.journal import COMMENT_PREFIX, Journal
from src.submission.planning.plan import Plan, not_made, plan_next
from src.submission.slurm.circuit_breaker import CircuitBreaker
from src.submission.slurm.submit import (
    SbatchCall,
    SlurmOptions,
    Submission,
    SubmissionContext,
    plan_single_jobs,
    submit_all,
)
from src.submission.spec.grid import spec_texts
from src.submission.status import retry_policy, states
from src.submission.status.canary_results import canary_folder, explain_failure
from src.submission.status.observation import Run
from src.submission.status.observe import observe
from src.submission.status.retry_policy import CANARY_FAILED
from src.submission.system.terminal import count

if TYPE_CHECKING:
    from src.submission.slurm.queue_limits import QueueLimiter

JOB_OF = "JOB_OF_"  # in a command: the Slurm job of the canary named after it, once it is known
HELD = "held back by a canary"  # in Plan.kept: runs that are not submitted
_LISTED = 6  # canaries in a line

_DROPPED = (*config.BOOKKEEPING, "WORKERS", "output_dir", "log_to_stdout", "save_freq", "save_best_checkpoint")
_JOB = re.compile(rf":{JOB_OF}([\w.+-]+)")


@dataclass
class Canaries:
    """The canaries that the runs of one submission wait for.

    of: the canary of each run that waits for one; tickets: of these canaries; plan: those that are submitted now;
    specs: theirs, by name; jobs: of those that are pending or running already, with a colon between several.
    """

    batch: str
    of: dict[str, str] = field(default_factory=dict)
    tickets: dict[str, int] = field(default_factory=dict)
    plan: Plan = field(default_factory=lambda: Plan({}, {}))
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return canary_folder(self.batch)

    def record(self, tickets: Iterable[str]) -> dict[str, list[int]]:
        """For the journal: by canary, the positions among `tickets` of the runs that wait for it."""
        found: dict[str, list[int]] = {}
        for position, name in enumerate(tickets):
            if name in self.of:
                found.setdefault(self.of[name], []).append(position)
        return found

    def dependencies(self, names: Iterable[str], shared: bool) -> dict[str, str]:
        """By run, what sbatch's --dependency is given. shared: by workers, which look at each canary themselves: where
        there are several they start when all have ended, however that was."""
        first = list(dict.fromkeys(self.of.values()))
        if not shared:
            return {name: f"afterok:{JOB_OF}{self.of[name]}" for name in names if name in self.of}
        how = "afterok" if len(first) == 1 and set(names) <= self.of.keys() else "afterany"
        return dict.fromkeys(names, how + "".join(f":{JOB_OF}{name}" for name in first)) if first else {}


def kind(spec: Mapping[str, Any]) -> tuple[str, str]:
    """Model and data set of a grid point, defaults filled in."""
    model, dataset = (str(spec.get(key, config.FIELDS[key].default)) for key in ("model", "dataset"))
    return model, dataset


def name_of(script: str | None, spec: Mapping[str, Any], batch: str) -> str:
    """The folder of the canary of a grid point: always the same one for the same script, model and data set.

    script: the absolute path of its submit script, None without Slurm. All scripts that are made from resources, one
    for each submission, count as one.
    """
    word = script or "local"
    if os.path.dirname(word) == os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS):
        word = "resources"
    parts = (word, *kind(spec))
    shown = (os.path.splitext(os.path.basename(word))[0], *parts[1:])
    text = "+".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part).lstrip(".-") for part in shown)
    # two that differ in what a name cannot show differ in the hash
    return f"{text[:150]}-{zlib.crc32(chr(0).join(parts).encode('utf-8', 'surrogateescape')):08x}"


def spec_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The grid point cut to one epoch that leaves nothing but its run folder. 0 epochs stay 0: it evaluates only."""
    kept = {key: value for key, value in spec.items() if key not in _DROPPED and key not in config.WATCHING}
    if kept.get("train_length") == 0:
        return kept
    return {**kept, "train_length": 1, "train_length_unit": "epoch"}


def plan_canaries(batch: str, plan: Plan, canary_of: Mapping[str, tuple[str, dict[str, Any]]],
                  known: Mapping[str, Run], again: bool, local: bool) -> tuple[Canaries, list[str]]:
    """Which canaries are submitted, which are waited for, and a line for each; runs that are held back leave `plan`.

    canary_of: by run, the name of its canary and its spec; known: the canaries that there are; again: those that failed
    are tried again, as by -r. BatchError if a canary must be waited for by other means, or nothing is left to submit.
    """
    groups: dict[str, list[str]] = {}
    for run in plan.tickets:
        groups.setdefault(canary_of[run][0], []).append(run)
    found = Canaries(batch, {run: canary_of[run][0] for run in plan.tickets})
    lines, open_runs = [], {}
    shown = _shown({name: canary_of[runs[0]][1] for name, runs in groups.items()})
    for name, runs in groups.items():
        there = known.get(name)
        first = not_made(found.path, name, there) if there is None or there.folder is None else there
        state = first.state
        if state.name in retry_policy.ENDED_WELL:
            for run in runs:
                del found.of[run]
        elif state.name in retry_policy.CANARY_RESTARTED or again and state.name in retry_policy.RETRIED:
            open_runs[name] = first
            found.specs[name] = spec_of(canary_of[runs[0]][1])
        elif state.name in CANARY_FAILED:
            lines.append(f"canary     {shown[name]}: {explain_failure(first)}; {count(len(runs), 'run')} held back, "
                         f"`{_retry(batch)}` tries it again")
            for run in runs:
                del found.of[run], plan.tickets[run]
            plan.kept.setdefault(HELD, []).extend(runs)
        elif state.slurm_job and state.name in (states.PENDING, states.RUNNING) and not local:
            found.jobs[name] = ":".join(first.slurm_jobs or (state.slurm_job,))
            found.tickets[name] = first.ticket
            lines.append(f"canary     {shown[name]}: {state.name}, Slurm job {found.jobs[name]}")
        else:
            raise BatchError(f"its canary is {state.name}{f' ({state.why})' if state.why else ''}", where=first.path,
                             hint=_when(batch, state.name))
    found.plan = plan_next(open_runs, retry_policy.RETRIED)
    found.tickets |= found.plan.tickets
    if kinds := [shown[name] for name in open_runs]:
        more = f" and {len(kinds) - _LISTED} more" if len(kinds) > _LISTED else ""
        lines.insert(0, f"canary     {count(len(kinds), 'run')} of one epoch first: "
                     f"{', '.join(kinds[:_LISTED])}{more}")
    if not plan.tickets and plan.kept.get(HELD):
        raise BatchError(f"nothing is submitted: {lines[0].removeprefix('canary').strip()}", where=batch)
    return found, lines


def _shown(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """`linear on sklearn/digits`, of canaries by name; those that differ in their script alone with its name."""
    told = {name: " on ".join(kind(spec)) for name, spec in specs.items()}
    numbers = Counter(told.values())
    return {name: f"{text} ({name.partition('+')[0]})" if numbers[text] > 1 else text for name, text in told.items()}


def _retry(batch: str) -> str:
    return shell_command("python", "submit_multiple.py", "-r", batch)


def _when(batch: str, state: str) -> str:
    if state == states.STUCK:
        cancel = shell_command("python", "experiments.py", "cancel", batch)
        return f"`{cancel}`, then `{_retry(batch)}` with options that fit"
    return "give the same command again when it has ended, or --no-canary"


class Waits:
    """Fills in the Slurm jobs of canaries when sbatch is called, which may be hours after theirs were submitted."""

    def __init__(self, canaries: Canaries) -> None:
        self.canaries = canaries
        self.jobs = dict(canaries.jobs)  # by canary
        self.submitted: list[str] = []  # Slurm jobs
        self._over: dict[str, bool] = {}  # canaries that have ended: whether well
        self.held: list[str] = []  # labels of the calls that were left out

    def submit(self, submission: Submission, again: str, room: QueueLimiter) -> None:
        """Call sbatch for the canaries. SlurmError, limits.Full and KeyboardInterrupt as from submit_all."""
        if not submission.calls:
            return
        place = self.canaries.path
        book = Journal(place, submission.calls[0].comment.removeprefix(COMMENT_PREFIX).rpartition("-")[0])
        try:
            jobs = submit_all(submission, book, again, room, CircuitBreaker(place, 0))
            for name, job in zip(submission.tickets, jobs, strict=True):
                self.jobs[name] = job
                self.submitted.append(job)
        finally:
            book.record_end()

    def filled_in(self, call: SbatchCall) -> list[str] | None:
        """The call's command with Slurm jobs in the place of canaries; None if none of its runs may run any more.

        Slurm may have forgotten a job that has ended, so such a canary's own files say how it ended.
        """
        names = {name for word in _dependencies(call.command) for name in _JOB.findall(word)}
        ended = {name: how for name in names if (how := self._ended(name)) is not None}
        if names and len(ended) == len(names) and not any(ended.values()):
            self.held.append(call.label)
            return None
        return fill_in(call.command, {name: job for name, job in self.jobs.items() if name not in ended})

    def _ended(self, name: str) -> bool | None:
        """Whether a canary has ended well; None before it has ended, or if Slurm may start it again."""
        if name not in self._over:
            try:
                run = run_folder.RunFolder.read(os.path.join(self.canaries.path, name))
            except FileNotFoundError:
                return None
            failed = claims.how_ended(run, self.canaries.tickets.get(name)) == states.FAILED
            if run.ended is None and not failed:
                return None
            self._over[name] = run.ended is not None
        return self._over[name]


def _dependencies(command: Iterable[str]) -> list[str]:
    return [word for word in command if word.startswith("--dependency=")]


def fill_in(command: list[str], jobs: Mapping[str, str]) -> list[str]:
    """A call of sbatch with the Slurm jobs of its canaries; a canary without one is not waited for."""
    if not _dependencies(command):
        return command
    filled = []
    for word in command:
        if word.startswith("--dependency="):
            parts = [_JOB.sub(lambda match: f":{jobs[match[1]]}" if match[1] in jobs else "", part)
                     for part in word.removeprefix("--dependency=").split(",")]
            parts = [part for part in parts if part not in ("afterok", "afterany")]
            if parts:
                filled.append(f"--dependency={','.join(parts)}")
        else:
            filled.append(word)
    return filled


def to_try(calls: Iterable[SbatchCall]) -> list[SbatchCall]:
    """The calls without canaries, for `sbatch --test-only`: there are no jobs yet that could be waited for."""
    return [replace(call, command=[word for word in fill_in(call.command, {}) if word != "--kill-on-invalid-dep=yes"])
            for call in calls]


def of_submission(batch: str, plan: Plan, points: Mapping[str, dict[str, Any]], options: SlurmOptions | None,
                  known: Mapping[str, Run], again: bool) -> tuple[Canaries, list[str], SlurmOptions | None]:
    """The canaries of a submission, what is shown of them, and options by which the runs wait for them.

    points: the specs of the runs; options: None for local workers; known, again: as for plan_canaries. JobSpecError for
    a program with epochs of its own.
    """
    canary_of = {}
    for run in plan.tickets:
        if "COMMAND" in points[run]:
            raise JobSpecError("a canary trains one epoch, and `command` is a program with a length of its own",
                               where="--canary", hint="leave it out; --max-runs 1 submits the first run alone")
        script = options.script_of(points[run]) if options else None
        canary_of[run] = name_of(script, points[run], batch), points[run]
    found, lines = plan_canaries(batch, plan, canary_of, known, again, local=options is None)
    if options:
        options = replace(options, dependencies=found.dependencies(plan.tickets, shared=bool(options.shape["workers"])))
    return found, lines, options


def submission_of(canaries: Canaries, options: SlurmOptions, token: str, project: str) -> Submission:
    """A Slurm job for each canary that is to be submitted."""
    place = SubmissionContext(os.path.abspath(canaries.path), token_of(token), project)
    return plan_single_jobs(canaries.plan.tickets, canaries.specs, replace(options, dependencies={}), place)


def token_of(token: str) -> str:
    """The canaries' journal is one of its own: Slurm's comments tell its jobs from those of the runs."""
    return f"{token}-canary"


def write(canaries: Canaries, batch: str, token: str, mode: str, container: Mapping[str, Any] | None) -> None:
    """The canaries' run folders and their plan, in the batch (or what will be it). container: that of its runs."""
    path = canary_folder(batch)
    os.makedirs(os.path.join(path, run_folder.SUBMISSIONS), exist_ok=True)
    names = list(canaries.plan.tickets)
    repair_specs(path, names, spec_texts([canaries.specs[name] for name in names]))
    Journal(path, token_of(token)).record_plan(mode, canaries.plan.tickets, container=container)


def leave_out_held(canaries: Canaries, plan: Plan) -> list[str]:
    """After local canaries: runs whose canary has not ended well leave `plan`; a line for each such canary."""
    observation, = observe([canaries.path])
    lines = []
    for name, first in observation.runs.items():
        held = [run for run in plan.tickets if canaries.of.get(run) == name]
        if held and first.state.name not in retry_policy.ENDED_WELL:
            lines.append(f"{count(len(held), 'run')} held back, {explain_failure(first)}")
            for run in held:
                del plan.tickets[run]
    return lines
