"""Frames against the numbers in the files, and damaged, incomplete and unusual run folders."""
from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src import run_folder
from src.analysis.reading.arrays import read_array
from src.analysis.reading.filters import filt
from src.analysis.reading.frames import IDENTITY
from src.analysis.reading.results import newest_batch, read_experiments, read_results
from src.analysis.tables import tables
from src.analysis.tables.query import query
from src.analysis.tables.tables import varying_columns
from src.config import FIELDS, Config
from src.errors import ResultsError
from src.io import yaml_io
from tests.analysis.make_batch import DIGITS, curves, make_batch, make_empty_batch, make_run

HEADER = "epoch,step,timestamp,train/loss,val/last/accuracy\n"
ROWS = "1,10,1.5,0.5,0.25\n2,20,2.5,0.25,0.75\n"


@pytest.fixture
def batch(tmp_path: Path) -> str:
    return make_empty_batch(tmp_path)


def reasons(batch: str) -> dict[str, str]:
    """Reason by run folder name."""
    return {os.path.basename(folder): reason for folder, reason in read_results(batch).skipped}


def test_big_df_has_a_row_per_run_with_config_facts_and_curves(tmp_path: Path) -> None:
    df = read_experiments(make_batch(tmp_path))
    assert len(df) == 12
    assert list(df.columns[:5]) == list(IDENTITY)
    assert set(FIELDS) <= set(df.columns)
    assert df["index"].tolist() == list(range(12))
    assert set(df["end"]) == {"completed"}
    assert df["facts/examples/train"].tolist() == [1257] * 12
    assert df["facts/input_shape"][0] == [1, 8, 8]
    assert df["data_splits_map"][3] == DIGITS["data_splits_map"]
    assert df["averaging"].tolist()[:2] == [None, "poly_8"]
    assert df["base_lr"].dtype == np.float64


def test_cells_hold_the_written_numbers(tmp_path: Path) -> None:
    df = read_experiments(make_batch(tmp_path))
    spec = {"model": "linear", "base_lr": 0.01, "averaging": "poly_8"}
    lines = [line.split(",") for line in curves(spec, 12, 1).splitlines()]
    for position, name in enumerate(lines[0][1:], start=1):
        cell = df[name][1]
        assert isinstance(cell, pd.Series)
        assert cell.index.tolist() == list(range(1, 13))
        assert cell.index.name == "epoch"
        assert cell.tolist() == [float(line[position]) for line in lines[1:]]


def test_long_frame_is_the_same_stats(tmp_path: Path) -> None:
    results = read_results(make_batch(tmp_path))
    df, long = results.big_df(), results.long
    assert len(long) == 12 * 12
    for name in ("train/loss", "val/last/accuracy"):
        by_run = long.groupby("run", observed=True)[name].apply(list)
        assert by_run[df["run"]].tolist() == [cell.tolist() for cell in df[name]]
    assert long.merge(results.config, on="run")["base_lr"].notna().all()


def test_runs_of_different_lengths_and_columns(batch: str) -> None:
    make_run(batch, 0, {}, stats=HEADER + ROWS)
    make_run(batch, 1, {}, stats=HEADER + ROWS[:18])
    make_run(batch, 2, {}, stats="epoch,train/mae\n5,1.0\n")
    make_run(batch, 3, {}, stats=HEADER + ROWS)
    df = read_experiments(batch)
    assert [len(cell) for cell in df["train/loss"]] == [2, 1, 1, 2]
    assert df["train/mae"][2].to_dict() == {5: 1.0}
    assert df["train/mae"][0].isna().all()
    assert df["val/last/accuracy"][3].to_dict() == {1: 0.25, 2: 0.75}


def test_empty_cells_were_not_evaluated(batch: str) -> None:
    make_run(batch, 0, {}, stats=HEADER + "1,10,1.5,0.5,\n2,20,2.5,nan,0.75\n3,30,3.5,inf,\n")
    df = read_experiments(batch)
    assert df["val/last/accuracy"][0].isna().tolist() == [True, False, True]
    assert df["train/loss"][0][3] == np.inf
    assert read_results(batch).skipped == []


