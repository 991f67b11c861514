"""Which way is better for a metric, and which metric a run is judged by."""
from __future__ import annotations

import re
from collections.abc import Iterable

_DESCENDING = re.compile(r"(?:^|_)(?:loss|error|err|perplexity|ppl|mae|mse|rmse)(?:$|_)")
_PREFERENCE = ("accuracy", "r2", "loss")


def descends(column: str) -> bool:
    """True if smaller is better: losses, errors, perplexities. Accuracy, r2 and all else ascend."""
    return _DESCENDING.search(column.rpartition("/")[2]) is not None  # a split may be called error_cases


def better(column: str, one: float, other: float) -> bool:
    """Whether `one` is better than `other` in this metric. NaN is never better, and worse than any number."""
    if one != one:
        return False
    return other != other or (one < other if descends(column) else one > other)


def judging_columns(columns: Iterable[str]) -> list[str]:
    """The stats columns that runs are ranked by: last and av of the best metric of val, else of the first other split.

    Accuracy before r2 before loss; `train` only if nothing else was evaluated. Empty if there is no such column.
    """
    columns = list(columns)
    evaluated = dict.fromkeys(column.partition("/")[0] for column in columns if column.count("/") == 2)
    splits = sorted(evaluated, key=lambda split: not split.startswith("val")) or ["train"]
    for split in splits:
        for metric in _PREFERENCE:
            found = [column for column in columns if column.startswith(f"{split}/") and column.endswith(f"/{metric}")]
            if found:
                return found
    return []
