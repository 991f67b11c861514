"""Find runs of all batches by their parameters, tell whether one is done, and store artifacts with a run."""
from __future__ import annotations

import copy
import functools
import io
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from src import run_folder
from src.analysis.reading import run_index
from src.analysis.reading.arrays import DAMAGE
from src.analysis.reading.filters import as_declared, distinguishes_floats, matches, unknown_column
from src.analysis.reading.frames import FACTS, IDENTITY, identity_columns, to_frame
from src.analysis.reading.run_index import BatchIndex
from src.archive import run_files
from src.errors import ResultsError
from src.io import files

_FORMATS = ".json, .npy, .npz, .csv, .txt, .png, .pdf, .svg, or bytes with any other suffix"


def find_runs(params: Mapping[str, Any] | None = None, results: str | os.PathLike[str] = "results") -> pd.DataFrame:
    """Return the runs under `results` that meet the conditions, a row each: run, batch, end, folder, parameters, facts.

    params: conditions as in `filt`: a value, a list of alternatives, an Interval, a pattern, a function;
    results: a folder of batches, or a batch.
    The frame has no curves (`read_experiments` reads them). What was read is cached until files change, so that a
    search of thousands of runs takes milliseconds.
    """
    runs, positions = _find(params or {}, results)
    return runs.frame(positions)


def find_one(params: Mapping[str, Any], results: str | os.PathLike[str] = "results") -> pd.Series:
    """Return the one run that meets the conditions. ResultsError if there is none, or more than one."""
    runs = find_runs(params, results)
    if len(runs) != 1:
        examples = ", ".join(runs["folder"][:3]) + (", …" if len(runs) > 3 else "")
        raise ResultsError(f"{len(runs) or 'no'} runs match {dict(params)}" + (f": {examples}" if examples else ""),
                           where=os.fspath(results), hint="give more conditions" if len(runs) else "give fewer")
    return runs.iloc[0]


def is_done(params: Mapping[str, Any], results: str | os.PathLike[str] = "results") -> bool:
    """Return whether some run with these parameters has ended: completed, early stopped or diverged."""
    cached = _Runs([(batch, index) for batch in _batches(results) if (index := run_index.cached_index(batch))])
    if cached.has_columns(params) and any(
            cached.has_ended(run) and cached.is_current(run) for run in cached.matching(params)):
        return True  # by looking at the files of one run
    runs, positions = _find(params, results)
    return any(runs.has_ended(run) for run in positions)


def _find(conditions: Mapping[str, Any], results: str | os.PathLike[str]) -> tuple[_Runs, list[int]]:
    """All runs, and the positions of those that meet the conditions; read again while one of these has changed."""
    batches = _batches(results)
    while True:
        runs = _Runs([(batch, run_index.refresh(batch)) for batch in batches])
        positions = runs.matching(conditions)
        to_check = range(len(runs)) if "end" in conditions else positions
        # every one is checked: the next refresh reads all that have changed
        if not [run for run in to_check if not runs.is_unchanged(run)]:
            return runs, positions


class _Runs:
    """The runs of some batches. Columns over all batches are joined when they are accessed."""

    def __init__(self, batches: Sequence[tuple[str, BatchIndex]]) -> None:
        self._batches = batches
        self._runs = [(batch, index, position) for batch, index in batches for position in range(len(index.names))]

    def __len__(self) -> int:
        return len(self._runs)

    def frame(self, positions: Sequence[int]) -> pd.DataFrame:
        """Return a row for each of these runs: identity, then the parameters of all batches, then facts."""
        names = dict.fromkeys(name for _, index in self._batches for name in index.cells)
        table = {name: [self._identity[name][run] for run in positions] for name in IDENTITY}
        for name in sorted(names, key=lambda name: name.startswith(FACTS)):
            column = self._column(name)
            # a copy: changing a list or a mapping of the frame must not change the cache
            table[name] = [copy.deepcopy(column[run]) if isinstance(column[run], (list, dict)) else column[run]
                           for run in positions]
        return to_frame(table)

    @functools.cached_property
    def _identity(self) -> dict[str, Sequence[Any]]:
        batch_names = {batch: os.path.basename(os.path.abspath(batch)) for batch, _ in self._batches}
        names = [name for _, index in self._batches for name in index.names]
        batches = [batch for batch, _, _ in self._runs]
        return identity_columns(names, [batch_names[batch] for batch in batches],
                                [f"{batch}/{name}" for batch, name in zip(batches, names, strict=True)],
                                [end for _, index in self._batches for end in index.ends])

    def _column(self, name: str) -> Sequence[Any]:
        """A value for each run, None where it has none."""
        if name in IDENTITY:
            return self._identity[name]
        parts = [index.cells.get(name) or [None] * len(index.names) for _, index in self._batches]
        return parts[0] if len(parts) == 1 else list(itertools.chain.from_iterable(parts))

    def has_columns(self, names: Iterable[str]) -> bool:
        """Return whether these columns exist."""
        return all(name in IDENTITY or any(name in index.cells for _, index in self._batches) for name in names)

    def matching(self, conditions: Mapping[str, Any]) -> list[int]:
        """Return the positions of the runs that meet all conditions. ResultsError for an unknown column."""
        positions = set(range(len(self)))
        for name, condition in conditions.items() if positions else ():
            if not self.has_columns([name]):
                raise unknown_column(name, self.frame([]).columns)
            positions &= self._matching(name, condition)
        return sorted(positions)

    def _matching(self, name: str, condition: Any) -> set[int]:
        if name in IDENTITY or callable(condition):  # a function gets the cell that a frame has
            values = to_frame({name: self._column(name)})[name].tolist()
            return {run for run, value in enumerate(values) if matches(condition, value)}
        condition, strict = as_declared(name, condition), distinguishes_floats(name, self._column(name))
        starts = itertools.accumulate((len(index.names) for _, index in self._batches), initial=0)
        return {start + run for start, (_, index) in zip(starts, self._batches, strict=False)
                for run in index.matching(name, condition, strict)}

    def has_ended(self, run: int) -> bool:
        """Return whether a run had ended when it was read."""
        _, index, position = self._runs[run]
        return index.ends[position] is not None

    def is_unchanged(self, run: int) -> bool:
        """Return whether a run's files are as they were when it was read. Runs without a stamp were read just now."""
        batch, index, position = self._runs[run]
        name = index.names[position]
        return index.stamps[name] is None or run_index.is_unchanged(batch, name)

    def is_current(self, run: int) -> bool:
        """Return whether the cached values of a run are certain to be those of its files."""
        _, index, position = self._runs[run]
        return index.stamps[index.names[position]] is not None and self.is_unchanged(run)


