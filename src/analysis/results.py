"""Run folders into data frames: big_df (a row per run), a tidy long frame, and a reason for every folder left out."""
from __future__ import annotations

import contextlib
import csv
import gc
import glob
import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src import run_folder, yaml_io
from src.errors import ResultsError, UserError

IDENTITY = ("run", "batch", "index", "end", "folder")  # the first columns of every frame with a row per run
_log = logging.getLogger(__name__)


class Skipped(NamedTuple):
    """A folder, or some rows of its stats.csv, that could not be read, and why."""

    folder: str
    reason: str


@dataclass(frozen=True)
class Results:
    """What was read of some batches.

    config: a row per run: run (its name, led by its batch's where two runs share it), batch, index (its number in the
        batch), end (completed, early_stopped, diverged; None: not ended), folder, then the union of the config keys
        (None where a run has no such key), then the facts as facts/NAME.
    long: a row per run and epoch: run (categorical, in the order of `config`), epoch, then the union of the stats
        columns (NaN: not evaluated).
    skipped: every folder that was left out, and damaged rows, with the reason.
    """

    config: pd.DataFrame
    long: pd.DataFrame
    skipped: list[Skipped]

    def big_df(self) -> pd.DataFrame:
        """`config` with a column for each stats column, whose cells are Series indexed by epoch (empty: no row yet)."""
        runs = self.long["run"].cat.codes.to_numpy()
        counts = np.bincount(runs, minlength=len(self.config))
        stops = np.cumsum(counts)
        starts = stops - counts
        epochs = self.long["epoch"].to_numpy()
        same_epochs: dict[bytes, list[int]] = {}  # most runs of a grid have the same epochs: one index for all of them
        for run, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            same_epochs.setdefault(epochs[start:stop].tobytes(), []).append(run)
        names = list(self.long.columns[2:])
        cells = {name: np.empty(len(self.config), dtype=object) for name in names}
        values = {name: self.long[name].to_numpy() for name in names}
        with _without_collection():
            for group in same_epochs.values():
                index = pd.Index(epochs[starts[group[0]]:stops[group[0]]], name="epoch")
                rows = np.add.outer(starts[group], np.arange(len(index)))  # (runs, epochs)
                for name in names:
                    # a column of a frame becomes a Series in half the time that the constructor takes
                    labels = pd.Index([name] * len(group), dtype=object)
                    frame = pd.DataFrame(values[name][rows].T, index=index, columns=labels, copy=False)
                    for run, (_, series) in zip(group, frame.items(), strict=True):
                        cells[name][run] = series
        # a foreign program may have a parameter and a measure of one name
        stats = pd.DataFrame({f"stats/{name}" if name in self.config else name: pd.Series(column, dtype=object)
                              for name, column in cells.items()})
        return pd.concat([self.config, stats], axis=1)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """No garbage collection inside: it would visit each of a hundred thousand new Series again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_experiments(batches: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
                     only_done: bool = False) -> pd.DataFrame:
    """big_df: a row per run, stats cells are Series indexed by epoch. Arguments and errors as in `read_results`.

    How many folders were left out is logged; `read_results(...).skipped` has their reasons.
    """
    results = read_results(batches, only_done)
    if results.skipped:
        folder, reason = results.skipped[0]
        _log.warning("%d runs read; %d folders left out or mended, the first: %s (%s). read_results(...).skipped lists "
                     "them all", len(results.config), len(results.skipped), folder, reason)
    return results.big_df()


def read_results(batches: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
                 only_done: bool = False) -> Results:
    """Everything about the runs of `batches`: a path, a glob or a list of those; of batch folders or of run folders.

    only_done: leave out runs that have not ended. Raises ResultsError if a path is neither batch nor run.
    """
    runs: list[_Run] = []
    skipped: list[Skipped] = []
    for folder in _run_folders(batches):
        found = _read_run(folder, only_done)
        if isinstance(found, _Run):
            runs.append(found)
        else:
            skipped.append(Skipped(folder, found))
    config = _config_frame(runs)
    long = _long_frame(runs, config["run"], skipped)
    return Results(config, long, skipped)


def newest_batch(folder: str | os.PathLike[str] = "results") -> str:
    """The path of the batch in `folder` whose job spec is the youngest. Raises ResultsError if there is none."""
    batches = [path for path in glob.glob(os.path.join(glob.escape(os.fspath(folder)), "*"))
               if run_folder.is_batch_folder(path)]
    if not batches:
        raise ResultsError("there is no batch here yet", where=os.fspath(folder),
                           hint="make one with `make demo` or submit_multiple.py, or name the folder that holds yours")
    return max(batches, key=lambda path: os.path.getmtime(os.path.join(path, run_folder.JOB_SPEC)))


def _run_folders(batches: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """The run folders of paths and globs, each once, in order."""
    patterns = [batches] if isinstance(batches, (str, os.PathLike)) else list(batches)
    folders: dict[str, str] = {}  # absolute path -> the path as it was given
    for given in patterns:
        pattern = os.path.expanduser(os.fspath(given))
        # names of runs may hold brackets: what exists is no pattern
        paths = [pattern] if os.path.exists(pattern) else sorted(filter(os.path.isdir, glob.glob(pattern)))
        if not paths:
            raise ResultsError("there is no such folder", where=pattern,
                               hint="give a batch folder, as results/26-01-31-name, a run folder, or a glob of them")
        for path in paths:
            for folder in _runs_of(path):
                folders.setdefault(os.path.abspath(folder), folder)
    return list(folders.values())


def _runs_of(path: str) -> list[str]:
    path = path.rstrip("/") or "/"
    if run_folder.is_run_folder(path):
        return [path]
    if not os.path.isdir(path):
        raise ResultsError("this is no folder", where=path, allowed="batch folders and run folders")
    runs = [os.path.join(path, name) for name in run_folder.run_names(path)]
    if not run_folder.is_batch_folder(path) and not any(map(run_folder.is_run_folder, runs)):
        inner = [run for run in runs if run_folder.is_batch_folder(run)]
        raise ResultsError(f"this is neither a batch folder (it has no {run_folder.JOB_SPEC}) nor a run folder",
                           where=path, hint=f"name one of its batches, or all as '{path}/*'" if inner else None)
    return runs


class _Run(NamedTuple):
    """What the files of one run hold, before the runs are put together."""

    folder: str
    end: str | None
    config: dict[str, Any]
    header: bytes  # of stats.csv, empty if there is no whole line
    body: bytes  # its whole rows


def _read_bytes(path: str) -> bytes | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except FileNotFoundError:
        return None


def _read_run(folder: str, only_done: bool) -> _Run | str:
    """A run, or the reason why it is left out. Opens each of three files once: the layout in src/run_folder.py."""
    try:
        done = _read_bytes(f"{folder}/{run_folder.DONE}")
        if only_done and done is None:
            return "not done"
        text = _read_bytes(f"{folder}/{run_folder.CONFIG}")
        if text is None:
            return _without_config(folder, done)
        config = yaml_io.load_flat(text.decode(), run_folder.CONFIG)
        if not config:
            return f"{run_folder.CONFIG} is empty"
        return _Run(folder, _end(done), config, *_read_stats(folder))
    except UserError as error:
        return str(error)
    except UnicodeDecodeError as error:
        return f"{run_folder.CONFIG}: not a text file in UTF-8 (byte {error.start})"
    except OSError as error:
        return f"{os.path.basename(error.filename or folder)} cannot be read: {error.strerror}"


def _without_config(folder: str, done: bytes | None) -> _Run | str:
    """A foreign program writes no config, so its spec stands for it once it is done; other runs never got so far."""
    if not run_folder.is_run_folder(folder):
        return f"no run folder: it has no {run_folder.SPEC}"
    if done is not None:
        return _Run(folder, _end(done), run_folder.read_spec(f"{folder}/{run_folder.SPEC}"), *_read_stats(folder))
    attempt = run_folder.RunFolder.read(folder).last_attempt()
    if attempt is None:
        return "not started"
    return f"started, but has no {run_folder.CONFIG} yet" + (f": {attempt['error']}" if attempt.get("error") else "")


def _end(done: bytes | None) -> str | None:
    return None if done is None else done.decode(errors="replace").strip() or run_folder.COMPLETED


def _read_stats(folder: str) -> tuple[bytes, bytes]:
    """Header and rows of stats.csv; what follows the last line break is torn and left out."""
    text = _read_bytes(f"{folder}/{run_folder.STATS}") or b""
    header, line_break, rest = text.partition(b"\n")
    return (header.rstrip(b"\r"), rest[:rest.rfind(b"\n") + 1]) if line_break else (b"", b"")


def _config_frame(runs: list[_Run]) -> pd.DataFrame:
    names = [os.path.basename(run.folder) for run in runs]
    batches = [os.path.basename(os.path.dirname(os.path.abspath(run.folder))) for run in runs]
    columns: dict[str, Any] = {
        "run": _labels(names, batches, [run.folder for run in runs]), "batch": batches,
        "index": [_number(name) for name in names], "end": [run.end for run in runs],
        "folder": [run.folder for run in runs]}
    facts = [dict(_flat(run.config.pop("facts", None), "facts/")) for run in runs]
    for found in (_transposed([run.config for run in runs]), _transposed(facts)):
        columns |= {key: values for key, values in found.items() if key not in columns}
    return pd.DataFrame({key: _column(values) for key, values in columns.items()}, columns=list(columns))


def _labels(names: list[str], batches: list[str], folders: list[str]) -> list[str]:
    """The shortest of name, batch/name and folder that tells all runs apart."""
    for labels in (names, [f"{batch}/{name}" for batch, name in zip(batches, names, strict=True)]):
        if len(set(labels)) == len(labels):
            return labels
    return folders


def _number(name: str) -> int | None:
    number = name.partition("_")[0]
    return int(number) if number.isascii() and number.isdigit() else None


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Mappings in mappings as (path, value)."""
    for key, item in value.items() if isinstance(value, Mapping) else ():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}/")
        else:
            yield prefix + str(key), item