@pytest.mark.parametrize("torn", ["3,30,3.5,0.1,0.9", "3,3", "3", "\0\0\0"])
def test_incomplete_last_line_is_dropped(batch: str, torn: str) -> None:
    make_run(batch, 0, {}, stats=HEADER + ROWS + torn)
    assert read_experiments(batch)["train/loss"][0].index.tolist() == [1, 2]
    assert read_results(batch).skipped == []


@pytest.mark.parametrize("damaged", ["3,30,3.5,0.1\n", "3,30,3.5,0.1,0.2,0.3\n", "3,30,x.5,0.1,0.9\n", "\0\0,\n",
                                     ",30,3.5,0.1,0.9\n", "3,30,3.5,0.1.1,0.9\n"])
def test_damaged_row_is_left_out_and_listed(batch: str, damaged: str) -> None:
    make_run(batch, 0, {}, stats=HEADER + ROWS)
    folder = make_run(batch, 1, {}, stats=HEADER + ROWS + damaged + "4,40,4.5,0.125,0.875\n")
    results = read_results(batch)
    assert [tuple(one) for one in results.skipped] == [
        (folder, "stats.csv: 1 damaged row left out, the rest is read")]
    df = results.big_df()
    assert df["train/loss"][0].tolist() == [0.5, 0.25]
    assert df["train/loss"][1].to_dict() == {1: 0.5, 2: 0.25, 4: 0.125}
    assert df["train/loss"][1].dtype == np.float64


def test_two_damaged_rows_with_the_right_total_of_cells_are_detected(batch: str) -> None:
    make_run(batch, 0, {}, stats=HEADER + ROWS + "3,30,3.5,0.1\n4,40,4.5,0.1,0.2,0.3\n")
    results = read_results(batch)
    assert results.big_df()["train/loss"][0].index.tolist() == [1, 2]
    assert "2 damaged rows" in results.skipped[0].reason


def test_column_of_strings_stays_strings(batch: str) -> None:
    make_run(batch, 0, {}, stats='epoch,note,x\n1,warm,1\n2,"a, b",2\n')
    df = read_experiments(batch)
    assert df["note"][0].tolist() == ["warm", "a, b"]
    assert df["x"][0].tolist() == [1.0, 2.0]


def test_empty_column_and_column_of_strings(batch: str) -> None:
    make_run(batch, 0, {}, stats="epoch,later\n", end=None)
    make_run(batch, 1, {}, stats=HEADER + ROWS)
    make_run(batch, 2, {}, stats="epoch,note\n1,warm\n")
    long = read_results(batch).long
    assert long["later"].isna().all()
    assert long["note"].tolist()[2] == "warm" and long["note"].dtype == object
    df = read_experiments(batch)
    assert [len(cell) for cell in df["later"]] == [0, 2, 1]


def test_string_in_a_column_of_numbers_is_an_empty_cell(batch: str) -> None:
    """A run's only row may be a torn one: the column stays numbers for all."""
    for index in range(3):
        make_run(batch, index, {}, stats=HEADER + ROWS)
    torn = make_run(batch, 3, {}, stats=HEADER + "1,10,1.5,0.5,0.2.5\n")
    results = read_results(batch)
    assert results.long["val/last/accuracy"].dtype == np.float64
    assert [tuple(one) for one in results.skipped] == [
        (torn, "column val/last/accuracy holds words, e.g. '0.2.5': it is not a metric (write numbers, e.g. 0.8)")]


@pytest.mark.parametrize("epoch", ["1.5", "inf", "-inf", "1e300", "nan"])
def test_epoch_is_a_whole_number(batch: str, epoch: str) -> None:
    make_run(batch, 0, {}, stats=f"{HEADER}{epoch},1,1,1,1\n{ROWS}")
    results = read_results(batch)
    assert results.long["epoch"].tolist() == [1, 2]
    assert "1 damaged row" in results.skipped[0].reason


def test_later_row_of_an_epoch_counts(batch: str) -> None:
    make_run(batch, 0, {}, stats=HEADER + ROWS + "2,20,9.5,0.125,0.5\n3,30,10.5,0.0625,0.5\n")
    make_run(batch, 1, {}, stats=HEADER + ROWS)
    df = read_experiments(batch)
    assert df["train/loss"][0].to_dict() == {1: 0.5, 2: 0.125, 3: 0.0625}
    assert df["train/loss"][1].to_dict() == {1: 0.5, 2: 0.25}


