"""Run folders into data frames: big_df (a row per run), a tidy long frame, and a reason for every folder left out."""
from __future__ import annotations

import contextlib
import copy
import functools
import gc
import glob
import itertools
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src import metrics, run_folder
from src.analysis.reading import cache as caching
from src.analysis.reading import columns, raw_files
from src.analysis.reading.columns import Columns
from src.analysis.reading.curves import Curves
from src.analysis.reading.drift import Drift, find_drift
from src.analysis.reading.raw_files import RunText
from src.config import Config
from src.errors import ResultsError
from src.io import files
from src.metrics import Metric

IDENTITY = ("run", "batch", "index", "end", "folder")  # the first columns of every frame with a row per run
METRIC = "metric"  # in the attrs of these frames: the metric that the job specs name, if they name one
_BLOCK = 256  # runs whose texts are in memory at a time
_MOST_WARNINGS = 5
_DEFAULTS = Config().to_dict()
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
    drift: parameters whose default was another one when runs were made; str() of each is a sentence.
    """

    config: pd.DataFrame
    long: pd.DataFrame
    skipped: list[Skipped]
    drift: list[Drift] = field(default_factory=list)

    def big_df(self) -> pd.DataFrame:
        """`config` with a column for each stats column, whose cells are Series indexed by epoch (empty: no row yet).
        The cells of a column are made when somebody looks at it."""
        cells = _Cells(self.long.copy(deep=False), len(self.config))
        # a foreign program may have a parameter and a measure of one name
        stats = pd.DataFrame({f"stats/{name}" if name in self.config else name:
                              Curves.later(functools.partial(cells.of, name), len(self.config))
                              for name in self.long.columns[2:]}, index=self.config.index)
        df = pd.concat([self.config, stats], axis=1)
        df.attrs = dict(self.config.attrs)
        return df

    def polars(self) -> tuple[Any, Any]:
        """`config` and `long` as polars frames; lists, mappings and what is mixed as JSON. ResultsError without polars.
        """
        try:
            import polars
        except ImportError:
            raise ResultsError("polars is not installed here", hint="pip install polars; or use .config and .long, "
                               "which are pandas frames") from None
        from src.analysis.reading import arrow_columns

        config, long = (polars.from_arrow(arrow_columns.to_table(frame)) for frame in (self.config, self.long))
        return config, long

    def export(self, folder: str | os.PathLike[str], kind: str = "parquet") -> list[str]:
        """Write `config` as runs.parquet and `long` as long.parquet (or .csv) into a folder; the paths.

        Lists, mappings and, in parquet, what is mixed are JSON. ResultsError for another kind.
        """
        if kind not in ("parquet", "csv"):
            raise ResultsError(f"unknown kind of file '{kind}'", allowed="parquet, csv")
        from src.analysis.reading import arrow_columns

        os.makedirs(folder, exist_ok=True)
        paths = []
        for name, frame in (("runs", self.config), ("long", self.long)):
            paths.append(os.path.join(folder, f"{name}.{kind}"))
            with files.atomic_writer(paths[-1], sync=False) as file:
                if kind == "csv":
                    arrow_columns.with_json_cells(frame).to_csv(file, index=False)
                else:
                    from pyarrow import parquet

                    parquet.write_table(arrow_columns.to_table(frame), file)
        return paths


class _Cells:
    """Cuts the columns of a long frame into a Series for each run."""

    def __init__(self, long: pd.DataFrame, runs: int) -> None:
        self._long, self._runs = long, runs

    @functools.cached_property
    def _groups(self) -> list[tuple[pd.Index, list[int], np.ndarray]]:
        """Most runs of a grid have the same epochs: one index, the runs that share it, their rows (runs, epochs)."""
        stops = np.cumsum(np.bincount(self._long["run"].cat.codes.to_numpy(), minlength=self._runs))
        starts = np.concatenate([[0], stops])[:-1]
        epochs = self._long["epoch"].to_numpy()
        same: dict[bytes, list[int]] = {}
        for run, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            same.setdefault(epochs[start:stop].tobytes(), []).append(run)
        return [(pd.Index(epochs[starts[runs[0]]:stops[runs[0]]], name="epoch"), runs, np.add.outer(
            starts[runs], np.arange(stops[runs[0]] - starts[runs[0]]))) for runs in same.values()]

    def of(self, name: str) -> np.ndarray:
        """The Series of a column, (runs,) objects."""
        cells = np.empty(self._runs, dtype=object)
        values = self._long[name].to_numpy()
        with _without_collection():
            for index, runs, rows in self._groups:
                # a column of a frame becomes a Series in half the time that the constructor takes
                frame = pd.DataFrame(values[rows].T, index=index, columns=pd.Index([name] * len(runs), dtype=object),
                                     copy=False)
                for run, (_, series) in zip(runs, frame.items(), strict=True):
                    cells[run] = series
        return cells


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """No garbage collection inside: it would visit each of a hundred thousand new objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_experiments(batches: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
                     only_done: bool = False, cache: bool = True) -> pd.DataFrame:
    """big_df: a row per run, stats cells are Series indexed by epoch. Arguments and errors as in `read_results`.

    How many folders were left out is logged; `read_results(...).skipped` has their reasons.
    """
    results = read_results(batches, only_done, cache)
    if results.skipped:
        folder, reason = results.skipped[0]
        _log.warning("%d runs read; %d folders left out or mended, the first: %s (%s). read_results(...).skipped lists "
                     "them all", len(results.config), len(results.skipped), folder, reason)
    return results.big_df()


