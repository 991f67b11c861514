"""The columns of a table of runs: index, parameters that vary, state, progress, best value and remark."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from src.submission.status import states, status
from src.submission.status.status import StatusRow
from src.submission.system.terminal import format_duration
from src.terminal.cells import clean
from src.terminal.run_names import RunNames
from src.terminal.table import Column

STATE = "state"


def columns(rows: Sequence[StatusRow], remarks: Sequence[str], names: RunNames, metrics: BestMetrics,
            curves: Sequence[tuple[str, list[str]]] = ()) -> list[Column]:
    """Return the columns of a table of runs, in the order in which they are shown.

    metrics: of the best values;
    curves: pairs of a metric and a small curve for each row.
    """
    labels = [names.names[row.run].label for row in rows]
    parameters = list(zip(*(names.values(row.run) for row in rows), strict=True)) or [()] * len(names.varying)
    best = ["" if row.best is None else f"{row.best:.4g} {metrics.labels[row.metric or '']}".rstrip() for row in rows]
    return [
        Column("run", labels, wish=24, floor=5),
        Column(STATE, [states.shown(row.state) for row in rows], floor=13),
        *(Column(full, list(values), short, wish=12, floor=6)
          for (short, full), values in zip(names.varying.items(), parameters, strict=True)),
        Column("epochs", [status.epochs(row) for row in rows], optional=1),
        Column("left", ["" if row.left is None else format_duration(row.left) for row in rows], optional=2),
        Column("best", best, floor=9),
        *(Column(clean(title), cells, f"…/{clean(title).rpartition('/')[2]}", optional=5) for title, cells in curves),
        Column("tags", [clean(",".join(row.tags)) for row in rows], wish=12, floor=6, optional=4),
        Column("remark", list(map(clean, remarks)), wish=12, floor=12, optional=3, is_prose=True)]


class BestMetrics(NamedTuple):
    """The metrics of best values. title: what they share, e.g. `val/*/accuracy`; labels: the rest, by metric."""

    title: str
    labels: dict[str, str]


def best_metrics(rows: Iterable[StatusRow]) -> BestMetrics:
    """Return the metrics of the best values of runs."""
    metrics = list(dict.fromkeys(row.metric for row in rows if row.metric))
    if len(metrics) < 2:
        return BestMetrics(clean("".join(metrics)), dict.fromkeys(metrics, ""))
    parts = [metric.split("/") for metric in metrics]
    if len({(first, last) for first, *_, last in parts}) == 1 and all(len(words) == 3 for words in parts):
        return BestMetrics(clean(f"{parts[0][0]}/*/{parts[0][2]}"), {
            metric: clean(words[1]) for metric, words in zip(metrics, parts, strict=True)})
    return BestMetrics("", {metric: clean(metric) for metric in metrics})
