"""Curves of the page document: which metrics, how many epochs and runs fit, and their arrays as base64."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from src import metrics
from src.analysis.page import plain

MAX_POINTS = 600_000  # of all curves in a document, 2.4 MB
_MIN_METRICS = 4  # that are included; where that is too much, curves have fewer epochs
_MIN_EPOCHS = 16  # of a thinned curve; where that is too much, fewer runs have curves
_LAST = ("time", "data_time", "seen_examples", "learning_rate", "grad_norm")  # included after all others
_NO_CURVES = ("run", "epoch", "step", "timestamp")


def order(names: Iterable[str], ranking: Sequence[str]) -> list[str]:
    """Return the columns of `long` that are curves, the most important first: those that rank, then losses."""
    names = [name for name in names if name not in _NO_CURVES]
    first = [*ranking, *metrics.ranking_columns(name for name in names if name not in ranking),
             "train/loss", *(name for name in names if name.endswith("/loss"))]
    rest = sorted(names, key=lambda name: name.rpartition("/")[2] in _LAST or name.startswith("system/"))
    return [name for name in dict.fromkeys([*first, *rest]) if name in names]


def encode(long: pd.DataFrame, runs: int, ranking: Sequence[str], keep: Sequence[int] = (), only: str | None = None,
           most: int = MAX_POINTS) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return `curves` and `sampled` of the document.

    ranking: columns that rank the runs; keep: runs, the most important first, whose curves are included in any case;
    only: the one metric to include; most: points of all curves.
    """
    numeric = [name for name in long.columns if long[name].dtype != object]
    names = [only] if only else order(numeric, ranking)
    run_of_row = long["run"].cat.codes.to_numpy()
    rows, sampled = _sample(run_of_row, runs, min(len(names), _MIN_METRICS), keep, most)
    included = names[:max(_MIN_METRICS, most // max(len(rows), 1))]
    epochs, run_of_row = long["epoch"].to_numpy()[rows], run_of_row[rows]
    grids: dict[bytes, int] = {}
    encoded_grids: list[dict[str, str]] = []
    of = {}
    for name in included:
        values = long[name].to_numpy(np.float64)[rows]
        has_value = ~np.isnan(values)
        key = has_value.tobytes()
        if key not in grids:
            grids[key] = len(grids)
            counts = np.bincount(run_of_row[has_value], minlength=runs)
            encoded_grids.append({"offset": plain.packed(np.concatenate([[0], np.cumsum(counts)]), "i4"),
                                  "epoch": plain.packed(epochs[has_value], "i4")})
        of[plain.text(name)] = {"grid": grids[key], "value": plain.packed(values[has_value], "f4")}
    others = list(map(plain.text, names[len(included):]))
    return {"metrics": list(of), "others": others, "x": "epoch", "grids": encoded_grids, "of": of}, sampled


def _sample(run_of_row: np.ndarray, runs: int, columns: int, keep: Sequence[int], most: int
            ) -> tuple[np.ndarray, dict[str, Any] | None]:
    """Choose rows of `long`, so that `columns` curves of them have at most `most` points.

    First only every k-th epoch, counted from the last one, then only every j-th run besides the first of `keep`.
    """
    everything = np.arange(len(run_of_row))
    if not columns or len(everything) * columns <= most:
        return everything, None
    counts = np.bincount(run_of_row, minlength=runs)
    from_end = np.repeat(np.cumsum(counts), counts) - 1 - everything  # epochs up to the last one of the run
    step = min(-(-len(everything) * columns // most), max(1, int(counts.max()) // _MIN_EPOCHS))
    rows = everything[from_end % step == 0]
    stride = -(-len(rows) * columns // most)
    chosen = np.zeros(runs, bool)
    chosen[::stride] = True
    chosen[list(keep)[:runs // (10 * stride)]] = True
    rows = rows[chosen[run_of_row[rows]]]
    shown = [f"one epoch in {step}, counted from the last one" if step > 1 else "",
             f"one run in {stride}, and the best ones" if stride > 1 else ""]
    return rows, {"runs": int(chosen.sum()), "of": runs, "epochs": step,
                  "why": f"curves show only {'; '.join(filter(None, shown))}: all of them would be too much for a "
                         "browser. Tables and points use everything"}
