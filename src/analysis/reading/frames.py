"""Columns of runs as data frames: parameters with their defaults, facts, stats; exact repeats are marked."""
from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src import run_folder, stats_csv
from src.analysis.reading import columns
from src.analysis.reading.columns import Columns
from src.analysis.reading.filters import cell_key, is_missing, key_column
from src.code import code_state
from src.config import PER_POINT, Config, declared_types
from src.search import definition

IDENTITY = ("run", "batch", "index", "end", "folder")  # the first columns of every frame with a row per run
REPEAT_OF = "repeat_of"  # column of exact repeats: the run that a run repeats; frames without repeats lack it
SEEDS = ("seed_model", "seed_training")
FACTS = "facts/"
# columns that differ from run to run and change no result
NO_SETTINGS = frozenset((*IDENTITY, REPEAT_OF, "output_dir", "wandb_run_name",
                         *(name for name in PER_POINT if name != "COMMAND")))
_VERSIONS = ("facts/commit", f"facts/{code_state.CODE}")  # of the code
_DEFAULTS = Config().to_dict()


class _Layout(NamedTuple):
    """The columns of a run. has_config: it is a run of train.py, and has a config.yaml or will have one."""

    has_config: bool
    parameters: list[str]
    facts: list[str]
    stats: list[str]


def _layouts(runs: Columns) -> dict[str, _Layout]:
    """Return the distinct layouts by their text, in the order in which they first appear."""
    return {text: _Layout(*json.loads(text)) for text in dict.fromkeys(runs.layouts)}


def config_frame(runs: Columns, paths: list[str], folders: list[str]) -> pd.DataFrame:
    """Return the frame with a row per run: identity, REPEAT_OF if there are repeats, parameters, facts.

    paths: absolute paths of the run folders;
    folders: the same folders as the caller named them.
    """
    batches = [path.rpartition("/")[0].rpartition("/")[2] for path in paths]
    frame = to_frame({**identity_columns(runs.names, batches, folders, runs.ends), **parameter_columns(runs)})
    originals = find_repeats(frame)
    if REPEAT_OF not in frame and any(original is not None for original in originals):
        frame.insert(len(IDENTITY), REPEAT_OF, pd.Series(originals, index=frame.index, dtype=object))
    return frame


def identity_columns(names: list[str], batches: list[str], folders: list[str], ends: Sequence[str | None]
                     ) -> dict[str, Sequence[Any]]:
    """Return the columns IDENTITY."""
    return dict(zip(IDENTITY, (_labels(names, batches, folders), batches, list(map(run_folder.run_index, names)),
                               _with_paused(folders, ends), folders), strict=True))


def _with_paused(folders: Sequence[str], ends: Sequence[str | None]) -> Sequence[str | None]:
    """Return how each run ended, `paused` for a trial that waits at a rung of its search."""
    batches = {os.path.dirname(folder) for folder, end in zip(folders, ends, strict=True) if end is None}
    searches = {batch for batch in batches if definition.is_search(batch)}
    if not searches:
        return ends
    return [_pause(folder) if end is None and os.path.dirname(folder) in searches else end
            for folder, end in zip(folders, ends, strict=True)]


def _pause(folder: str) -> str | None:
    try:
        attempt = run_folder.RunFolder.read(folder).last_attempt() or {}
    except OSError:  # deleted in the meantime
        return None
    return run_folder.PAUSED if attempt.get("how") == run_folder.PAUSED else None


def _labels(names: list[str], batches: list[str], folders: list[str]) -> list[str]:
    """The shortest of name, batch/name and folder that is unique."""
    for labels in (names, [f"{batch}/{name}" for batch, name in zip(batches, names, strict=True)]):
        if len(set(labels)) == len(labels):
            return labels
    return folders


def parameter_columns(runs: Columns) -> dict[str, np.ndarray]:
    """Return the columns of parameters, defaults filled in, then of facts, (runs,) each."""
    layouts = _layouts(runs)
    names = dict.fromkeys(name for layout in layouts.values() for name in layout.parameters)
    parameters = {name: runs.config[name] for name in names if name not in IDENTITY}
    parameters |= _with_defaults(runs, layouts, parameters)
    has_config = np.array([layouts[text].has_config for text in runs.layouts], bool)
    parameters = {name: _as_declared(name, values, has_config) for name, values in parameters.items()}
    facts = dict.fromkeys(name for layout in layouts.values() for name in layout.facts)
    return parameters | {name: runs.facts[name] for name in facts if name not in parameters}


