"""Batch folders: found by name, made whole or not at all, compared with what is asked for, removed with care."""
from __future__ import annotations

import contextlib
import datetime
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from src import run_folder
from src.errors import BatchError, to_type
from src.io import files, yaml_io

RESULTS_VARIABLE = "GRIDIRON_RESULTS"  # the variable that says where this machine has its batches, if not in results/
_HALF_MADE = re.compile(r"\.(\d\d-\d\d-\d\d-|extension-\d+\.).+\.(tmp|removed)\Z")


def find(output_dir: str, name: str) -> list[str]:
    """The batches of that name under `output_dir`, oldest first."""
    pattern = re.compile(rf"\d\d-\d\d-\d\d-{re.escape(name)}\Z")
    try:
        names = sorted(entry for entry in os.listdir(output_dir) if pattern.match(entry))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in (os.path.join(output_dir, entry) for entry in names) if run_folder.is_batch_folder(path)]


def results_folder() -> str:
    """The folder in which commands look for batches, unless they are told of others."""
    return os.environ.get(RESULTS_VARIABLE) or "results"


def all_batches(output_dir: str) -> list[str]:
    """Every batch under `output_dir`, by name; not those that are being made or removed, which have hidden names."""
    try:
        names = sorted(name for name in os.listdir(output_dir) if name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in (os.path.join(output_dir, name) for name in names) if run_folder.is_batch_folder(path)]


def require_batch(path: str) -> str:
    """The path of a batch folder that the user named, without a trailing slash. BatchError if it is none."""
    path = path.rstrip("/") or path
    if run_folder.is_batch_folder(path):
        return path
    if run_folder.is_run_folder(path):
        raise BatchError("this is a run folder, not a batch", where=path, hint=f"its batch is {os.path.dirname(path)}")
    raise BatchError("there is no batch here" if os.path.isdir(path) else "there is no such folder", where=path,
                     hint=f"`{to_type('python', 'experiments.py', 'status')}` lists the batches; a batch folder "
                     "holds a job.yaml")


def path_for(output_dir: str, folder_name: str) -> str:
    """The path of a new batch."""
    return os.path.join(output_dir, folder_name)


def create(path: str, job_spec_text: str, names: Sequence[str], texts: Iterable[str],
          plan: Callable[[str], None] | None = None, replaces: str | None = None) -> bool:
    """Make a batch with all its run folders: everything appears at once under its name, or nothing does.

    names and texts: the run folders and their spec.yaml; plan: writes the first journal into the folder it is given;
    replaces: an earlier batch, which is kept until the new one is written and removed then. False if another process
    made a batch of that name meanwhile.
    """
    if replaces and os.path.islink(replaces):
        raise BatchError("this is a link, and nothing is removed through a link", where=replaces,
                         hint="remove what it points to, or the link, yourself")
    output_dir, folder_name = os.path.split(path)
    os.makedirs(output_dir or ".", exist_ok=True)
    staging = os.path.join(output_dir, f".{folder_name}.{os.uname().nodename}.{os.getpid()}.tmp")
    doomed = f"{staging.removesuffix('.tmp')}.removed"
    remove_leftovers(output_dir or ".")
    _remove(staging)
    os.mkdir(staging)
    try:
        files.write_atomic(os.path.join(staging, run_folder.JOB_SPEC), job_spec_text)
        os.mkdir(os.path.join(staging, run_folder.SUBMISSIONS))
        write_specs(staging, names, texts)
        if plan:
            plan(staging)
        files.sync_folder(staging)
        if replaces:
            os.rename(replaces, doomed)
        os.rename(staging, path)
    except BaseException as error:
        _remove(staging)
        if replaces and os.path.isdir(doomed):
            os.rename(doomed, replaces)
        if is_name_taken(error):
            return False
        raise
    files.sync_folder(output_dir or ".")
    _remove(doomed)
    return True


def write_specs(batch: str, names: Sequence[str], texts: Iterable[str]) -> None:
    """Make run folders that are not there yet, each with its spec.yaml.

    Not synced one by one: that would take most of the time of a submission. A spec that a power cut left empty is never
    run, and mend_specs writes it again from the job spec, which is synced.
    """
    for name, text in zip(names, texts, strict=True):
        folder = f"{batch}/{name}"
        os.mkdir(folder)
        descriptor = os.open(f"{folder}/{run_folder.SPEC}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        data = text.encode()
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)
        finally:
            os.close(descriptor)


def repair_specs(batch: str, names: Sequence[str], texts: Iterable[str]) -> int:
    """Write again each spec.yaml that is missing or empty, by a power cut or a hand; its folder too. How many were."""
    mended = 0
    for name, text in zip(names, texts, strict=True):
        spec = os.path.join(batch, name, run_folder.SPEC)
        if not files.read_text(spec):
            os.makedirs(os.path.dirname(spec), exist_ok=True)
            files.write_atomic(spec, text)
            mended += 1
    return mended


def is_name_taken(error: BaseException) -> bool:
    """Whether a folder could not be renamed since another process has made one of that name."""
    return isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST)


def remove_leftovers(output_dir: str) -> None:
    """Remove what was half made, or half removed, by a process that was killed a day ago or longer."""
    with os.scandir(output_dir) as entries:
        for entry in entries:
            if _HALF_MADE.match(entry.name):
                with contextlib.suppress(OSError):  # its process has just finished it
                    if entry.stat(follow_symlinks=False).st_mtime < time.time() - 86400:
                        _remove(entry.path)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What differs between two job specs (or overrides): `parameters.batch_size: [8, 32] -> [8]`, one string each."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in dict.fromkeys((*old, *new)):
            place = f"{where}.{key}" if where else str(key)
            if key not in new:
                found.append(f"{place}: {_short(old[key])} -> nothing")
            elif key not in old:
                found.append(f"{place}: nothing -> {_short(new[key])}")
            else:
                found += differences(old[key], new[key], place)
        return found
    # repr tells 1 from 1.0 and true, as the grammar does
    return [] if repr(old) == repr(new) else [f"{where}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = yaml_io.dump_value(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def today() -> datetime.date:
    """The date that names new batches."""
    return datetime.date.today()
