"""Write archives: pack run folders into a new volume, verify it, and publish it under the next free number.

A volume is a ZIP file because its index gives access to single files, because `unzip` and Python's zipfile read it, and
because it is written in one pass. Files that tables are made of are stored, since inflating them takes longer than
reading them from a folder, and so are checkpoints and arrays, which do not get smaller. Logs and others are deflated.

The number of a volume belongs to one process: a hard link to the finished file, which the file system creates for one
of several callers, gives it its name. A volume that replaces all earlier ones takes exactly the number after those that
it was made from, so that no other is lost; earlier volumes are deleted afterwards. If a number is free, either it was
never used, or a volume that replaces it is there: then the new one is published again, under a later number.
"""
from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import struct
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from src.archive import contents
from src.archive.contents import Archive, ArchivedRun
from src.archive.volume import ABOUT, DEFLATED, STORED, TIME_NS, UNIX_TIME, About, Member, Volume, link_leads_out
from src.errors import BatchError
from src.io import files

MAX_VOLUMES = 8  # more are merged
_STORED_SUFFIXES = ("spec.yaml", "config.yaml", "stats.csv", ".json", ".pt", ".npz", ".npy", ".gz", ".zip", ".png",
                    ".jpg", ".safetensors", ".parquet")
_SMALL = 100  # bytes that deflate does not make fewer
_BLOCK = 1 << 20
_MIN_TIME, _MAX_TIME = 315619200, 2**31 - 1  # of the fields of ZIP files, in unix seconds
_LARGE = 2**31 - 1  # bytes from which a member needs a larger header


class Entry(NamedTuple):
    """A file or folder of a run folder. path: in it, with a `/` at the end of a folder, and "" for the run folder."""

    path: str
    mode: int
    size: int
    time_ns: int


class NotPackable(Exception):
    """A run folder has something that a volume cannot hold; its text says what."""


def list_entries(folder: str, is_left_out: Callable[[str], bool] = lambda path: False) -> list[Entry]:
    """List the files and folders of a run folder, without following links. NotPackable for links and other kinds.

    is_left_out: returns whether a file, by its path in the run folder, is not listed.
    """
    entries = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders.sort()
        below = os.path.relpath(parent, folder)
        prefix = "" if below == "." else f"{below}/"
        for path in (prefix, *(f"{prefix}{name}" for name in sorted([*names, *folders]))):
            info = os.lstat(os.path.join(folder, path))
            is_folder, is_link = stat.S_ISDIR(info.st_mode), stat.S_ISLNK(info.st_mode)
            if not (is_folder or stat.S_ISREG(info.st_mode)) and (
                    not is_link or link_leads_out(path, os.readlink(os.path.join(folder, path)))):
                raise NotPackable(f"{path} is no regular file, or a link that leads out of the run folder")
            if "\\" in path or not _is_utf8(path):
                raise NotPackable(f"the name {path!r} cannot be in a ZIP file")
            if path == prefix or not is_folder and not is_left_out(path):
                entries.append(Entry(path, info.st_mode, 0 if is_folder else info.st_size, info.st_mtime_ns))
    return entries


def _raise(error: OSError) -> None:
    raise error


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def publish_runs(batch: str, runs: dict[str, list[Entry]]) -> set[str]:
    """Pack run folders into a new volume, compare it with the folders, and publish it. Return the runs that are equal:
    the others have changed meanwhile.
    """
    verified: set[str] = set()

    def pack(archive: zipfile.ZipFile) -> None:
        for name, entries in runs.items():
            for entry in entries:
                _add_file(archive, os.path.join(batch, name), name, entry)

    def verify(volume: Volume) -> None:
        verified.update(name for name, entries in runs.items()
                        if is_same(volume, name, os.path.join(batch, name), entries))

    _publish(batch, About(), pack, verify)
    return verified


def is_same(volume: Volume, name: str, folder: str, entries: Iterable[Entry]) -> bool:
    """Return whether a run in a volume has exactly these files and folders, with the same times, modes and bytes."""
    members = volume.members(name)
    if {entry.path: entry[1:] for entry in entries} != {
            path: (member.mode, member.size, member.time_ns) for path, member in members.items()}:
        return False
    return all(_has_content(os.path.join(folder, path), volume.blocks(f"{name}/{path}", member))
               for path, member in members.items() if not stat.S_ISDIR(member.mode))


