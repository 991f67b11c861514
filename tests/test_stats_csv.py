"""stats.csv as programs in many languages write it: one rule for status, big_df and every reader."""
from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src import run_folder, stats_csv
from src.analysis.plotting import plots
from src.analysis.reading import columns
from src.analysis.reading.raw_files import RunText
from src.analysis.reading.results import read_experiments, read_results
from src.analysis.report import write_report
from src.analysis.tables import tables
from src.analysis.tables.query import query
from src.errors import ResultsError
from src.submission.status import status
from src.submission.status.observation import Run
from src.submission.status.states import State
from tests.analysis.make_batch import make_empty_batch, make_run
from tests.analysis.test_report import text_of

SPEC = {"base_lr": 0.1}


@pytest.fixture
def batch(tmp_path: Path) -> str:
    return make_empty_batch(tmp_path)


def parse(text: str | bytes) -> stats_csv.Stats:
    return stats_csv.parse(*stats_csv.split(text.encode() if isinstance(text, str) else text))


def status_row(folder: str) -> status.Row:
    """The row of a run in the table of `status`."""
    run = Run("000_a", folder, run_folder.RunFolder.read(folder), 1, None, State("done", ""))
    return status.rows([run])[0]


SAME = [  # spellings of one curve: epochs 1 and 2, train/loss 0.5 and 0.25, val/last/accuracy 0.75 and 0.875
    ("plain", "epoch,train/loss,val/last/accuracy\n1,0.5,0.75\n2,0.25,0.875\n"),
    ("a row for train, one for val", "epoch,train/loss,val/last/accuracy\n1,0.5,\n1,,0.75\n2,0.25,\n2,,0.875\n"),
    ("val first", "epoch,train/loss,val/last/accuracy\n1,,0.75\n1,0.5,\n2,,0.875\n2,0.25,\n"),
    ("nan for an empty cell", "epoch,train/loss,val/last/accuracy\n1,0.5,nan\n1,nan,0.75\n2,0.25,nan\n2,nan,0.875\n"),
    ("a second run over an epoch", "epoch,train/loss,val/last/accuracy\n1,9,9\n2,9,9\n1,0.5,0.75\n2,0.25,0.875\n"),
    ("R", '"","epoch","train/loss","val/last/accuracy"\n"1",1,0.5,0.75\n"2",2,0.25,0.875\n'),
    ("R, missing values", 'epoch,train/loss,val/last/accuracy\n1,0.5,NA\n1,NA,0.75\n2,0.25,NA\n2,NA,0.875\n'),
    ("a byte-order mark", "\ufeffepoch,train/loss,val/last/accuracy\n1,0.5,0.75\n2,0.25,0.875\n"),
    ("blanks", "epoch, train/loss, val/last/accuracy\n1, 0.5, 0.75\n 2,\t0.25, 0.875 \n"),
    ("quotes, blanks, CRLF", '"epoch", "train/loss", "val/last/accuracy"\r\n1, 0.5, 0.75\r\n2, 0.25, 0.875\r\n'),
    ("a blank line", "epoch,train/loss,val/last/accuracy\n1,0.5,0.75\n\n2,0.25,0.875\n"),
    ("the header again", "epoch,train/loss,val/last/accuracy\n1,0.5,0.75\nepoch,train/loss,val/last/accuracy\n"
     "2,0.25,0.875\n"),
    ("a header for each layout", "epoch,train/loss\n1,0.5\nepoch,val/last/accuracy\n1,0.75\n"
     "epoch,train/loss,val/last/accuracy\n2,0.25,0.875\n"),
    ("epochs as floats", "epoch,train/loss,val/last/accuracy\n1.0,0.5,0.75\n2.0,0.25,0.875\n"),
    ("a torn last line", "epoch,train/loss,val/last/accuracy\n1,0.5,0.75\n2,0.25,0.875\n3,0.1"),
    ("trailing commas", "epoch,train/loss,val/last/accuracy,\n1,0.5,0.75,\n2,0.25,0.875,\n"),
]


@pytest.mark.parametrize(("name", "text"), SAME, ids=[name for name, _ in SAME])
def test_spellings_of_one_curve_are_read_alike_by_status_and_big_df(batch: str, name: str, text: str) -> None:
    folder = make_run(batch, 0, SPEC, stats=text)
    results = read_results(batch)
    assert results.skipped == []
    df = results.big_df()
    assert df["train/loss"][0].to_dict() == {1: 0.5, 2: 0.25}
    assert df["val/last/accuracy"][0].to_dict() == {1: 0.75, 2: 0.875}
    assert list(results.long.columns) == ["run", "epoch", "train/loss", "val/last/accuracy"]
    row = status_row(folder)
    assert (row.epochs_done, row.metric, row.best, row.notes) == (2, "val/last/accuracy", 0.875, ())


