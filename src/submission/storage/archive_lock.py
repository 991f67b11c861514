"""A lock on the archive of a batch: one process at a time moves runs into it, or out of it.

The lock is a file that only one process can create; its modification time is a heartbeat. It is broken if its process
is dead, or on another machine and silent for ten minutes. Only one process can break a lock: it creates a file first
whose name depends on the content of the lock.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator

from src import run_folder
from src.errors import BatchError
from src.io import files, records
from src.submission.batch import heartbeat
from src.submission.system import process

NAME = ".archive.lock"  # in submissions/
_SILENT_SECONDS = 600.0


@contextlib.contextmanager
def held(batch: str) -> Iterator[None]:
    """Hold the lock during the block. BatchError if another process has it."""
    path = os.path.join(batch, run_folder.SUBMISSIONS, NAME)
    _break_if_dead(batch, path)
    text = json.dumps(process.identity()) + "\n"
    if not files.create_exclusive(path, text, sync=False):
        raise _taken(path)
    try:
        with heartbeat.beating([path]):
            yield
    finally:
        if files.read_text(path) == text:
            os.unlink(path)


def exists(batch: str) -> bool:
    """Return whether a process holds the lock, or has died with it."""
    return os.path.exists(os.path.join(batch, run_folder.SUBMISSIONS, NAME))


def _break_if_dead(batch: str, path: str) -> None:
    text = files.read_text(path)
    if text is None:
        return
    with contextlib.suppress(FileNotFoundError):  # its process has just removed it
        is_alive = process.is_alive(records.identity(files.parse_json(text)))
        age = heartbeat.file_system_time(batch) - os.stat(path).st_mtime
        if is_alive or is_alive is None and age < _SILENT_SECONDS:
            raise _taken(path)
        marker = f"{path}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        if not files.create_exclusive(marker, "", sync=False):
            raise _taken(path)
        os.unlink(path)
        os.unlink(marker)


def _taken(path: str) -> BatchError:
    holder = records.identity(files.parse_json(files.read_text(path) or "{}"))
    who = process.describe(holder) if holder else "another process"
    return BatchError(f"another command changes this archive: {who}", where=path,
                      hint="wait for its end; or remove this file if it has ended")
