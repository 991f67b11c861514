"""Comparisons against values that scipy and plain arithmetic give: what changed, and how certain that is."""
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import experiments
from src import run_folder
from src.analysis.compare import Comparison, MetricChange, SettingChange, compare
from src.analysis.reading.results import read_results
from src.config import Config
from src.errors import ResultsError
from src.io import yaml_io
from tests.analysis.make_batch import DIGITS, make_batch, make_empty_batch, make_run

HEADER = "epoch,train/time,val/last/accuracy,val/last/loss,val/last/f1\n"


def batch_of(root: Path, name: str, runs: list[tuple[dict[str, object], float]],
             ends: dict[int, str | None] | None = None,
             seeds: int = 100, metric: str | None = None) -> str:
    """A batch with a run for each (spec, best accuracy); the last accuracy is 0.25 less. seeds: of the first run."""
    batch = make_empty_batch(root, name)
    if metric:
        Path(batch, "job.yaml").write_text(f"job_details: {{name: digits, metric: {metric}}}\n")
    for index, (spec, accuracy) in enumerate(runs):
        spec = {"seed_training": 1, "seed_model": seeds + index, **spec}
        make_run(batch, index, spec, end=(ends or {}).get(index, "completed"),
                 stats=f"{HEADER}1,1.5,{accuracy},{1 - accuracy},{accuracy / 2}\n"
                       f"2,1.5,{accuracy - 0.25},{1.25 - accuracy},{accuracy / 4}\n")
    return batch


def change_of(comparison: Comparison, metric: str = "best/val/last/accuracy") -> MetricChange:
    return next(change for change in comparison.metrics if change.metric == metric)


def test_interval_over_settings_has_their_degrees_of_freedom(tmp_path: Path) -> None:
    rates = (0.1, 1.0, 2.0, 4.0)
    before = batch_of(tmp_path, "a", [({"base_lr": rate}, 0.5) for rate in rates for _ in range(2)])
    after = batch_of(tmp_path, "b", [({"base_lr": rate, "batch_size": 64}, value)  # 4.0 has no counterpart
                                     for rate, value in ((0.1, 0.625), (1.0, 0.75), (2.0, 0.875))], seeds=300)
    result = compare(read_results(before), read_results(after))
    assert result.changes == [SettingChange("batch_size", str(Config().batch_size), "64"),
                             SettingChange("base_lr", "0.1, 1, 2, 4", "0.1, 1, 2")]
    assert result.settings == 3
    best = change_of(result)
    assert (best.before, best.after, best.change.value) == (0.5, 0.75, 0.25)
    reference = stats.ttest_1samp([0.125, 0.25, 0.375], 0)
    interval = reference.confidence_interval(0.95)
    assert best.change.p == pytest.approx(reference.pvalue)
    assert (best.change.low, best.change.high) == pytest.approx((interval.low, interval.high))
    assert best.basis == "3 settings" and best.better is True
    assert change_of(result, "val/last/accuracy").before == 0.25
    assert change_of(result, "val/last/loss").better is True and change_of(result, "val/last/loss").change.value < 0
    assert change_of(result, "train/time").better is None


def test_runs_of_equal_seeds_are_pairs(tmp_path: Path) -> None:
    first, second = [0.5, 0.625, 0.75], [0.5625, 0.75, 0.8125]
    before, after = (batch_of(tmp_path, name, [({}, value) for value in values])
                     for name, values in (("a", first), ("b", second)))
    best = change_of(compare(read_results(before), read_results(after)))
    reference = stats.ttest_rel(second, first)
    assert best.change.p == pytest.approx(reference.pvalue) and best.basis == "3 seeds in both"
    assert best.change.p < stats.ttest_ind(second, first).pvalue, "the noise that both share cancels"


