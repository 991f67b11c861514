"""Canaries: one epoch of each distinct script, model and data set, which the runs of a submission wait for."""
from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from src import config, run_folder
from src.errors import BatchError, JobSpecError, experiments_command, listed, retry_command
from src.frozen import Frozen
from src.submission.planning.tickets import Tickets, new_run, next_tickets
from src.submission.slurm.submit import SlurmOptions, Submission, SubmissionContext, plan_single_jobs
from src.submission.spec.grammar import Spec
from src.submission.status import retry_policy, states
from src.submission.status.canary_results import explain_failure
from src.submission.status.observation import Run
from src.submission.system.terminal import count

JOB_PLACEHOLDER = "JOB_OF_"  # in a command, before the name of a canary: stands for its Slurm job
HELD_BACK = "held back by a canary"  # reason to leave a run alone

# keys of a spec that a canary does without
_DROPPED = frozenset((*config.BOOKKEEPING, "WORKERS", *config.OUTPUT_FIELDS))

# what happens to the runs of a canary, by its state
_CLEARED = "cleared"  # the canary ended well: its runs need not wait
_SUBMIT = "submit"  # the canary is submitted first
_WAIT = "wait"  # the canary is pending or running: its runs wait for it
_HOLD_BACK = "hold back"  # the canary failed: its runs are not submitted


