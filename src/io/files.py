"""Atomic files: written whole or not at all, created by one process only, appended to by whole lines.

Folders may be shared with other users, so no file is opened for writing through a symbolic link, temporary files have
names that cannot be predicted and are created exclusively, and no other user may write to a new file or folder.
"""
from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from src.errors import BatchError, ConfigError

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # the folder of train.py
MAX_FILE = 64 * 2**20  # bytes of a file that is read as a whole
MAX_RECORDS = 32 * 2**20  # bytes of a file of records: the journal of 100,000 runs has a third of it
MAX_DEPTH = 50  # of nested lists and mappings
_MAX_ITEMS = 1_000_000  # of lists and mappings in a file of records
_BLOCK = 1 << 18
_NO_RECORD = (errno.EINVAL, errno.EFBIG, errno.ELOOP, errno.EISDIR, errno.ENXIO)  # not a regular file, or too large
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
MODE, FOLDER_MODE = 0o644, 0o755  # of new files and folders, less the umask


def write_atomic(path: str | os.PathLike[str], content: str | bytes, sync: bool = True) -> None:
    """Replace the content of `path`, text in UTF-8. A reader, or a crash at any time, sees the old file or the new one.

    sync: whether to call fsync; False is for files that can be made again from others.
    """
    with atomic_writer(path, sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str], sync: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file for writing bytes; it replaces `path` at the end of the block, unless the block raises."""
    path = os.fspath(path)
    temporary = temporary_path(path)
    try:
        with open(os.open(temporary, _NEW_FILE, MODE), "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    if sync:
        sync_folder(os.path.dirname(path) or ".")


def temporary_path(path: str) -> str:
    """Return an unpredictable hidden name in the same folder, which no other process uses, here or on another host."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.uname().nodename}.{os.getpid()}.{os.urandom(6).hex()}.tmp")


def overwrite(path: str | os.PathLike[str], text: str) -> None:
    """Overwrite a small file in place, without a new block: for a full disk. OSError if it does not exist."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        os.ftruncate(descriptor, os.write(descriptor, text.encode()))
    finally:
        os.close(descriptor)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means that the disk, or the user's quota, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def report_os_errors(where: str, hint: str) -> Iterator[None]:
    """Turn an OSError in the block, such as a full disk or a missing permission, into a BatchError."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of our output exited
    except OSError as error:
        raise BatchError(error.strerror or str(error), where=error.filename or where, hint=hint) from error


def expand_path(path: str, key: str) -> str:
    """Expand `~` and $VAR in a path. ConfigError, at `key`, if a variable is not set on this machine."""
    expanded = os.path.expanduser(os.path.expandvars(path))
    if unset := re.search(r"\$(\w+|\{[^}]*\})", expanded):
        raise ConfigError(f"the variable {unset[0]} in '{path}' is not set here", where=key,
                          hint="export it, or write the path without it")
    return expanded


