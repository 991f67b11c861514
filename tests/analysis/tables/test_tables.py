"""Rankings against values computed by hand: splits, directions, diverged runs, epochs, weights."""
from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.analysis.reading.results import read_results
from src.analysis.report import build_report
from src.analysis.tables.tables import (
    best_runs,
    metric_columns,
    named_metric,
    ranked_parameters,
    ranking,
    runs_table,
    setting_columns,
    uncounted_runs,
    varying_columns,
    with_goal,
)
from src.errors import ResultsError
from tests.analysis.make_batch import make_batch, make_empty_batch, make_run
from tests.analysis.page.test_document import strings
from tests.analysis.page.test_write import read_document


def frame(curves: Mapping[str, list[list[float]]], **columns: list[Any]) -> pd.DataFrame:
    """big_df with these curves (a list for each run), epochs from 1."""
    count = len(next(iter(curves.values())))
    data: dict[str, Any] = {"run": [f"r{i}" for i in range(count)], "batch": ["b"] * count, "index": range(count),
                            "end": ["completed"] * count, "folder": [f"b/r{i}" for i in range(count)], **columns}
    df = pd.DataFrame({name: pd.Series(list(values), dtype=object) for name, values in data.items()})
    for name, runs in curves.items():
        df[name] = pd.Series([pd.Series(run, index=range(1, len(run) + 1), dtype=float) for run in runs], dtype=object)
    return df


TWO = frame({"val/last/accuracy": [[0.5, 0.9, 0.6], [0.7, 0.8, 0.8]],
             "test/last/accuracy": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]],
             "val/last/loss": [[3.0, 1.0, 2.0], [0.9, 0.8, 1.1]]}, base_lr=[0.1, 1.0])


def test_best_runs_have_the_test_value_of_their_epoch() -> None:
    table = best_runs(TWO)
    assert table["run"].tolist() == ["r0", "r1"]
    assert table["value"].tolist() == [0.9, 0.8]
    assert table["epoch"].tolist() == [2, 2]
    assert table["test/accuracy"].tolist() == [0.2, 0.5]
    assert table["base_lr"].tolist() == [0.1, 1.0]
    assert table["folder"].tolist() == ["b/r0", "b/r1"]


@pytest.mark.parametrize(("metric", "epoch", "runs", "values"), [
    ("val/last/accuracy", "last", ["r1", "r0"], [0.8, 0.6]),
    ("val/last/accuracy", 1, ["r1", "r0"], [0.7, 0.5]),
    ("val/last/loss", "best", ["r1", "r0"], [0.8, 1.0]),
    ("val/.*/loss", "last", ["r1", "r0"], [1.1, 2.0]),
])
def test_best_runs_by_metric_and_epoch(metric: str, epoch: str | int, runs: list[str], values: list[float]) -> None:
    table = best_runs(TWO, metric, epoch=epoch)
    assert table["run"].tolist() == runs
    assert table["value"].tolist() == values


def test_averaged_weights_count_where_a_run_has_them() -> None:
    df = frame({"val/last/accuracy": [[0.5, 0.9], [0.7, 0.1]], "val/av/accuracy": [[0.4, 0.8], [np.nan, np.nan]],
                "test/av/accuracy": [[0.1, 0.2], [np.nan, np.nan]]})
    table = best_runs(df)
    assert table["metric"].tolist() == ["val/av/accuracy", "val/last/accuracy"]
    assert table["value"].tolist() == [0.8, 0.7]
    assert table.attrs["caption"] == "averaged weights where a run has them, else the last"
    assert table["test/accuracy"].iloc[0] == 0.2
    assert np.isnan(table["test/accuracy"].iloc[1])


@pytest.mark.parametrize("metric", ["val/last/accuracy", "val/last/loss"])
def test_diverged_and_missing_come_last(metric: str) -> None:
    df = frame({metric: [[np.nan, np.nan], [1e-9, 1e9], [0.3, np.nan], [], [0.2, np.inf]]},
               end=["completed", "diverged", "completed", None, "completed"])
    table = best_runs(df, metric)
    descends = metric.endswith("loss")
    assert table["run"].tolist() == (["r4", "r2"] if descends else ["r2", "r4"]) + ["r0", "r1", "r3"]
    assert table["value"].isna().tolist() == [False, False, True, True, True]
    assert table["epoch"].isna().tolist() == [False, False, True, True, True]


