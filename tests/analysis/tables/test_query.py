"""Expressions that select runs: their meaning, and that they are never executed."""
from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

import experiments
from src import run_folder
from src.analysis.reading import arrow_columns
from src.analysis.reading.results import read_results
from src.analysis.tables.query import query
from src.analysis.tables.tables import values_table
from src.errors import ResultsError
from tests.analysis.make_batch import make_batch, make_empty_batch, make_run

DF = pd.DataFrame({
    "size": [8, 128, 512, 128], "rate": [0.1, np.nan, 0.3, 1.0], "flag": [True, False, True, False],
    "average": pd.Series([None, "poly_8", "ema_0.9", None], dtype=object), "odd name/x": ["a", "b", "c", "d"],
    "mixed": pd.Series([1, "1", True, [1, 2]], dtype=object),
    "TAGS": pd.Series([["a"], ["a", "b"], None, []], dtype=object),
    "kwargs": pd.Series([{"width": 8}, {"width": 16, "deep": [1, None]}, None, {"width": 8.0}], dtype=object),
    "momentum": pd.Series([0.9, "0.9,0.99", 0.5, None], dtype=object),
    "limit_train_batches": pd.Series([1, 1.0, None, 0.5], dtype=object)})


@pytest.mark.parametrize(("expression", "rows"), [
    ("size >= 128", [1, 2, 3]), ("size >= 128 and average.isnull()", [3]), ("128 <= size < 512", [1, 3]),
    ("size == 128 or rate == 0.1", [0, 1, 3]), ("not size == 128", [0, 2]), ("size in [8, 512]", [0, 2]),
    ("size not in (8, 512)", [1, 3]), ("(size > 8) & ~average.isnull()", [1, 2]), ("size == 8 | flag", [0, 2]),
    ("rate == 0.1 + 0.2", [2]), ("rate == null", [1]), ("rate.isna()", [1]), ("rate.notnull() and not flag", [3]),
    ("rate < 5", [0, 2, 3]), ("rate != 1", [0, 1, 2]), ("average < 'f'", [2]), ("average > 3", []),
    ("flag == true", [0, 2]), ("flag == 1", []), ("flag", [0, 2]), ("mixed == 1", [0]), ("mixed == '1'", [1]),
    ("mixed == [1, 2]", [3]), ("average.str.startswith('poly')", [1]), ("average.contains('0.9')", [2]),
    ("size.isin([8, 9])", [0]), ("rate.between(0.1, 0.5)", [0, 2]), ("`odd name/x` == 'c'", [2]),
    ("`odd name/x` == '`& |'", []), ("size * 2 - 16 == 0", [0]), ("size / 0 == 1", []), ("-size < -200", [2]),
    ("size % 3 == 2", [0, 1, 2, 3]), ("size // 2 == 4 or true", None), ("size is null", []), ("size", []),
    (" size == 8 ", [0]),
    # missing cells: a value of its own for == and !=, never within an order
    ("average != 'poly_8'", [0, 2, 3]), ("average == null", [0, 3]), ("average != null", [1, 2]),
    ("average not in ['poly_8']", [0, 2, 3]), ("average in ['poly_8', null]", [0, 1, 3]), ("rate != 0.1", [1, 2, 3]),
    ("rate <= 99 or rate > 99", [0, 2, 3]), ("not rate > 0.2", [0, 1]),
    # lists
    ("TAGS == ['a', 'b']", [1]), ("TAGS.contains('a')", [0, 1]), ("TAGS in [['a'], []]", [0, 3]),
    # mappings
    ("kwargs == {'width': 8}", [0, 3]), ("{'width': 8} == kwargs", [0, 3]), ("kwargs != {'width': 8}", [1, 2]),
    ("kwargs == {'deep': [1, null], 'width': 16}", [1]), ("kwargs in [{'width': 8}, null]", [0, 2, 3]),
    ("kwargs.isin([{'width': 16}])", []), ("kwargs['width'] > 8", [1]), ("kwargs['deep'][0] == 1", [1]),
    ("kwargs['deep'].notnull()", [1]), ("kwargs['wide'] == null", [0, 1, 2, 3]), ("kwargs == {}", []),
    ("TAGS[1] == 'b'", [1]), ("TAGS[-1] == 'a'", [0]), ("mixed['a'] == 1", []),
    # one batch is not all batches
    ("limit_train_batches == 1", [0]), ("limit_train_batches == 1.0", [1]), ("limit_train_batches in [1.0, 2]", [1]),
    ("limit_train_batches.isin([1])", [0]), ("limit_train_batches != 1", [1, 2, 3]),
    ("limit_train_batches >= 1", [0, 1]),
    ("momentum == '0.9'", [0]), ("'0.90' == momentum", [0]), ("momentum in ['0.5', '0.9,0.99']", [1, 2]),
    ("momentum != '0.9'", [1, 2, 3])])