def limit_umask() -> None:
    """Have this process, and those that it starts, create no file or folder that another user may write to."""
    os.umask(os.umask(0o022) | 0o022)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Create a folder, and those above it, unless it exists. BatchError if it is a symbolic link of another user."""
    os.makedirs(path, mode=FOLDER_MODE, exist_ok=True)
    reject_foreign_link(path)


def reject_foreign_link(path: str | os.PathLike[str]) -> None:
    """Raise BatchError if a path is a symbolic link that neither this user nor root has made.

    What is written below it would be written where that user chose.
    """
    try:
        info = os.lstat(os.fspath(path).rstrip("/"))  # a slash at the end follows the link
    except FileNotFoundError:
        return
    if stat.S_ISLNK(info.st_mode) and info.st_uid not in (os.geteuid(), 0):
        raise BatchError("another user made this symbolic link: nothing is written through it", where=os.fspath(path),
                         hint="remove it, or make the link yourself")


def list_folder(path: str | os.PathLike[str]) -> list[str]:
    """Return the names in a folder, in any order; none if it does not exist or is no folder."""
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush renames and creations in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_exclusive(path: str | os.PathLike[str], text: str, sync: bool = True) -> bool:
    """Create `path` with `text` unless it exists. Return True to exactly one of several callers, on any file system.

    The content is written and synced to a temporary file that is then hard-linked, so whoever sees the file sees all of
    it. Without hard links O_EXCL alone decides. sync=False skips fsync: after a power failure the file may be empty.
    """
    path = os.fspath(path)
    temporary = temporary_path(path)
    try:
        _write_new_file(temporary, text, sync)
        try:
            os.link(temporary, path)
        except FileExistsError:
            # over NFS the reply to a successful link can be lost: a link count of two means that it was ours
            return os.stat(temporary).st_nlink == 2
        except OSError:
            return _create_without_link(path, text)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    if sync:
        sync_folder(os.path.dirname(path) or ".")
    return True


def _create_without_link(path: str, text: str) -> bool:
    try:
        _write_new_file(path, text, sync=True)
    except FileExistsError:
        return False
    return True


def _write_new_file(path: str, text: str, sync: bool) -> None:
    with open(os.open(path, _NEW_FILE, MODE), "w", encoding="utf-8") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def open_for_append(path: str | os.PathLike[str]) -> int:
    """Open a file, created if need be, for appending, and return its descriptor. OSError for a link, pipe or device."""
    # without O_NONBLOCK, opening a pipe that has no reader never returns; a regular file ignores it
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK, MODE)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def append_line(path: str | os.PathLike[str], line: str, sync: bool = False) -> None:
    """Append a whole line in one write, so that lines of several writers do not mix. OSError if the disk is full."""
    data = line.rstrip("\n").encode() + b"\n"
    descriptor = open_for_append(path)
    try:
        if os.write(descriptor, data) != len(data):  # a full disk accepts a part without an error
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: str | os.PathLike[str], any_link: bool = False) -> int:
    """Open a file for reading and return its descriptor. OSError for a pipe, a device or a link of another user.

    A pipe or a device may never end, and the link may lead to a file that only this user can read.
    any_link: follow links of all users, as for data that is never shown.
    """
    return _open_regular(path, any_link)[0]


def _open_regular(path: str | os.PathLike[str], any_link: bool = False) -> tuple[int, os.stat_result]:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # opening a pipe would wait for a writer
    try:
        descriptor = os.open(path, flags if any_link else flags | os.O_NOFOLLOW)
    except OSError as error:
        if any_link or error.errno != errno.ELOOP:
            raise
        if os.lstat(path).st_uid not in (os.geteuid(), 0):
            raise OSError(errno.ELOOP, "a symbolic link of another user", os.fspath(path)) from None
        descriptor = os.open(path, flags)
    info = os.fstat(descriptor)
    if stat.S_ISREG(info.st_mode):
        return descriptor, info
    os.close(descriptor)
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def read_bytes(path: str | os.PathLike[str], limit: int = MAX_FILE) -> bytes | None:
    """Return the content of a regular file; None without one. OSError as in `open_regular`, or if it is too large."""
    return read_with_status(path, limit)[0]


def read_with_status(path: str | os.PathLike[str], limit: int = MAX_FILE) -> tuple[bytes | None, os.stat_result | None]:
    """Return the content of a file, as `read_bytes` does, and its status before it was read; None if there is none."""
    try:
        descriptor, info = _open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    try:
        size = info.st_size
        parts = [os.read(descriptor, size + 1 if size else _BLOCK) if size <= limit else b""]
        length = len(parts[0])
        # a file of /proc has size 0, and others may grow
        while parts[-1] and length != size and length <= limit:
            parts.append(os.read(descriptor, _BLOCK))
            length += len(parts[-1])
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        os.close(descriptor)
    if max(size, length) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit / 2**20:g} MiB", os.fspath(path))
    return parts[0] if len(parts) == 1 else b"".join(parts), info


def read_text(path: str | os.PathLike[str], limit: int = MAX_FILE) -> str | None:
    """Return the text of a file; None if it does not exist. Errors as in `read_bytes`."""
    data = read_bytes(path, limit)
    return None if data is None else data.decode(errors="replace")


def read_json(path: str | os.PathLike[str],
              read: Callable[[str | os.PathLike[str], int], str | None] = read_text) -> Any:
    """Return the JSON value in a file; None if it does not exist, is truncated or is no record of this project.

    Other people may have written the file: a pipe, or a value that is too large or nested too deeply, is no record.
    read: returns its text, as read_text does
    """
    text = _read_record(path, read)
    return None if text is None else parse_json(text)


def _read_record(path: str | os.PathLike[str],
                 read: Callable[[str | os.PathLike[str], int], str | None]) -> str | None:
    """Return the text of a file; None if there is none, or if it is not a regular file or larger than a record."""
    try:
        return read(path, MAX_RECORDS)
    except OSError as error:
        if error.errno not in _NO_RECORD:
            raise
        return None


def parse_json(text: str) -> Any:
    """Return the value of a text in JSON; None if it is not valid, or larger or deeper than a record can be."""
    if sum(map(text.count, "[{,:")) > _MAX_ITEMS:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # also a number of thousands of digits
        return None
    return None if is_too_deep(text, value) else value


def is_too_deep(text: str, value: Any) -> bool:
    """Return whether containers of a value are nested deeper than functions that walk through it can go.

    text: from which it was parsed; most have too few brackets.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for container in level if isinstance(container, (dict, list)) for item in (
            container.values() if isinstance(container, dict) else container)]
        if not level:
            return False
    return True


def write_json(path: str | os.PathLike[str], value: object, sync: bool = True) -> None:
    """Replace the content of `path` by `value` as JSON, atomically."""
    write_atomic(path, json.dumps(value) + "\n", sync=sync)


def read_json_lines(path: str | os.PathLike[str]) -> list[Any]:
    """Return the JSON value of each line, without lines that a crash truncated, or that are no records."""
    lines = [line for line in (_read_record(path, read_text) or "").split("\n") if line]
    values = parse_json(f"[{','.join(lines)}]")  # parsing all at once is three times as fast
    if isinstance(values, list) and len(values) == len(lines):
        return values
    return [value for line in lines if (value := parse_json(line)) is not None]
