"""Which way is better for a metric, and which metric a run is judged by."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from src import run_folder
from src.errors import JobSpecError, UserError
from src.io import yaml_io

MAXIMIZE, MINIMIZE = "maximize", "minimize"

_DESCENDING = re.compile(r"(?:^|_)(?:loss|error|err|perplexity|ppl|mae|mse|rmse)(?:$|_)")
_PREFERENCE = ("accuracy", "r2", "loss")


_OF_SWEEPS = ("target", "impute", "impute_while_running")  # W&B sweeps have them too


class Metric(NamedTuple):
    """The metric that a job spec names. name: a stats column, or a regular expression for several; goal: maximize,
    minimize, or None: as the columns' own names say."""

    name: str
    goal: str | None = None

    def find(self, columns: Iterable[str]) -> list[str]:
        """Those of the columns that it names and that are better the same way; empty if there is none."""
        columns = list(columns)
        found = [self.name] if self.name in columns else [column for column in columns if self.names(column)]
        return [column for column in found if lower_is_better(column, self) == lower_is_better(found[0], self)]

    def names(self, column: str) -> bool:
        """Whether it names this column, or would if there were no better."""
        try:
            return re.search(self.name, column) is not None
        except re.error:  # then it is a name and no pattern
            return self.name == column


def lower_is_better(column: str, metric: Metric | None = None) -> bool:
    """True if smaller is better: losses, errors, perplexities. Accuracy, r2 and all else ascend.

    metric: of the job spec, whose goal decides of the columns that it names.
    """
    if metric and metric.goal and metric.names(column):
        return metric.goal == MINIMIZE
    return _DESCENDING.search(column.rpartition("/")[2]) is not None  # a split may be called error_cases


def is_better(column: str, one: float, other: float, metric: Metric | None = None) -> bool:
    """Whether `one` is better than `other` in this metric. NaN is never better, and worse than any number."""
    if one != one:
        return False
    return other != other or (one < other if lower_is_better(column, metric) else one > other)


def ranking_columns(columns: Iterable[str], metric: Metric | None = None) -> list[str]:
    """The stats columns that runs are ranked by: what `metric` names, where there is such a column; else last and av of
    the best metric of val, else of the first other split.

    Accuracy before r2 before loss; `train` only if nothing else was evaluated. Empty if there is no such column.
    """
    columns = list(columns)
    if metric and (named := metric.find(columns)):
        return named
    evaluated = dict.fromkeys(column.partition("/")[0] for column in columns if column.count("/") == 2)
    splits = sorted(evaluated, key=lambda split: not split.startswith("val")) or ["train"]
    for split in splits:
        for measure in _PREFERENCE:
            found = [column for column in columns if column.startswith(f"{split}/") and column.endswith(f"/{measure}")]
            if found:
                return found
    return []


def missing_metric_message(metric: Metric | None, columns: Iterable[str]) -> str | None:
    """A sentence if some runs were evaluated and none of them has the metric that the job spec names."""
    columns = list(columns)
    ranked = ranking_columns(columns)
    if metric is None or not ranked or metric.find(columns):
        return None
    return f"no run has {metric.name}, the metric that the job spec names: ranked by {ranked[0]}"


def parse(value: Any, where: str) -> Metric:
    """The metric that stands in a job spec: a name, or {name: …, goal: maximize or minimize}. JobSpecError if neither.
    """
    given = {"name": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or not isinstance(given.get("name"), str) or not given["name"] or (
            given.keys() - {"name", "goal", *_OF_SWEEPS}):
        raise JobSpecError(f"{value!r} is no metric", where=where, allowed="the name of a stats column, or name and "
                           "goal", hint="as metric: {name: val/last/accuracy, goal: maximize}")
    goal = given.get("goal")
    if goal not in (None, MAXIMIZE, MINIMIZE):
        raise JobSpecError(f"the goal {goal!r} is neither of the two", where=where, allowed=(MAXIMIZE, MINIMIZE))
    return Metric(given["name"], goal)


def read_from_batch(batch: str | os.PathLike[str]) -> Metric | None:
    """The metric that the job spec of a batch names: in its job_details, or in a sweep file beside `parameters`."""
    path = os.path.join(batch, run_folder.JOB_SPEC)
    try:
        document = yaml_io.load_file(path)
        details = document.get("job_details", document) if isinstance(document, dict) else None
        return parse(details["metric"], path) if isinstance(details, dict) and details.get("metric") else None
    except (UserError, OSError):  # somebody's folder, or an older job spec with a key of that name
        return None