def _with_defaults(runs: Columns, layouts: Mapping[str, _Layout], parameters: Mapping[str, np.ndarray]
                   ) -> dict[str, np.ndarray]:
    """The parameters that are newer than some config.yaml. Runs older than a parameter get its default, which by the
    project's rule means the behavior before the parameter existed.
    """
    lacking = {text: set(_DEFAULTS).difference(layout.parameters)
               for text, layout in layouts.items() if layout.has_config}
    filled: dict[str, np.ndarray] = {}
    masks: dict[frozenset[str], np.ndarray] = {}  # runs of some layouts
    for name, default in _DEFAULTS.items():
        without = {text for text, missing in lacking.items() if name in missing}
        if without and len(without) == len(layouts):  # the fast path
            filled[name] = columns.to_array([default.copy() for _ in runs.layouts]) if isinstance(
                default, (list, dict)) else np.full(len(runs), default, columns.SCALARS.get(type(default), object))
        elif without:
            key = frozenset(without)
            if key not in masks:
                masks[key] = np.fromiter((text in without for text in runs.layouts), bool, len(runs))
            values = parameters[name].astype(object) if name in parameters else np.full(len(runs), None)
            for position in np.flatnonzero(masks[key]).tolist():
                values[position] = copy.copy(default)
            filled[name] = columns.to_array(values.tolist())
    return filled


def _as_declared(name: str, values: np.ndarray, has_config: np.ndarray) -> np.ndarray:
    """Give the numbers of runs of train.py the type that Config declares for them; '0.9' is 0.9 where it may be one.

    Fields of `int | float` are left as they are: 1 and 1.0 have different meanings there. has_config: (runs,) bool.
    """
    types = declared_types(name)
    if "float" not in types or "int" in types or values.dtype.kind == "f" or not has_config.any():
        return values
    converted = values.astype(object)
    for position in np.flatnonzero(has_config):
        value = converted[position]
        if type(value) is int or type(value) is str and _is_float(value):
            converted[position] = float(value)
    return columns.to_array(converted.tolist())


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def to_frame(table: Mapping[str, np.ndarray | Sequence[Any]]) -> pd.DataFrame:
    """Return columns of equal length as a frame. Its cells have the types of the values, as in `_cell_type`."""
    index = pd.RangeIndex(len(next(iter(table.values()))))  # one index for all: pandas compares different ones
    return pd.DataFrame({name: _to_series(values, index) for name, values in table.items()}, index, list(table))


def _to_series(values: np.ndarray | Sequence[Any], index: pd.Index) -> pd.Series:
    if not isinstance(values, np.ndarray):
        values = columns.to_array(values)
    dtype = values.dtype if len(values) else np.dtype(object)
    if dtype.hasobject:
        dtype = _cell_type(values.tolist())
        values = values.astype(dtype)  # None becomes NaN among floats
    return pd.Series(values, index, dtype, copy=False)  # with a type: pandas would choose another one for strings


def _cell_type(cells: list[Any]) -> Any:
    """The type of a column: bool, int64 or float64 if all cells are of that type, None beside floats being NaN; else
    object, so that int, float, bool, str and None stay apart."""
    if not cells or type(cells[0]) is str or cells.count(None) == len(cells):
        return object  # the fast path: most columns
    types = set(map(type, cells))
    if types == {bool}:
        return bool
    if types == {int} and min(cells) >= -2**63 and max(cells) < 2**63:
        return np.int64
    return np.float64 if float in types and types <= {float, type(None)} else object