def save_artifact(value: Any, run: str | os.PathLike[str] | pd.Series, name: str) -> str:
    """Store a value in artifacts/ of a run folder. Return the path.

    run: its folder, or its row of a frame;
    name: a file name whose suffix selects the format: .json (plain values), .npy (an array), .npz (a mapping of
        arrays), .csv (a data frame), .txt (text), .png, .pdf, .svg (a figure); bytes are stored under any other.
    """
    path = _artifact_path(run, name)
    run_files.require_folder(os.path.dirname(os.path.dirname(path)), "changed")
    files.make_folder(os.path.dirname(path))
    files.write_atomic(path, _to_bytes(value, os.path.splitext(name)[1], name))
    return path


def load_artifact(run: str | os.PathLike[str] | pd.Series, name: str) -> Any:
    """Return what `save_artifact` stored; bytes for pictures and other files. ResultsError if it does not exist."""
    path = _artifact_path(run, name)
    folder, file_name = os.path.dirname(os.path.dirname(path)), f"{run_folder.ARTIFACTS}/{name}"
    if not run_files.exists(folder, file_name):
        raise ResultsError("no such artifact", where=path, allowed=sorted(run_files.list_folder(
            folder, run_folder.ARTIFACTS)) or None, hint="save_artifact stores one")
    suffix = os.path.splitext(name)[1]
    try:
        with run_files.open_binary(folder, file_name) as file:
            if suffix in (".npy", ".npz"):
                arrays = np.load(file, allow_pickle=False)
                return dict(arrays) if suffix == ".npz" else arrays
            if suffix == ".csv":
                return pd.read_csv(file)
            data = file.read()
        return json.loads(data) if suffix == ".json" else data.decode() if suffix == ".txt" else data
    except DAMAGE as error:
        raise ResultsError(f"cannot be read: {(str(error).splitlines() or ['it is empty'])[0][:200]}", where=path
                           ) from None


def _to_bytes(value: Any, suffix: str, name: str) -> bytes:
    buffer = io.BytesIO()
    if isinstance(value, bytes):
        return value
    if suffix == ".json":
        return json.dumps(value, indent=1).encode()
    if suffix == ".txt":
        return str(value).encode()
    if suffix == ".npy":
        np.save(buffer, value, allow_pickle=False)
    elif suffix == ".npz":
        np.savez_compressed(buffer, **value)
    elif suffix == ".csv":
        value.to_csv(buffer, index=False)
    elif suffix in (".png", ".pdf", ".svg"):
        value.savefig(buffer, format=suffix[1:])
    else:
        raise ResultsError(f"cannot store a {type(value).__name__} as '{name}'", allowed=_FORMATS)
    return buffer.getvalue()


def _artifact_path(run: str | os.PathLike[str] | pd.Series, name: str) -> str:
    folder = str(run["folder"]) if isinstance(run, pd.Series) else os.fspath(run)
    if not run_folder.is_run_folder(folder):
        raise ResultsError("not a run folder", where=folder)
    if os.path.basename(name) != name or name.startswith("."):
        raise ResultsError(f"'{name}' is not a plain file name", where=folder)
    return os.path.join(folder, run_folder.ARTIFACTS, name)


def _batches(results: str | os.PathLike[str]) -> list[str]:
    """The paths of the batches in a folder, or the batch itself."""
    folder = os.fspath(results)
    if run_folder.is_batch_folder(folder):
        return [folder]
    names = sorted(files.list_folder(folder))
    return [path for path in (os.path.join(folder, name) for name in names if name[0] != ".")
            if run_folder.is_batch_folder(path)]