def test_column_may_begin_in_mid_file() -> None:
    wider_header = parse("epoch,loss,accuracy\n1,0.5\n2,0.25\n3,0.1,0.9\n")
    assert wider_header.rows == [["1", "0.5", ""], ["2", "0.25", ""], ["3", "0.1", "0.9"]] and not wider_header.notes
    without_name = parse("epoch,loss\n1,0.5\n2,0.25,0.8\n3,0.1,0.9\n")
    assert without_name.names == ["epoch", "loss", "column 3"] and not without_name.notes
    assert without_name.numbers("column 3")[1:] == [0.8, 0.9]
    from_empty = parse("epoch,loss,accuracy\n1,0.5,\n2,0.25,0.8\n")
    assert math.isnan(from_empty.numbers("accuracy")[0]) and from_empty.numbers("accuracy")[1] == 0.8


@pytest.mark.parametrize("row", ["3,0.1", "3,0.1,0.2,0.3", "x,0.1,0.2", "3,0.1,0.2.5", ",0.1,0.2", "1_0,0.1,0.2"])
def test_damaged_row_is_left_out_by_status_and_big_df(batch: str, row: str) -> None:
    folder = make_run(batch, 0, SPEC, stats="epoch,train/loss,val/last/accuracy\n1,0.5,0.7\n2,0.5,0.8\n"
                                            f"{row}\n4,0.5,0.9\n")
    results = read_results(batch)
    assert results.big_df()["train/loss"][0].index.tolist() == [1, 2, 4]
    assert status_row(folder).epochs_done == 3
    assert [item.reason for item in results.skipped] == [*status_row(folder).notes] == [stats_csv.damage_message(1)]


@pytest.mark.parametrize("header", ["step,loss", "epoch,loss,loss", "Epoch;loss"])
def test_file_without_epochs_is_named_by_status_and_big_df(batch: str, header: str) -> None:
    folder = make_run(batch, 0, SPEC, stats=f"{header}\n1,2,3\n")
    row, (skipped,) = status_row(folder), read_results(batch).skipped
    assert row.epochs_done == 0 and row.notes == (skipped.reason,) and "no column epoch" in skipped.reason


WORDS = "epoch,train/loss,val/last/accuracy\n1,0.5,80%\n2,0.25,90%\n"
SENTENCE = "column val/last/accuracy holds words, e.g. '80%': it is not a metric (write numbers, e.g. 0.8)"


def test_column_of_words_is_no_metric_in_any_reader(batch: str) -> None:
    folders = [make_run(batch, index, {"base_lr": rate}, stats=WORDS) for index, rate in enumerate((0.1, 0.2, 0.4))]
    df = read_experiments(batch)
    assert df["val/last/accuracy"][0].tolist() == ["80%", "90%"]  # nothing is lost
    row = status_row(folders[0])
    assert (row.metric, row.best, row.epochs_done, row.notes) == ("train/loss", 0.25, 2, (SENTENCE,))
    for draw in (plots.learning_curves, plots.overview, plots.ranking,
                 lambda df, metric=None: plots.metric_against(df, "base_lr", metric),
                 lambda df, metric=None: plots.pareto(df, "train/loss", metric),
                 tables.best_runs, tables.ranking):
        draw(df)  # by train/loss
        with pytest.raises(ResultsError, match="holds words, e.g. '80%'"):
            draw(df, "val/last/accuracy")
    assert SENTENCE in text_of(write_report(batch))
    assert "80%" not in str(tables.runs_table(df))
    results = read_results(batch)
    values = tables.values_table(results.config, results.long)
    assert values["val/last/accuracy"].tolist() == ["90%"] * 3 and "best/val/last/accuracy" not in values
    assert len(query(values, "`val/last/accuracy` == '90%'")) == 3 and query(values, "`val/last/accuracy` > 0.5").empty


def test_only_column_of_words_is_a_sentence_in_the_report(batch: str) -> None:
    make_run(batch, 0, SPEC, stats="epoch,val/last/accuracy\n1,80%\n")
    with pytest.raises(ResultsError, match="holds words, e.g. '80%'"):
        tables.best_runs(read_experiments(batch))
    assert SENTENCE in text_of(write_report(batch))