def _transposed(rows: list[dict[str, Any]]) -> dict[str, Sequence[Any]]:
    """Mappings as columns: the union of the keys, None where a row has no such key."""
    keys = list(rows[0]) if rows else []
    if all(list(row) == keys for row in rows):  # as in most batches, and ten times as fast
        return dict(zip(keys, zip(*(row.values() for row in rows), strict=True), strict=True))
    return {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}


def _column(values: Sequence[Any]) -> pd.Series:
    """Numbers as numbers (None among them: NaN) where that is exact; all else as the Python values that they are."""
    kinds = set(map(type, values))
    if kinds == {bool}:
        return pd.Series(values, dtype=bool)
    if kinds == {int} and all(-2**63 <= value < 2**63 for value in values):
        return pd.Series(values, dtype=np.int64)
    if kinds & {int, float} and kinds <= {int, float, type(None)} and all(
            abs(value) <= 2**53 for value in values if type(value) is int):
        return pd.Series(values, dtype=np.float64)
    return pd.Series(values, dtype=object)


def _long_frame(runs: list[_Run], labels: pd.Series, skipped: list[Skipped]) -> pd.DataFrame:
    """All stats, rows in the order of `runs`. Bodies of equal header are joined and parsed in one go."""
    same_header: dict[bytes, list[int]] = {}
    for position, run in enumerate(runs):
        if run.body:
            same_header.setdefault(run.header, []).append(position)
    parts = []
    for header, positions in same_header.items():
        names = header.decode(errors="replace").split(",")
        if "epoch" in names and len(set(names)) == len(names):
            parts.append(_parse(names, positions, runs, skipped))
        else:
            reason = f"{run_folder.STATS} left out: its header has no column epoch, or one column twice"
            skipped.extend(Skipped(runs[position].folder, reason) for position in positions)
    if len(parts) == 1:
        long = parts[0]
    else:
        long = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"run": [], "epoch": []}, dtype=np.int64)
        long = long.sort_values("run", kind="stable", ignore_index=True)
    long = _each_epoch_once(long)
    long["run"] = pd.Categorical.from_codes(long["run"].to_numpy(), pd.Index(labels, dtype=object))
    return long


