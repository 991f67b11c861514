"""Delete files and folders through descriptors of their folders, so that no symbolic link is followed.

A folder may be replaced by a link at any time if other users can write to the one that holds it. A descriptor keeps
denoting the folder that was looked at.
"""
from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from src.errors import BatchError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def folder_descriptor(path: str, below: int | None = None) -> Iterator[int]:
    """Open a folder. OSError if it is missing or a symbolic link. below: a descriptor that the path is relative to."""
    descriptor = os.open(path, _FOLDER, dir_fd=below)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def remove_files(folder: int, should_remove: Callable[[str], bool]) -> int:
    """Remove the selected regular files and links of an open folder. Return the number of bytes of the files."""
    freed = 0
    for name in filter(should_remove, os.listdir(folder)):
        with contextlib.suppress(FileNotFoundError):
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                continue
            os.unlink(name, dir_fd=folder)
            freed += info.st_size * stat.S_ISREG(info.st_mode)
    return freed


def folder_id(path: str) -> tuple[int, int]:
    """Return device and inode of a folder, which identify it under any name. OSError if it is missing or a link."""
    with folder_descriptor(path) as descriptor:
        info = os.fstat(descriptor)
        return info.st_dev, info.st_ino


def remove_tree(path: str, expected: tuple[int, int] | None = None) -> None:
    """Remove a folder with its contents; what cannot be removed remains.

    expected: the `folder_id` when it was looked at. BatchError if another folder or a link has taken its place.
    """
    if not expected and not os.path.lexists(path):
        return
    import shutil  # loads four modules that a dry run does not need

    folder, name = os.path.split(os.path.abspath(path))
    with folder_descriptor(os.path.realpath(folder)) as parent:
        try:
            with folder_descriptor(name, parent) as descriptor:
                info = os.fstat(descriptor)
        except OSError:
            info = None
        if info is None or expected and (info.st_dev, info.st_ino) != expected:
            raise BatchError("this is not the folder that was to be removed: it has been replaced", where=path,
                             hint="nothing was removed")
        shutil.rmtree(name, ignore_errors=True, dir_fd=parent)


def remove_below(top: int, name: str) -> bool:
    """Remove a file or link below an open folder, and the folders on its way that become empty.

    Return False, and remove nothing, if a part of its path is a link, `..` or missing, or if it is a folder.
    """
    *folders, last = name.split("/")
    if {"", ".", ".."} & {*folders, last}:
        return False
    try:
        with contextlib.ExitStack() as stack:
            opened = [top]
            for folder in folders:
                opened.append(stack.enter_context(folder_descriptor(folder, opened[-1])))
            os.unlink(last, dir_fd=opened[-1])
            with contextlib.suppress(OSError):  # not empty
                for folder, parent in zip(reversed(folders), reversed(opened[:-1]), strict=True):
                    os.rmdir(folder, dir_fd=parent)
    except OSError:
        return False
    return True
