"""The document as browsers have it: versions, and what has changed since each of the last ones."""
from __future__ import annotations

import gzip
import secrets
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from src.analysis.page import document, plain
from src.analysis.page.document import Document
from src.analysis.reading.results import Results

_MAX_CHANGES = 1000  # that are kept
_TABLES = ("batches", "together")
_NOT_COLUMNS = ("count", "constant")
_NO_NEW = 2**31 - 1  # in place of an epoch, for a curve without new points


class Curve(NamedTuple):
    """The curves of a run: epochs, and values by metric, NaN where it was not evaluated."""

    epochs: np.ndarray
    values: dict[str, np.ndarray]

    def last_same_epoch(self, earlier: Curve | None) -> int:
        """Return the last epoch of an earlier state whose points are the first ones of this; -1 if there is none."""
        count = len(earlier.epochs) if earlier else 0
        if earlier is None or not 0 < count <= len(self.epochs):
            return -1
        parts = [(self.epochs, earlier.epochs), *((self.values[name], cells) for name, cells in earlier.values.items())]
        is_same = all(np.array_equal(cells[:count], before, equal_nan=True) for cells, before in parts)
        return int(earlier.epochs[-1]) if is_same else -1


def curves_of(results: Results, names: Iterable[str], positions: Iterable[int]) -> dict[int, Curve]:
    """Return the curves of some runs. names: metrics, as in a document; positions: of the runs in the results."""
    long = results.long
    columns = {plain.text(name): long[name] for name in long.columns}
    arrays = {name: columns[name].to_numpy(np.float64) if name in columns else np.full(len(long), np.nan)
              for name in names}
    run_of_row, epochs = long["run"].cat.codes.to_numpy(), long["epoch"].to_numpy()
    chosen = {}
    for position in positions:
        start, stop = np.searchsorted(run_of_row, [position, position + 1])
        chosen[position] = Curve(epochs[start:stop].copy(), {name: cells[start:stop].copy()
                                                             for name, cells in arrays.items()})
    return chosen


class _Change(NamedTuple):
    """The changes of a version. runs: by index, the last epoch until which the curves are unchanged."""

    number: int
    runs: dict[int, int]
    has_tables: bool


