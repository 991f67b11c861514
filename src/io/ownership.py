"""Owners of files, and who else may write to a folder: other people's files are neither trusted nor silently used."""
from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pwd
import stat


def other_owner(*paths: str | os.PathLike[str]) -> str | None:
    """Return the name of the other user to whom one of the paths belongs; None if all are this user's.

    A symbolic link belongs to whoever made it. A path that does not exist belongs to nobody.
    """
    for path in paths:
        try:
            user_id = os.lstat(path).st_uid
        except OSError:
            continue
        if user_id != os.geteuid():
            return _user_name(user_id)
    return None


def cache_folder(shared: str, owner: int, must_be_writable: bool = True) -> str:
    """Return the folder of a cache: `shared`, or a private one if another user could have written what is in there.

    `shared` is used if it belongs to this user or to `owner`, who owns the data and could change that as well, and if
    nobody else can write to it. If it does not exist, it may be created. must_be_writable: a `shared` folder that this
    user cannot write to is not used.
    """
    try:
        is_usable = _is_protected(os.lstat(shared), owner)
        writable = shared
    except OSError:
        is_usable, writable = True, os.path.dirname(shared)
    if is_usable and (not must_be_writable or os.access(writable, os.W_OK)):
        return shared
    return user_cache_folder(hashlib.sha256(os.fsencode(shared)).hexdigest()[:20])


def user_cache_folder(name: str) -> str:
    """Return a folder in this user's cache folder: $XDG_CACHE_HOME/gridiron/NAME or ~/.cache/gridiron/NAME."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "gridiron", name)


def create_cache_folder(path: str, owner: int) -> bool:
    """Create the folder of a cache, to which only this user can write. Return whether it can be used."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)
    return _is_protected(os.lstat(path), owner)


def is_cache_file(path: str, owner: int) -> bool:
    """Return whether a file of a cache is a regular file of this user or of `owner`, and no link."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid in (os.geteuid(), owner)


def _is_protected(status: os.stat_result, owner: int) -> bool:
    """Return whether this is a folder of this user or of `owner` to which no other user can write."""
    is_group_writable = status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_gid)
    return stat.S_ISDIR(status.st_mode) and status.st_uid in (os.geteuid(), owner) and not (
        is_group_writable or status.st_mode & stat.S_IWOTH)


@functools.cache
def _is_private_group(group_id: int) -> bool:
    """Return whether this user is alone in a group, as in the one that many systems create for each user."""
    import grp  # few folders are writable for a group

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(group_id)
    except KeyError:
        return False
    return user.pw_gid == group_id and user.pw_name == group.gr_name and not set(group.gr_mem) - {user.pw_name}


def _user_name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user {user_id}"