@pytest.mark.parametrize("stats", [None, "", "epoch,st", HEADER])
def test_run_without_stats_is_a_row_with_empty_curves(batch: str, stats: str | None) -> None:
    make_run(batch, 0, {}, stats=stats, end=None)
    make_run(batch, 1, {}, stats=HEADER + ROWS)
    df = read_experiments(batch)
    assert len(df) == 2
    assert df["train/loss"][0].empty
    assert df["end"].tolist() == [None, "completed"]
    assert read_results(batch).skipped == []


def test_unfinished_run_is_a_row_with_the_epochs_so_far(batch: str) -> None:
    make_run(batch, 0, {}, stats=HEADER + ROWS)
    going = make_run(batch, 1, {}, stats=HEADER + ROWS[:18] + "2,20,2.", end=None)
    results = read_results(batch)
    assert results.skipped == []
    assert results.config["end"].tolist() == ["completed", None]
    assert results.big_df()["train/loss"][1].to_dict() == {1: 0.5}
    with open(os.path.join(going, run_folder.STATS), "a", encoding="utf-8") as file:
        file.write("5,0.25,0.75\n3,30,3.5,0.125,0.5\n")
    assert read_experiments(batch)["train/loss"][1].to_dict() == {1: 0.5, 2: 0.25, 3: 0.125}


@pytest.mark.parametrize("name", [run_folder.CONFIG, run_folder.SPEC, run_folder.STATS, run_folder.DONE])
def test_empty_file_is_handled(batch: str, name: str) -> None:
    folder = make_run(batch, 0, {"base_lr": 0.5}, stats=HEADER + ROWS)
    make_run(batch, 1, {"base_lr": 0.25}, stats=HEADER + ROWS)
    Path(folder, name).write_bytes(b"")
    results = read_results(batch)
    if name == run_folder.CONFIG:
        assert [tuple(one) for one in results.skipped] == [(folder, "config.yaml is empty")]
        assert results.config["index"].tolist() == [1]
    else:
        assert results.skipped == []
        assert results.config[["end", "base_lr"]].values.tolist() == [["completed", 0.5], ["completed", 0.25]]
        assert [len(cell) for cell in results.big_df()["train/loss"]] == [2 * (name != run_folder.STATS), 2]


def test_batches_with_different_columns_are_joined(tmp_path: Path) -> None:
    """Of parameters, facts and stats: what one does not have is missing there, and what it has keeps its type."""
    one, other = (make_empty_batch(tmp_path, name) for name in ("26-01-01-a", "26-01-02-b"))
    make_run(one, 0, {}, config="width: 3\nfacts: {classes: 10}\n", stats="epoch,train/loss\n1,0.5\n")
    make_run(other, 0, {}, config="depth: [1, 2]\nwidth: x\nfacts: {gpu: h100}\n", stats="epoch,train/mae\n7,0.25\n")
    results = read_results([other, one])
    df = results.big_df()
    assert df["batch"].tolist() == ["26-01-02-b", "26-01-01-a"]
    assert df["width"].tolist() == ["x", 3] and df["depth"].tolist() == [[1, 2], None]
    assert df["facts/gpu"].tolist() == ["h100", None] and df["facts/classes"].tolist()[1] == 10
    assert df["train/loss"][1].to_dict() == {1: 0.5} and df["train/loss"][0].isna().tolist() == [True]
    assert df["train/mae"][0].to_dict() == {7: 0.25}
    assert results.long[["run", "epoch"]].values.tolist() == [[df["run"][0], 7], [df["run"][1], 1]]


def test_arrays_are_not_opened_with_the_stats(batch: str) -> None:
    folder = make_run(batch, 0, {}, stats=HEADER + ROWS)
    os.mkdir(os.path.join(folder, run_folder.ARRAYS))
    Path(folder, run_folder.arrays_name(1)).write_bytes(b"no arrays")
    assert read_results(batch).skipped == []
    with pytest.raises(ResultsError, match=r"epoch-00001.npz cannot be read"):
        read_array(folder, "val/last/confusion_matrix")