def read_results(batches: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
                 only_done: bool = False, cache: bool = True) -> Results:
    """Everything about the runs of `batches`: a path, a glob or a list of those; of batch folders or of run folders.

    only_done: leave out runs that have not ended. cache: of batches of 256 runs and more, read only the runs that have
    changed since they were last read, and keep those (in the batch, or where it cannot be written, in ~/.cache).
    Raises ResultsError if a path is neither batch nor run.
    """
    with _without_collection():
        asked = _run_folders(batches)
        found, paths, skipped = _gather(asked, only_done, cache)
        folders = [asked.folders[path] for path in paths]
        config = _config_frame(found, paths, folders)
        long = _long_frame(found, config["run"], folders, skipped)
    if metric := _named_metric(paths):
        config.attrs[METRIC] = metric
        if problem := metrics.missing_metric_message(metric, long.columns):
            _log.warning("%s", problem)
    found_drift = find_drift(config)
    for one in found_drift[:_MOST_WARNINGS]:
        _log.warning("%s", one)
    return Results(config, long, skipped, found_drift)


def read_runs(parent: str, names: Sequence[str], whole: bool) -> Columns:
    """Those of the runs `names`, right in the folder `parent` (an absolute path), that can be read.

    whole: these are all runs in it, so that what is read may be kept for the next time.
    """
    asked = _Asked({f"{parent}/{name}": name for name in names}, {parent} if whole else set())
    return _gather(asked, only_done=False, cache=True)[0]


def newest_batch(folder: str | os.PathLike[str] = "results") -> str:
    """The path of the batch in `folder` whose job spec is the youngest. Raises ResultsError if there is none."""
    batches = [path for path in glob.glob(os.path.join(glob.escape(os.fspath(folder)), "*"))
               if run_folder.is_batch_folder(path)]
    if not batches:
        raise ResultsError("there is no batch here yet", where=os.fspath(folder),
                           hint="submit one with submit_multiple.py, or name the folder that holds yours; "
                                "`make demo` writes to results/demo")
    return max(batches, key=lambda path: os.path.getmtime(os.path.join(path, run_folder.JOB_SPEC)))


def _named_metric(paths: list[str]) -> Metric | None:
    """The metric that the job specs of all these runs name; None if one names none, or another."""
    found = {metrics.read_from_batch(batch) for batch in {path.rpartition("/")[0] for path in paths}}
    return found.pop() if len(found) == 1 else None


class _Asked(NamedTuple):
    """What is to be read. folders: run folders as they were given, by absolute path, in order; wholes: the absolute
    paths of the batches that are read as a whole."""

    folders: dict[str, str]
    wholes: set[str]


