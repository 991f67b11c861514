"""More points for a batch that exists: which are new, their names, and how they join it, all at once or not at all."""
from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from src import run_folder
from src.config import NOT_PARAMETERS
from src.errors import BatchError, UserError, shell_command
from src.io import files
from src.submission.batch import batch_folder
from src.submission.planning.plan import cut, not_made, plan_next
from src.submission.planning.work import Extension, Work
from src.submission.spec import naming
from src.submission.status import states
from src.submission.status.observe import observe
from src.submission.system.terminal import count

_SHOWN = 3  # runs that are named in a line


def last(path: str) -> Extension | None:
    """The last extension of a batch; None before any."""
    for number in reversed(_numbers(path)):
        record = files.read_json(os.path.join(path, run_folder.extension_name(number), run_folder.EXTENSION))
        if isinstance(record, dict):
            return Extension(number, record["names"], record["identity"])
    return None


def job_spec_of(path: str, extension: Extension | None) -> str:
    """The file that holds the job spec of a batch since an extension, the last: a crash may have kept it from job.yaml.
    """
    found = os.path.join(path, run_folder.extension_name(extension.number), run_folder.JOB_SPEC) if extension else ""
    return found if os.path.exists(found) else os.path.join(path, run_folder.JOB_SPEC)


def plan(work: Work, path: str, name: str, varying: Sequence[str], most: int | None, dry_run: bool) -> Work:
    """What of a grid is to be added to the batch at `path`, and submitted together with what was never submitted.

    name, varying: as for naming.run_names; most: submit so many runs at most.
    """
    # looked up before all else: an extension that comes while we look takes the number that we shall ask for
    before = last(path)
    if not dry_run:
        finish(path)
    observation, = observe([path])
    if observation.history.sync_markers or observation.history.first_plan().get("identity", {}).get("shard"):
        raise BatchError("this batch is on several machines, and each numbers its runs by the whole of it", where=path,
                         hint="give what is new another name, and read both together")
    known = _specs(path, observation.runs)
    found = match(work.specs, known)
    indices = map(run_folder.run_index, [*observation.runs, *(before.names if before else [])])
    highest = max((index for index in indices if index is not None), default=-1)
    new = [position for position, run in enumerate(found) if run is None]
    named = naming.run_names(name, [work.specs[position] for position in new], varying, highest + 1)
    for position, run in zip(new, named, strict=True):
        found[position] = run
    names = [run for run in found if run is not None]
    runs = {run: observation.runs[run] if run in known else not_made(path, run, None) for run in names}
    work.plan = cut(plan_next(runs, {states.NEW}), most)
    work.path, work.history, work.canaries = path, observation.history, observation.canaries
    made = frozenset(named).intersection(work.plan.tickets)
    work.lines += [f"extends    {path}", *_told(work, names, named, known)]
    points = dict(zip(names, work.specs, strict=True))
    work.names, work.specs = list(work.plan.tickets), [points[run] for run in work.plan.tickets]
    if made or files.read_text(job_spec_of(path, before)) != work.job_text:
        work.extension = Extension(before.number + 1 if before else 0, names, work.identity, made)
    elif not work.plan.tickets:
        raise BatchError(f"nothing in the job spec is new: {path} has it all", hint="`" + shell_command(
            "python", "submit_multiple.py", "-r", path) + "` submits what failed or was lost")
    return work