def test_stats_without_epochs_are_listed(batch: str) -> None:
    make_run(batch, 0, {}, stats="step,loss\n1,2\n")
    make_run(batch, 1, {}, stats="epoch,loss,loss\n1,2,3\n")
    results = read_results(batch)
    assert len(results.big_df()) == 2
    assert ["column epoch" in one.reason for one in results.skipped] == [True, True]


def test_skipped_folders_have_reasons(batch: str) -> None:
    make_run(batch, 0, {}, stats=HEADER + ROWS)
    names = {what: os.path.basename(make_run(batch, index, {}, config=config, end=None, error=error))
             for index, (what, config, error) in enumerate([
                 ("empty", "# nothing\n", None), ("broken", "a: [1\n", None),
                 ("no mapping", "- 1\n", None), ("bytes", "x", None)], start=1)}
    Path(batch, names["bytes"], run_folder.CONFIG).write_bytes(b"\xff\xfe\n")
    os.mkdir(os.path.join(batch, "figures"))
    result = reasons(batch)
    assert result.pop(names["empty"]) == "config.yaml is empty"
    assert "not valid YAML" in result.pop(names["broken"])
    assert "mapping" in result.pop(names["no mapping"])
    assert "UTF-8" in result.pop(names["bytes"])
    assert "not a run folder" in result.pop("figures")
    assert result == {}
    assert len(read_experiments(batch)) == 1


def test_runs_without_a_config_are_rows_from_their_specs(batch: str) -> None:
    make_run(batch, 0, {"base_lr": 0.1, "train_length": 3}, stats=HEADER + ROWS)
    failed = make_run(batch, 1, {"base_lr": 1, "train_length": 3}, config=None, stats=None, end=None)
    Path(failed, run_folder.attempt_name(0, 0)).write_text(json.dumps({"how": "failed", "error": "no such data"}))
    make_run(batch, 2, {"base_lr": 0.3, "train_length": 3}, config=None, stats=None, end=None)
    results = read_results(batch)
    assert results.skipped == []
    df = results.big_df()
    assert df["end"].tolist() == ["completed", None, None]
    assert typed(df["base_lr"]) == [(float, 0.1), (float, 1.0), (float, 0.3)]
    assert tables.varying_columns(df) == ["base_lr"], "what the specs leave out has its default"
    assert len(df["val/last/accuracy"][1]) == 0
    matches = query(tables.values_table(results.config, results.long), "end.isnull()")
    assert matches["index"].tolist() == [1, 2]
    assert tables.run_counts(df)._asdict().items() >= {"total": 3, "counted": 1, "unfinished": 2}.items()
    assert read_results(batch, only_done=True).config["index"].tolist() == [0]


def test_external_programs_are_rows_before_they_end(batch: str) -> None:
    make_run(batch, 0, {"COMMAND": ["x"], "rate": 3}, config=None, stats="epoch,loss\n1,0.5\n", end=None)
    make_run(batch, 1, {"COMMAND": ["x"], "rate": 4}, config=None, stats=None, end=None)
    df = read_experiments(batch)
    assert df[["rate", "end"]].to_numpy().tolist() == [[3, None], [4, None]]
    assert "base_lr" not in df, "it has no defaults of train.py"
    assert df["loss"][0].tolist() == [0.5]


def test_run_is_read_again_when_it_starts(batch: str) -> None:
    """Also from the cache, which needs 256 runs whose files are not recent."""
    folders = [make_run(batch, index, {"COMMAND": ["x"], "rate": index}, config=None, stats=None, end=None)
               for index in range(256)]
    before = time.time() - 60
    for folder in folders:
        os.utime(os.path.join(folder, run_folder.SPEC), (before, before))
    assert "facts/host" not in read_results(batch).config
    assert read_results(batch).config["rate"].tolist() == list(range(256))
    Path(folders[7], run_folder.FACTS).write_text('{"host": "node1"}')
    assert read_results(batch).config["facts/host"][7] == "node1"
    Path(folders[8], run_folder.CONFIG).write_text("rate: 9\n")
    assert read_results(batch).config["rate"][8] == 9