class Published:
    """A document, its version and its last changes. All methods may be called by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._session, self._number, self._first = secrets.token_hex(4), 0, 0
        self._changes: deque[_Change] = deque(maxlen=_MAX_CHANGES)
        self._curves: dict[int, Curve] = {}  # of runs that had not ended when the document was made
        self._document: Document = {}
        self.folders: list[str] = []  # of its runs
        self._encoded, self._encoded_version = b"", ""

    @property
    def version(self) -> str:
        """The version; empty before there is a document."""
        return f"{self._session}-{self._number}" if self._encoded else ""

    def encoded(self) -> tuple[str, bytes]:
        """Return a version and its document as JSON by gzip. Later changes are not in it."""
        with self._lock:
            return self._encoded_version, self._encoded

    def replace(self, built: Document, curves: Mapping[int, Curve], folders: list[str]) -> None:
        """Make this the document: as a change of the last one, if it has the same runs and columns.

        curves: of the runs that have not ended, or had not in the last one; folders: of all runs.
        """
        with self._lock:
            before = self._document
            number = self._number + 1
            if before and _shape(before) == _shape(built):
                runs = {run: curve.last_same_epoch(self._curves.get(run)) for run, curve in curves.items()
                        if self._has_new_points(run, curve)}
                runs = dict.fromkeys(_different(before["runs"], built["runs"]), _NO_NEW) | runs
                self._changes.append(_Change(number, runs, True))
                self._curves |= curves
            else:
                self._changes.clear()
                self._first, self._curves = number, dict(curves)
            self._number, self._document, self.folders = number, built, folders
            self._encoded_version = f"{self._session}-{number}"
            text = document.to_json(built | {"version": self._encoded_version})
            self._encoded = gzip.compress(text.encode(), 4)

    def update(self, indices: Sequence[int], columns: Mapping[str, Any], curves: Mapping[int, Curve]) -> bool:
        """Publish the columns and curves of some runs. Return whether something has changed.

        columns: an entry for each of `indices`.
        """
        with self._lock:
            changed = {}
            for number, index in enumerate(indices):
                if _put(self._document["runs"], index, columns, number):
                    changed[index] = _NO_NEW
                if self._has_new_points(index, curves[index]):
                    changed[index] = curves[index].last_same_epoch(self._curves.get(index))
                    self._curves[index] = curves[index]
            if changed:
                self._number += 1
                self._changes.append(_Change(self._number, changed, False))
            return bool(changed)

    def _has_new_points(self, run: int, curve: Curve) -> bool:
        earlier = self._curves.get(run)
        return earlier is None or len(earlier.epochs) != len(curve.epochs) or bool(len(curve.epochs)) and (
            curve.last_same_epoch(earlier) < 0)

    def since(self, version: str) -> dict[str, Any]:
        """Return what has changed since a version: only `version` if nothing has.

        `reload` is true if the version is too old, or of another server: the document must be requested again.
        """
        session, _, digits = version.partition("-")
        number = int(digits) if session == self._session and digits.isdecimal() and len(digits) < 16 else -1
        with self._lock:
            answer: dict[str, Any] = {"version": self.version}
            oldest = self._changes[0].number - 1 if len(self._changes) == _MAX_CHANGES else self._first
            if not max(oldest, self._first) <= number <= self._number:
                return answer | {"reload": True}
            return answer | self._merged([change for change in self._changes if change.number > number])

    def _merged(self, changes: Sequence[_Change]) -> dict[str, Any]:
        runs: dict[int, int] = {}
        for change in changes:
            for run, after in change.runs.items():
                runs[run] = min(after, runs.get(run, after))
        answer: dict[str, Any] = {}
        if runs:
            indices = sorted(runs)
            answer["runs"] = {"indices": indices, **_pick(self._document["runs"], indices)}
            answer["curves"] = [self._encode_curve(run, runs[run]) for run in indices if runs[run] < _NO_NEW]
        if any(change.has_tables for change in changes):
            answer |= {name: self._document[name] for name in _TABLES}
        return answer

    def _encode_curve(self, run: int, after: int) -> dict[str, Any]:
        curve = self._curves[run]
        is_new = curve.epochs > after
        return {"run": run, "after": after, "epoch": plain.packed(curve.epochs[is_new], "i4"),
                "of": {name: plain.packed(cells[is_new], "f4") for name, cells in curve.values.items()}}

    def find(self, key: str) -> tuple[str, dict[str, Any], list[dict[str, Any]]] | None:
        """Return the folder of a run by its key, its varying parameters, and its batch's notes; None for another key.
        """
        with self._lock:
            keys = self._document["runs"]["key"] if self._document else []
            if key not in keys:
                return None
            runs, index = self._document["runs"], keys.index(key)
            notes = self._document["batches"][runs["batch"][index]]["notes"]
            return self.folders[index], {name: column[index] for name, column in runs["parameters"].items()}, notes


def _shape(built: Document) -> tuple[Any, ...]:
    """Return what a browser cannot change without the whole document: runs, names of columns, constants, sampling."""
    runs = built["runs"]
    return (runs["key"], runs["constant"], list(runs), list(runs["parameters"]), list(runs["metrics"]),
            built["curves"]["metrics"], built["curves"]["others"], built["sampled"],
            [(batch["path"], batch["metric"]) for batch in built["batches"]])


def _columns(runs: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    """Return the mapping and the name of each column of runs."""
    return [(runs, name) for name, column in runs.items() if isinstance(column, list)] + [
        (runs[group], name) for group in ("parameters", "metrics") for name in runs[group]]


def _different(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[int]:
    """Return the runs of which some column differs."""
    return {run for (old, name), (new, _) in zip(_columns(before), _columns(after), strict=True)
            if old[name] != new[name] for run, cell in enumerate(new[name]) if old[name][run] != cell}


def _pick(runs: Mapping[str, Any], indices: Sequence[int]) -> dict[str, Any]:
    """Return the columns of some runs."""
    return {name: _pick(column, indices) if isinstance(column, dict) else [column[index] for index in indices]
            for name, column in runs.items() if name not in _NOT_COLUMNS}


def _put(runs: dict[str, Any], index: int, columns: Mapping[str, Any], number: int) -> bool:
    """Set the entries of a run, from entry `number` of the columns. Return whether one has changed.

    Its key stays: in a part of the runs it may be numbered differently.
    """
    is_changed = False
    for group, name in _columns(runs):
        source = columns if group is runs else columns["parameters" if group is runs["parameters"] else "metrics"]
        if name == "key" or name not in source or group[name][index] == source[name][number]:
            continue
        group[name][index] = source[name][number]
        is_changed = True
    return is_changed