def _has_content(path: str, blocks: Iterator[bytes]) -> bool:
    try:
        if os.path.islink(path):
            return os.readlink(path).encode() == b"".join(blocks)
        with open(files.open_regular(path), "rb") as file:
            return all(file.read(len(block)) == block for block in blocks) and not file.read(1)
    except FileNotFoundError:
        return False


def remove_runs(batch: str, names: Iterable[str]) -> None:
    """Remove runs from the archive of a batch; without runs, the archive is deleted."""
    while (archive := contents.of_batch(batch)) and (removed := [name for name in names if name in archive.runs]):
        if len(removed) == len(archive.runs):
            _delete_volumes(batch, archive.numbers)
        else:
            _publish(batch, About(removed=tuple(removed)), lambda archive: None, lambda volume: None)


def merge_volumes(batch: str) -> None:
    """Replace the volumes of an archive by one if they are more than MAX_VOLUMES; delete those that are replaced."""
    if (archive := contents.of_batch(batch)) is None:
        _delete_volumes(batch, ())  # an empty folder, after a crash
        return
    merged = archive
    if len(archive.volumes) > MAX_VOLUMES:
        def pack(target: zipfile.ZipFile) -> None:
            for run in merged.runs.values():
                for path, member in run.members.items():
                    _add(target, f"{run.name}/{path}", member, run.volume.blocks(f"{run.name}/{path}", member))

        _publish(batch, About(complete=True), pack, lambda volume: _check_merged(volume, merged),
                 exactly=merged.numbers[-1] + 1)
        archive = contents.of_batch(batch) or archive
    _delete_volumes(batch, archive.numbers[:-len(archive.volumes)])


def _check_merged(volume: Volume, archive: Archive) -> None:
    def described(members: dict[str, Member]) -> dict[str, tuple[int, ...]]:
        return {path: (member.mode, member.size, member.time_ns, member.crc) for path, member in members.items()}

    for run in archive.runs.values():
        members = volume.members(run.name)
        if described(members) != described(run.members):
            raise BatchError("the merged archive differs from its parts", where=volume.path, hint="nothing was removed")
        for path, member in members.items():
            for _ in volume.blocks(f"{run.name}/{path}", member):
                pass


def _delete_volumes(batch: str, numbers: Iterable[int]) -> None:
    """Delete volumes, in the order of their numbers, and the folder if it is empty."""
    folder = os.path.join(batch, contents.FOLDER)
    for number in numbers:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, contents.volume_name(number)))
    with contextlib.suppress(OSError):  # not empty
        os.rmdir(folder)


def _publish(batch: str, about: About, pack: Callable[[zipfile.ZipFile], None], verify: Callable[[Volume], None],
             exactly: int | None = None) -> str:
    """Write a volume, verify it, and give it the next free number. Return its path; empty if `exactly` is taken.

    exactly: the number that it must have.
    """
    folder = os.path.join(batch, contents.FOLDER)
    files.make_folder(folder)
    temporary = files.temporary_path(os.path.join(folder, "new.zip"))
    try:
        with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, files.MODE), "w+b") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                pack(archive)
                archive.writestr(_info(ABOUT, stat.S_IFREG | 0o644, time.time_ns()), about.to_json())
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # verify what is on the disk
        verify(Volume(temporary))
        return _link(temporary, batch, exactly)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _link(temporary: str, batch: str, exactly: int | None) -> str:
    """Give a finished volume its number. Return its path; empty if `exactly` is taken."""
    folder, number = os.path.join(batch, contents.FOLDER), exactly or _next_number(batch)
    while True:
        path = os.path.join(folder, contents.volume_name(number))
        try:
            os.link(temporary, path)
        except FileExistsError:
            if os.stat(temporary).st_nlink == 1:  # over NFS the reply to a successful link can be lost
                if exactly:
                    return ""
                number = max(number + 1, _next_number(batch))
                continue
        except OSError as error:
            raise BatchError(f"an archive needs hard links, which this file system does not make: {error.strerror}",
                             where=folder, hint="nothing was removed") from None
        files.sync_folder(folder)
        archive = contents.of_batch(batch)
        if archive and any(os.path.samefile(volume.path, temporary) for volume in archive.volumes):
            return path
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # a volume that replaces all up to a later number has been published
        number = _next_number(batch)


