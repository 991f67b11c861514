"""The runs in the archive of a batch: volumes 1.zip, 2.zip, …, of which a later one takes precedence.

A volume is created whole, under the next free number, by one of several processes, and never changed (`writer.py`). It
holds runs, and the names of runs of earlier volumes that do not count any more, or it replaces all earlier ones, which
are deleted then. So readers need no lock: they see the volumes before or after a change.

A run whose folder exists counts as that folder, whatever the archive holds.
"""
from __future__ import annotations

import _thread
import functools
import os
import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from src.archive.volume import Run, Volume

FOLDER = "archive"
SPEC = "spec.yaml"  # every run folder has it
_VOLUME = re.compile(r"([1-9][0-9]{0,8})\.zip\Z")
_TRUSTED_SECONDS = 1.0  # for which a run that was in an archive is read without looking for newer volumes
_FOUND_SECONDS, _MAX_FOUND = 0.02, 256  # for which a found run is not looked up again; number of these runs
_MAX_ARCHIVES = 16  # that stay open
_MAX_LOOKS = 4  # for a run that is nowhere

Version = tuple[int, int, int, int, int]  # inode, size and mtime_ns of a volume, and where a run is in its index
_Stamp = tuple[tuple[int, int, int, int], ...]  # of each volume: number, inode, size, mtime_ns


class ArchivedRun:
    """A run in an archive."""

    def __init__(self, name: str, volume: Volume) -> None:
        self.name, self.volume = name, volume

    @functools.cached_property
    def members(self) -> Run:
        """Its files and folders. BatchError if they are those of a hostile archive."""
        return self.volume.members(self.name)

    @property
    def version(self) -> Version:
        """Numbers that are those of no other content of the run."""
        return *self.volume.identity, *self.volume.runs[self.name]


class Archive:
    """The archive of a batch. runs: those that count; numbers: of all volumes; stamp: changes with any volume."""

    def __init__(self, folder: str, stamp: _Stamp) -> None:
        from src.archive.volume import Volume  # most batches have no archive

        self.stamp, self.checked_at = stamp, time.monotonic()
        self.numbers = [number for number, *_ in stamp]
        self.volumes: list[Volume] = []
        self.runs: dict[str, ArchivedRun] = {}
        for number in self.numbers:
            volume = Volume(os.path.join(folder, volume_name(number)))
            if volume.about.complete:
                self.volumes.clear()
                self.runs.clear()
            for name in volume.about.removed:
                self.runs.pop(name, None)
            self.volumes.append(volume)
            self.runs |= {name: ArchivedRun(name, volume) for name in volume.runs}


def volume_name(number: int) -> str:
    """Return the file name of a volume."""
    return f"{number}.zip"


_archives: dict[str, Archive] = {}  # by the absolute path of their folder
_recent: dict[str, tuple[float, ArchivedRun]] = {}  # by the path of the folder: when, and which
_lock = _thread.allocate_lock()  # threading takes time to load


def of_batch(batch: str | os.PathLike[str]) -> Archive | None:
    """Return the archive of a batch as it is now; None without one. BatchError if a volume is damaged or hostile."""
    folder = os.path.join(os.path.abspath(batch), FOLDER)
    while (stamp := _stamp(folder)) is not None:
        cached = _archives.get(folder)
        if cached and cached.stamp == stamp:
            cached.checked_at = time.monotonic()
            return cached
        try:
            with _lock:
                if (archive := _archives.get(folder)) is None or archive.stamp != stamp:
                    archive = _archives[folder] = Archive(folder, stamp)
        except FileNotFoundError:  # a volume was replaced by a later one
            continue
        while len(_archives) > _MAX_ARCHIVES:
            _archives.pop(next(iter(_archives)), None)
        return archive
    _archives.pop(folder, None)
    return None


def find(folder: str | os.PathLike[str]) -> ArchivedRun | None:
    """Return a run by the path of its folder, which is not there; None if it is not in the archive of its batch."""
    run = _find(folder)
    if run:
        if len(_recent) > _MAX_FOUND:
            _recent.clear()
        _recent[os.fspath(folder)] = time.monotonic(), run
    return run


def just_found(folder: str | os.PathLike[str]) -> ArchivedRun | None:
    """Return a run that was found a few milliseconds ago, as when several of its files are read; otherwise None."""
    since, run = _recent.get(os.fspath(folder), (0.0, None))
    return run if time.monotonic() < since + _FOUND_SECONDS else None


def find_known(folder: str | os.PathLike[str]) -> ArchivedRun | None:
    """Return a run as `find` does, but None if the archive of its batch was not read yet, or did not have the run then.

    It takes less time than an attempt to open a file of the run: reading many archived runs begins with it.
    """
    batch, _, name = os.fspath(folder).rpartition("/")
    cached = _archives.get(f"{batch}/{FOLDER}")
    return find(folder) if cached and name in cached.runs else None


def _find(folder: str | os.PathLike[str]) -> ArchivedRun | None:
    if os.path.exists(f"{os.fspath(folder)}/{SPEC}"):  # most runs: first, since it takes less time than the rest
        return None
    batch, _, name = os.fspath(folder).rpartition("/")
    if f"{batch}/{FOLDER}" not in _archives:  # of which the paths are absolute and normal
        batch, name = os.path.split(os.path.abspath(folder))
    cached = _archives.get(f"{batch}/{FOLDER}")
    if cached is None or name not in cached.runs or time.monotonic() > cached.checked_at + _TRUSTED_SECONDS:
        cached = of_batch(batch)
    return cached.runs.get(name) if cached else None


def clear_cache() -> None:
    """Forget all archives, as a new process would."""
    _archives.clear()
    _recent.clear()


def looks(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Yield each time that something of a run has to be looked for, in its folder and then in the archive.

    A run that is archived or brought back between the two is found in neither. So what was not found is looked for
    again, until the folder was there before and afterwards.
    """
    yield
    spec = os.path.join(folder, SPEC)
    for _ in range(_MAX_LOOKS):
        was_there = os.path.exists(spec)
        yield
        if was_there and os.path.exists(spec):
            return


def _stamp(folder: str) -> _Stamp | None:
    """Return what changes with any volume of an archive; None if there is none."""
    while True:
        try:
            numbers = sorted(int(match[1]) for name in os.listdir(folder) if (match := _VOLUME.match(name)))
            statuses = [(number, os.lstat(os.path.join(folder, volume_name(number)))) for number in numbers]
        except NotADirectoryError:
            return None
        except FileNotFoundError:
            if not os.path.isdir(folder):
                return None
            continue  # a volume was replaced
        return tuple((number, status.st_ino, status.st_size, status.st_mtime_ns) for number, status in statuses) or None