def test_external_program_is_read_from_its_spec(batch: str) -> None:
    make_run(batch, 0, {"epoch": 3, "x/y": "z"}, config=None, stats="epoch,loss\n1,0.5\n")
    df = read_experiments(batch)
    assert df["epoch"].tolist() == [3]
    assert df["x/y"].tolist() == ["z"]
    assert df["loss"][0].to_dict() == {1: 0.5}


def test_metric_with_the_name_of_a_parameter_gets_a_prefix(batch: str) -> None:
    make_run(batch, 0, {"loss": "mse"}, config=None, stats="epoch,loss\n1,0.5\n")
    df = read_experiments(batch)
    assert df["loss"].tolist() == ["mse"]
    assert df["stats/loss"][0].tolist() == [0.5]


def test_only_done_leaves_out_unfinished_runs(batch: str) -> None:
    make_run(batch, 0, {}, stats=HEADER + ROWS)
    going = make_run(batch, 1, {}, stats=HEADER + ROWS, end=None)
    results = read_results(batch, only_done=True)
    assert results.config["index"].tolist() == [0]
    assert [tuple(one) for one in results.skipped] == [(going, "not done")]


def test_columns_keep_exact_values(batch: str) -> None:
    for index, (seed, rate, other) in enumerate([(2**62 + 1, 1, None), (3, 0.5, 7), (4, None, 8)]):
        make_run(batch, index, {}, config=f"seed: {seed}\nrate: {json.dumps(rate)}\nother: {json.dumps(other)}\n"
                 + ("new: true\n" if index else ""))
    df = read_experiments(batch)
    assert df["seed"].tolist() == [2**62 + 1, 3, 4]
    assert typed(df["rate"]) == [(int, 1), (float, 0.5), (type(None), None)]
    assert typed(df["other"]) == [(type(None), None), (int, 7), (int, 8)]
    assert df["new"].tolist() == [None, True, True]


def typed(values: pd.Series) -> list[tuple[type, Any]]:
    return [(type(value), value) for value in values.tolist()]


def test_types_survive_in_frames_groups_and_exports(batch: str, tmp_path: Path) -> None:
    values = [1, 1.0, "1", True, None]
    for index, value in enumerate(values):
        make_run(batch, index, {"x": value, "n": [100, None][index % 2]}, config=None, stats="epoch,loss\n1,0.5\n")
    results = read_results(batch)
    df = results.big_df()
    assert typed(df["x"]) == [(type(value), value) for value in values]
    assert typed(df["n"])[:2] == [(int, 100), (type(None), None)]
    assert len(tables.ranking(df, "loss")) == 5, "each value is a setting of its own"
    assert [len(filt(df, x=value)) for value in values] == [1, 1, 1, 1, 1]
    results.export(tmp_path, "csv")
    results.export(tmp_path, "parquet")
    for frame in (pd.read_csv(tmp_path / "runs.csv", dtype=str, keep_default_na=False),
                  pd.read_parquet(tmp_path / "runs.parquet")):
        assert frame["x"].fillna("").tolist() == ["1", "1.0", '"1"', "true", ""]
    assert results.polars()[0]["n"].to_list()[:2] == [100, None]


def test_exported_csv_has_no_formulas_and_keeps_numbers(batch: str, tmp_path: Path) -> None:
    """A spreadsheet evaluates cells that begin with = + - @, which the author of a run could choose."""
    formulas = ["=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1+1", "\uff1d1+1"]
    plain = ["-1.5", "+3e-4", "-inf", "a=b", "1-2"]
    for index, value in enumerate([*formulas, *plain]):
        make_run(batch, index, {"=key": value, "negative": -1.5, "mixed": [-2, "=1"][index % 2]}, config=None,
                 stats="epoch,=loss,word\n1,-0.5,=1+1\n")
    os.rename(next(path for path in Path(batch).iterdir() if path.name.startswith("000")), Path(batch, "=1+1"))
    read_results(batch).export(tmp_path, "csv")
    runs, long = (pd.read_csv(tmp_path / f"{name}.csv", dtype=str, keep_default_na=False) for name in ("runs", "long"))
    for frame in (runs, long):
        cells = [*frame.columns, *frame.to_numpy().ravel().tolist()]
        assert [cell for cell in cells if cell[:1] in "=+-@\t\uff1d" and cell and not is_float(cell)] == []
    assert sorted(runs["'=key"]) == sorted([f"'{text}" for text in formulas] + plain)
    assert set(runs["negative"]) == {"-1.5"} and set(long["'=loss"]) == {"-0.5"} and set(long["word"]) == {"'=1+1"}
    assert set(runs["mixed"]) == {"-2", '"=1"'} and "'=1+1" in runs["run"].tolist() and "'=1+1" in long["run"].tolist()