def test_expression_selects_rows(expression: str, rows: list[int] | None) -> None:
    if rows is None:
        with pytest.raises(ResultsError, match="not allowed"):
            query(DF, expression)
    else:
        assert query(DF, expression).index.tolist() == rows


@pytest.mark.parametrize("expression", [
    "size.to_csv('stolen')", "__import__('os').system('id')", "@df.size > 3", "size.__class__", "size.eval('1')",
    "[x for x in size]", "lambda: 3", "size if flag else rate", "f'{size}'", "size ** 9 ** 9 > 1", "(x := 3)",
    "size[0:1]", "open('f')", "size.isin(size.to_list())", "average.contains()", "average.contains('a', regex=True)",
    "b'x' == size", "size << 9999",
    "{**size}", "{1, 2}", "*size", "print(1)", "size.values", "1j == size", "... == size",
    "(yield)"])
def test_forbidden_expression_is_refused(expression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResultsError, match="not allowed|invalid expression"):
        query(DF, expression)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("expression", "message"), [
    ("sice > 8", "did you mean 'size'"), ("size >", "invalid expression: invalid syntax"), ("", "invalid expression"),
    ("size == 8; flag", "invalid expression"), ("(" * 300 + "1" + ")" * 300, "invalid expression"),
    ("1 + " * 600 + "1 == size", "characters")])
def test_invalid_expression_has_a_hint(expression: str, message: str) -> None:
    with pytest.raises(ResultsError, match=message) as caught:
        query(DF, expression)
    assert caught.value.hint


@pytest.mark.parametrize(("expression", "message"), [
    ("kwargs.contains('8')", "the cells of kwargs are mappings, which have no .contains(); write kwargs['width'] == 8, "
     "or kwargs == {'width': 8}"),
    ("kwargs == 8", "mappings, which 8 never equals; write kwargs['width'] == 8"),
    ("TAGS == 'a'", "lists, which 'a' never equals; write TAGS.contains('a'), or TAGS == ['a']"),
    ("size.contains('8')", "the cells of size are numbers, which have no .contains(); write size == 8"),
    ("TAGS.startswith('a')", "lists, which have no .startswith()"),
    ("flag.endswith('a')", "true or false, which have no .endswith(); write flag == true"),
    ("rate['x'] == 1", "numbers, which have no ['x']"),
    ("`odd name/x`['y'] == 1", "the cells of `odd name/x` are strings, which have no ['y']; write `odd name/x` == 'a'"),
    ("kwargs == {**kwargs}", "not allowed"), ("kwargs == {size: 1}", "not allowed"), ("TAGS[0:1] == []", "not allowed"),
    ("TAGS[size] == 1", "not allowed"), ("TAGS[not 'a'] == 1", "not allowed"), ("TAGS[1.5] == 1", "not allowed")])
def test_what_can_hold_for_no_cell_is_an_error(expression: str, message: str) -> None:
    with pytest.raises(ResultsError) as caught:
        query(DF, expression)
    assert message in str(caught.value)


def test_long_expressions_terminate() -> None:
    start = time.monotonic()
    query(DF, "- " * 80 + "size == 8")
    query(DF, "size == '" + "x" * 1000 + "' * 1000 * 1000 * 1000 * 1000")
    assert time.monotonic() - start < 60  # and not for ever


@given(st.text(alphabet="size rate()[]'\"`.&|~<>=!+-*/%,0189nulotadisr@\\{}:", max_size=40))
def test_any_text_gives_rows_or_a_user_error(expression: str) -> None:
    with contextlib.suppress(ResultsError):
        assert set(query(DF, expression).index) <= set(DF.index)


def test_values_table_has_last_and_best_values(tmp_path: Path) -> None:
    batch = make_empty_batch(tmp_path)
    header = "epoch,val/last/accuracy,val/last/loss,note\n"
    make_run(batch, 0, {}, stats=header + "1,0.5,2.0,a\n2,0.75,nan,b\n3,0.25,3.0,c\n")
    make_run(batch, 1, {}, stats=header + "1,0.9,inf,a\n", end=run_folder.DIVERGED)
    make_run(batch, 2, {}, stats="", end=None)
    results = read_results(batch)
    table = values_table(results.config, results.long)
    assert table["epochs"].tolist() == [3, 1, 0]
    np.testing.assert_array_equal(table["val/last/accuracy"], [0.25, 0.9, np.nan])
    np.testing.assert_array_equal(table["best/val/last/accuracy"], [0.75, np.nan, np.nan])
    assert table["val/last/loss"].tolist()[:2] == [3.0, np.inf]
    assert query(table, "`best/val/last/accuracy` > 0.7")["index"].tolist() == [0]