def test_words_among_numbers_of_other_runs_are_empty_cells_with_a_note(batch: str) -> None:
    with_words = make_run(batch, 0, {"base_lr": 0.1}, stats=WORDS)
    make_run(batch, 1, {"base_lr": 0.2}, stats="epoch,train/loss,val/last/accuracy\n1,0.5,0.7\n")
    results = read_results(batch)
    df = results.big_df()
    assert df["val/last/accuracy"][0].isna().all() and df["train/loss"][0].tolist() == [0.5, 0.25]
    assert [tuple(item) for item in results.skipped] == [(with_words, SENTENCE)]
    assert tables.best_runs(df)["value"].tolist()[0] == 0.7


@pytest.mark.parametrize("column", ["train/loss", "train/time", "system/gpu", "system/memory", "test/last/accuracy",
                                    "step"])
def test_words_in_any_column_end_no_reader(batch: str, column: str) -> None:
    names = ["epoch", "step", "train/loss", "train/time", "system/gpu", "system/memory", "val/last/accuracy",
             "test/last/accuracy"]
    cells = ["high" if name == column else "0.5" for name in names[1:]]
    text = ",".join(names) + "\n" + "".join(",".join([str(epoch), *cells]) + "\n" for epoch in (1, 2))
    for index, rate in enumerate((0.1, 0.2, 0.4)):
        folder = make_run(batch, index, {"base_lr": rate}, stats=text)
    assert "Best runs" in text_of(write_report(batch))
    assert status_row(folder).best == 0.5
    df = read_experiments(batch)
    for cost, used in (("time", "train/time"), ("memory", "system/memory"), (column, column)):
        with pytest.raises(ResultsError) if used == column else contextlib.nullcontext():
            plots.pareto(df, cost)


CELLS = st.sampled_from(["0.5", "1", "", "nan", "NA", "inf", "-1e5", "80%", "1_0", " 2", '"3"', "x", ".", "-", "1e",
                         "epoch", "\0"])
# without words and blanks, so that the fast parser reads most files of them
NUMBERS = st.floats().map(repr) | st.integers(-2**70, 2**70).map(str) | st.sampled_from([
    "+1", ".5", "5.", "00.5", "1e400", "-1e400", "1e-400", "5e-324", "2.2250738585072011e-308", "NaN", "naN", "-nan",
    "NA", "Inf", "-inf", "123456789012345678901234567890", "0.1234567890123456789", "1E5", "", "1\r", "\r"])
ROWS = st.lists(st.lists(CELLS, min_size=1, max_size=4) | st.lists(NUMBERS, min_size=2, max_size=3), max_size=6)
HEADERS = st.sampled_from(["epoch,a,b", '"epoch","a","b"', "a, epoch, b", "epoch,a,", "\ufeffepoch,a,b", "a,b,c"])


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_fast_parser_reads_the_numbers_that_python_reads(rows: list[tuple[str, str]]) -> None:
    lines = [f"{epoch},{a},{b}\n" for epoch, (a, b) in enumerate(rows)]
    table, counts, _, _ = columns.parse_tables([("epoch,a,b", "".join(lines).encode())])
    expected = parse("epoch,a,b\n" + "".join(lines))
    assert counts.tolist() == [len(expected.epochs)]
    for name in ("a", "b"):
        np.testing.assert_array_equal(table[name].astype(float), expected.numbers(name))


@pytest.mark.filterwarnings("error")
@settings(max_examples=300)
@given(HEADERS, ROWS)
@example("epoch,a,b", [["1", "2", "3", "4"], ["2", "5"]])  # as many cells as two whole rows
def test_fast_and_general_parser_agree(header: str, rows: list[list[str]]) -> None:
    """big_df parses plain files together by pyarrow; status, and all other files, by stats_csv."""
    text = f"{header}\n" + "".join(",".join(row) + "\n" for row in rows)
    runs = [RunText("/batch/0", "completed", True, {}, *stats_csv.split(text.encode()))]
    parsed, expected = columns.parse(runs), parse(text)
    assert parsed.counts.tolist() == [len(expected.epochs)]
    assert parsed.notes == ["\n".join(expected.notes)]
    for name in expected.names if expected.rows else ():
        values = parsed.stats[name]
        if name in expected.words:
            assert [value if isinstance(value, str) else "" for value in values] == [
                cells[expected.names.index(name)] for cells in expected.rows]
        elif name != "epoch":
            np.testing.assert_array_equal(values.astype(float), expected.numbers(name))
        else:
            assert values.tolist() == expected.epochs
