"""Columns of curves behave like columns of objects, and their cells are created on access."""
from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.analysis.plotting import plots
from src.analysis.reading import results
from src.analysis.reading.filters import filt
from src.analysis.reading.results import read_results
from src.analysis.tables import tables
from tests.analysis.make_batch import make_batch

NAME = "val/last/accuracy"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The columns whose cells were made, in order."""
    names: list[str] = []
    of = results._Cells.of
    monkeypatch.setattr(results._Cells, "of", lambda self, name: (names.append(name), of(self, name))[1])
    return names


def test_accessing_a_column_creates_only_its_cells(tmp_path: Path, made: list[str]) -> None:
    df = read_results(make_batch(tmp_path)).big_df()
    chosen = filt(df, model="linear").sort_values("base_lr", ascending=False).reset_index(drop=True).copy()
    assert len(df.columns) > 100 and tables.stats_columns(chosen) and tables.varying_columns(chosen)
    assert df["train/loss"].notna().all()
    assert made == []
    assert chosen[NAME].iloc[0].index.tolist() == list(range(1, 13))
    assert made == [NAME]
    plots.learning_curves(chosen, "train/loss", legend="base_lr")
    assert made == [NAME, "train/loss"]
    assert chosen[NAME].tolist()[2] is df[NAME][chosen["index"][2]]


def test_pandas_operations_work_on_columns_of_curves(tmp_path: Path) -> None:
    read = read_results(make_batch(tmp_path))
    df = read.big_df()
    objects = df.astype(dict.fromkeys(tables.stats_columns(df), object))
    assert objects[NAME].dtype == object
    assert df.astype(str)[NAME][3] == str(df[NAME][3])
    best = [cell.max() for cell in objects[NAME]]
    assert df[NAME].apply(lambda curve: curve.max()).tolist() == best
    assert df[NAME].map(pd.Series.max).groupby(df["model"]).mean().tolist() == pytest.approx(
        [np.mean(best[:6]), np.mean(best[6:])])
    assert df[NAME].map(lambda curve: curve * 2).iloc[3].equals(df[NAME][3] * 2)
    assert isinstance(df.iloc[0][NAME], pd.Series) and isinstance(df.loc[3, NAME], pd.Series)
    assert [row[NAME].iloc[-1] for _, row in df.iterrows()] == [cell.iloc[-1] for cell in objects[NAME]]
    assert [row[-1].iloc[0] for row in df[["run", NAME]].itertuples(index=False, name=None)] == [
        cell.iloc[0] for cell in objects[NAME]]
    assert df.apply(lambda run: run[NAME].iloc[0], axis=1).tolist() == [cell.iloc[0] for cell in objects[NAME]]
    assert [len(group) for _, group in df.groupby("base_lr")] == [4, 4, 4]
    both = pd.concat([df, df.iloc[:2].drop(columns=NAME)], ignore_index=True)
    assert both[NAME].isna().tolist() == [False] * 12 + [True] * 2
    assert both["train/loss"][12].equals(df["train/loss"][0])
    assert pd.concat([df, df], ignore_index=True)[NAME][13] is df[NAME][1]
    other = pd.DataFrame({"model": ["linear"], "note": ["x"]})
    assert df.merge(other, on="model")[NAME][3].equals(df[NAME][3])
    assert df.reindex([3, 99])[NAME].isna().tolist() == [False, True]
    assert repr(df) == repr(objects)
    assert pickle.loads(pickle.dumps(df))[NAME][5].equals(df[NAME][5])
    assert df.drop(columns=NAME).columns.size == df.columns.size - 1
    assert df[df["model"] == "linear"][NAME].size == 6 and df.head(3)[NAME].size == 3 and df[NAME][::-1].size == 12


def test_cells_can_be_assigned(tmp_path: Path) -> None:
    df = read_results(make_batch(tmp_path)).big_df()
    kept = df.copy()
    mine = pd.Series([0.5], index=[1])
    df.at[2, NAME] = mine
    assert df[NAME][2] is mine and kept[NAME][2] is not mine
    df["best"] = [curve.cummax() for curve in df[NAME]]
    assert df["best"][0].equals(df[NAME][0].cummax()) and "best" in tables.stats_columns(df)
    df.loc[df["model"] == "linear", NAME] = df["train/loss"]
    assert df[NAME][0].equals(kept["train/loss"][0]) and df[NAME][11].equals(kept[NAME][11])


def test_cells_do_not_change_with_the_long_frame(tmp_path: Path) -> None:
    read = read_results(make_batch(tmp_path))
    first = read.long[NAME].iloc[0]
    df = read.big_df()
    read.long.loc[:, NAME] = 7.0
    assert df[NAME][0].iloc[0] == first
