"""Read run folders into data frames: big_df (a row per run), a tidy long frame, a reason for each skipped folder."""
from __future__ import annotations

import functools
import glob
import itertools
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src import garbage_collection, metrics, run_folder
from src.analysis.reading import cache as read_cache
from src.analysis.reading import columns, frames, raw_files
from src.analysis.reading.columns import Columns
from src.analysis.reading.curves import Curves
from src.analysis.reading.drift import Drift, find_drift
from src.analysis.reading.raw_files import RunText
from src.analysis.reading.steps import read_steps
from src.errors import ResultsError
from src.io import files
from src.metrics import Metric

METRIC = "metric"  # key in the attrs of frames with a row per run: the metric that the job specs name
_BLOCK = 256  # runs whose texts are in memory at a time
_MAX_WARNINGS = 5
_log = logging.getLogger(__name__)


class Skipped(NamedTuple):
    """A folder, or some rows of its stats.csv, that could not be read, and why."""

    folder: str
    reason: str


@dataclass(frozen=True)
class Results:
    """The results of some batches, as data frames.

    config: a row per run: run (its name, after its batch's where two runs share it), batch, index (its number in the
        batch), end (completed, early_stopped, diverged; None: not started, running or failed), folder; then repeat_of,
        the run that it repeats exactly, if any run does; then the union of the config keys (None where a run lacks
        one); then the facts as facts/NAME;
    long: a row per run and epoch: run (categorical, in the order of `config`), epoch, then the union of the stats
        columns (NaN: not evaluated);
    skipped: each folder that was left out, and damaged rows, with the reason;
    drift: parameters whose default was another one when runs were made; str() of each is a sentence.
    """

    config: pd.DataFrame
    long: pd.DataFrame
    skipped: list[Skipped]
    drift: list[Drift] = field(default_factory=list)

    def big_df(self) -> pd.DataFrame:
        """Return `config` with a column for each stats column, whose cells are Series indexed by epoch (empty: no row).

        The cells of a column are created when the column is accessed.
        """
        cells = _Cells(self.long.copy(deep=False), len(self.config))
        # an external program may have a parameter and a metric of the same name
        stats = pd.DataFrame({f"stats/{name}" if name in self.config else name:
                              Curves.lazy(functools.partial(cells.of, name), len(self.config),
                                          holds_words=self.long[name].dtype == object)
                              for name in self.long.columns[2:]}, index=self.config.index)
        df = pd.concat([self.config, stats], axis=1)
        df.attrs = dict(self.config.attrs)
        return df

    @functools.cached_property
    def steps(self) -> pd.DataFrame:
        """A row per run and step of steps.csv (`log_steps`): run, step, epoch, loss, … It is read on first use."""
        return read_steps(self.config["folder"].tolist(), self.config["run"].tolist())

    def polars(self) -> tuple[Any, Any]:
        """Return `config` and `long` as polars frames; lists, mappings and columns of mixed types are JSON.

        ResultsError if polars is not installed.
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
        """Write `config` as runs.parquet and `long` as long.parquet (or .csv) into a folder. Return the paths.

        Lists, mappings and columns of mixed types are JSON. ResultsError for another kind.
        """
        if kind not in ("parquet", "csv"):
            raise ResultsError(f"unknown kind of file '{kind}'", allowed="parquet, csv")
        from src.analysis.reading import arrow_columns

        files.make_folder(folder)
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
        """Groups of runs with the same epochs, most often one: their index, the runs, their rows (runs, epochs)."""
        stops = np.cumsum(np.bincount(self._long["run"].cat.codes.to_numpy(), minlength=self._runs))
        starts = np.concatenate([[0], stops])[:-1]
        epochs = self._long["epoch"].to_numpy()
        runs_by_epochs: dict[bytes, list[int]] = {}
        for run, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            runs_by_epochs.setdefault(epochs[start:stop].tobytes(), []).append(run)
        return [(pd.Index(epochs[starts[runs[0]]:stops[runs[0]]], name="epoch"), runs, np.add.outer(
            starts[runs], np.arange(stops[runs[0]] - starts[runs[0]]))) for runs in runs_by_epochs.values()]

    def of(self, name: str) -> np.ndarray:
        """Return the Series of a column, (runs,) objects."""
        cells = np.empty(self._runs, dtype=object)
        values = self._long[name].to_numpy()
        with garbage_collection.paused():
            for index, runs, rows in self._groups:
                # a column of a frame becomes a Series in half the time that the constructor takes
                frame = pd.DataFrame(values[rows].T, index=index, columns=pd.Index([name] * len(runs), dtype=object),
                                     copy=False)
                for run, (_, series) in zip(runs, frame.items(), strict=True):
                    cells[run] = series
        return cells


def read_experiments(batches: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
                     only_done: bool = False, cache: bool = True) -> pd.DataFrame:
    """Return big_df: a row per run, stats cells are Series indexed by epoch. Arguments and errors as in `read_results`.

    The number of skipped folders is logged; `read_results(...).skipped` has their reasons.
    """
    results = read_results(batches, only_done, cache)
    if results.skipped:
        folder, reason = results.skipped[0]
        _log.warning("%d runs read; %d folders left out or repaired, the first: %s (%s). read_results(...).skipped "
                     "lists them all", len(results.config), len(results.skipped), folder, reason)
    return results.big_df()


def read_results(batches: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
                 only_done: bool = False, cache: bool = True) -> Results:
    """Read the runs of `batches`: a path, a glob or a list of those; of batch folders or of run folders.

    only_done: leave out runs that have not ended;
    cache: of batches of 256 runs and more, read only the runs that have changed since the last call. The cache is in
        the batch, or in ~/.cache if the batch is not writable.
    ResultsError if a path is neither batch nor run.
    """
    with garbage_collection.paused():
        selection = _select(batches)
        runs, paths, skipped = _gather(selection, only_done, cache)
        folders = [selection.folders[path] for path in paths]
        config = frames.config_frame(runs, paths, folders)
        long, damaged = frames.long_frame(runs, config["run"], folders)
    skipped += itertools.starmap(Skipped, damaged)
    if metric := _common_metric(paths):
        config.attrs[METRIC] = metric
        if problem := metrics.missing_metric_message(metric, long.columns, bool(config["end"].notna().any())):
            _log.warning("%s", problem)
    drift = find_drift(config)
    for change in drift[:_MAX_WARNINGS]:
        _log.warning("%s", change)
    return Results(config, long, skipped, drift)


def read_runs(parent: str, names: Sequence[str], whole: bool) -> Columns:
    """Read those of the runs `names`, directly in the folder `parent` (an absolute path), that can be read.

    whole: these are all runs in it, so that the cache may be rewritten.
    """
    selection = _Selection({f"{parent}/{name}": name for name in names}, {parent} if whole else set())
    return _gather(selection, only_done=False, cache=True)[0]


def newest_batch(folder: str | os.PathLike[str] = "results") -> str:
    """Return the path of the batch in `folder` with the newest job spec. ResultsError if there is none."""
    batches = [path for path in glob.glob(os.path.join(glob.escape(os.fspath(folder)), "*"))
               if run_folder.is_batch_folder(path)]
    if not batches:
        raise ResultsError("there is no batch here yet", where=os.fspath(folder),
                           hint="submit one with submit_multiple.py, or name the folder that holds yours; "
                                "`make demo` writes to results/demo")
    return max(batches, key=lambda path: os.path.getmtime(os.path.join(path, run_folder.JOB_SPEC)))


def _common_metric(paths: list[str]) -> Metric | None:
    """The metric that the job specs of all runs name; None if one names none, or another."""
    named = {metrics.read_from_batch(batch) for batch in {path.rpartition("/")[0] for path in paths}}
    return named.pop() if len(named) == 1 else None


class _Selection(NamedTuple):
    """The runs to read.

    folders: run folders as the caller named them, by absolute path, in order;
    whole_batches: absolute paths of the batches of which all runs are read.
    """

    folders: dict[str, str]
    whole_batches: set[str]


def _select(batches: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> _Selection:
    """Find the run folders of paths and globs, each once, in order."""
    patterns = [batches] if isinstance(batches, (str, os.PathLike)) else list(batches)
    selection = _Selection({}, set())
    for path_or_glob in patterns:
        pattern = os.path.expanduser(os.fspath(path_or_glob))
        # names of runs may contain brackets: an existing path is not a pattern
        paths = [pattern] if os.path.exists(pattern) else sorted(filter(os.path.isdir, glob.glob(pattern)))
        if not paths:
            raise ResultsError("no such folder", where=pattern,
                               hint="give a batch folder, as results/26-01-31-name, a run folder, or a glob of them")
        for path in paths:
            _add_runs(path.rstrip("/") or "/", selection)
    return selection


def _add_runs(path: str, selection: _Selection) -> None:
    """Add the run folder `path`, or the run folders of the batch `path`."""
    absolute = os.path.abspath(path)
    if run_folder.is_run_folder(path):
        selection.folders.setdefault(absolute, path)
        return
    if not os.path.isdir(path):
        raise ResultsError("not a folder", where=path, allowed="batch folders and run folders")
    names = run_folder.run_names(path)
    if not run_folder.is_batch_folder(path) and not any(run_folder.is_run_folder(f"{path}/{name}") for name in names):
        batches = [name for name in names if run_folder.is_batch_folder(f"{path}/{name}")]
        raise ResultsError(f"neither a batch folder (it has no {run_folder.JOB_SPEC}) nor a run folder",
                           where=path, hint=f"name one of its batches, or all as '{path}/*'" if batches else None)
    selection.whole_batches.add(absolute)
    prefix = os.path.join(path, "")
    selection.folders.update({run: prefix + name for name in names
                              if (run := f"{absolute}/{name}") not in selection.folders})


def _gather(selection: _Selection, only_done: bool, cache: bool) -> tuple[Columns, list[str], list[Skipped]]:
    """Read the selected runs. Return those that can be read, in order, their absolute paths, and the skipped ones."""
    paths = list(selection.folders)
    positions_by_parent: dict[str, list[int]] = {}
    for position, path in enumerate(paths):
        positions_by_parent.setdefault(path.rpartition("/")[0], []).append(position)
    parts: list[Columns] = []
    part_of_run, position_in_part = np.full(len(paths), -1), np.zeros(len(paths), int)
    reasons: dict[int, str] = {}
    for parent, positions in positions_by_parent.items():
        use_cache = cache and len(positions) >= read_cache.MIN_RUNS
        for part in _read_group(parent, [paths[position] for position in positions], only_done, use_cache,
                                use_cache and parent in selection.whole_batches):
            runs = np.array(positions, int)[part.folders]
            part_of_run[runs], position_in_part[runs] = len(parts), part.positions
            parts.append(part.runs)
            reasons |= {positions[folder]: reason for folder, reason in part.skipped.items()}
    read = np.flatnonzero(part_of_run >= 0)
    runs_read = columns.assemble(parts, part_of_run[read], position_in_part[read])
    reasons |= {position: note for position, note in zip(read.tolist(), runs_read.notes, strict=True) if note}
    skipped = [Skipped(selection.folders[paths[position]], line) for position in sorted(reasons)
               for line in reasons[position].split("\n")]
    return runs_read, [paths[position] for position in read.tolist()], skipped


class _Part(NamedTuple):
    """Some of the runs of a list of folders.

    runs: runs that were read together;
    positions: those of them that count;
    folders: the number of the folder of each of these;
    skipped: the reasons by number of the folder.
    """

    runs: Columns
    positions: np.ndarray
    folders: np.ndarray
    skipped: dict[int, str]


def _read_group(parent: str, folders: list[str], only_done: bool, use_cache: bool, store: bool) -> Iterator[_Part]:
    """Yield the runs of one parent folder in parts: those in the cache whose files are unchanged, then the others.

    store: write the cache; `folders` are all runs of the parent then, as the cache drops runs that are not listed.
    """
    if not use_cache:
        yield _read(folders, np.arange(len(folders)), only_done)
        return
    read_at = time.time_ns()
    cached_parts, part, position = _read_cache(parent, folders)
    cached = np.flatnonzero(part >= 0)
    is_wanted = np.array([not only_done or cached_parts[number].ends[place] is not None for number, place
                          in zip(part[cached].tolist(), position[cached].tolist(), strict=True)], bool)
    skipped = dict.fromkeys(cached[~is_wanted].tolist(), raw_files.NOT_DONE)
    for number, runs in enumerate(cached_parts):
        wanted = cached[is_wanted & (part[cached] == number)]
        yield _Part(runs, position[wanted], wanted, skipped)
    fresh = _read(folders, np.flatnonzero(part < 0), only_done)
    yield fresh
    if store:
        read_cache.store(parent, cached_parts, (part[cached], position[cached]), fresh.runs, read_at)


def _read_cache(parent: str, folders: list[str]) -> tuple[list[Columns], np.ndarray, np.ndarray]:
    """Return the cached runs of a folder, and the part and position of each unchanged run; a part of -1 for others."""
    if not read_cache.exists(parent):  # reading a run takes its stamp
        return [], np.full(len(folders), -1), np.full(len(folders), -1)
    with ThreadPoolExecutor(1) as pool:  # one thread decodes the cache while the other one stats files
        loading = pool.submit(read_cache.load, parent)
        stamps = np.array([stamp or (0,) * raw_files.STAMP_LENGTH
                           for stamp in raw_files.read_stamps(parent, folders)], dtype=np.int64)
        cached_parts = loading.result()
    names = [folder[len(parent) + 1:] for folder in folders]
    return cached_parts, *read_cache.match_runs(cached_parts, names, stamps)


def _read(folders: list[str], numbers: np.ndarray, only_done: bool) -> _Part:
    """Read the folders of these numbers, in blocks, so that the texts of all runs are never in memory together."""
    order = numbers.tolist()
    texts = zip(order, raw_files.map_ordered(lambda number: raw_files.read_run(folders[number], only_done), order),
                strict=True)
    parsed: list[Future[Columns]] = []
    read: list[int] = []
    reasons: dict[int, str] = {}
    with ThreadPoolExecutor(1) as pool:  # numbers are parsed while the next files are read
        while block := list(itertools.islice(texts, _BLOCK)):
            readable = [(number, text) for number, text in block if isinstance(text, RunText)]
            parsed.append(pool.submit(columns.parse, [text for _, text in readable]))
            if len(parsed) > 2:
                parsed[-3].result()  # at most three blocks at a time
            read += [number for number, _ in readable]
            reasons |= {number: text for number, text in block if isinstance(text, str)}
    return _Part(columns.join([part.result() for part in parsed]), np.arange(len(read)), np.array(read, int), reasons)
