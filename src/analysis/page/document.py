"""The document of the page: plain values about some batches, their runs and curves, which JSON can hold."""
from __future__ import annotations

import functools
import itertools
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src.analysis.page import curves, failures, plain, run_columns, searches, sections
from src.analysis.plotting.figure_layout import column_label
from src.analysis.reading.results import METRIC, Results
from src.analysis.tables import tables
from src.metrics import direction, read_from_batch

FORM = 1  # of the document; a page shows only its own
Document = dict[str, Any]


def build(results: Results, status: Sequence[Mapping[str, Any]] | None = None,
          resources: Mapping[str, Sequence[Sequence[str]]] | None = None, live: bool = False,
          batches: Iterable[str] = (), curve_points: int = curves.MAX_POINTS) -> Document:
    """Return the document about the batches of some results.

    status: rows of the status table, if the caller has observed the batches: mappings with at least run, batch, state
        and why;
    resources: by batch, rows of resource, used, requested, fraction, recommended;
    live: whether a server sends changes of it;
    batches: paths that are shown although they have no run yet;
    curve_points: of all curves; of more, a part is left out and `sampled` describes it.
    """
    return View(results, status, resources or {}, batches).document(live, curve_points)


def _describe(results: Results) -> dict[str, Any]:
    """Return the labels of the stats columns, and whether more or less is better in them (null: not known)."""
    metric = tables.named_metric(results.config)
    names = [str(name) for name in results.long.columns if name not in ("run", "epoch")]
    labels = {plain.text(name): plain.text(column_label(name)) for name in names}
    goals = {plain.text(name): direction(name, metric) for name in names}
    return {"labels": labels | {f"best/{name}": f"best {label}" for name, label in labels.items()},
            "goals": goals | {f"best/{name}": goal for name, goal in goals.items()}}


def to_json(document: Document) -> str:
    """Return the document as JSON without spaces. ValueError if a number in it is not finite."""
    return json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


class Layout(NamedTuple):
    """The facts that determine the columns of runs in a document, besides the runs.

    batches: their paths; ranking: the columns that rank the runs of each; varying: parameters with a column;
    constant: the other parameters; metrics: stats columns with a column.
    """

    batches: list[str]
    ranking: list[list[str]]
    varying: list[str]
    constant: dict[str, Any]
    metrics: list[str]


def update(results: Results, status: Sequence[Mapping[str, Any]], layout: Layout) -> dict[str, Any] | None:
    """Return the columns of some runs of a document as they are now; None if they do not fit its layout."""
    view = View(results, status, {}, layout.batches, layout.ranking)
    runs = view.runs(layout.varying)
    unknown = [name for name, cells in runs["metrics"].items() if name not in layout.metrics
               and not name.startswith("best/") and any(cell is not None for cell in cells)]
    if unknown or len(view.batches) != len(layout.batches) or not run_columns.has_constants(
            results.config, layout.varying, layout.constant):
        return None
    missing = [None] * runs["count"]
    runs["metrics"] = {name: runs["metrics"].get(name, missing) for name in layout.metrics}
    return runs