def test_runs_of_other_seeds_are_compared_by_welchs_test(tmp_path: Path) -> None:
    first, second = [0.5, 0.75], [0.25, 0.5, 0.375]
    before = batch_of(tmp_path, "a", [({}, value) for value in first])
    after = batch_of(tmp_path, "b", [({}, value) for value in second], seeds=300)
    result = compare(read_results(before), read_results(after))
    assert result.changes == [] and result.settings == 1
    best = change_of(result)
    reference = stats.ttest_ind(second, first, equal_var=False)
    assert best.change.p == pytest.approx(reference.pvalue) and best.basis == "2 + 3 runs"
    assert best.change.value == -0.25 and best.better is False


def test_without_a_common_setting_the_best_runs_are_compared(tmp_path: Path) -> None:
    before = batch_of(tmp_path, "a", [({"base_lr": 0.1}, 0.5), ({"base_lr": 0.2}, 0.625)])
    after = batch_of(tmp_path, "b", [({"base_lr": 0.3}, 0.75), ({"base_lr": 0.4}, 0.25)])
    result = compare(read_results(before), read_results(after))
    assert result.settings == 0
    assert [run.value for run in result.best if run] == [0.625, 0.75]
    best = change_of(result)
    assert (best.before, best.after) == (0.625, 0.75) and math.isnan(best.change.p)


def test_fields_that_one_group_lacks_are_no_changes(tmp_path: Path) -> None:
    before = batch_of(tmp_path, "a", [({}, 0.5)])
    after = make_empty_batch(tmp_path, "b")
    make_run(after, 0, {"COMMAND": "python x.py", "depth": 3}, config=None,
             stats="epoch,val/last/accuracy\n1,0.75\n")
    result = compare(read_results(before), read_results(after))
    assert result.changes == []
    assert result.only_after == ["COMMAND", "depth"] and "base_lr" in result.only_before


def test_runs_that_diverged_or_stopped_early_do_not_count(tmp_path: Path) -> None:
    before = batch_of(tmp_path, "a", [({}, 0.5), ({}, 0.75), ({}, 0.0), ({}, 0.0)],
                      ends={2: run_folder.DIVERGED, 3: None})
    after = batch_of(tmp_path, "b", [({}, 0.75), ({}, 0.75), ({}, 0.75), ({}, 0.75)])
    result = compare(read_results(before), read_results(after))
    assert change_of(result).before == 0.625
    assert change_of(result).basis == "2 seeds in both", "a pair counts if both of its runs do"
    assert result.counts[0][:4] == (4, 2, 1, 1)
    lost = batch_of(tmp_path, "c", [({}, 0.5)], ends={0: run_folder.DIVERGED})
    assert compare(read_results(before), read_results(lost)).metrics == []
    with pytest.raises(ResultsError, match="no runs"):
        compare(read_results(before), read_results(make_empty_batch(tmp_path, "d")))


def test_all_metrics_are_shown_and_the_named_one_first(tmp_path: Path) -> None:
    before, after = (batch_of(tmp_path, name, [({}, value)], metric="val/last/f1")
                     for name, value in (("a", 0.5), ("b", 0.75)))
    names = [change.metric for change in compare(read_results(before), read_results(after)).metrics]
    assert names == ["best/val/last/f1", "val/last/f1", "val/last/accuracy", "val/last/loss", "train/time"]


def test_intervals_cover_the_true_change(tmp_path: Path) -> None:
    # 200 comparisons of three settings: 95 % of the intervals cover the change, whatever the settings' own effects
    random = np.random.default_rng(0)
    from src.analysis.tables import inference

    covered = 0
    for _ in range(200):
        effects = random.normal(0.5, 1, size=3)  # of a change on each setting: the settings are a sample
        result = inference.mean(effects + random.normal(0, 0.1, 3))
        covered += result.low <= 0.5 <= result.high
    assert stats.binom.cdf(covered, 200, 0.95) > 0.001