def _run_folders(batches: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> _Asked:
    """The run folders of paths and globs, each once, in order."""
    patterns = [batches] if isinstance(batches, (str, os.PathLike)) else list(batches)
    asked = _Asked({}, set())
    for given in patterns:
        pattern = os.path.expanduser(os.fspath(given))
        # names of runs may hold brackets: what exists is no pattern
        paths = [pattern] if os.path.exists(pattern) else sorted(filter(os.path.isdir, glob.glob(pattern)))
        if not paths:
            raise ResultsError("there is no such folder", where=pattern,
                               hint="give a batch folder, as results/26-01-31-name, a run folder, or a glob of them")
        for path in paths:
            _add_runs(path.rstrip("/") or "/", asked)
    return asked


def _add_runs(path: str, asked: _Asked) -> None:
    """Add the run folder `path`, or the run folders of the batch `path`."""
    absolute = os.path.abspath(path)
    if run_folder.is_run_folder(path):
        asked.folders.setdefault(absolute, path)
        return
    if not os.path.isdir(path):
        raise ResultsError("this is no folder", where=path, allowed="batch folders and run folders")
    names = run_folder.run_names(path)
    if not run_folder.is_batch_folder(path) and not any(run_folder.is_run_folder(f"{path}/{name}") for name in names):
        inner = [name for name in names if run_folder.is_batch_folder(f"{path}/{name}")]
        raise ResultsError(f"this is neither a batch folder (it has no {run_folder.JOB_SPEC}) nor a run folder",
                           where=path, hint=f"name one of its batches, or all as '{path}/*'" if inner else None)
    asked.wholes.add(absolute)
    prefix = os.path.join(path, "")
    asked.folders.update({run: prefix + name for name in names if (run := f"{absolute}/{name}") not in asked.folders})


def _gather(asked: _Asked, only_done: bool, cache: bool) -> tuple[Columns, list[str], list[Skipped]]:
    """What can be read of the run folders, in their order; the absolute paths of these; the reasons for the others."""
    paths = list(asked.folders)
    groups: dict[str, list[int]] = {}
    for position, path in enumerate(paths):
        groups.setdefault(path.rpartition("/")[0], []).append(position)
    parts: list[Columns] = []
    part_of_run, position_of_run = np.full(len(paths), -1), np.zeros(len(paths), int)
    reasons: dict[int, str] = {}
    for parent, positions in groups.items():
        cached = cache and len(positions) >= caching.MIN_RUNS
        reader = _read_group(parent, [paths[one] for one in positions], only_done, cached,
                             cached and parent in asked.wholes)
        for part, of_part, which, left_out in reader:
            runs = np.array(positions, int)[which]
            part_of_run[runs], position_of_run[runs] = len(parts), of_part
            parts.append(part)
            reasons |= {positions[one]: reason for one, reason in left_out.items()}
    read = np.flatnonzero(part_of_run >= 0)
    found = columns.assemble(parts, part_of_run[read], position_of_run[read])
    reasons |= {position: note for position, note in zip(read.tolist(), found.notes, strict=True) if note}
    skipped = [Skipped(asked.folders[paths[position]], line) for position in sorted(reasons)
               for line in reasons[position].split("\n")]
    return found, [paths[position] for position in read.tolist()], skipped


# runs; those of them that count; which of the folders they are; and why other folders were left out
_Part = tuple[Columns, np.ndarray, np.ndarray, dict[int, str]]


def _read_group(parent: str, folders: list[str], only_done: bool, cached: bool, keep: bool) -> Iterator[_Part]:
    """The runs of one parent folder, by parts; what is in the cache and has not changed is taken from there."""
    if not cached:
        yield _read(folders, np.arange(len(folders)), None, only_done)
        return
    read_at = time.time_ns()
    with ThreadPoolExecutor(1) as beside:  # while this thread asks for files, that one decodes
        loading = beside.submit(caching.load, parent)
        stamps = np.array([stamp or (0,) * raw_files.STAMP_LENGTH
                           for stamp in raw_files.map_ordered(raw_files.read_stamp, folders)], dtype=np.int64)
        kept = loading.result()
    part, place = caching.match_runs(kept, [folder[len(parent) + 1:] for folder in folders], stamps)
    known = np.flatnonzero(part >= 0)
    wanted = np.array([not only_done or kept[number].ends[position] is not None for number, position
                       in zip(part[known].tolist(), place[known].tolist(), strict=True)], bool)
    left_out = dict.fromkeys(known[~wanted].tolist(), raw_files.NOT_DONE)
    for number, of_part in enumerate(kept):
        runs = known[wanted & (part[known] == number)]
        yield of_part, place[runs], runs, left_out
    fresh = _read(folders, np.flatnonzero(part < 0), stamps, only_done)
    yield fresh
    if keep:  # of all runs: else what was not asked for would look as if it were gone
        caching.store(parent, kept, (part[known], place[known]), fresh[0], read_at)


def _read(folders: list[str], todo: np.ndarray, stamps: np.ndarray | None, only_done: bool) -> _Part:
    """Some of the folders, so many at a time that the texts of all never are in memory together."""
    order = todo.tolist()
    pairs = zip(order, raw_files.map_ordered(lambda position: raw_files.read_run(folders[position], only_done), order),
                strict=True)
    parts: list[Future[Columns]] = []
    read: list[int] = []
    reasons: dict[int, str] = {}
    with ThreadPoolExecutor(1) as beside:  # numbers are parsed while the next files are read
        while block := list(itertools.islice(pairs, _BLOCK)):
            good = [(position, text) for position, text in block if isinstance(text, RunText)]
            which = [position for position, _ in good]
            parts.append(beside.submit(columns.parse, [text for _, text in good],
                                       None if stamps is None else stamps[which]))
            if len(parts) > 2:
                parts[-3].result()
            read += which
            reasons |= {position: text for position, text in block if isinstance(text, str)}
    return columns.join([part.result() for part in parts]), np.arange(len(read)), np.array(read, int), reasons


def _layouts(found: Columns) -> dict[str, tuple[bool, list[str], list[str], list[str]]]:
    """What the different layouts say, in the order in which they first appear."""
    return {layout: tuple(json.loads(layout)) for layout in dict.fromkeys(found.layouts)}


def _config_frame(found: Columns, paths: list[str], folders: list[str]) -> pd.DataFrame:
    """paths: of the runs, absolute; folders: as they were given."""
    batches = [path.rpartition("/")[0].rpartition("/")[2] for path in paths]
    return to_frame({**identity_columns(found.names, batches, folders, found.ends), **parameter_columns(found)})


def identity_columns(names: list[str], batches: list[str], folders: list[str], ends: Sequence[str | None]
             ) -> dict[str, Sequence[Any]]:
    """The columns that say which runs they are."""
    return dict(zip(IDENTITY, (_labels(names, batches, folders), batches,
                               list(map(run_folder.run_index, names)), ends, folders),
                    strict=True))


def parameter_columns(found: Columns) -> dict[str, np.ndarray]:
    """The columns of parameters, defaults filled in, and of facts, (runs,) each."""
    layouts = _layouts(found)
    config = dict.fromkeys(key for _, keys, _, _ in layouts.values() for key in keys)
    table = {key: found.config[key] for key in config if key not in IDENTITY}
    table |= _with_defaults(found, layouts, table)
    facts = dict.fromkeys(key for _, _, keys, _ in layouts.values() for key in keys)
    return table | {key: found.facts[key] for key in facts if key not in table}


def to_frame(table: Mapping[str, np.ndarray | Sequence[Any]]) -> pd.DataFrame:
    """Columns of Python values, all of them equally long, as a frame."""
    index = pd.RangeIndex(len(next(iter(table.values()))))  # one for all columns: else each is compared
    return pd.DataFrame({key: _column(values, index) for key, values in table.items()}, index, list(table))


def _with_defaults(found: Columns, layouts: Mapping[str, tuple[bool, list[str], list[str], list[str]]],
                   frame: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The parameters that some config.yaml was written without, since they are newer: a default means "as it was"."""
    lacking = {layout: set(_DEFAULTS).difference(keys) for layout, (whole, keys, _, _) in layouts.items() if whole}
    filled: dict[str, np.ndarray] = {}
    for key, default in _DEFAULTS.items():
        without = {layout for layout, keys in lacking.items() if key in keys}
        if without and len(without) == len(layouts):  # quick
            filled[key] = columns.to_array([default.copy() for _ in found.layouts]) if isinstance(
                default, (list, dict)) else np.full(len(found), default, columns.SCALARS.get(type(default), object))
        elif without:
            values = frame[key].tolist() if key in frame else itertools.repeat(None)
            filled[key] = columns.to_array([copy.copy(default) if layout in without else value
                                             for layout, value in zip(found.layouts, values, strict=False)])
    return filled


def _labels(names: list[str], batches: list[str], folders: list[str]) -> list[str]:
    """The shortest of name, batch/name and folder that tells all runs apart."""
    for labels in (names, [f"{batch}/{name}" for batch, name in zip(batches, names, strict=True)]):
        if len(set(labels)) == len(labels):
            return labels
    return folders


def _column(values: np.ndarray | Sequence[Any], index: pd.Index) -> pd.Series:
    """Numbers as numbers (None among them: NaN) where that is exact; all else as the Python values that they are."""
    if not isinstance(values, np.ndarray):
        values = columns.to_array(values)
    kind = values.dtype if len(values) else np.dtype(object)
    if kind.hasobject:
        kind = _kind_of(values.tolist())
        values = values.astype(kind)  # None becomes NaN
    return pd.Series(values, index, kind, copy=False)  # told its type: else pandas would choose one for words


def _kind_of(cells: list[Any]) -> Any:
    """The type of a column of Python values."""
    if not cells or type(cells[0]) is str or cells.count(None) == len(cells):
        return object  # as most columns are: quick
    kinds = set(map(type, cells))
    if kinds == {bool}:
        return bool
    if kinds == {int} and min(cells) >= -2**63 and max(cells) < 2**63:
        return np.int64
    if kinds & {int, float} and kinds <= {int, float, type(None)} and (int not in kinds or all(
            abs(value) <= 2**53 for value in cells if type(value) is int)):
        return np.float64
    return object


def _long_frame(found: Columns, labels: pd.Series, folders: list[str], skipped: list[Skipped]) -> pd.DataFrame:
    """All stats, rows in the order of the runs."""
    run_of_row = np.repeat(np.arange(len(found)), found.counts)
    names = dict.fromkeys(name for _, _, _, names in _layouts(found).values() for name in names)
    stats = {name: found.stats[name] if name in found.stats else np.full(len(run_of_row), np.nan)  # runs without a row
             for name in ("epoch", *names)}
    bad = np.zeros(len(run_of_row), bool)
    for values in stats.values():
        if values.dtype == object:
            bad |= _stray_words(values, run_of_row)
    if bad.any():
        run_of_row, stats = run_of_row[~bad], {name: values[~bad] for name, values in stats.items()}
        skipped += [Skipped(folders[run], columns.damage_message(int(count)))
                    for run, count in zip(*np.unique(np.repeat(np.arange(len(found)), found.counts)[bad],
                                                     return_counts=True), strict=True)]
    return pd.DataFrame({"run": pd.Categorical.from_codes(run_of_row, pd.Index(labels, dtype=object)),
                         **{name if name != "run" else "stats/run": _numbers(name, values)
                            for name, values in stats.items()}}, copy=False)


def _stray_words(values: np.ndarray, run_of_row: np.ndarray) -> np.ndarray:
    """(rows,) bool: the words of a column that holds numbers in most runs."""
    words = np.fromiter((type(value) is str for value in values), bool, len(values))
    with_words, with_values = set(run_of_row[words].tolist()), set(run_of_row[pd.notna(values)].tolist())
    return words if 2 * len(with_words) <= len(with_values) else np.zeros(len(words), bool)


def _numbers(name: str, values: np.ndarray) -> np.ndarray | pd.Series:
    """A column of stats: whole numbers for epoch and step, floats, or objects if there are words among them."""
    if values.dtype == object and not any(type(value) is str for value in values):
        values = values.astype(np.float64)
    whole = name == "epoch" or name == "step" and values.dtype != object and bool(
        (np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53)).all())
    if whole:
        return values.astype(np.int64)
    if values.dtype == object:
        return pd.Series(values, dtype=object)  # else pandas would choose a type for words
    return values
