"""Rename, move and delete batches, and delete runs: each appears, or is gone, at once; no link is followed."""
from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Mapping

from src import notes, run_folder
from src.archive import run_files
from src.errors import BatchError
from src.io import deletion, files
from src.submission.batch import batch_folder
from src.submission.spec.job_spec import check_name

DELETED = "deleted.jsonl"  # beside the batches: what is kept of those that were deleted


def rename(batch: str, name: str) -> str:
    """Rename a batch and keep the date in its name, unless `name` has one. Return its new path.

    Its first name is kept: ids of its runs in trackers depend on it.
    """
    new_date, new_name = batch_folder.split_name(name)
    check_name(new_name, "NAME")
    first_name = os.path.join(batch, run_folder.SUBMISSIONS, run_folder.FIRST_NAME)
    date = new_date or batch_folder.split_name(os.path.basename(batch))[0]
    target = os.path.join(os.path.dirname(batch), date + new_name)
    _check_move(batch, target)
    files.create_exclusive(first_name, os.path.basename(batch) + "\n")
    os.rename(batch, target)
    return target


def move(batch: str, folder: str) -> str:
    """Move a batch into a folder, which is created if need be, also on another file system. Return its new path."""
    if run_folder.is_batch_folder(folder) or run_folder.is_run_folder(folder):
        raise BatchError("this is a batch or a run: a batch is moved into a folder of batches", where=folder)
    target = os.path.join(folder, os.path.basename(os.path.abspath(batch)))
    _check_move(batch, target)
    files.make_folder(folder)
    try:
        os.rename(batch, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(batch, target)
        _remove(batch)
    return target


def delete(batch: str, counts: Mapping[str, int]) -> str:
    """Delete a batch after adding its job spec, its notes and the number of runs per state to DELETED. Return the path
    of that file.
    """
    _require_no_link(batch)
    kept = os.path.join(os.path.dirname(batch), DELETED)
    files.append_line(kept, json.dumps({
        "batch": os.path.basename(batch), "time": time.time(), "runs": dict(counts),
        "notes": [note._asdict() for note in notes.read(batch)],
        "job_spec": files.read_text(os.path.join(batch, run_folder.JOB_SPEC))}, ensure_ascii=False), sync=True)
    _remove(batch)
    return kept


def delete_run(run: str, state: str) -> str:
    """Delete a run after adding its spec and its state to DELETED. Return the path of that file."""
    _require_no_link(run)
    batch, name = os.path.split(run)
    kept = os.path.join(os.path.dirname(batch), DELETED)
    files.append_line(kept, json.dumps({
        "batch": os.path.basename(batch), "run": name, "time": time.time(), "state": state,
        "spec": run_files.read_text(run, run_folder.SPEC)}, ensure_ascii=False), sync=True)
    if os.path.isdir(os.path.join(batch, run_folder.ARCHIVE)):
        from src.submission.storage import archiving  # few batches have an archive

        archiving.forget(batch, [name])
    if os.path.isdir(run):
        _remove(run)
    return kept


def _check_move(batch: str, target: str) -> None:
    _require_no_link(batch)
    if os.path.lexists(target):
        raise BatchError("this name is taken", where=target, hint="choose another one")
    if os.path.realpath(target).startswith(os.path.join(os.path.realpath(batch), "")):
        raise BatchError("a batch cannot be moved into itself", where=target)


def _require_no_link(batch: str) -> None:
    if os.path.islink(batch):
        raise BatchError("this is a link, and nothing is moved or removed through a link", where=batch,
                         hint=f"name the folder that it points to, {os.path.realpath(batch)}")


def _copy(batch: str, target: str) -> None:
    """Copy a batch to another file system; it appears there once it is complete."""
    staging = files.temporary_path(target)
    try:
        shutil.copytree(batch, staging, symlinks=True)
        os.rename(staging, target)
    except BaseException:
        deletion.remove_tree(staging)
        raise


def _remove(batch: str) -> None:
    """Remove a batch or a run: it is gone at once for others, then its files. BatchError if some of them remain."""
    identity = deletion.folder_id(batch)
    removed = f"{files.temporary_path(batch).removesuffix('.tmp')}.removed"  # a later submission removes what is left
    os.rename(batch, removed)
    deletion.remove_tree(removed, identity)
    if os.path.lexists(removed):
        raise BatchError("not all files could be removed", where=removed, hint="remove this folder yourself")