class View:
    """Results by batch, with what is computed of them once.

    batches: absolute paths, in order; status: rows by absolute path of the run; columns: those that rank the runs of
    each batch, the first that has a value counts; ranking: of any batch.
    """

    def __init__(self, results: Results, status: Sequence[Mapping[str, Any]] | None,
                 resources: Mapping[str, Sequence[Sequence[str]]], batches: Iterable[str] = (),
                 columns: list[list[str]] | None = None) -> None:
        self.results, self._rows = results, status
        self.paths = list(map(os.path.abspath, results.config["folder"]))
        parents = list(map(os.path.dirname, self.paths))
        left_out = [_batch_of(item.folder) for item in results.skipped]
        self.names = {os.path.abspath(name): name for name in [
            *map(str, batches), *map(os.path.dirname, results.config["folder"]), *left_out]}
        self.batches = list(self.names)
        numbers = {path: number for number, path in enumerate(self.batches)}
        self.batch_of_run = [numbers[parent] for parent in parents]
        self.positions = {path: position for position, path in enumerate(self.paths)}
        self.status = {os.path.abspath(os.path.join(row["batch"], row["run"])): row for row in status or ()}
        self._resources = {os.path.abspath(path): rows for path, rows in resources.items()}
        self.parts = [self._part(number) for number in range(len(self.batches))]
        self.columns = columns or [sections.ranking_columns(part.big_df()) for part in self.parts]
        self.ranking = list(dict.fromkeys(itertools.chain.from_iterable(self.columns)))

    def _part(self, batch: int) -> Results:
        """The results of one batch, ranked by the metric of its job spec."""
        path = self.batches[batch]
        chosen = np.array([number == batch for number in self.batch_of_run], bool)
        skipped = [item for item in self.results.skipped if os.path.abspath(_batch_of(item.folder)) == path]
        if chosen.all() and len(self.batches) == 1:
            return self.results
        config = self.results.config[chosen].reset_index(drop=True)
        config.attrs = {METRIC: metric} if chosen.any() and (metric := read_from_batch(path)) else {}
        long = self.results.long
        long = long[chosen[long["run"].cat.codes]].reset_index(drop=True)
        codes = (np.cumsum(chosen) - 1)[long["run"].cat.codes]  # in the order of the remaining runs
        long["run"] = pd.Categorical.from_codes(codes, pd.Index(config["run"], dtype=object))
        return Results(config, long, skipped, self.results.drift)

    def document(self, live: bool = False, curve_points: int = curves.MAX_POINTS) -> Document:
        """Return the document. Arguments as of `build`."""
        encoded, sampled = curves.encode(self.results.long, len(self.paths), self.ranking, self.best_first(),
                                         most=curve_points)
        return {"form": FORM, "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "live": live,
                "title": plain.text(", ".join(map(os.path.basename, self.batches)) or "no runs yet"),
                "root": plain.text(os.path.commonpath(self.batches)) if self.batches else "",
                "batches": [self.batch(number) for number in range(len(self.batches))], "together": self.together(),
                "runs": self.runs(self.layout.varying) | {"constant": self.layout.constant}, "curves": encoded,
                "sampled": sampled, **_describe(self.results)}

    @functools.cached_property
    def failures(self) -> list[failures.Failure]:
        return failures.group(self.results, self._rows)

    @functools.cached_property
    def values(self) -> run_columns.Value:
        """The values that rank each run, by the metric of its batch."""
        columns: list[list[Any]] = [[None] * len(self.paths) for _ in range(3)]
        batch_of_run = np.array(self.batch_of_run, int)
        for batch, (part, names) in enumerate(zip(self.parts, self.columns, strict=True)):
            if names:
                values: Sequence[Sequence[Any]] = run_columns.values(part, names, tables.named_metric(part.config))
                positions = np.flatnonzero(batch_of_run == batch).tolist()
                for column, cells in zip(columns, values, strict=True):
                    for position, cell in zip(positions, cells, strict=True):
                        column[position] = cell
        return run_columns.Value(*columns)

    def best_first(self) -> list[int]:
        """Return the runs that have a value, the best of each batch first."""
        ranked: list[tuple[int, int]] = []
        for batch, names in enumerate(self.columns):
            runs = [run for run, number in enumerate(self.batch_of_run)
                    if number == batch and self.values.value[run] is not None]
            if names:
                runs.sort(key=lambda run: self.values.value[run] or 0.0,
                          reverse=not tables.lower_is_better(self.parts[batch].config, names[0]))
            ranked += enumerate(runs)
        return [run for _, run in sorted(ranked, key=lambda item: item[0])]

    @functools.cached_property
    def layout(self) -> Layout:
        """The facts that determine the columns of runs."""
        config = self.results.config
        varying = tables.varying_columns(config, seeds=True)
        return Layout(list(self.names.values()), self.columns, varying, run_columns.constants(config, varying),
                      list(self.last_metrics))

    @functools.cached_property
    def last_metrics(self) -> dict[str, list[Any]]:
        return run_columns.last_metrics(self.results)

    def runs(self, varying: Sequence[str]) -> dict[str, Any]:
        """Return the columns with an entry per run. varying: parameters with a column."""
        errors = {os.path.abspath(folder): failure.error for failure in self.failures for folder in failure.folders}
        value = {"value": self.values.value, "value_epoch": self.values.epoch, "value_column": self.values.column}
        return {"count": len(self.paths),
                **run_columns.identity(self.results, self.batch_of_run, self.status, errors), **value,
                "parameters": run_columns.parameters(self.results.config, varying),
                "metrics": dict(self.last_metrics)}

    def batch(self, number: int) -> dict[str, Any]:
        """Return what the page shows of one batch besides its runs."""
        path, part = self.batches[number], self.parts[number]
        name, df = self.names[path], part.big_df()
        problems: list[str] = []
        best = sections.attempt(lambda: sections.best(df), problems) or {"best": None, "best_runs": None}
        search = sections.attempt(lambda: searches.section(name, self.positions), problems)
        status = [row for run, row in self.status.items() if os.path.dirname(run) == path]
        planned = [epochs for epochs in df.get("facts/epochs", []) if isinstance(epochs, int)]
        messages = sections.messages(part, df, status) + (
            [{"title": "Not possible", "lines": problems}] if problems else [])
        own_failures = [failure._replace(folders=folders) for failure in self.failures if (
            folders := [run for run in failure.folders if os.path.dirname(os.path.abspath(run)) == path])]
        return {"id": number, "name": plain.text(os.path.basename(path)), "path": plain.text(name),
                "metric": sections.metric(df), "length": max(planned, default=None), "runs": len(df),
                "notes": sections.batch_notes(name), "search": search, **best,
                "failures": failures.section(own_failures, self.positions), "active": sections.active(status),
                "resources": sections.resources(self._resources.get(path, ())),
                "changed_code": sections.changed_code(df), "skipped": sections.skipped(part.skipped),
                "messages": messages}

    def together(self) -> dict[str, Any] | None:
        """Return the tables over all batches; None for one batch."""
        if len(self.batches) < 2:
            return None
        df = self.results.big_df()
        problems: list[str] = []
        best = sections.attempt(lambda: sections.best(df), problems) or {"best": None, "best_runs": None}
        return {**best, "metric": sections.attempt(lambda: sections.metric(df), problems), "messages": [
            {"title": "Not possible", "lines": problems}] if problems else []}


def _batch_of(folder: str) -> str:
    """The batch that a folder, which was left out, is in."""
    return os.path.dirname(folder.rstrip("/"))
