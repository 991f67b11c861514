"""Any cell of a config may hold any value, as a list in place of a seed: every table, figure and report can be made."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from src.analysis import compare, report
from src.analysis.plotting import plots
from src.analysis.reading import results, runs
from src.analysis.reading.filters import filt
from src.analysis.reading.results import Results
from src.analysis.tables import query, tables
from src.config import Config
from src.errors import UserError
from src.io import yaml_io
from tests.analysis.make_batch import curves, make_empty_batch, make_run

FACTS = ("host", "commit", "code", "code_changed", "defaults", "seeds_drawn", "threads", "examples", "parameters")
CELLS: dict[str, Sequence[Any]] = {
    "mappings": [{}, {"a": 1}] * 3, "lists": [[], [1], [[{}]], ["x", None]], "equal mappings": [{"a": [1]}] * 4,
    "mixed": [{}, [], [[{}]], {"a": {"b": [None]}}, True, None, float("nan"), float("inf"), 10**299, 1, 1.5, "",
              "x" * 3000, "$"]}


def make_batch(root: Path, cells: Sequence[Any]) -> str:
    """A batch in which every parameter and fact of a run is its cell."""
    batch = make_empty_batch(root)
    for index, cell in enumerate(cells):
        config = {**dict.fromkeys(Config().to_dict(), cell), "facts": dict.fromkeys(FACTS, cell)}
        make_run(batch, index, {}, config=yaml_io.dump_flat(config), stats=curves({"averaging": "poly_8"}, 3, index))
    return batch


def table_calls(batch: str, read: Results) -> Iterator[Callable[[], Any]]:
    """The functions that take parameters, without figures."""
    df, values = read.big_df(), tables.values_table(read.config, read.long)
    for kind in ("csv", "parquet"):
        yield lambda kind=kind: read.export(f"{batch}-exported", kind)
    yield lambda: tables.best_runs(df, by=["seed_model", "base_lr"])
    yield lambda: tables.ranking(df)
    yield lambda: tables.runs_table(df)
    yield lambda: compare.compare(read, read)
    for name in ("seed_model", "seed_training", "base_lr", "model", "dataset", "facts/commit"):
        for condition in (1, "x", [{"a": 1}, None]):
            yield lambda name=name, condition=condition: filt(df, {name: condition})
        yield lambda name=name: runs.find_runs({name: {"a": 1}}, batch)
        yield lambda name=name: runs.is_done({name: 1}, batch)
        yield lambda name=name: query.sort(values, name)
        yield lambda name=name: query.query(values, f"`{name}` + 1 > 0 or `{name}` in [1, 'x']")


def figure_calls(read: Results) -> Iterator[Callable[[], Any]]:
    df = read.big_df()
    for name in ("seed_model", "base_lr"):
        yield lambda name=name: plots.learning_curves(df, legend=name)
        yield lambda name=name: plots.learning_curves(df, columns=name)
        yield lambda name=name: plots.metric_against(df, name)
        yield lambda name=name: plots.pareto(df, legend=name)
        yield lambda name=name: plots.pareto(df, cost=name)
    yield lambda: plots.learning_curves(df)
    yield lambda: plots.heat_map(df, "base_lr", "seed_model")
    yield lambda: plots.parallel_coordinates(df, parameters=["base_lr", "seed_model"])
    yield lambda: plots.importance(df, parameters=["base_lr", "seed_model"])


@pytest.mark.parametrize("kind", CELLS)
def test_any_value_in_any_column_stops_no_table_and_no_report(tmp_path: Path, kind: str) -> None:
    batch = make_batch(tmp_path, CELLS[kind])
    read = results.read_results(batch)
    assert len(read.config) == len(CELLS[kind]) and not read.skipped
    calls = [*table_calls(batch, read), *(figure_calls(read) if kind == "mixed" else ())]
    for call in calls:
        with contextlib.suppress(UserError):  # a message, as that a list is no number
            call()
    if kind == "mixed":
        assert report.build_report(read)


@pytest.mark.parametrize("name", ["value", "epochs", "rank", "runs", "epoch", "metric", "members", "cost", "low"])
def test_parameters_may_have_the_names_of_columns_of_tables(tmp_path: Path, name: str) -> None:
    """Of a program of the user's own."""
    batch = make_empty_batch(tmp_path)
    for index in range(4):
        config = {**Config().to_dict(), name: [1, 2, "x", {}][index], "base_lr": 0.1 * (1 + index % 2)}
        make_run(batch, index, {}, config=yaml_io.dump_flat(config), stats=curves({"averaging": "poly_8"}, 3, index))
    read = results.read_results(batch)
    values, df = tables.values_table(read.config, read.long), read.big_df()
    assert values.columns.is_unique and list(query.query(values, f"`{name}` == 1")["index"]) == [0]
    assert len(query.sort(values, name)) == len(tables.best_runs(df)) == len(tables.ranking(df)) == 4
    assert plots.parallel_coordinates(df, parameters=[name, "base_lr"]) and plots.pareto(df)


def test_equal_lists_in_place_of_seeds_are_equal_seeds(tmp_path: Path) -> None:
    read = results.read_results(make_batch(tmp_path, [{"a": [1]}, {"a": [1]}, {"a": [2]}]))
    assert read.config["repeat_of"].tolist() == [None, read.config["run"][0], None]
