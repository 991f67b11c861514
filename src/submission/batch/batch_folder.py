"""Batch folders: find them by name, create them atomically, compare their job specs, remove leftovers."""
from __future__ import annotations

import contextlib
import datetime
import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from src import run_folder
from src.archive import run_files
from src.errors import BatchError, experiments_command
from src.io import deletion, files, yaml_io

RESULTS_VARIABLE = "GRIDIRON_RESULTS"  # the folder of this machine's batches, if not results/
ACCEPTED_FORMS = "a batch folder, or the newest of a job spec by its file or name"
_LEFTOVER = r"\.(\d\d-\d\d-\d\d-|extension-\d+\.).+\.(tmp|removed)\Z"  # compiled on demand: not in a dry run


def find(output_dir: str, name: str) -> list[str]:
    """Return the batches of that name under `output_dir`, oldest first."""
    pattern = re.compile(rf"\d\d-\d\d-\d\d-{re.escape(name)}\Z")
    names = sorted(entry for entry in files.list_folder(output_dir) if pattern.match(entry))
    return [path for path in (os.path.join(output_dir, entry) for entry in names) if run_folder.is_batch_folder(path)]


def split_name(folder: str) -> tuple[str, str]:
    """Return the date, `26-11-20-`, and the rest of the name of a batch folder, which may have no date."""
    match = re.match(r"\d\d-\d\d-\d\d-(?=.)", folder, re.DOTALL)
    date = match[0] if match else ""
    return date, folder[len(date):]


def results_folder() -> str:
    """Return the folder in which commands look for batches by default."""
    return os.environ.get(RESULTS_VARIABLE) or "results"


def all_batches(output_dir: str) -> list[str]:
    """Return every batch under `output_dir`, sorted by name, without those being created or removed."""
    names = sorted(name for name in files.list_folder(output_dir) if name[0] != ".")
    return [path for path in (os.path.join(output_dir, name) for name in names) if run_folder.is_batch_folder(path)]


def require_batch(path: str, results: str | None = None) -> str:
    """Return the path of the batch that a user names, in one of ACCEPTED_FORMS. BatchError if there is none.

    results: where batches are looked up by name; by default the results folder.
    """
    path = path.rstrip("/") or path
    if batch := named_batch(path, results):
        return batch
    if run_folder.is_run_folder(path):
        raise BatchError("this is a run folder, not a batch", where=path, hint=f"its batch is {os.path.dirname(path)}")
    raise BatchError("not a batch folder" if os.path.isdir(path) else "no such folder", where=path,
                     hint=f"`{experiments_command('status')}` lists the batches; a batch folder "
                     "contains a job.yaml")


def named_batch(path: str, results: str | None = None) -> str | None:
    """Return the batch that a user names, as require_batch; None if `path` is none of ACCEPTED_FORMS.

    UserError for an invalid job spec, or one without a batch.
    """
    if run_folder.is_batch_folder(path):
        return path
    if os.path.isfile(path):
        return _newest_of_job_spec(path)
    results = results or results_folder()
    inside = [] if os.sep in path else [*find(results, path), os.path.join(results, path)]
    return next(filter(run_folder.is_batch_folder, reversed(inside)), None)


def _newest_of_job_spec(path: str) -> str:
    """Return the newest batch of a job spec in its output_dir. UserError if it is invalid, or has no batch."""
    from src.submission.spec import reader  # few commands are given a job spec

    spec = reader.read_job_spec(path)
    output_dir = files.expand_path(spec.output_dir, "output_dir")
    if not (batches := find(output_dir, spec.name)):
        raise BatchError(f"there is no batch '{spec.name}' in {output_dir}", where=path,
                         hint="submit the job spec first, or name a batch folder")
    return batches[-1]