class Canaries(Frozen):
    """The canaries that the runs of one submission wait for.

    batch: the batch folder
    canary_of: the canary that a run waits for, by run
    tickets: the ticket of each of these canaries
    to_submit: the tickets of the canaries that this submission submits
    points: the specs of the canaries in to_submit
    slurm_jobs: the Slurm jobs of canaries that are pending or running already; several are joined by colons
    """

    batch: str
    canary_of: dict[str, str]
    tickets: dict[str, int]
    to_submit: dict[str, int]
    points: dict[str, Spec]
    slurm_jobs: dict[str, str]

    @property
    def folder(self) -> str:
        """The folder of the canaries: run folders and journals, like a batch."""
        return os.path.join(self.batch, run_folder.CANARY)

    def record(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Return what the journal stores: by canary, the positions among `names` of the runs that wait for it."""
        positions: dict[str, list[int]] = {}
        for position, name in enumerate(names):
            if name in self.canary_of:
                positions.setdefault(self.canary_of[name], []).append(position)
        return positions

    def dependencies(self, names: Collection[str], by_workers: bool) -> dict[str, str]:
        """Return the value of sbatch's --dependency for each run.

        by_workers: runs are shared by workers, which check the canary of each run themselves. Where there are several
        canaries, workers start when all have ended, well or not.
        """
        if not by_workers:
            return {name: f"afterok:{JOB_PLACEHOLDER}{self.canary_of[name]}" for name in names
                    if name in self.canary_of}
        canaries = list(dict.fromkeys(self.canary_of.values()))
        if not canaries:
            return {}
        kind = "afterok" if len(canaries) == 1 and set(names) <= self.canary_of.keys() else "afterany"
        return dict.fromkeys(names, kind + "".join(f":{JOB_PLACEHOLDER}{canary}" for canary in canaries))


def plan_canaries(batch: str, tickets: Tickets, points: Mapping[str, Spec], slurm: SlurmOptions | None,
                  existing: Mapping[str, Run], retry: bool, by_batch_size: bool = False
                  ) -> tuple[Canaries, Tickets, list[str]]:
    """Return the canaries of a submission, the tickets without runs that are held back, and lines to print.

    slurm: None for local workers
    existing: the canaries that the batch has already
    retry: submit failed canaries again
    by_batch_size: runs of different batch sizes have different canaries, so that these show what each needs
    JobSpecError for runs with a program of their own. BatchError if a canary cannot be waited for, or if no run is left
    to submit.
    """
    canary_of = {name: _canary_name(points[name], slurm, batch, by_batch_size) for name in tickets.to_submit}
    runs_of: dict[str, list[str]] = {}
    for name, canary in canary_of.items():
        runs_of.setdefault(canary, []).append(name)
    canaries = {name: run if (run := existing.get(name)) and run.files is not None else
                new_run(os.path.join(batch, run_folder.CANARY), name, run) for name in runs_of}
    actions = {name: _choose_action(batch, run, retry, is_local=slurm is None) for name, run in canaries.items()}

    to_submit = next_tickets({name: run for name, run in canaries.items() if actions[name] == _SUBMIT},
                             retry_policy.RETRIED).to_submit
    waited_for = {name: run for name, run in canaries.items() if actions[name] == _WAIT}
    plan = Canaries(
        batch, {name: canary for name, canary in canary_of.items() if actions[canary] in (_SUBMIT, _WAIT)},
        {name: run.ticket for name, run in waited_for.items()} | to_submit, to_submit,
        {name: canary_spec(points[runs_of[name][0]]) for name in to_submit},
        {name: ":".join(run.slurm_jobs or (str(run.state.slurm_job),)) for name, run in waited_for.items()})

    labels = _labels({name: points[names[0]] for name, names in runs_of.items()}, by_batch_size)
    lines = [f"canary     {count(len(to_submit), 'run')} of one epoch first: "
             f"{listed([labels[name] for name in to_submit], 6)}"] if to_submit else []
    for name, run in canaries.items():
        if actions[name] == _HOLD_BACK:
            tickets = tickets.without(runs_of[name], HELD_BACK)
            lines.append(f"canary     {labels[name]}: {explain_failure(run)}; {count(len(runs_of[name]), 'run')} held "
                         f"back, `{retry_command(batch)}` tries it again")
        elif actions[name] == _WAIT:
            lines.append(f"canary     {labels[name]}: {run.state.name}, Slurm job {plan.slurm_jobs[name]}")
    if not tickets.to_submit and tickets.left_alone.get(HELD_BACK):
        raise BatchError(f"nothing is submitted: {lines[0].removeprefix('canary').strip()}", where=batch)
    return plan, tickets, lines


def _choose_action(batch: str, canary: Run, retry: bool, is_local: bool) -> str:
    """Return what happens to a canary and its runs. BatchError if it must be waited for but cannot be."""
    state = canary.state
    if state.name in retry_policy.ENDED_WELL:
        return _CLEARED
    if state.name in retry_policy.CANARY_RESTARTED or retry and state.name in retry_policy.RETRIED:
        return _SUBMIT
    if state.name in retry_policy.CANARY_FAILED:
        return _HOLD_BACK
    if state.slurm_job and state.name in (states.PENDING, states.RUNNING) and not is_local:
        return _WAIT
    if state.name == states.STUCK:
        cancel = experiments_command("cancel", batch)
        hint = f"run `{cancel}`, then `{retry_command(batch)}` with options that fit"
    else:
        hint = "give the same command again when it has ended, or use --no-canary"
    reason = f" ({state.why})" if state.why else ""
    raise BatchError(f"its canary is {states.shown(state.name)}{reason}", where=canary.path, hint=hint)


def _canary_name(spec: Spec, slurm: SlurmOptions | None, batch: str, by_batch_size: bool) -> str:
    if "COMMAND" in spec:
        raise JobSpecError("a canary trains one epoch, and an external program cannot be cut to one epoch",
                           where="--canary", hint="leave it out; --max-runs 1 submits the first run alone")
    return canary_name(slurm.script_of(spec) if slurm else None, spec, batch, by_batch_size)


def canary_name(script: str | None, spec: Mapping[str, Any], batch: str, by_batch_size: bool = False) -> str:
    """Return the folder of the canary of a grid point; the same one for the same script, model and data set, and
    perhaps batch size.

    script: absolute path of the submit script, None without Slurm. All scripts made from job_details.resources, one for
    each submission, count as one.
    """
    script = script or "local"
    if os.path.dirname(script) == os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS):
        script = "resources"
    parts = (script, *_model_and_dataset(spec), *([f"batch_size={_batch_size(spec)}"] if by_batch_size else []))
    shown = (os.path.splitext(os.path.basename(script))[0], *parts[1:])
    text = "+".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part).lstrip(".-") for part in shown)
    # the hash distinguishes names that differ only in characters that a name cannot have
    return f"{text[:150]}-{zlib.crc32(chr(0).join(parts).encode('utf-8', 'surrogateescape')):08x}"


def _model_and_dataset(spec: Mapping[str, Any]) -> tuple[str, str]:
    model, dataset = (str(spec.get(key, config.DEFAULTS[key])) for key in ("model", "dataset"))
    return model, dataset


def _batch_size(spec: Mapping[str, Any]) -> Any:
    return spec.get("batch_size", config.DEFAULTS["batch_size"])


def canary_spec(spec: Mapping[str, Any]) -> Spec:
    """Return a grid point cut to one epoch that writes only its run folder. If it only evaluates, it still does."""
    kept = {key: value for key, value in spec.items() if key not in _DROPPED}
    if kept.get("train_length") == 0:
        return kept
    return {**kept, "train_length": 1, "train_length_unit": "epoch"}


def _labels(points: Mapping[str, Mapping[str, Any]], by_batch_size: bool) -> dict[str, str]:
    """Return `linear on sklearn/digits` for each canary; with the script if only that distinguishes two of them."""
    labels = {name: " on ".join(_model_and_dataset(spec)) + (
        f" at batch size {_batch_size(spec)}" if by_batch_size else "") for name, spec in points.items()}
    numbers = Counter(labels.values())
    return {name: f"{label} ({name.partition('+')[0]})" if numbers[label] > 1 else label
            for name, label in labels.items()}


def canary_token(token: str) -> str:
    """Return the token of the canaries' own journal, so that comments tell their Slurm jobs from those of the runs."""
    return f"{token}-canary"


def canary_submission(canaries: Canaries, slurm: SlurmOptions, token: str, program_folder: str) -> Submission:
    """Plan a Slurm job for each canary to submit."""
    context = SubmissionContext(os.path.abspath(canaries.folder), canary_token(token), program_folder)
    return plan_single_jobs(canaries.to_submit, canaries.points, slurm._replace(dependencies={}), context)