def find_repeats(frame: pd.DataFrame) -> list[str | None]:
    """Return for each run the label of the run that it repeats exactly, or None.

    A run repeats another one if all its parameters, including the seeds, are the same, and its commit and code as far
    as both are known. Of such runs the first one that ended without diverging is the original. Runs whose seeds are
    unknown repeat none.
    """
    originals: list[str | None] = [None] * len(frame)
    if not set(SEEDS) <= set(frame.columns):
        return originals
    candidates = frame[frame[list(SEEDS)].notna().all(axis=1)]
    seeds = pd.DataFrame({name: key_column(candidates[name]) for name in SEEDS})
    candidates = candidates[seeds.duplicated(keep=False)]
    if candidates.empty:
        return originals
    settings = [name for name in map(str, candidates)
                if name not in NO_SETTINGS and not name.startswith(FACTS) and varies(candidates[name])]
    keys = list(zip(*(map(cell_key, candidates[name].tolist()) for name in settings), strict=True)) or [()] * len(
        candidates)
    versions = list(zip(*(candidates[name].tolist() if name in candidates else [None] * len(candidates)
                          for name in _VERSIONS), strict=True))
    has_ended = candidates["end"].isin([run_folder.COMPLETED, run_folder.EARLY_STOPPED]).tolist()
    groups: dict[Any, list[int]] = {}
    for position in sorted(range(len(candidates)), key=lambda position: not has_ended[position]):  # a stable order
        groups.setdefault(keys[position], []).append(position)
    labels, positions = candidates["run"].tolist(), frame.index.get_indexer(candidates.index)
    for original, position in _pairs(groups.values(), versions):
        originals[positions[position]] = labels[original]
    return originals


def varies(values: pd.Series) -> bool:
    """Return whether a column has more than one value. Most object columns have one, so identity is compared first."""
    if values.dtype != object:
        return bool(values.nunique(dropna=False) > 1)
    cells = values.tolist()
    first = cell_key(cells[0]) if cells else None
    return any(cell is not cells[0] and cell_key(cell) != first for cell in cells)


def _pairs(groups: Iterable[list[int]], versions: list[tuple[Any, ...]]) -> Iterator[tuple[int, int]]:
    """(original, repeat) of runs with equal parameters. Runs of different code do not repeat each other.

    versions: commit and code of each run.
    """
    def may_be_same(first: int, position: int) -> bool:
        return all(is_missing(a) or is_missing(b) or a == b
                   for a, b in zip(versions[first], versions[position], strict=True))

    for members in groups:
        firsts: list[int] = []
        for position in members:
            original = next((first for first in firsts if may_be_same(first, position)), None)
            if original is None:
                firsts.append(position)
            else:
                yield original, position


def long_frame(runs: Columns, labels: pd.Series, folders: list[str]) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Return all stats, rows in the order of the runs, and (folder, message) for each column of words of a run that
    holds numbers in other runs: its cells are NaN.
    """
    run_of_row = np.repeat(np.arange(len(runs)), runs.counts)
    names = dict.fromkeys(name for layout in _layouts(runs).values() for name in layout.stats)
    stats = {name: runs.stats[name] if name in runs.stats else np.full(len(run_of_row), np.nan)  # runs without a row
             for name in ("epoch", *names)}
    messages: list[tuple[int, str]] = []
    for name, values in stats.items():
        if values.dtype == object:
            stats[name], examples = _without_words(values, run_of_row)
            messages += [(run, stats_csv.words_message(name, example)) for run, example in examples.items()]
    return pd.DataFrame({"run": pd.Categorical.from_codes(run_of_row, pd.Index(labels, dtype=object)),
                         **{name if name != "run" else "stats/run": _stats_column(name, values)
                            for name, values in stats.items()}}, copy=False), [
        (folders[run], message) for run, message in sorted(messages, key=lambda item: item[0])]


def _without_words(values: np.ndarray, run_of_row: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Replace words by NaN in a column that holds numbers as well; also return an example of each run that has some."""
    is_word = np.fromiter((type(value) is str for value in values), bool, len(values))
    if not pd.notna(values[~is_word]).any():
        return values, {}
    examples = {int(run_of_row[row]): values[row] for row in np.flatnonzero(is_word)[::-1]}
    return np.where(is_word, np.nan, values), examples


def _stats_column(name: str, values: np.ndarray) -> np.ndarray | pd.Series:
    """A column of stats: int64 for epoch and step, else float64, or objects if it has strings."""
    if values.dtype == object and not any(type(value) is str for value in values):
        values = values.astype(np.float64)
    is_whole = name == "epoch" or name == "step" and values.dtype != object and bool(
        (np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53)).all())
    if is_whole:
        return values.astype(np.int64)
    if values.dtype == object:
        return pd.Series(values, dtype=object)  # with a type: pandas would choose another one for strings
    return values