def create(path: str, job_spec_text: str, names: Sequence[str], texts: Iterable[str],
           write_plan: Callable[[str], None] | None = None, replaces: str | None = None,
           replaces_id: tuple[int, int] | None = None) -> bool:
    """Create a batch with all its run folders atomically. Return False if another process has created one of that name.

    names, texts: the run folders and the text of their spec.yaml.
    write_plan: writes the first journal into the folder that it is called with.
    replaces: an earlier batch, which is removed once the new one is written.
    replaces_id: its `deletion.folder_id` when it was looked at. BatchError if another folder is there now.
    """
    if replaces and os.path.islink(replaces):
        raise BatchError("this is a link, and nothing is removed through a link", where=replaces,
                         hint="remove the link, or the folder that it points to, yourself")
    if replaces and replaces_id is None:
        replaces_id = deletion.folder_id(replaces)
    output_dir = os.path.dirname(path)
    os.makedirs(output_dir or ".", exist_ok=True)
    staging = files.temporary_path(path)
    removed = f"{staging.removesuffix('.tmp')}.removed"
    remove_leftovers(output_dir or ".")
    os.mkdir(staging)
    try:
        files.write_atomic(os.path.join(staging, run_folder.JOB_SPEC), job_spec_text)
        os.mkdir(os.path.join(staging, run_folder.SUBMISSIONS))
        write_specs(staging, names, texts)
        if write_plan:
            write_plan(staging)
        files.sync_folder(staging)
        if replaces:
            os.rename(replaces, removed)
            _require_folder(removed, replaces_id, replaces)
        os.rename(staging, path)
    except BaseException as error:
        deletion.remove_tree(staging)
        if replaces and os.path.lexists(removed):
            os.rename(removed, replaces)
        if is_name_taken(error):
            return False
        raise
    files.sync_folder(output_dir or ".")
    if replaces:
        deletion.remove_tree(removed, replaces_id)
    return True


def _require_folder(path: str, expected: tuple[int, int] | None, name: str) -> None:
    """Raise BatchError unless a path is the folder that was looked at. name: its path at that time."""
    if os.path.islink(path) or deletion.folder_id(path) != expected:
        raise BatchError("another process has replaced this batch a moment ago", where=name,
                         hint="nothing was removed; the same command again shows the batch that is there now")


def write_specs(batch: str, names: Sequence[str], texts: Iterable[str]) -> None:
    """Create run folders, each with its spec.yaml.

    They are not synced one by one: that would take most of the time of a submission. A spec that a power cut left empty
    is never run, and repair_specs writes it again from the job spec, which is synced.
    """
    for name, text in zip(names, texts, strict=True):
        folder = f"{batch}/{name}"
        os.mkdir(folder)
        descriptor = os.open(f"{folder}/{run_folder.SPEC}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, files.MODE)
        data = text.encode()
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)
        finally:
            os.close(descriptor)


def repair_specs(batch: str, names: Sequence[str], texts: Iterable[str]) -> int:
    """Write each missing or empty spec.yaml again, after a power cut or a manual deletion. Return how many."""
    repaired = 0
    for name, text in zip(names, texts, strict=True):
        folder = os.path.join(batch, name)
        if not run_files.read_text(folder, run_folder.SPEC):
            if not repaired:
                _list_anew(batch)
            if run_files.is_archived(folder):
                continue
            files.make_folder(folder)
            files.write_atomic(os.path.join(folder, run_folder.SPEC), text)
            repaired += 1
    return repaired


def _list_anew(batch: str) -> None:
    """Have a network file system list a batch and its archive anew: another node may just have archived runs."""
    for folder in (batch, os.path.join(batch, run_folder.ARCHIVE)):
        with contextlib.suppress(OSError):  # there is no archive, or it is not writable
            path = files.temporary_path(os.path.join(folder, "listing"))
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, files.MODE))
            os.unlink(path)


def is_name_taken(error: BaseException) -> bool:
    """Return whether renaming a folder failed because another process has created one of that name."""
    return isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST)


def remove_leftovers(output_dir: str) -> None:
    """Remove the temporary folders of processes that were killed more than a day ago."""
    with os.scandir(output_dir) as entries:
        for entry in entries:
            if re.match(_LEFTOVER, entry.name):
                with contextlib.suppress(OSError):  # its process has just completed it
                    if entry.is_dir(follow_symlinks=False) and entry.stat(
                            follow_symlinks=False).st_mtime < time.time() - 86400:
                        deletion.remove_tree(entry.path)


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """List the differences of two job specs or overrides, as `parameters.batch_size: [8, 32] -> [8]`."""
    if isinstance(old, dict) and isinstance(new, dict):
        changes = []
        for key in dict.fromkeys((*old, *new)):
            path = f"{where}.{key}" if where else str(key)
            if key not in new:
                changes.append(f"{path}: {_short(old[key])} -> nothing")
            elif key not in old:
                changes.append(f"{path}: nothing -> {_short(new[key])}")
            else:
                changes += differences(old[key], new[key], path)
        return changes
    # repr distinguishes 1, 1.0 and true, as the grammar does
    return [] if repr(old) == repr(new) else [f"{where}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = yaml_io.dump_value(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def today() -> datetime.date:
    """Return the date that names new batches."""
    return datetime.date.today()