def _next_number(batch: str) -> int:
    archive = contents.of_batch(batch)
    return archive.numbers[-1] + 1 if archive else 1


def _add_file(archive: zipfile.ZipFile, folder: str, name: str, entry: Entry) -> None:
    """Add a file or folder of a run folder."""
    is_stored = entry.size <= _SMALL or entry.path.endswith(_STORED_SUFFIXES)
    member = Member(0, 0, entry.size, 0, STORED if is_stored else DEFLATED, entry.mode, entry.time_ns)
    _add(archive, f"{name}/{entry.path}", member, _blocks(os.path.join(folder, entry.path), entry.mode))


def _blocks(path: str, mode: int) -> Iterator[bytes]:
    if stat.S_ISLNK(mode):
        yield os.readlink(path).encode()
        return
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _add(archive: zipfile.ZipFile, name: str, member: Member, blocks: Iterable[bytes]) -> None:
    info = _info(name, member.mode, member.time_ns)
    info.compress_type = member.method
    if stat.S_ISDIR(member.mode):
        info.external_attr |= 0x10  # a folder, of MS-DOS
        archive.writestr(info, b"", zipfile.ZIP_STORED)
    elif member.size <= _BLOCK:
        archive.writestr(info, b"".join(blocks))
    else:
        info.file_size = member.size
        with archive.open(info, "w", force_zip64=member.size >= _LARGE) as target:
            for block in blocks:
                target.write(block)


def _info(name: str, mode: int, time_ns: int) -> zipfile.ZipInfo:
    """Return the header of a member, with its mode and modification time."""
    seconds = time_ns // 10**9
    info = zipfile.ZipInfo(name, time.localtime(min(max(seconds, _MIN_TIME), _MAX_TIME))[:6])
    info.create_system, info.external_attr = 3, mode << 16  # Unix
    info.extra = struct.pack("<HHBlHHq", UNIX_TIME, 5, 1, min(max(seconds, -2**31), _MAX_TIME), TIME_NS, 8, time_ns)
    return info


def restore(run: ArchivedRun, folder: str, staging: str) -> None:
    """Make the folder of an archived run, with the bytes, modes and modification times that it had. It appears whole.

    staging: a hidden name beside it. BatchError if something else is in its place. OSError if the archive is damaged.
    """
    os.mkdir(staging, 0o700)
    # links last, so that no file is written through one; a folder after what is in it, which changes its time
    kinds = stat.S_ISREG, stat.S_ISLNK, stat.S_ISDIR
    try:
        for is_kind in kinds:
            for path, member in sorted(run.members.items(), reverse=True):
                if is_kind(member.mode):
                    _restore_member(run, path, member, os.path.join(staging, path))
        os.rename(staging, folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise BatchError("this is in the place of the run's folder", where=folder, hint="move it away") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    files.sync_folder(os.path.dirname(folder))


def _restore_member(run: ArchivedRun, path: str, member: Member, target: str) -> None:
    times = member.time_ns, member.time_ns
    os.makedirs(target if stat.S_ISDIR(member.mode) else os.path.dirname(target), exist_ok=True)
    if stat.S_ISDIR(member.mode):
        files.sync_folder(target)
        os.chmod(target, member.mode & 0o2777)
        os.utime(target, ns=times)
        return
    if stat.S_ISLNK(member.mode):
        os.symlink(b"".join(run.volume.blocks(f"{run.name}/{path}", member)), target)
        os.utime(target, ns=times, follow_symlinks=False)
        return
    with open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "wb") as file:
        for block in run.volume.blocks(f"{run.name}/{path}", member):
            file.write(block)
        file.flush()
        os.fchmod(file.fileno(), member.mode & 0o777)
        os.utime(file.fileno(), ns=times)
        os.fsync(file.fileno())