def test_query_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = make_batch(tmp_path)
    assert experiments.main(["query", batch, "base_lr >= 0.1 and averaging.isnull()"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "end", "model", "base_lr", "averaging", "best/val/last/accuracy",
                                "best/val/av/accuracy"]
    assert len(lines) == 6 and lines[-1] == "4 of 12 runs"
    assert experiments.main(["query", batch, "model == 'linear'", "--columns", "index", "data_splits_map"]) == 0
    out = capsys.readouterr().out
    assert '{"train": "train[:70%]", "val"' in out and out.count("\n") == 8
    assert experiments.main(["query", batch, "index == 3", "--names"]) == 0
    assert Path(capsys.readouterr().out.strip()).is_dir()
    assert experiments.main(["query", batch, "index == 3", "--columns", "indexx"]) == 2
    assert "did you mean 'index'" in capsys.readouterr().err


@pytest.mark.parametrize(("expression", "hint"), [
    ("diverged", "did you mean end == 'diverged'?"), ("not diverged", "did you mean end != 'diverged'?"),
    ("~completed and index > 1", "did you mean end != 'completed'?"),
    ("zzz < 1", "allowed: run, batch, index, end, folder, epochs, step, timestamp, train/loss")])
def test_unknown_column_is_answered_with_what_can_be_typed(expression: str, hint: str, tmp_path: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    assert experiments.main(["query", make_batch(tmp_path), expression]) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert "big_df" not in error


def test_query_command_sorts_and_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = make_empty_batch(tmp_path)
    values = [(0.1, 0.5, 3.0), (0.2, 0.9, 1.0), (0.3, 0.7, 2.0), (0.4, None, None)]
    for index, (rate, accuracy, loss) in enumerate(values):
        stats = f"1,{accuracy},{loss}\n" if accuracy else ""
        make_run(batch, index, {"base_lr": rate}, stats=f"epoch,val/last/accuracy,val/last/loss\n{stats}")

    def found(*options: str) -> str:
        assert experiments.main(["query", batch, "base_lr > 0", "--columns", "index", *options]) == 0
        return " ".join(capsys.readouterr().out.split()[1:])

    assert found("--sort", "best/val/last/accuracy") == "1 2 0 3 4 of 4 runs"  # more is better
    assert found("--sort", "val/last/loss") == "1 2 0 3 4 of 4 runs"
    assert found("--sort=-val/last/loss") == "0 2 1 3 4 of 4 runs"
    assert found("--sort", "base_lr", "--limit", "2") == "0 1 4 of 4 runs, 2 shown"
    assert found("--sort=-base_lr", "--limit", "9") == "3 2 1 0 4 of 4 runs"
    assert experiments.main(["query", batch, "base_lr > 0", "--sort", "base_l"]) == 2
    assert "did you mean 'base_lr'?" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_export_writes_both_frames(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    batch = make_batch(tmp_path)
    assert experiments.main(["export", batch, "--to", kind, "--into", str(tmp_path / "out")]) == 0
    runs, long = capsys.readouterr().out.splitlines()
    read = pd.read_parquet if kind == "parquet" else pd.read_csv
    results = read_results(batch)
    frame, stats = read(runs), read(long)
    assert frame["base_lr"].tolist() == results.config["base_lr"].tolist()
    assert frame["averaging"].isna().tolist() == [True, False] * 6
    assert frame["facts/input_shape"][0] == "[1, 8, 8]"
    assert stats["run"].astype(str).tolist() == results.long["run"].astype(str).tolist()
    np.testing.assert_array_equal(stats["val/av/loss"], results.long["val/av/loss"])
    assert len(read_results(batch).config) == 12  # the files are not taken for runs
    with pytest.raises(ResultsError, match="parquet, csv"):
        results.export(tmp_path, "xlsx")


def test_polars_gets_both_frames(tmp_path: Path) -> None:
    results = read_results(make_batch(tmp_path))
    config, long = results.polars()
    assert config["base_lr"].to_list() == results.config["base_lr"].tolist()
    assert config["averaging"].to_list() == [None, "poly_8"] * 6
    assert config.filter(polars.col("facts/input_shape") == "[1, 8, 8]").height == 12
    assert (long.schema["run"], long.schema["epoch"]) == (polars.Categorical, polars.Int64)
    assert long["val/av/loss"].to_list()[12:24] == results.long["val/av/loss"].tolist()[12:24]
    best = long.group_by("run", maintain_order=True).agg(polars.col("val/last/accuracy").max())
    assert best["run"].to_list() == results.config["run"].tolist()
    assert best["val/last/accuracy"].to_list() == [
        cell.max() for cell in results.big_df()["val/last/accuracy"]]


def test_polars_missing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ResultsError, match="pip install polars"):
        read_results(make_batch(tmp_path)).polars()


def test_mixed_values_become_json_in_arrow() -> None:
    table = arrow_columns.to_table(DF)
    assert table["mixed"].to_pylist() == ["1", '"1"', "true", "[1, 2]"]
    assert table["average"].to_pylist() == [None, "poly_8", "ema_0.9", None]
