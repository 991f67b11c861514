"""Whole files, or none: written beside themselves, synced and renamed; lines appended whole; claims created once."""
from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from src.errors import BatchError, ConfigError


def write_atomic(path: str | os.PathLike[str], content: str | bytes, sync: bool = True) -> None:
    """Replace `path` by `content` (text in UTF-8). A reader, or a crash at any instant, sees the old file or the new
    one.

    sync=False leaves out the fsyncs, for files that can be made again from others.
    """
    with atomic_writer(path, sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str], sync: bool = True) -> Iterator[BinaryIO]:
    """A new file to write bytes into, which takes the place of `path` at the end of the block unless that fails."""
    path = os.fspath(path)
    beside = _beside(path)
    try:
        with open(beside, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        if os.path.exists(beside):
            os.unlink(beside)
        raise
    if sync:
        sync_folder(os.path.dirname(path) or ".")


def overwrite(path: str | os.PathLike[str], text: str) -> None:
    """Write a small file in its place, which takes no new block: for a disk that is full. OSError if it is not there.
    """
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(descriptor, os.write(descriptor, text.encode()))
    finally:
        os.close(descriptor)


def is_disk_full(error: BaseException) -> bool:
    """Whether a disk, or somebody's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _beside(path: str) -> str:
    """A hidden name in the same folder that no other process takes, on this host or another."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.uname().nodename}.{os.getpid()}.tmp")


@contextlib.contextmanager
def report_os_errors(where: str, hint: str) -> Iterator[None]:
    """A full disk, a folder that must not be written and the like inside the block become a BatchError."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of our output left
    except OSError as error:
        raise BatchError(error.strerror or str(error), where=error.filename or where, hint=hint) from error


def expand_path(path: str, key: str) -> str:
    """`~` and $VAR in a folder's name, as this machine knows them. ConfigError, at `key`, if a variable is not set."""
    expanded = os.path.expanduser(os.path.expandvars(path))
    if unset := re.search(r"\$(\w+|\{[^}]*\})", expanded):
        raise ConfigError(f"the variable {unset[0]} in '{path}' is not set here", where=key,
                          hint="export it, or write the folder's name")
    return expanded


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make renames and creations in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_exclusive(path: str | os.PathLike[str], text: str, sync: bool = True) -> bool:
    """Create `path` with `text`, unless it exists. True for the one caller that made it, on any file system.

    The content is written and synced under a name of its own first and then linked, so that whoever finds the
    file finds all of it; where hard links are not to be had, O_EXCL alone decides. sync=False leaves out the fsyncs:
    after a power cut the file may be empty or gone.
    """
    path = os.fspath(path)
    beside = _beside(path)
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        try:
            os.link(beside, path)
        except FileExistsError:
            # over NFS the answer to a link that succeeded can be lost: two links mean that it was ours
            return os.stat(beside).st_nlink == 2
        except OSError:
            return _create_excl(path, text)
    finally:
        if os.path.exists(beside):
            os.unlink(beside)
    if sync:
        sync_folder(os.path.dirname(path) or ".")
    return True


def _create_excl(path: str, text: str) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return True


def append_line(path: str | os.PathLike[str], line: str, sync: bool = False) -> None:
    """Append one whole line in one write, so that lines of several writers do not mix. OSError if it does not fit."""
    data = line.rstrip("\n").encode() + b"\n"
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
    try:
        if os.write(descriptor, data) != len(data):  # a full disk takes what it can and says nothing
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: str | os.PathLike[str]) -> str | None:
    """The file's text, or None if there is no such file."""
    try:
        with open(path, "rb", buffering=0) as file:  # a third quicker than text, for 10,000 small files
            return file.readall().decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_json(path: str | os.PathLike[str]) -> Any:
    """The file's JSON value; None if there is no such file or it is torn."""
    text = read_text(path)
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError:
        return None


def write_json(path: str | os.PathLike[str], value: object, sync: bool = True) -> None:
    """Replace `path` by `value` in JSON form, whole or not at all."""
    write_atomic(path, json.dumps(value) + "\n", sync=sync)


def read_json_lines(path: str | os.PathLike[str]) -> list[Any]:
    """The JSON value of each whole line; a torn line (a crash in mid-write) is left out."""
    lines = [line for line in (read_text(path) or "").split("\n") if line]
    with contextlib.suppress(json.JSONDecodeError):  # all at once is three times as quick
        values: list[Any] = json.loads(f"[{','.join(lines)}]")
        if len(values) == len(lines):
            return values
    values = []
    for line in lines:
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return values