def test_compare_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = make_batch(tmp_path, name="26-01-01-a")
    shorter = {**DIGITS, "model": "linear", "train_length": 6}
    after = make_batch(tmp_path, [{**shorter, "base_lr": rate} for rate in (0.1, 1.0)], name="26-01-02-b")
    assert experiments.main(["compare", before, after]) == 0
    out = capsys.readouterr().out
    assert "train_length  12" in out and "dataset" not in out
    assert "best/val/last/accuracy" in out and "2 settings" in out
    assert "95 % interval" in out and "12 of 12 runs counted" in out
    assert experiments.main(["compare", before, before]) == 0
    assert "the settings that both have are the same" in capsys.readouterr().out


def test_batches_without_metrics_are_compared_by_their_settings(tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    batch = make_empty_batch(tmp_path, "a")
    make_run(batch, 0, DIGITS, stats="")
    assert experiments.main(["compare", batch, batch]) == 0
    out = capsys.readouterr().out
    assert "no metric has a value in both batches" in out and "95 % interval" not in out
    assert experiments.main(["best", batch]) == 2
    assert "no run has a row in stats.csv yet" in capsys.readouterr().err


def test_equal_best_runs_are_counted_and_best_settings_compared(tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    values = {0.1: (0.875, 0.875, 0.5), 1.0: (0.875, 0.75, 0.8125)}  # three runs share the best value
    before, after = (batch_of(tmp_path, name, [({"base_lr": rate}, value - lower) for rate in values
                                               for value in values[rate]]) for name, lower in (("a", 0), ("b", 0.25)))
    result = compare(read_results(before), read_results(after))
    assert [(run.value, run.others) for run in result.best if run] == [(0.875, 2), (0.625, 2)]
    setting = result.best_settings[0]
    interval = stats.ttest_1samp(values[1.0], 0).confidence_interval(0.95)
    assert setting and (setting.setting, setting.runs, setting.others) == ("base_lr 1", 3, 1)
    assert setting.mean.value == 0.8125
    assert (setting.mean.low, setting.mean.high) == pytest.approx((interval.low, interval.high))
    assert experiments.main(["compare", before, after]) == 0
    out = capsys.readouterr().out
    assert " and 2 others" in out
    assert "0.8125  0.6572 to 0.9678  3/3   shares its rank with 1 other" in out


def test_compare_command_says_that_a_test_split_chose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = make_empty_batch(tmp_path, "a")
    config = yaml_io.dump_flat(Config.from_dict({}).to_dict())
    make_run(batch, 0, {}, config=config, stats="epoch,test/last/accuracy\n1,0.5\n")
    assert experiments.main(["compare", batch, batch]) == 0
    assert "chosen by a test split" in capsys.readouterr().out


def test_settings_that_lost_all_runs_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = (0.1, 1.0, 2.0)
    before = batch_of(tmp_path, "a", [({"base_lr": rate}, 0.5) for rate in rates])
    after = batch_of(tmp_path, "b", [({"base_lr": rate}, 0.5 + rate / 8) for rate in rates],
                     ends={2: run_folder.DIVERGED})
    result = compare(read_results(before), read_results(after))
    assert (result.settings, result.lost_settings) == (2, 1)
    assert change_of(result).after == pytest.approx(0.5 + (0.1 + 1.0) / 2 / 8)
    assert experiments.main(["compare", before, after]) == 0
    assert "mean over 2 of 3 settings that both have (of the others, one batch has no run" in capsys.readouterr().out


def test_direction_that_is_not_known_is_not_judged(tmp_path: Path) -> None:
    paths = []
    for name, value in (("a", 1.0), ("b", 2.0)):
        paths.append(make_empty_batch(tmp_path, name))
        make_run(paths[-1], 0, {}, stats=f"epoch,val/last/accuracy,val/last/energy\n1,{value / 4},{value}\n")
    result = compare(*map(read_results, paths))
    assert change_of(result, "val/last/energy").better is None
    assert change_of(result, "val/last/accuracy").better is True