def _parse(names: list[str], positions: list[int], runs: list[_Run], skipped: list[Skipped]) -> pd.DataFrame:
    """The stats of runs with one header. Columns: run (position), epoch, then the others."""
    bodies = [runs[position].body for position in positions]
    counts = [body.count(b"\n") for body in bodies]
    text = b"".join(bodies)
    try:
        if text.count(b",") != sum(counts) * (len(names) - 1) or b"\0" in text or b'"' in text:
            raise ValueError("a row is too short (the parser itself finds those that are too long), or not plain")
        frame = _read_csv(text, names, np.float64)
        bad = np.isnan(frame["epoch"].to_numpy())
    except ValueError:  # somewhere: look at each row of each run
        mended = [_mended(runs[position], len(names), skipped) for position in positions]
        counts = [count for _, count in mended]
        frame, bad = _as_numbers(_read_csv(b"".join(body for body, _ in mended), names, str))
    position_of_row = np.repeat(positions, counts)
    if bad.any():
        for position, count in zip(*np.unique(position_of_row[bad], return_counts=True), strict=True):
            skipped.append(_damaged(runs[position], int(count)))
        frame, position_of_row = frame[~bad].reset_index(drop=True), position_of_row[~bad]
    for name in ("epoch", "step"):
        if name in names and frame[name].notna().all():
            frame[name] = frame[name].astype(np.int64)
    frame.insert(0, "run", position_of_row)
    frame.insert(1, "epoch", frame.pop("epoch"))
    return frame


