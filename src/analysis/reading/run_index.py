"""Cache parameters and ends of a batch's runs in memory; each refresh reads only runs whose files have changed."""
from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from src import run_folder
from src.analysis.reading import cache, columns, frames, raw_files, results
from src.analysis.reading.columns import Columns
from src.analysis.reading.filters import cell_key, matches
from src.archive import run_files

_MAX_RUNS = 200_000  # in the cache, over all batches
# seconds in which the config of an ended run is not checked again: only a person changes it
_TRUSTED_SECONDS = 1.0

_Stamp = tuple[int, int, int]  # inode, size and mtime_ns of a file, zeros if it does not exist
_NO_FILE = (0, 0, 0)
_Listed = tuple[_Stamp, object]
_Stamps = tuple[_Stamp, _Stamp]  # of config.yaml (else of facts or spec) and of done


@dataclass
class BatchIndex:
    """The readable runs of a batch, without curves.

    cells: a list of len(names) values by parameter and facts/NAME;
    stamps: of each run folder; None where the values may already be outdated;
    listing: the names of all runs, and the stamps of the batch folder and of its archive;
    checked_at: time.monotonic() of the last check of the ended runs.
    """

    names: list[str]
    ends: list[str | None]
    cells: Mapping[str, Sequence[Any]]
    columns: Columns
    stamps: dict[str, _Stamps | None]
    listing: tuple[list[str], _Listed | None]
    checked_at: float
    _levels: dict[str, list[tuple[Any, list[int]]]] = field(default_factory=dict)

    def matching(self, name: str, condition: Any, strict: bool) -> set[int]:
        """Return the positions of the runs whose cell meets a condition, evaluated once per distinct value.

        strict: as in `filters.matches`.
        """
        if name not in self.cells:
            return set(range(len(self.names))) if matches(condition, None) else set()
        if name not in self._levels:
            levels: dict[Any, tuple[Any, list[int]]] = {}
            for position, value in enumerate(self.cells[name]):
                levels.setdefault(cell_key(value), (value, []))[1].append(position)
            self._levels[name] = list(levels.values())
        return {run for value, runs in self._levels[name] if matches(condition, value, strict) for run in runs}


_batches: dict[str, BatchIndex] = {}  # by absolute path, the most recently used last


def cached_index(batch: str) -> BatchIndex | None:
    """Return the index as of the last refresh, None if there was none."""
    return _batches.get(os.path.abspath(batch))


def refresh(batch: str) -> BatchIndex:
    """Return the index of a batch, as `results.read_results` would read it now.

    Runs that have ended keep their end, and their parameters may be a second old; `is_unchanged` checks that.
    """
    folder = os.path.abspath(batch)
    index, now = _batches.pop(folder, None), time.monotonic()
    read_at = time.time_ns()  # a file that is written after its stamp was taken gets another one, or is recent
    names, folder_stamp = _run_names(folder, index, read_at)
    checked_at = index.checked_at if index and now < index.checked_at + _TRUSTED_SECONDS else now
    stamps = _all_stamps(folder, names, index.stamps if index else {}, trust_ended=checked_at != now)
    if index is None or index.stamps != stamps:
        index = _read(folder, stamps, index, read_at)
    index.listing, index.checked_at = (names, folder_stamp), checked_at
    _batches[folder] = index
    while len(_batches) > 1 and sum(len(other.names) for other in _batches.values()) > _MAX_RUNS:
        del _batches[next(iter(_batches))]
    return index


def is_unchanged(batch: str, name: str) -> bool:
    """Return whether config and end of a run are as they were when it was read; if not, it is read again."""
    folder = os.path.abspath(batch)
    stamps = _batches[folder].stamps
    unchanged = stamps.get(name) is not None and _read_stamps(f"{folder}/{name}") == stamps[name]
    if not unchanged:
        stamps[name] = None
    return unchanged


def _run_names(folder: str, index: BatchIndex | None, read_at: int) -> tuple[list[str], _Listed | None]:
    """The names of the runs, and the stamps of the batch folder and its archive, which change with them."""
    stamp = raw_files.file_stamp(folder, ""), run_files.archive_stamp(folder)
    if index and index.listing[1] == stamp:
        return index.listing
    return run_folder.run_names(folder), stamp if _is_settled(stamp[0], read_at) else None


def _is_settled(stamp: _Stamp, read_at: int) -> bool:
    """Whether a later write to the file is certain to change the stamp."""
    return stamp[2] < read_at - cache.RECENT_NS


def _all_stamps(folder: str, names: list[str], earlier: dict[str, _Stamps | None], trust_ended: bool
                ) -> dict[str, _Stamps | None]:
    """trust_ended: the files of runs that had ended are not checked."""
    ended = {name for name in names if trust_ended and (stamps := earlier.get(name)) and stamps[1] != _NO_FILE}
    to_check = [name for name in names if name not in ended]
    checked = dict(zip(to_check, raw_files.map_ordered(
        lambda name: _read_stamps(f"{folder}/{name}", earlier.get(name)), to_check), strict=True))
    return {name: earlier[name] if name in ended else checked[name] for name in names}


def _read_stamps(folder: str, earlier: _Stamps | None = None) -> _Stamps | None:
    """The stamps of a run; None if a file cannot be accessed.

    earlier: the stamps of the last check. The `done` file of a run that had ended is not checked again.
    """
    try:
        config = raw_files.file_stamp(folder, run_folder.CONFIG)
        done = earlier[1] if earlier and earlier[1] != _NO_FILE else raw_files.file_stamp(folder, run_folder.DONE)
        return config if config != _NO_FILE else raw_files.spec_stamp(folder), done
    except OSError:
        return None


def _read(folder: str, stamps: dict[str, _Stamps | None], index: BatchIndex | None, read_at: int) -> BatchIndex:
    """Build an index from an earlier one, where the stamps are the same, and from files."""
    unchanged = {} if index is None else {name: position for position, name in enumerate(index.names)
                                          if stamps.get(name) and stamps[name] == index.stamps[name]}
    to_read = [name for name, stamp in stamps.items() if name not in unchanged and stamp != (_NO_FILE, _NO_FILE)]
    fresh = results.read_runs(folder, to_read if index else list(stamps), whole=index is None)
    fresh = dataclasses.replace(fresh, stats={}, counts=np.zeros(len(fresh), np.int64))
    runs = fresh if index is None else _merge(list(stamps), index.columns, unchanged, fresh)
    settled = {name: stamp if stamp and _is_settled(stamp[0], read_at) and _is_settled(stamp[1], read_at) else None
               for name, stamp in stamps.items()}
    cells = {name: values.tolist() for name, values in frames.parameter_columns(runs).items()}
    return BatchIndex(runs.names, runs.ends, cells, runs, settled, ([], None), 0.0)


def _merge(names: list[str], earlier: Columns, unchanged: dict[str, int], fresh: Columns) -> Columns:
    """Join fresh runs and `unchanged` ones, by their positions in `earlier`, in the order of `names`."""
    read = {name: position for position, name in enumerate(fresh.names)}
    order = [name for name in names if name in unchanged or name in read]
    return columns.assemble([earlier, fresh], np.array([int(name in read) for name in order], int),
                            np.array([read[name] if name in read else unchanged[name] for name in order], int))
