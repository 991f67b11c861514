"""Where results and data may lie: large file systems that this user can write to, and links to them."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from src.io import files

_VARIABLES = ("SCRATCH", "WORK", "WORKDIR", "WORKSPACE", "PROJECT", "PSCRATCH", "SCRATCHDIR", "TMPWORK")
_ROOTS = ("/scratch", "/work", "/scratch/users", "/work/users", "/scratch/work", "/data", "/projects", "/lustre")
FOLDERS = ("results", "data")


class Place(NamedTuple):
    """A folder of this user on a file system. free: bytes that this user may still write there."""

    path: str
    free: int

    def description(self) -> str:
        return f"{self.free / 1e9:,.0f} GB free"


def places(home: str, user: str, environment: Mapping[str, str], roots: Sequence[str] = _ROOTS) -> list[Place]:
    """Return the folders of this user on other file systems than the home folder, the one with most space first."""
    named = [environment[name] for name in _VARIABLES if environment.get(name)]
    found: dict[int, Place] = {}
    for path in (*named, *(os.path.join(root, user) for root in roots)):
        if os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
            device = os.stat(path).st_dev
            if device != os.stat(home).st_dev:
                found.setdefault(device, Place(os.path.realpath(path), free_bytes(path)))
    return sorted(found.values(), key=lambda place: -place.free)


def free_bytes(path: str) -> int:
    """Return how many bytes this user may still write to the file system of a folder, quotas apart."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def plan_links(project: str, place: str) -> tuple[dict[str, str], list[str]]:
    """Return the links to make, target by path, and the folders of the project that stay because they hold files."""
    links, kept = {}, []
    for name in FOLDERS:
        path = os.path.join(project, name)
        if os.path.islink(path):
            continue  # made before
        if os.path.isdir(path) and os.listdir(path):
            kept.append(name)
        else:
            links[path] = os.path.join(place, os.path.basename(os.path.abspath(project)), name)
    return links, kept


def make_link(path: str, target: str) -> None:
    """Make the target folder, and a link to it in place of an empty folder or nothing."""
    files.make_folder(target)
    if os.path.isdir(path):
        os.rmdir(path)
    os.symlink(target, path)
