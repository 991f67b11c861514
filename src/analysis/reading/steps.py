"""Read steps.csv of runs, which `log_steps` writes: a row every few optimizer steps; on demand, and not cached."""
from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from src import run_folder, stats_csv
from src.analysis.reading import columns, raw_files
from src.analysis.reading.curves import Curves, CurveType
from src.archive import run_files
from src.errors import ResultsError

_WHOLE = ("step", "epoch")
_PREFIX = "steps/"  # of step curves in big_df: without it, `loss` would clash with the field of Config
_log = logging.getLogger(__name__)


def read_steps(folders: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """Return a row per run and logged step: run (categorical), step, epoch, then the other columns of steps.csv.

    labels: of the runs. Cells that a row lacks are NaN. A run without the file has no row. Damaged rows are left out,
    as in stats.csv, with a logged warning.
    """
    texts = list(raw_files.map_ordered(_read, folders))
    table, counts, notes, _ = columns.parse_tables(texts, run_folder.STEPS)
    for folder, note in zip(folders, notes, strict=True):
        if note:
            _log.warning("%s: %s", folder, note)
    names = dict.fromkeys([*_WHOLE, *table])
    missing = np.full(int(counts.sum()), np.nan)
    # with a type: pandas would choose another one for words
    frame = pd.DataFrame({name: pd.Series(values := table.get(name, missing), dtype=values.dtype) for name in names})
    for name in _WHOLE:
        if frame[name].dtype != object and np.isfinite(frame[name]).all():
            frame[name] = frame[name].astype(np.int64)
    frame.insert(0, "run", pd.Categorical.from_codes(np.repeat(np.arange(len(labels)), counts), pd.Index(
        labels, dtype=object)))
    return frame


def _read(folder: str) -> tuple[str, bytes]:
    try:
        return stats_csv.split(run_files.read_bytes(folder, run_folder.STEPS) or b"")
    except OSError as error:
        _log.warning("%s: %s cannot be read: %s", folder, run_folder.STEPS, error.strerror)
        return "", b""


def curve_column(metric: str | None) -> str:
    """Return the column of `with_step_curves` for a metric; None is the loss."""
    return _PREFIX + (metric or "loss").removeprefix(_PREFIX)


def with_step_curves(df: pd.DataFrame) -> pd.DataFrame:
    """Return big_df with the columns of steps.csv as steps/NAME, Series indexed by step, instead of stats columns.

    ResultsError if no run has logged steps.
    """
    long = read_steps(df["folder"].tolist(), df["run"].tolist())
    names = [name for name in long.columns if name not in ("run", "timestamp", *_WHOLE)]
    if long.empty:
        raise ResultsError("no run has logged steps", hint="`log_steps: 50` in the job spec logs every 50 steps")
    stops = np.cumsum(np.bincount(long["run"].cat.codes, minlength=len(df)))
    parts = [long.iloc[start:stop].set_index("step") for start, stop in zip([0, *stops], stops, strict=False)]
    curves = pd.DataFrame({_PREFIX + name: pd.Series(Curves.of([part[name] for part in parts]), index=df.index)
                           for name in names})
    return pd.concat([df[[name for name in df if not isinstance(df[name].dtype, CurveType)]], curves], axis=1)