def is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_one_batch_and_all_batches_are_two_settings(batch: str) -> None:
    for index, limit in enumerate([1, 1.0, None, 1]):
        make_run(batch, index, {"limit_train_batches": limit, "seed_model": index}, stats=HEADER + ROWS)
    df = read_experiments(batch)
    assert typed(df["limit_train_batches"]) == [(int, 1), (float, 1.0), (type(None), None), (int, 1)]
    assert len(filt(df, limit_train_batches=1)) == 2
    assert tables.ranking(df, "val/last/accuracy")["runs"].tolist() == [2, 1, 1]


def test_numbers_have_the_type_that_config_declares(batch: str) -> None:
    for index, (momentum, rate) in enumerate([("0.9", "1"), ("'0.9'", "1.0"), ("0.9,0.99", "1")]):
        make_run(batch, index, {}, config=f"momentum: {momentum}\nbase_lr: {rate}\n")
    df = read_experiments(batch)
    assert typed(df["momentum"]) == [(float, 0.9), (float, 0.9), (str, "0.9,0.99")]
    assert df["base_lr"].tolist() == [1.0] * 3 and df["base_lr"].dtype == np.float64


def seeded(batch: str, index: int, commit: str | None = None, end: str | None = "completed", **spec: object) -> None:
    facts = f"facts:\n  commit: {commit}\n" if commit else ""
    config = yaml_io.dump_flat(Config.from_dict({"seed_model": 1, "seed_training": 2, **spec}).to_dict())
    make_run(batch, index, spec, config=config + facts, stats=HEADER + ROWS, end=end)


def test_exact_repeat_is_marked_and_does_not_count(batch: str) -> None:
    seeded(batch, 0)
    seeded(batch, 1, seed_model=7)
    seeded(batch, 2)  # as `reproduce --run` leaves it
    seeded(batch, 3, base_lr=0.5)
    df = read_experiments(batch)
    assert df["repeat_of"].tolist() == [None, None, df["run"][0], None]
    assert tables.counted(df).tolist() == [True, True, False, True]
    table = tables.ranking(df, "val/last/accuracy")
    assert sorted(zip(table["base_lr"], table["runs"], strict=True)) == [(df["base_lr"][0], 2), (0.5, 1)] or (
        table["runs"].sum() == 3)
    assert "1 exact repeat left out" in table.attrs["caption"]
    alone = df[df.index > 0]
    assert tables.counted(alone).all(), "a repeat counts where its original is not selected"
    assert tables.counted(df.assign(repeat_of=None)).all(), "repeats can be included"
    assert query(df[["run", "repeat_of"]], "repeat_of.isnull()")["run"].tolist() == df["run"][[0, 1, 3]].tolist()


def test_other_code_or_unknown_seeds_are_no_repeat_and_an_unfinished_run_is_no_original(batch: str) -> None:
    seeded(batch, 0, commit="a")
    seeded(batch, 1, commit="b")
    seeded(batch, 2, commit="b")
    seeded(batch, 3, seed_model=None)
    seeded(batch, 4, seed_model=None)
    seeded(batch, 5, seed_model=3, end=None)
    seeded(batch, 6, seed_model=3)
    df = read_experiments(batch)
    names = df["run"].tolist()
    assert df["repeat_of"].tolist() == [None, None, names[1], None, None, names[6], None]