def _told(work: Work, names: Sequence[str], new: Sequence[str], known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How many points are new, and which runs have no point any more."""
    still = set(names)
    left = [run for run in known if run not in still]
    lines = [f"           {count(len(new), 'point')} new, {len(names) - len(new)} in it already"]
    if new:
        lines.append(f"           the new ones: {_some(new)}")
    if left:
        lines.append(f"note: no longer in the job spec, and left as they are: {count(len(left), 'run')}, {_some(left)}")
    points = zip(names, work.specs, strict=True)
    if others := [run for run, spec in points if run in known and known[run].get("TAGS") != spec.get("TAGS")]:
        lines.append(f"note: with other tags in the job spec, and left as they are: {count(len(others), 'run')}, "
                     f"{_some(others)}")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", … ({len(names) - _SHOWN} more)" if len(names) > _SHOWN else "")


def match(points: Sequence[Mapping[str, Any]], known: Mapping[str, Mapping[str, Any]]) -> list[str | None]:
    """The run of each grid point among those of a batch, by what the spec says; None if it is new.

    Equal specs first; then those that are equal once defaults are filled in and what is merely logged is left out.
    """
    from src.submission.batch import done_points

    found: list[str | None] = [None] * len(points)
    left = dict(known)
    for identity in (_exactly, done_points.canonical_hash):
        runs: dict[str, list[str]] = {}
        for name, spec in left.items():
            with contextlib.suppress(UserError):  # made by another version of the project: no point of today is like it
                runs.setdefault(identity(spec), []).append(name)
        if not runs:
            break
        for position, point in enumerate(points):
            if found[position] is None and (same := runs.get(identity(point))):
                found[position] = same.pop(0)
        taken = set(found)
        left = {name: spec for name, spec in left.items() if name not in taken}
    return found


def _exactly(spec: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in spec.items() if key not in NOT_PARAMETERS or key == "COMMAND"},
                      sort_keys=True)


def _specs(path: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The specs of the runs that have a folder. BatchError if one has lost its spec: its point would seem new."""
    specs = {}
    for name in names:
        if os.path.isdir(os.path.join(path, name)):
            try:
                specs[name] = run_folder.read_spec(os.path.join(path, name, run_folder.SPEC))
            except BatchError as error:
                again = shell_command("python", "submit_multiple.py", os.path.join(path, run_folder.JOB_SPEC))
                raise BatchError(error.what, where=error.where, hint=f"`{again}`, with the options that made the "
                                 "batch, writes it again; then extend it") from None
    return specs


def _numbers(path: str) -> list[int]:
    """The extensions of a batch, in order."""
    folder = os.path.join(path, run_folder.SUBMISSIONS)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"extension-(\d+)", name)))


def join(path: str, extension: Extension, job_text: str, names: Sequence[str], texts: Iterable[str],
         write_plan: Callable[[str], None]) -> bool:
    """Make an extension of a batch: its job spec, its plan and its run folders, whole or not at all; then move it in.

    False if another process has made one meanwhile: what this one knows of the batch is out of date.
    """
    staging = os.path.join(path, f".extension-{extension.number}.{os.uname().nodename}.{os.getpid()}.tmp")
    batch_folder.remove_leftovers(path)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        os.makedirs(os.path.join(staging, run_folder.SUBMISSIONS))
        files.write_atomic(os.path.join(staging, run_folder.JOB_SPEC), job_text)
        files.write_json(os.path.join(staging, run_folder.EXTENSION),
                         {"names": extension.names, "identity": extension.identity})
        batch_folder.write_specs(staging, names, texts)
        write_plan(staging)
        files.sync_folder(staging)
        os.rename(staging, os.path.join(path, run_folder.extension_name(extension.number)))
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if batch_folder.is_name_taken(error):
            return False
        raise
    files.sync_folder(os.path.join(path, run_folder.SUBMISSIONS))
    finish(path)
    return True


def finish(path: str) -> None:
    """Move in what the extensions of a batch have brought: its plan first, so that nobody takes a run for forgotten.

    Whoever goes on with a batch does this first. It does not matter how many do, nor where one of them was killed.
    """
    for number in _numbers(path):
        place = os.path.join(path, run_folder.extension_name(number))
        if os.path.exists(os.path.join(place, run_folder.DONE)) or not os.path.exists(
                os.path.join(place, run_folder.JOB_SPEC)):  # the latter in a copy that has not all of it
            continue
        for source, target in _moves(place, path):
            with contextlib.suppress(FileNotFoundError):  # another process has just moved it
                os.rename(source, target)
        old = os.path.join(path, run_folder.old_job_spec_name(number))
        if not os.path.exists(old):
            before = run_folder.extension_name(number - 1) if number else ""
            files.create_exclusive(old, files.read_text(os.path.join(path, before, run_folder.JOB_SPEC)) or "")
        newest = ""
        while newest != (newest := job_spec_of(path, last(path))):  # a later extension may have come meanwhile
            files.write_atomic(os.path.join(path, run_folder.JOB_SPEC), files.read_text(newest) or "")
        files.write_atomic(os.path.join(place, run_folder.DONE), "")


def _moves(place: str, path: str) -> Iterator[tuple[str, str]]:
    for folder in (run_folder.SUBMISSIONS, ""):
        names = sorted(os.listdir(os.path.join(place, folder))) if folder else run_folder.run_names(place)
        yield from ((os.path.join(place, folder, name), os.path.join(path, folder, name)) for name in names)
