"""Large file systems for results and data, and links to them from the project."""
from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from src.io import files

_VARIABLES = ("SCRATCH", "WORK", "WORKDIR", "WORKSPACE", "PROJECT", "PSCRATCH", "SCRATCHDIR", "TMPWORK")
# file systems on disks of one machine, which other nodes do not see; others are taken for shared ones
_LOCAL_KINDS = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "overlay"))
_MEMORY_KINDS = frozenset(("tmpfs", "ramfs"))
_ENOUGH = 50e9  # bytes: with less, a folder is proposed only if it has more space than the project
_ROOTS = ("/scratch", "/work", "/scratch/users", "/work/users", "/scratch/work", "/data", "/projects", "/lustre")
FOLDERS = ("results", "data")


class Place(NamedTuple):
    """A folder of this user on a file system. free: bytes; quotas are not taken into account."""

    path: str
    free: int

    def description(self) -> str:
        return f"{self.free / 1e9:,.0f} GB free"


def places(project: str, home: str, user: str, environment: Mapping[str, str],
           roots: Sequence[str] = _ROOTS, mounts: str = "/proc/self/mounts") -> list[Place]:
    """Return the folders that results may be kept in, the proposed one first; none if the project is not in the home.

    They are folders of this user on other file systems, one for each, and the project itself. A disk of this machine is
    left out if the project is on a shared file system, since other nodes do not see such a disk.
    """
    home_device = os.stat(home).st_dev
    if os.stat(project).st_dev != home_device:
        return []
    named = [environment[name] for name in _VARIABLES if environment.get(name)]
    by_device: dict[int, Place] = {}
    for path in (*named, *(os.path.join(root, user) for root in roots)):
        if not os.path.isdir(path) or not os.access(path, os.W_OK | os.X_OK) or os.stat(path).st_dev == home_device:
            continue
        kind = _kind(path, mounts)
        if kind not in _MEMORY_KINDS and (kind not in _LOCAL_KINDS or _kind(project, mounts) in _LOCAL_KINDS):
            by_device.setdefault(os.stat(path).st_dev, Place(os.path.realpath(path), free_bytes(path)))
    others, here = list(by_device.values()), Place(project, free_bytes(project))
    # the free space of a home folder is no measure, since there the quota is the limit
    return sorted([*others, here], key=lambda place: (place is here or place.free < min(_ENOUGH, here.free),
                                                      place is not here, -place.free)) if others else []


def _kind(path: str, mounts: str) -> str:
    """Return the kind of the file system of a folder, such as `nfs4`; empty if it is not known."""
    kind, length, path = "", 0, os.path.join(os.path.realpath(path), "")
    for line in (files.read_text(mounts) or "").splitlines():
        words = line.split(" ")
        if len(words) > 2:
            point = os.path.join(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[1]), "")
            if path.startswith(point) and len(point) >= length:
                kind, length = words[2], len(point)
    return kind


def free_bytes(path: str) -> int:
    """Return the free bytes of the file system of a folder; quotas are not taken into account."""
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