def test_batches_globs_lists_and_run_folders(tmp_path: Path) -> None:
    first, second = (make_batch(tmp_path, [{}], name=name) for name in ("26-01-01-a[x]", "26-01-02-a"))
    run = os.path.join(first, run_folder.run_names(first)[0])
    assert len(read_experiments(first)) == 1
    assert len(read_experiments(f"{tmp_path}/26-*")) == 2
    assert len(read_experiments([first, second, run, f"{second}/"])) == 2
    assert read_experiments(Path(run))["batch"].tolist() == ["26-01-01-a[x]"]
    both = read_experiments([first, second])
    assert both["run"].tolist() == [f"{os.path.basename(batch)}/{os.path.basename(run)}" for batch in (first, second)]


@pytest.mark.parametrize("wrong", ["nowhere", "no*", "", "here"])
def test_path_that_is_no_batch_is_an_error(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "results").mkdir()
    make_batch(tmp_path / "results", [{}])
    with pytest.raises(ResultsError) as caught:
        read_results(tmp_path / wrong if wrong != "here" else tmp_path / "results")
    assert caught.value.hint is not None or wrong == ""


def test_empty_batch_is_an_empty_frame(batch: str) -> None:
    df = read_experiments(batch)
    assert df.empty
    assert list(df.columns) == list(IDENTITY)


def test_skipped_folders_are_logged(batch: str, caplog: pytest.LogCaptureFixture) -> None:
    make_run(batch, 0, {}, config="# nothing\n", end=None)
    with caplog.at_level(logging.WARNING):
        read_experiments(batch)
    assert "1 folders left out" in caplog.text
    assert "config.yaml is empty" in caplog.text


def test_newest_batch(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no batch here"):
        newest_batch(tmp_path)
    batches = [make_batch(tmp_path, [{}], name=name) for name in ("26-01-02-b", "26-01-01-a")]
    for seconds, batch in enumerate(batches):
        os.utime(os.path.join(batch, run_folder.JOB_SPEC), (seconds, seconds))
    assert newest_batch(tmp_path) == batches[1]


def test_changing_a_cell_changes_no_other(tmp_path: Path) -> None:
    df = read_experiments(make_batch(tmp_path))
    before = df["train/loss"][1].copy()
    df["train/loss"][0].iloc[:] = 0.0
    assert df["train/loss"][1].equals(before)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(width=64), max_size=5), min_size=1, max_size=4))
def test_floats_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, runs: list[list[float]]) -> None:
    batch = make_empty_batch(tmp_path_factory.mktemp("exact"))
    for index, values in enumerate(runs):
        make_run(batch, index, {}, stats="epoch,x\n" + "".join(f"{i},{value!r}\n" for i, value in enumerate(values)))
    df = read_experiments(batch)
    if any(runs):
        for cell, values in zip(df["x"], runs, strict=True):
            np.testing.assert_array_equal(cell.to_numpy(dtype=float), values)


def test_folder_that_cannot_be_read_is_listed(batch: str) -> None:
    folder = make_run(batch, 0, {}, config=None, end=None)
    os.mkdir(os.path.join(folder, run_folder.CONFIG))
    assert "cannot be read" in reasons(batch)[os.path.basename(folder)]


def test_reading_needs_no_pyplot(tmp_path: Path) -> None:
    """So that reading is quick in scripts, and works without a display."""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", "import sys, src.analysis.reading.results; "
                    "assert 'matplotlib' not in sys.modules"],
                   cwd=root, check=True)


def test_tags_are_a_column_and_no_setting(batch: str) -> None:
    """Of runs of ours by their config.yaml, of a foreign program's by its spec; runs without have None."""
    texts = [f"base_lr: 0.5\n{tags}facts: {{}}\n" for tags in ('TAGS: ["adam", "small"]\n', 'TAGS: ["sgd"]\n', "")]
    for index, text in enumerate(texts):
        make_run(batch, index, {"base_lr": 0.5}, stats=HEADER + ROWS, config=text)
    make_run(batch, 3, {"base_lr": 0.5, "TAGS": ["mine"], "WORKERS": 2, "COMMAND": ["x"]}, config=None, stats=None)
    df = read_experiments(batch)
    assert df["TAGS"].tolist() == [["adam", "small"], ["sgd"], None, ["mine"]]
    assert filt(df, TAGS=lambda tags: "adam" in (tags or ()))["index"].tolist() == [0]
    assert "TAGS" not in varying_columns(df) and "WORKERS" not in varying_columns(df)
