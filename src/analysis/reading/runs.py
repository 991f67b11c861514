"""Runs by their parameters, of all batches: which there are, the one that is meant, whether one is done; artifacts"""
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
from src.analysis.reading.filters import matches, unknown_column
from src.analysis.reading.results import IDENTITY, identity_columns, to_frame
from src.errors import ResultsError
from src.io import files


def find_runs(params: Mapping[str, Any] | None = None, results: str | os.PathLike[str] = "results") -> pd.DataFrame:
    """The runs under `results` that meet the conditions, a row each: run, batch, end, folder, parameters and facts.

    params: conditions as in `filt`; a value, a list of which one holds, an Interval, a pattern, a function. results: a
    folder of batches, or a batch. Without curves, so that thousands are found in a moment; `read_experiments` has them.
    What was read is remembered as long as its files stay as they are.
    """
    runs, found = _find(params or {}, results)
    return runs.frame(found)


def find_one(params: Mapping[str, Any], results: str | os.PathLike[str] = "results") -> pd.Series:
    """The one run that meets the conditions. ResultsError if there is none, or more than one."""
    found = find_runs(params, results)
    if len(found) != 1:
        some = ", ".join(found["folder"][:3]) + (", …" if len(found) > 3 else "")
        raise ResultsError(f"{len(found) or 'no'} runs are like {dict(params)}" + (f": {some}" if some else ""),
                           where=os.fspath(results), hint="give more conditions" if len(found) else "give fewer")
    return found.iloc[0]


def is_done(params: Mapping[str, Any], results: str | os.PathLike[str] = "results") -> bool:
    """Whether some run with these parameters has ended: completed, early stopped or diverged."""
    before = _Runs([(batch, there) for batch in _batches(results) if (there := run_index.cached_index(batch))])
    if before.has(params) and any(before.has_ended(run) and before.is_sure(run) for run in before.that_meet(params)):
        return True  # by a look at one run
    runs, found = _find(params, results)
    return any(runs.has_ended(run) for run in found)


def _find(conditions: Mapping[str, Any], results: str | os.PathLike[str]) -> tuple[_Runs, list[int]]:
    """All runs, and those of them that meet the conditions."""
    batches = _batches(results)
    while True:
        runs = _Runs([(batch, run_index.refresh(batch)) for batch in batches])
        found = runs.that_meet(conditions)
        changed = [run for run in (range(len(runs)) if "end" in conditions else found) if not runs.is_as_it_was(run)]
        if not changed:
            return runs, found


class _Runs:
    """The runs of some batches, in columns that are put together when somebody asks for them."""

    def __init__(self, batches: Sequence[tuple[str, run_index.BatchIndex]]) -> None:
        self._batches = batches
        self._places = [(batch, runs, position) for batch, runs in batches for position in range(len(runs.names))]

    def __len__(self) -> int:
        return len(self._places)

    def frame(self, found: Sequence[int]) -> pd.DataFrame:
        """A row for each of these runs: what says which it is, then the parameters of all batches, then facts."""
        cells = dict.fromkeys(name for _, runs in self._batches for name in runs.cells)
        table = {name: [self._identity[name][run] for run in found] for name in IDENTITY}
        for name in sorted(cells, key=lambda name: name.startswith("facts/")):
            column = self._column(name)
            # what is remembered must not change when somebody changes a list or a mapping of the frame
            table[name] = [copy.deepcopy(column[run]) if isinstance(column[run], (list, dict)) else column[run]
                           for run in found]
        return to_frame(table)

    @functools.cached_property
    def _identity(self) -> dict[str, Sequence[Any]]:
        batches = {batch: os.path.basename(os.path.abspath(batch)) for batch, _ in self._batches}
        names = [name for _, runs in self._batches for name in runs.names]
        places = [batch for batch, _, _ in self._places]
        return identity_columns(names, [batches[batch] for batch in places],
                        [f"{batch}/{name}" for batch, name in zip(places, names, strict=True)],
                        [end for _, runs in self._batches for end in runs.ends])

    def _column(self, name: str) -> Sequence[Any]:
        """A value for each run, None where it has none."""
        if name in IDENTITY:
            return self._identity[name]
        parts = [runs.cells.get(name) or [None] * len(runs.names) for _, runs in self._batches]
        return parts[0] if len(parts) == 1 else list(itertools.chain.from_iterable(parts))

    def has(self, names: Iterable[str]) -> bool:
        """Whether there are such columns."""
        return all(name in IDENTITY or any(name in runs.cells for _, runs in self._batches) for name in names)

    def that_meet(self, conditions: Mapping[str, Any]) -> list[int]:
        """The positions of the runs that meet all conditions. ResultsError for an unknown column."""
        found = set(range(len(self)))
        for name, condition in conditions.items() if found else ():
            if not self.has([name]):
                raise unknown_column(name, self.frame([]).columns)
            found &= self._that_meet(name, condition)
        return sorted(found)

    def _that_meet(self, name: str, condition: Any) -> set[int]:
        if name in IDENTITY or callable(condition):  # which is asked what a frame has
            values = to_frame({name: self._column(name)})[name].tolist()
            return {run for run, value in enumerate(values) if matches(condition, value)}
        starts = itertools.accumulate((len(runs.names) for _, runs in self._batches), initial=0)
        return {start + run for start, (_, runs) in zip(starts, self._batches, strict=False)
                for run in runs.that_meet(name, condition)}

    def has_ended(self, run: int) -> bool:
        """Whether it has, as far as is remembered."""
        _, runs, position = self._places[run]
        return runs.ends[position] is not None

    def is_as_it_was(self, run: int) -> bool:
        """Whether nothing has changed since what is remembered was read; what is doubted was read just now."""
        batch, runs, position = self._places[run]
        name = runs.names[position]
        return runs.stamps[name] is None or run_index.is_unchanged(batch, name)

    def is_sure(self, run: int) -> bool:
        """Whether what is remembered holds."""
        _, runs, position = self._places[run]
        return runs.stamps[runs.names[position]] is not None and self.is_as_it_was(run)