def _read_csv(text: bytes, names: list[str], dtype: type) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(text), header=None, names=names, dtype=dtype, index_col=False)


def _as_numbers(frame: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Columns of strings as floats where most cells are numbers. Second: (rows,) bool, where a number is damaged."""
    bad = np.zeros(len(frame), dtype=bool)
    for name in frame:
        numbers = pd.to_numeric(frame[name], errors="coerce")
        damaged = (numbers.isna() & frame[name].notna()).to_numpy()
        if name == "epoch" or 2 * damaged.sum() <= frame[name].notna().sum():
            frame[name] = numbers.astype(np.float64)
            bad |= damaged
        else:  # a column of words
            frame[name] = frame[name].astype(object)
    return frame, bad | frame["epoch"].isna().to_numpy()


def _mended(run: _Run, width: int, skipped: list[Skipped]) -> tuple[bytes, int]:
    """The rows of a body that have `width` cells, and their number."""
    lines = run.body.decode(errors="replace").split("\n")[:-1]
    whole = [cells for line in lines if "\0" not in line for cells in csv.reader([line]) if len(cells) == width]
    if len(whole) < len(lines):
        skipped.append(_damaged(run, len(lines) - len(whole)))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(whole)
    return text.getvalue().encode(), len(whole)


def _damaged(run: _Run, count: int) -> Skipped:
    return Skipped(run.folder, f"{run_folder.STATS}: {count} damaged row{'s' * (count > 1)} left out, the rest is read")


def _each_epoch_once(long: pd.DataFrame) -> pd.DataFrame:
    """A run that was resumed, or ran twice, may have written an epoch twice: the later row counts."""
    run, epoch = long["run"].to_numpy(), long["epoch"].to_numpy()
    if ((run[1:] == run[:-1]) & (epoch[1:] <= epoch[:-1])).any():
        long = long.drop_duplicates(["run", "epoch"], keep="last").sort_values(["run", "epoch"], ignore_index=True)
    return long