def test_split_of_train_ranks_before_test(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert metric_columns(TWO) == ["val/last/accuracy"]
        best_runs(TWO)
    assert not caplog.records


def test_ranking_by_test_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert best_runs(TWO[["run", "end", "folder", "base_lr", "test/last/accuracy"]])["run"].tolist() == ["r1", "r0"]
    assert "a test split: the best value is an optimistic estimate" in caplog.text


def test_best_run_of_each_value_of_a_column() -> None:
    df = frame({"val/last/accuracy": [[0.5], [0.9], [0.7], [0.8], [np.nan]]}, model=["a", "a", "b", "b", None],
               base_lr=[1, 2, 1, 2, 1], batch_size=[8] * 5)
    assert best_runs(df, by="model")["run"].tolist() == ["r1", "r3", "r4"]
    assert best_runs(df, by=["model", "base_lr"])["run"].tolist() == ["r1", "r3", "r2", "r0", "r4"]
    assert best_runs(df, by="batch_size")["run"].tolist() == ["r1"]  # it does not vary
    assert best_runs(df, by="model", n=1)["run"].tolist() == ["r1"]
    with pytest.raises(ResultsError, match="did you mean 'model'"):
        best_runs(df, by="mdel")


def test_equal_runs_keep_their_order_and_n_limits() -> None:
    df = frame({"val/last/accuracy": [[0.5], [0.9], [0.5], [0.5]]})
    assert best_runs(df)["run"].tolist() == ["r1", "r0", "r2", "r3"]
    assert best_runs(df, n=2)["run"].tolist() == ["r1", "r0"]
    assert len(best_runs(df, n=None)) == 4


@pytest.mark.parametrize(("metric", "message"), [
    ("val/last/acuracy", "did you mean 'val/last/accuracy'"), ("val/last", "more is better"),
    ("nothing", "no stats column")])
def test_metric_that_cannot_rank_is_an_error(metric: str, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        best_runs(TWO, metric)


def test_no_stats_at_all_is_an_error() -> None:
    with pytest.raises(ResultsError, match="no run has a row"):
        best_runs(TWO[["run", "end", "folder"]])


def test_unknown_epoch_is_an_error() -> None:
    with pytest.raises(ResultsError, match="best, last"):
        best_runs(TWO, epoch="first")


def test_varying_columns() -> None:
    df = frame({"val/last/loss": [[1.0], [2.0]]}, base_lr=[1, 1.0], nan=[None, np.nan], splits=[{"a": "b"}, {"a": "c"}],
               flag=[True, 1], seed_model=[1, 2], output_dir=["x", "y"], **{"facts/host": ["a", "b"]})
    assert varying_columns(df) == ["base_lr", "splits", "flag"]
    assert varying_columns(df, seeds=True) == ["base_lr", "splits", "flag", "seed_model"]
    assert "facts/host" not in setting_columns(df)


def test_seeds_that_all_runs_drew_do_not_vary() -> None:
    df = frame({"val/last/loss": [[1.0], [2.0]]}, seed_model=[1, 2], seed_training=[3, 4],
               **{"facts/seeds_drawn": [["seed_model", "seed_training"], ["seed_model"]]})
    assert varying_columns(df, seeds=True) == ["seed_training"]


def test_runs_table_has_last_values() -> None:
    table = runs_table(TWO)
    assert table["epochs"].tolist() == [3, 3]
    assert table["val/last/accuracy"].tolist() == [0.6, 0.8]
    assert "test/last/accuracy" not in table


def ranked(values: list[list[float]], ends: list[list[str | None]] | None = None) -> pd.DataFrame:
    """The ranking of settings, each with the last accuracies of its runs."""
    flat = [value for setting in values for value in setting]
    df = frame({"val/last/accuracy": [[value] for value in flat]},
               base_lr=[number for number, setting in enumerate(values) for _ in setting],
               seed_model=[seed for setting in values for seed in range(len(setting))])
    if ends:
        df["end"] = [end for setting in ends for end in setting]
    return ranking(df)


def test_settings_within_noise_share_rank_1() -> None:
    # Welch's t of the first two: 0.02 / sqrt(0.0001 / 3 + 0.0004 / 3) = 1.55, below 3.2 (2.94 degrees of freedom);
    # of the first and third: 0.2 / sqrt(0.0002 / 3) = 24.5
    table = ranked([[0.69, 0.70, 0.71], [0.89, 0.90, 0.91], [0.86, 0.88, 0.90]])
    assert table["base_lr"].tolist() == [1, 2, 0]
    assert table["rank"].tolist() == [1, 1, 3]
    assert table["value"].tolist() == pytest.approx([0.9, 0.88, 0.7])
    assert table["deviation"].tolist() == pytest.approx([0.01, 0.02, 0.01])
    assert table["members"].iloc[2] == [0, 1, 2]


def test_two_settings_are_compared_by_welchs_test() -> None:
    from scipy.stats import ttest_ind

    random = np.random.default_rng(0)
    for _ in range(60):
        first, second = (random.normal(0.9 + shift, random.uniform(0.001, 0.03), random.integers(2, 6)).tolist()
                         for shift in (0, random.uniform(0, 0.05)))
        tie = ttest_ind(first, second, equal_var=False).pvalue >= 0.05
        assert (ranked([first, second])["rank"].iloc[1] == 1) == tie


def test_rank_is_one_more_than_the_number_of_better_settings() -> None:
    # each is like its neighbor, and the last is not like the first
    table = ranked([[0.90, 0.902], [0.899, 0.901], [0.880, 0.882], [0.879, 0.881]])
    assert table["rank"].tolist() == [1, 1, 3, 3]


def test_single_run_gets_the_pooled_deviation() -> None:
    assert ranked([[0.89, 0.90, 0.91], [0.895], [0.5]])["rank"].tolist() == [1, 1, 3]
    assert ranked([[0.9], [0.8], [0.8]])["rank"].tolist() == [1, 2, 2], "nothing is known: only equals tie"


def test_runs_without_noise_and_without_values() -> None:
    table = ranked([[0.9, 0.9], [0.8, 0.8], [np.nan, np.nan], [0.95, 0.95]],
                   [["completed"] * 2, ["completed"] * 2, [None] * 2, ["diverged", "completed"]])
    # one of two diverged, so that the setting with the best mean has no rank, as the one without a value
    assert table["base_lr"].tolist() == [0, 1, 3, 2]
    assert table["rank"].tolist() == [1, 2, pd.NA, pd.NA]
    assert table["diverged"].tolist() == [0, 0, 1, 0]
    assert table["runs"].tolist() == [2, 2, 1, 0]
    assert table["left_out"].tolist() == ["", "", "1 of 2 diverged", "2 of 2 not ended"]


def test_setting_of_mostly_diverged_runs_has_no_rank() -> None:
    done, lost = "completed", "diverged"
    # 17 of 20 diverged, and the three others are the best of all; 9 of 20 diverged; none diverged
    values = [[0.99, 0.98, 0.985, *[0.5] * 17], [0.97, 0.98] * 10, [0.96, 0.97] * 10]
    table = ranked(values, [[done] * 3 + [lost] * 17, [lost] * 9 + [done] * 11, [done] * 20])
    assert table["base_lr"].tolist() == [1, 2, 0]
    assert table["rank"].tolist() == [1, 2, pd.NA]
    assert table["left_out"].tolist() == ["9 of 20 diverged", "", "17 of 20 diverged"]
    # as many diverged as count: no rank; one fewer: a rank
    for diverged, best in ((5, 1), (4, 0)):
        ends = [[lost] * diverged + [done] * (9 - diverged), [done] * 9]
        assert ranked([[0.9, 0.8, 0.7] * 3, [0.1, 0.2, 0.3] * 3], ends)["base_lr"][0] == best
    assert ranked([[0.9], [0.8]], [[lost], [lost]])["rank"].isna().all()


def test_ranking_has_students_interval() -> None:
    # mean 0.7, s = 0.1; t for 2 degrees of freedom is 4.302653: 4.302653 * 0.1 / sqrt(3) = 0.248414
    table = ranked([[0.6, 0.7, 0.8], [0.5]])
    assert table[["low", "high"]].iloc[0].tolist() == pytest.approx([0.451586, 0.948414], abs=1e-6)
    assert table[["low", "high"]].iloc[1].isna().all(), "a single run has no interval"


def test_best_setting_of_each_value_of_a_column() -> None:
    df = frame({"val/last/accuracy": [[0.5], [0.6], [0.9], [0.7], [0.8]]}, model=["a", "a", "b", "b", "b"],
               base_lr=[1, 1, 1, 2, 2], seed_model=[1, 2, 1, 1, 2])
    table = ranking(df, by="model")
    assert table[["model", "base_lr"]].to_numpy().tolist() == [["b", 1], ["a", 1]]
    assert table["rank"].tolist() == ranking(df)["rank"].iloc[[0, 2]].tolist(), "ranks are those among all settings"
    with pytest.raises(ResultsError, match="did you mean 'model'"):
        ranking(df, by="mdel")


def test_runs_that_do_not_count_are_named() -> None:
    df = frame({"val/last/accuracy": [[0.5]] * 4}, repeat_of=[None, None, None, "r0"])
    df["end"] = ["completed", "diverged", None, "completed"]
    assert uncounted_runs(df) == {"diverged": ["r1"], "not ended": ["r2"], "exact repeat": ["r3"]}
    df["end"] = None
    assert uncounted_runs(df.drop(columns="repeat_of")) == {}, "preliminary values count"


def test_parameters_named_like_columns_of_a_table() -> None:
    df = frame({"val/last/accuracy": [[0.5], [0.6]]}, value=[1, 2], low=[3, 4], epoch=[5, 6])
    table = ranking(df)
    assert ranked_parameters(table) == ["parameter/value", "parameter/low", "epoch"]
    assert table["parameter/low"].tolist() == [4, 3]
    assert best_runs(df)[["parameter/value", "parameter/epoch", "low"]].to_numpy().tolist() == [[2, 6, 4], [1, 5, 3]]


def test_single_setting_has_rank_1() -> None:
    df = frame({"val/last/loss": [[1.0, 0.5], [0.7]]}, seed_model=[1, 2])
    assert ranking(df)[["rank", "value", "runs"]].to_numpy().tolist() == [[1.0, 0.6, 2.0]]


def test_metric_of_the_job_spec_ranks_and_its_goal_decides(caplog: pytest.LogCaptureFixture,
                                                               tmp_path: Path) -> None:
    stats = "epoch,step,train/loss,val/last/accuracy,val/last/energy,psnr\n1,9,1.0,{},{},{}\n"
    batch = make_empty_batch(tmp_path)
    for index, cells in enumerate([(0.9, 5.0, 30), (0.8, 2.0, 20), (0.7, 3.0, 40)]):
        make_run(batch, index, {"base_lr": float(index)}, stats=stats.format(*cells))

    def ranked(metric: str) -> list[int]:
        Path(batch, "job.yaml").write_text(f"job_details: {{name: digits, metric: {metric}}}\n")
        df = read_results(batch).big_df()
        chosen = df[df["base_lr"] >= 0]  # what is chosen of big_df has the same metric
        orders = [[int(name[:3]) for name in best_runs(chosen)["run"]], ranking(chosen)["base_lr"].tolist()]
        assert orders[0] == orders[1]
        assert build_report(read_results(batch))  # whatever the column is called
        return orders[0]

    assert ranked("null") == [0, 1, 2]
    assert ranked("{name: val/.*/energy, goal: minimize}") == [1, 2, 0]
    assert ranked("{name: val/.*/energy, goal: maximize}") == [0, 2, 1]
    assert ranked("psnr") == [2, 0, 1]
    assert not caplog.records
    assert ranked("{name: val_acc, goal: minimize}") == [0, 1, 2]
    assert "no run has val_acc, the metric that the job spec names: ranked by val/last/accuracy" in caplog.text
    assert "No run has val_acc" in "\n".join(strings(read_document(build_report(read_results(batch)))))


def test_different_metrics_of_batches_are_ignored(tmp_path: Path) -> None:
    paths = [make_batch(tmp_path, [{"base_lr": 0.1}], f"26-11-2{number}-x") for number in (1, 2)]
    for path, name in zip(paths, ("val/last/loss", "train/loss"), strict=True):
        Path(path, "job.yaml").write_text(f"job_details: {{name: x, metric: {name}}}\n")
    assert metric_columns(read_results(paths).big_df()) == ["val/last/accuracy"]
    assert metric_columns(read_results(paths[1]).big_df()) == ["train/loss"]


def test_choosing_by_a_metric_of_unknown_direction_is_an_error() -> None:
    df = frame({"val/last/energy": [[3.0, 2.0], [2.5, 4.0]]}, base_lr=[0.1, 0.2])
    for choose in (best_runs, ranking):
        with pytest.raises(ResultsError, match=r"not known for val/last/energy; .*tables.with_goal\(big_df"):
            choose(df, "val/last/energy")
    assert best_runs(with_goal(df, "val/.*/energy", "minimize"))["value"].tolist() == [2.0, 2.5]
    assert best_runs(with_goal(df, "val/.*/energy", "maximize"))["value"].tolist() == [4.0, 3.0]
    assert named_metric(df) is None
    assert metric_columns(df, "energy") == ["val/last/energy"]  # a learning curve chooses nothing


def test_older_job_spec_without_a_goal_does_not_rank(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = make_empty_batch(tmp_path)
    stats = "epoch,step,train/loss,val/last/accuracy,val/last/energy\n1,9,1.0,{},{}\n"
    for index, cells in enumerate([(0.7, 5.0), (0.9, 2.0)]):
        make_run(path, index, {"base_lr": float(index)}, stats=stats.format(*cells))
    Path(path, "job.yaml").write_text("job_details: {name: x, metric: energy}\n")
    assert best_runs(read_results(path).big_df())["value"].tolist() == [0.9, 0.7]
    assert "energy has no goal, maximize or minimize: ranked by val/last/accuracy" in caplog.text
