"""Stage files from another machine: they arrive in a private folder, are checked, and are moved into the results.

A remote machine is not trusted: no symbolic link, device or special file of it, no mode or owner, and no unusual name
reaches the results, and nothing is written through a link that is there.
"""
from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterator

from src.errors import BatchError
from src.io import deletion, files, private

# Options of rsync: contents, names and times only. --chmod sets the modes of new files and folders.
FILE_OPTIONS = ("--times", "--no-links", "--no-devices", "--no-specials", "--no-owner", "--no-group", "--no-perms",
                "--chmod=D755,F644", "--compress")
OPTIONS = ("--recursive", *FILE_OPTIONS)
_MAX_NAME = 255  # bytes


@contextlib.contextmanager
def private_path(folder: str) -> Iterator[str]:
    """Create a folder that only this user can open, and yield a path of it that stays valid if its name is replaced."""
    try:
        private.make_private_folder(folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise BatchError(f"no private folder for the download: {error.strerror}", where=folder,
                         hint="remove it; or download into another folder with --into") from None
    try:
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
        yield path if os.path.isdir(path) else folder
    finally:
        os.close(descriptor)


def is_plain(name: str) -> bool:
    """Return whether a name is plain: neither hidden, nor an option, and without control characters."""
    return name[:1] not in ("", ".", "-") and name.isprintable() and len(os.fsencode(name)) <= _MAX_NAME


def merge(staging: str, into: str, batches: Collection[str], is_left_out: Callable[[str], bool]) -> list[str]:
    """Move the files of these batches from the staging folder into the results, unless the file there is newer.

    is_left_out: returns whether a file, by its path below `into`, is not moved. Return the paths that were not moved
    because of their name or kind, or because a link is in their place.
    """
    refused: list[str] = []
    with deletion.folder_descriptor(os.path.realpath(into)) as results:
        for name in sorted(batches):
            if os.path.isdir(os.path.join(staging, name)):
                refused += _merge_folder(staging, name, results, is_left_out)
    return refused


def _merge_folder(staging: str, path: str, parent: int, is_left_out: Callable[[str], bool]) -> list[str]:
    """Move the contents of a folder into the folder of the same name in `parent`, which is created if need be."""
    name, refused = os.path.basename(path), []
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, files.FOLDER_MODE, dir_fd=parent)
        target = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except NotADirectoryError:
        return [path]
    try:
        with os.scandir(os.path.join(staging, path)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                below = os.path.join(path, entry.name)
                if entry.name[0] == "." or is_left_out(below):  # incomplete, or not wanted
                    continue
                if not is_plain(entry.name):
                    refused.append(below)
                elif entry.is_dir(follow_symlinks=False):
                    refused += _merge_folder(staging, below, target, is_left_out)
                elif not _move_file(entry, target):
                    refused.append(below)
    finally:
        os.close(target)
    return refused


def _move_file(entry: os.DirEntry[str], target: int) -> bool:
    """Move a file, unless that of the same name is newer. Return False for a folder, or no regular file."""
    staged = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(staged.st_mode) or staged.st_nlink != 1:
        return False
    with contextlib.suppress(FileNotFoundError):
        existing = os.stat(entry.name, dir_fd=target, follow_symlinks=False)
        if stat.S_ISDIR(existing.st_mode):
            return False
        if stat.S_ISREG(existing.st_mode) and existing.st_mtime_ns > staged.st_mtime_ns:
            return True
    os.rename(entry.path, entry.name, dst_dir_fd=target)
    return True
