"""Parameters and ends of a batch's runs, remembered between questions: only what has changed meanwhile is read again"""
from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from src import run_folder
from src.analysis.reading import cache, columns, raw_files, results
from src.analysis.reading.columns import Columns
from src.analysis.reading.filters import cell_key, matches

_MOST = 200_000  # runs that are remembered in all
_TRUSTED = 1.0  # seconds in which the config of a run that has ended is not looked at again: only a person changes it

_Stamp = tuple[int, int, int]  # inode, size and mtime_ns of a file, zeros where there is none
_NONE = (0, 0, 0)
_Stamps = tuple[_Stamp, _Stamp]  # of config.yaml (of a program without one: of its spec) and of done


@dataclass
class BatchIndex:
    """The readable runs of a batch, without curves.

    cells: a list of `len(names)` values by parameter and facts/NAME; stamps: of each run folder, None where what was
    read may be outdated already; listing: names of all run folders, and the stamp of the batch's folder; looked: when
    the runs that have ended were last looked at, by time.monotonic.
    """

    names: list[str]
    ends: list[str | None]
    cells: Mapping[str, Sequence[Any]]
    columns: Columns
    stamps: dict[str, _Stamps | None]
    listing: tuple[list[str], _Stamp | None]
    looked: float
    _levels: dict[str, list[tuple[Any, list[int]]]] = field(default_factory=dict)

    def that_meet(self, name: str, condition: Any) -> set[int]:
        """The positions of the runs whose cell meets a condition, which is asked once for each different value."""
        if name not in self.cells:
            return set(range(len(self.names))) if matches(condition, None) else set()
        if name not in self._levels:
            levels: dict[Any, tuple[Any, list[int]]] = {}
            for position, value in enumerate(self.cells[name]):
                levels.setdefault(cell_key(value), (value, []))[1].append(position)
            self._levels[name] = list(levels.values())
        return {run for value, runs in self._levels[name] if matches(condition, value) for run in runs}


_batches: dict[str, BatchIndex] = {}  # by absolute path, the one that was asked for last at the end


def cached_index(batch: str) -> BatchIndex | None:
    """What was known when somebody looked last."""
    return _batches.get(os.path.abspath(batch))


def refresh(batch: str) -> BatchIndex:
    """What the files of a batch say now, as `results.read_results` would read it. Of runs that have ended, the end as
    it was, and the parameters as they were a second ago: `is_as_it_was` tells whether that holds."""
    folder = os.path.abspath(batch)
    before, now = _batches.pop(folder, None), time.monotonic()
    read_at = time.time_ns()  # what is written after the stamps are taken has other ones, or is young
    names, listed = _names(folder, before, read_at)
    looked = before.looked if before and now < before.looked + _TRUSTED else now
    stamps = _all_stamps(folder, names, before.stamps if before else {}, trusted=looked != now)
    if before is None or before.stamps != stamps:
        before = _read(folder, stamps, before, read_at)
    before.listing, before.looked = (names, listed), looked
    _batches[folder] = before
    while len(_batches) > 1 and sum(len(each.names) for each in _batches.values()) > _MOST:
        del _batches[next(iter(_batches))]
    return before


def is_unchanged(batch: str, name: str) -> bool:
    """Whether neither config nor end of a run has changed since. If not, the next look reads it."""
    folder = os.path.abspath(batch)
    stamps = _batches[folder].stamps
    same = stamps.get(name) is not None and _stamps(f"{folder}/{name}") == stamps[name]
    if not same:
        stamps[name] = None
    return same


def _names(folder: str, before: BatchIndex | None, read_at: int) -> tuple[list[str], _Stamp | None]:
    """The names of the run folders: a folder's time changes with them."""
    listed = _of_file(folder)
    if before and before.listing[1] == listed:
        return before.listing
    return run_folder.run_names(folder), listed if _is_old(listed, read_at) else None


def _is_old(stamp: _Stamp, read_at: int) -> bool:
    return stamp[2] < read_at - cache.RECENT_NS


def _all_stamps(folder: str, names: list[str], earlier: dict[str, _Stamps | None], trusted: bool
                ) -> dict[str, _Stamps | None]:
    """trusted: those of runs that had ended are as they were."""
    ended = {name for name in names if (stamps := earlier.get(name)) and stamps[1] != _NONE} if trusted else set()
    left = [name for name in names if name not in ended]
    found = raw_files.map_ordered(lambda name: _stamps(f"{folder}/{name}", earlier.get(name)), left)
    looked_at = dict(zip(left, found, strict=True))
    return {name: earlier[name] if name in ended else looked_at[name] for name in names}


def _stamps(folder: str, earlier: _Stamps | None = None) -> _Stamps | None:
    """The stamps of a run; None if a file cannot be looked at. earlier: if it had ended then, it has now."""
    try:
        config = _of_file(f"{folder}/{run_folder.CONFIG}")
        done = earlier[1] if earlier and earlier[1] != _NONE else _of_file(f"{folder}/{run_folder.DONE}")
        if config == _NONE != done:
            inode, size, time_ns = _of_file(f"{folder}/{run_folder.SPEC}")
            config = -inode, size, time_ns
        return config, done
    except OSError:
        return None


def _of_file(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return _NONE
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(folder: str, stamps: dict[str, _Stamps | None], before: BatchIndex | None, read_at: int) -> BatchIndex:
    """What is known already where the stamps are the same, and the rest from files."""
    kept = {} if before is None else {name: position for position, name in enumerate(before.names)
                                      if stamps.get(name) and stamps[name] == before.stamps[name]}
    todo = [name for name, stamp in stamps.items() if name not in kept and stamp != (_NONE, _NONE)]
    fresh = results.read_runs(folder, todo if before else list(stamps), whole=before is None)
    fresh = dataclasses.replace(fresh, stats={}, counts=np.zeros(len(fresh), np.int64))
    found = fresh if before is None else _merged(list(stamps), before.columns, kept, fresh)
    sure = {name: stamp if stamp and _is_old(stamp[0], read_at) and _is_old(stamp[1], read_at) else None
            for name, stamp in stamps.items()}
    cells = {name: values.tolist() for name, values in results.parameter_columns(found).items()}
    return BatchIndex(found.names, found.ends, cells, found, sure, ([], None), 0.0)


def _merged(names: list[str], before: Columns, kept: dict[str, int], fresh: Columns) -> Columns:
    """Runs in the order of `names`: the fresh ones, and of those before the `kept`, by their positions there."""
    read = {name: position for position, name in enumerate(fresh.names)}
    order = [name for name in names if name in kept or name in read]
    return columns.assemble([before, fresh], np.array([int(name in read) for name in order], int),
                            np.array([read[name] if name in read else kept[name] for name in order], int))
