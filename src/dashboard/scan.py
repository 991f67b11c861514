"""Find changed files of batches by few calls of stat: of runs that have not ended, and of the batch folders."""
from __future__ import annotations

import os
from collections.abc import Iterable

from src import run_folder

_Stamp = tuple[int, int, int]  # mtime_ns of the folder; size and mtime_ns of stats.csv, zeros if there is none
_STATS = f"/{run_folder.STATS}"
_GONE = (0, 0, 0)
_OF_BATCH = ("", f"/{run_folder.NOTES}", f"/{run_folder.SEARCH}")


class Scan:
    """The stamps of files at the last scan."""

    def __init__(self) -> None:
        self._runs: dict[str, _Stamp] = {}
        self._batches: dict[str, tuple[int, ...]] = {}

    def changed_runs(self, paths: Iterable[str]) -> dict[str, bool]:
        """Return the runs with changed files; the value is whether files were created, renamed or removed.

        A stamp is taken before the caller reads a run, so that what is written meanwhile is a change the next time.
        """
        changed = {}
        for path in paths:
            before = self._runs.get(path, _GONE)
            stamp = _run_stamp(path, before)
            if stamp != before:
                self._runs[path] = stamp
                changed[path] = stamp[0] != before[0]
        return changed

    def changed_batches(self, paths: Iterable[str]) -> list[str]:
        """Return the batches to which runs, notes or decisions of a search were added."""
        changed = []
        for path in paths:
            stamp = tuple(_time(path + name) for name in _OF_BATCH)
            if self._batches.get(path) != stamp:
                self._batches[path] = stamp
                changed.append(path)
        return changed


def _run_stamp(path: str, before: _Stamp) -> _Stamp:
    try:
        folder = os.stat(path).st_mtime_ns
        if folder == before[0] and not before[2]:  # to create a file changes its folder
            return before
        status = os.stat(path + _STATS)
        return folder, status.st_size, status.st_mtime_ns
    except FileNotFoundError:
        return (_time(path), 0, 0)
    except OSError:  # the file system does not answer now
        return before


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
