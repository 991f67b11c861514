"""The direction of a metric, and the metric that runs are ranked by."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from src import run_folder
from src.errors import JobSpecError, UserError
from src.io import yaml_io

MAXIMIZE, MINIMIZE = "maximize", "minimize"
TEST_NOTE = "chosen by a test split: the best values are optimistic estimates"

_DESCENDING = re.compile(r"(?:^|_)(?:loss|error|err|perplexity|ppl|mae|mse|rmse)(?:$|_)")
_PREFERENCE = ("accuracy", "r2", "loss")
_SWEEP_KEYS = ("target", "impute", "impute_while_running")  # of W&B sweeps, ignored here


class Metric(NamedTuple):
    """The metric that a job spec names.

    name: a stats column, or a regular expression for several;
    goal: maximize or minimize; None: the direction follows from the columns' names.
    """

    name: str
    goal: str | None = None

    def find(self, columns: Iterable[str]) -> list[str]:
        """Return the columns that it names and that have the direction of the first one; empty if there is none."""
        columns = list(columns)
        named = [self.name] if self.name in columns else [column for column in columns if self.names(column)]
        return [column for column in named if lower_is_better(column, self) == lower_is_better(named[0], self)]

    def names(self, column: str) -> bool:
        """Return whether the name matches this column as a regular expression."""
        try:
            return re.search(self.name, column) is not None
        except re.error:  # a plain name
            return self.name == column


def lower_is_better(column: str, metric: Metric | None = None) -> bool:
    """Return whether smaller is better: for losses, errors, perplexities. Larger is better for everything else.

    metric: of the job spec; its goal overrides the names of the columns that it matches.
    """
    if metric and metric.goal and metric.names(column):
        return metric.goal == MINIMIZE
    return _DESCENDING.search(column.rpartition("/")[2]) is not None  # the name of a split does not count


def chooses_by_test(column: str | None) -> bool:
    """Return whether choosing by this column means choosing by a test split."""
    return (column or "").startswith("test")


def is_better(column: str, value: float, other: float, metric: Metric | None = None) -> bool:
    """Return whether `value` is better than `other`. NaN is never better, and worse than any number."""
    if value != value:
        return False
    return other != other or (value < other if lower_is_better(column, metric) else value > other)


def ranking_columns(columns: Iterable[str], metric: Metric | None = None) -> list[str]:
    """Return the stats columns that runs are ranked by: those that `metric` names; without such a column, last and av
    of the preferred metric of val, or of the first other split.

    Accuracy before r2 before loss; `train` only if nothing else was evaluated. Empty if there is no such column.
    """
    columns = list(columns)
    if metric and (named := metric.find(columns)):
        return named
    evaluated = dict.fromkeys(column.partition("/")[0] for column in columns if column.count("/") == 2)
    splits = sorted(evaluated, key=lambda split: not split.startswith("val")) or ["train"]
    for split in splits:
        for measure in _PREFERENCE:
            matching = [column for column in columns
                        if column.startswith(f"{split}/") and column.endswith(f"/{measure}")]
            if matching:
                return matching
    return []


def missing_metric_message(metric: Metric | None, columns: Iterable[str]) -> str | None:
    """Return a message if some runs were evaluated, but none has the metric that the job spec names."""
    columns = list(columns)
    ranked = ranking_columns(columns)
    if metric is None or not ranked or metric.find(columns):
        return None
    return f"no run has {metric.name}, the metric that the job spec names: ranked by {ranked[0]}"


def parse(value: Any, where: str) -> Metric:
    """Parse the metric of a job spec: a name, or {name: …, goal: maximize or minimize}. JobSpecError for anything else.
    """
    spec = {"name": value} if isinstance(value, str) else value
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str) or not spec["name"] or (
            spec.keys() - {"name", "goal", *_SWEEP_KEYS}):
        raise JobSpecError(f"invalid metric {value!r}", where=where, allowed="the name of a stats column, or name and "
                           "goal", hint="as metric: {name: val/last/accuracy, goal: maximize}")
    goal = spec.get("goal")
    if goal not in (None, MAXIMIZE, MINIMIZE):
        raise JobSpecError(f"invalid goal {goal!r}", where=where, allowed=(MAXIMIZE, MINIMIZE))
    return Metric(spec["name"], goal)


def read_from_batch(batch: str | os.PathLike[str]) -> Metric | None:
    """Return the metric that a batch's job spec names: in its job_details, or in a sweep file beside `parameters`."""
    path = os.path.join(batch, run_folder.JOB_SPEC)
    try:
        document = yaml_io.load_file(path)
        details = document.get("job_details", document) if isinstance(document, dict) else None
        return parse(details["metric"], path) if isinstance(details, dict) and details.get("metric") else None
    except (UserError, OSError):  # not a batch, or an older job spec with another key of that name
        return None
