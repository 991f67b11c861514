"""The files of a run, from its folder or from the archive of its batch: whoever reads a run reads by these functions.

They take the run folder and the name of a file in it. Where the file is not on disk, it is looked up in the archive, if
there is one, unless the run folder is there. What writes to a run, or runs it, uses its folder alone (`is_archived`).
"""
from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from src.archive import contents
from src.archive.contents import ArchivedRun, Version
from src.errors import BatchError, experiments_command
from src.io import files

if TYPE_CHECKING:
    from src.archive.volume import Member

Path = str | os.PathLike[str]


class Status(NamedTuple):
    """The status of a file in an archive, with the fields of os.stat that readers use.

    st_ino: its checksum; version: of its run, as ArchivedRun.version.
    """

    st_ino: int
    st_size: int
    st_mtime_ns: int
    st_mode: int
    version: Version

    @property
    def st_mtime(self) -> float:
        """The time as os.stat computes it, to the last bit."""
        seconds, ns = divmod(self.st_mtime_ns, 10**9)
        return seconds + 1e-9 * ns


FileStatus = Status | os.stat_result


def is_archived(folder: Path) -> bool:
    """Return whether a run is in the archive of its batch, and not in a folder."""
    return contents.find(folder) is not None


def archived_names(batch: Path) -> list[str]:
    """Return the names of the runs in the archive of a batch."""
    archive = contents.of_batch(batch)
    return list(archive.runs) if archive else []


def archive_stamp(batch: Path) -> object:
    """Return what changes when runs are added to the archive of a batch or removed; None without an archive."""
    archive = contents.of_batch(batch)
    return archive.stamp if archive else None


def volumes(batch: Path) -> list[str]:
    """Return the paths of the files of a batch's archive."""
    archive = contents.of_batch(batch)
    return [volume.path for volume in archive.volumes] if archive else []


def archived_versions(batch: Path) -> dict[str, Version]:
    """Return `ArchivedRun.version` of each archived run that has no folder, by the names of runs."""
    archive = contents.of_batch(batch)
    folders = {*os.listdir(batch)} if archive else set()
    return {name: run.version for name, run in archive.runs.items() if name not in folders} if archive else {}


def archived_version(folder: Path) -> Version | None:
    """Return `ArchivedRun.version` of a run; None if it is not in the archive."""
    run = contents.find(folder)
    return run.version if run else None


def location(folder: Path) -> str:
    """Return the file or folder that a run is read from: the file of its archive, or the run folder."""
    run = contents.find(folder)
    return run.volume.path if run else os.fspath(folder)


def require_folder(folder: Path, action: str) -> None:
    """Raise BatchError if a run is archived. action: what needs its folder, as `exported`."""
    if is_archived(folder):
        raise BatchError(f"this run is archived, and cannot be {action}", where=os.fspath(folder),
                         hint=f"`{unarchive_command(folder)}` brings its folder back")


def unarchive_command(folder: Path) -> str:
    """Return the command that brings back the folder of a run."""
    return experiments_command("unarchive", os.fspath(folder))


def list_names(folder: Path) -> list[str]:
    """Return the names of the files and folders in a run folder. FileNotFoundError if there is no such run."""
    names = None
    for _ in contents.looks(folder):
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(folder)
            if contents.SPEC in names:
                return names
        if run := contents.find(folder):
            return list(dict.fromkeys(path.partition("/")[0] for path in run.members if path))
    if names is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(folder))
    return names


