"""Folders that only this user can open, for secrets and sockets: nobody else can create a file in them first."""
from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from src.io import deletion


def make_private_folder(path: str) -> str:
    """Create a folder with mode 0700, or give an existing one of this user that mode. Return its path.

    PermissionError if it belongs to another user; OSError if it is a symbolic link or cannot be created.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    with deletion.folder_descriptor(path) as descriptor:
        info = os.fstat(descriptor)
        if info.st_uid != os.geteuid():
            raise PermissionError(1, "this folder belongs to another user", path)
        if stat.S_IMODE(info.st_mode) & 0o077:
            os.fchmod(descriptor, 0o700)
    return path


def state_folder() -> str:
    """Return this user's folder for small files that all machines with the same home folder see. OSError as above."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return make_private_folder(os.path.join(home, "gridiron"))


def runtime_folders() -> Iterator[str]:
    """Yield the folders in which sockets may be: that of the login session, then one in the home folder.

    One that cannot be made private is left out.
    """
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        with contextlib.suppress(OSError):
            yield make_private_folder(os.path.join(session, "gridiron"))
    with contextlib.suppress(OSError):
        yield state_folder()


def write_secret(path: str, text: str) -> None:
    """Create a file that only this user can read. FileExistsError if there is one."""
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)