def save_artifact(value: Any, run: str | os.PathLike[str] | pd.Series, name: str) -> str:
    """Keep something with a run, in artifacts/ of its folder; its path.

    run: its folder, or its row of a frame. name: its ending says how it is kept: .json (plain values), .npy (an array),
    .npz (a mapping of arrays), .csv (a data frame), .txt (text), .png, .pdf, .svg (a figure); bytes go into any other.
    """
    path = _path(run, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_atomic(path, _packed(value, os.path.splitext(name)[1], name))
    return path


def load_artifact(run: str | os.PathLike[str] | pd.Series, name: str) -> Any:
    """What `save_artifact` kept; of pictures and other files, the bytes. ResultsError if there is none."""
    path = _path(run, name)
    if not os.path.isfile(path):
        folder = os.path.dirname(path)
        raise ResultsError("there is no such artifact", where=path, allowed=sorted(os.listdir(folder)) if os.path.isdir(
            folder) else None, hint="save_artifact keeps one")
    kind = os.path.splitext(name)[1]
    if kind == ".json":
        return files.read_json(path)
    if kind in (".npy", ".npz"):
        found = np.load(path, allow_pickle=False)
        return dict(found) if kind == ".npz" else found
    if kind == ".csv":
        return pd.read_csv(path)
    with open(path, "rb") as file:
        data = file.read()
    return data.decode() if kind == ".txt" else data


def _packed(value: Any, kind: str, name: str) -> bytes:
    packed = io.BytesIO()
    if isinstance(value, bytes):
        return value
    if kind == ".json":
        return json.dumps(value, indent=1).encode()
    if kind == ".txt":
        return str(value).encode()
    if kind == ".npy":
        np.save(packed, value, allow_pickle=False)
    elif kind == ".npz":
        np.savez_compressed(packed, **value)
    elif kind == ".csv":
        value.to_csv(packed, index=False)
    elif kind in (".png", ".pdf", ".svg"):
        value.savefig(packed, format=kind[1:])
    else:
        raise ResultsError(f"it is not known how to keep a {type(value).__name__} as '{name}'",
                           allowed=".json, .npy, .npz, .csv, .txt, .png, .pdf, .svg, or bytes in any other")
    return packed.getvalue()


def _path(run: str | os.PathLike[str] | pd.Series, name: str) -> str:
    folder = str(run["folder"]) if isinstance(run, pd.Series) else os.fspath(run)
    if not run_folder.is_run_folder(folder):
        raise ResultsError("this is no run folder", where=folder)
    if os.path.basename(name) != name or name.startswith("."):
        raise ResultsError(f"'{name}' is no plain name of a file", where=folder)
    return os.path.join(folder, run_folder.ARTIFACTS, name)


def _batches(results: str | os.PathLike[str]) -> list[str]:
    """The batches in a folder, or the batch that it is."""
    folder = os.fspath(results)
    if run_folder.is_batch_folder(folder):
        return [folder]
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [path for path in (os.path.join(folder, name) for name in names if name[0] != ".")
            if run_folder.is_batch_folder(path)]