def list_folder(folder: Path, name: str) -> list[str]:
    """Return the names of the files in a folder of a run; none if it does not exist."""
    for _ in contents.looks(folder):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return os.listdir(os.path.join(folder, name))
        if run := contents.find(folder):
            return [path.removeprefix(f"{name}/") for path in run.members
                    if path.startswith(f"{name}/") and path[-1] != "/"]
    return []


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the sizes of the regular files directly in a run folder. FileNotFoundError if there is no such run."""
    for _ in contents.looks(folder):
        if run := contents.find(folder):
            return {path: member.size for path, member in run.members.items()
                    if "/" not in path and stat.S_ISREG(member.mode)}
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            return {entry.name: entry.stat(follow_symlinks=False).st_size
                    for entry in entries if entry.is_file(follow_symlinks=False)}
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(folder))


def size(folder: Path) -> int:
    """Return the bytes that an archived run takes; 0 for another one."""
    run = contents.find(folder)
    return sum(member.stored for member in run.members.values()) if run else 0


def status(folder: Path, name: str) -> FileStatus | None:
    """Return the status of a file of a run; None if there is none, or a link to nothing or to itself."""
    path = f"{os.fspath(folder)}/{name}"
    for _ in contents.looks(folder):
        with contextlib.suppress(OSError):
            return os.stat(path)
        if run := contents.find(folder):
            return _status(run, member) if (member := _regular_file(run, name)) else None
    return None


def _status(run: ArchivedRun, member: Member) -> Status:
    return Status(member.crc or 1, member.size, member.time_ns, member.mode, run.version)


def exists(folder: Path, name: str) -> bool:
    """Return whether a run has this file; False also if that cannot be found out, as for a name that is too long."""
    try:
        info = status(folder, name)
    except (OSError, ValueError):
        return False
    return info is not None and stat.S_ISREG(info.st_mode)


def read_with_status(folder: Path, name: str, limit: int = files.MAX_FILE) -> tuple[bytes | None, FileStatus | None]:
    """Return the content of a file, and its status before it was read; None if there is none.

    OSError if it has more than `limit` bytes, is no regular file, or is damaged in the archive.
    """
    path = f"{os.fspath(folder)}/{name}"
    for _ in contents.looks(folder):
        if (run := contents.just_found(folder) or contents.find_known(folder)) is None:
            data, info = files.read_with_status(path, limit)
            if data is not None:
                return data, info
            run = contents.find(folder)
        if run:
            member = _regular_file(run, name)
            return (run.volume.read(f"{run.name}/{name}", member, limit), _status(run, member)) if member else (
                None, None)
    return None, None


def read_bytes(folder: Path, name: str, limit: int = files.MAX_FILE) -> bytes | None:
    """Return the content of a file; None if there is none. Errors as in `read_with_status`."""
    return read_with_status(folder, name, limit)[0]


def read_path(path: Path, limit: int = files.MAX_FILE) -> bytes | None:
    """Return the content of a file directly in a run folder, as `read_bytes` does."""
    folder, name = os.path.split(path)
    return read_bytes(folder or ".", name, limit)


def read_text(folder: Path, name: str, limit: int = files.MAX_FILE) -> str | None:
    """Return the text of a file; None if there is none. Errors as in `read_with_status`."""
    data = read_bytes(folder, name, limit)
    return None if data is None else data.decode(errors="replace")


def read_json(folder: Path, name: str) -> Any:
    """Return the JSON value in a file; None if there is none, or as in `files.read_json`."""
    return files.read_json(f"{os.fspath(folder)}/{name}", lambda path, limit: read_text(folder, name, limit))


def open_binary(folder: Path, name: str) -> BinaryIO:
    """Open a file for reading. FileNotFoundError if there is none, OSError as in `files.open_regular`, or if it is
    damaged in the archive.
    """
    path = os.path.join(folder, name)
    for _ in contents.looks(folder):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return open(files.open_regular(path), "rb")
        if (run := contents.find(folder)) and (member := _regular_file(run, name)):
            return run.volume.open(f"{run.name}/{name}", member)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _regular_file(run: ArchivedRun, name: str) -> Member | None:
    """Return a file of an archived run; None if there is none. Links are not followed."""
    member = run.members.get(name)
    return member if member and stat.S_ISREG(member.mode) else None
