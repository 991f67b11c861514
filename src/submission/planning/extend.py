"""Plan the extension of a batch (--extend): which points of a job spec are new, and the names of their runs."""
from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src import run_folder
from src.archive import run_files
from src.config import NOT_PARAMETERS
from src.errors import BatchError, UserError, listed, shell_command
from src.io import files
from src.submission.batch.extension import Extension, job_spec_path, last_extension
from src.submission.planning.code_note import code_lines
from src.submission.planning.submission_plan import RequestedBatch, SubmissionPlan
from src.submission.planning.tickets import new_run, next_tickets, observe_batch
from src.submission.spec import naming
from src.submission.spec.grammar import Spec
from src.submission.status import states
from src.submission.status.observation import Observation
from src.submission.system.terminal import count

_MAX_LISTED = 3  # runs that a line names


def plan_extension(requested: RequestedBatch, batch: str, project: str, max_runs: int | None,
                   dry_run: bool) -> SubmissionPlan:
    """Plan which points to add to a batch, and to submit together with its runs that were never submitted.

    max_runs: submit at most so many runs; the other points get run folders too, for a later submission
    """
    # read before all else: if another process extends the batch meanwhile, both request the same number, and one fails
    last = last_extension(batch)
    observation = observe_batch(batch, dry_run)
    if observation.history.sync_markers or observation.history.first_plan().get("identity", {}).get("shard"):
        raise BatchError("this batch is on several machines, and each numbers its runs by the whole batch", where=batch,
                         hint="submit the new points under another name, and read both batches together")
    existing = _read_existing_specs(batch, observation.runs)
    names, new_names = _name_points(requested, existing, observation, last)
    points = dict(zip(names, requested.points.values(), strict=True))
    runs = {name: observation.runs[name] if name in existing else new_run(batch, name, None) for name in names}
    tickets = next_tickets(runs, {states.NEW}).first(max_runs)
    extension = None
    if new_names or files.read_text(job_spec_path(batch, last)) != requested.job_spec.text:
        extension = Extension(last.number + 1 if last else 0, names, requested.grid_options,
                              frozenset(new_names))
    else:
        tickets.require_decided(batch)
    lines = (*requested.lines, f"extends    {batch}", *_summary(points, new_names, existing),
             *(code_lines(project, observation) if tickets.to_submit else []))
    must_exist = {*tickets.to_submit, *new_names}
    return SubmissionPlan(project, batch, {name: points[name] for name in names if name in must_exist}, tickets, lines,
                          observation.history, observation.canaries, {}, requested.job_spec.text,
                          requested.grid_options, extension=extension)


def _name_points(requested: RequestedBatch, existing: Mapping[str, Spec], observation: Observation,
                 last: Extension | None) -> tuple[list[str], list[str]]:
    """Return the names of the runs of all points, in order, and of the new ones, which get the next free numbers."""
    specs = list(requested.points.values())
    matches = match_points(specs, existing)
    indices = map(run_folder.run_index, [*observation.runs, *(last.names if last else [])])
    first_index = max((index for index in indices if index is not None), default=-1) + 1
    new_specs = [spec for spec, name in zip(specs, matches, strict=True) if name is None]
    new_names = naming.run_names(requested.job_spec.name, new_specs, requested.varying, first_index)
    remaining = iter(new_names)
    return [next(remaining) if name is None else name for name in matches], new_names


def match_points(points: Sequence[Mapping[str, Any]], existing: Mapping[str, Mapping[str, Any]]) -> list[str | None]:
    """Return the existing run of each grid point; None if the point is new.

    Equal specs are matched first. Then specs are matched that are equal once defaults are filled in and keys that only
    concern logging are left out.
    """
    from src.submission.batch import done_points

    matches: list[str | None] = [None] * len(points)
    unmatched = dict(existing)
    for key_of in (_exact_key, done_points.canonical_hash):
        names: dict[str, list[str]] = {}
        for name, spec in unmatched.items():
            with contextlib.suppress(UserError):  # of another version of the project: equal to no point of this one
                names.setdefault(key_of(spec), []).append(name)
        if not names:
            break
        for position, point in enumerate(points):
            if matches[position] is None and (equal := names.get(key_of(point))):
                matches[position] = equal.pop(0)
        matched = set(matches)
        unmatched = {name: spec for name, spec in unmatched.items() if name not in matched}
    return matches


def _exact_key(spec: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in spec.items() if key not in NOT_PARAMETERS or key == "COMMAND"},
                      sort_keys=True)


def _read_existing_specs(batch: str, names: Iterable[str]) -> dict[str, Spec]:
    """Read the specs of the runs that have a folder. BatchError if a spec is lost: its point would seem new."""
    specs = {}
    for name in names:
        if os.path.isdir(folder := os.path.join(batch, name)) or run_files.is_archived(folder):
            try:
                specs[name] = run_folder.read_spec(os.path.join(folder, run_folder.SPEC))
            except BatchError as error:
                command = shell_command("python", "submit_multiple.py", os.path.join(batch, run_folder.JOB_SPEC))
                raise BatchError(error.what, where=error.where, hint=f"`{command}`, with the options that made the "
                                 "batch, writes it again; then extend the batch") from None
    return specs


def _summary(points: Mapping[str, Spec], new_names: Sequence[str], existing: Mapping[str, Spec]) -> list[str]:
    """Describe which points are new, and which runs of the batch no longer match the job spec."""
    lines = [f"           {count(len(new_names), 'point')} new, {len(points) - len(new_names)} in it already"]
    if new_names:
        lines.append(f"           the new ones: {listed(new_names, _MAX_LISTED)}")
    if orphans := [name for name in existing if name not in points]:
        lines.append("note: no longer in the job spec, and left as they are: "
                     f"{count(len(orphans), 'run')}, {listed(orphans, _MAX_LISTED)}")
    if retagged := [name for name, spec in points.items()
                    if name in existing and existing[name].get("TAGS") != spec.get("TAGS")]:
        lines.append("note: with other tags in the job spec, and left as they are: "
                     f"{count(len(retagged), 'run')}, {listed(retagged, _MAX_LISTED)}")
    return lines
