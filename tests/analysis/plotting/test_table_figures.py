"""Tables as figures: texts do not overlap, curves and dots are at their values."""
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from src import run_folder
from src.analysis.plotting import plots
from src.analysis.reading.results import read_experiments
from src.analysis.tables import tables
from src.errors import ResultsError
from tests.analysis.figures import assert_nothing_is_cut_off, assert_words_do_not_overlap, has_text, texts
from tests.analysis.make_batch import AXES, DIGITS, curves, grid, make_empty_batch, make_run


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """24 runs: the digits grid, two seeds each; one diverged, one still going."""
    batch = make_empty_batch(tmp_path_factory.mktemp("sheets"))
    for index, spec in enumerate(grid({**AXES, "seed_model": [1, 2]}, **DIGITS)):
        end = {0: run_folder.DIVERGED, 3: None}.get(index, run_folder.COMPLETED)
        make_run(batch, index, spec, stats=curves(spec, 3 if end is None else 6, index), end=end)
    return read_experiments(batch)


def test_overview_has_a_row_per_setting_and_a_curve_per_run(digits: pd.DataFrame) -> None:
    figure = plots.overview(digits, "val/last/accuracy")
    assert_nothing_is_cut_off(figure)
    assert_words_do_not_overlap(figure)
    words = texts(figure)
    assert words.count("linear") == words.count("tiny/lenet") == 6
    assert (words.count("2/2"), words.count("1/2")) == (10, 2)
    assert len(figure.axes[0].lines) == 2 * 24 + 1  # two columns of curves, and the rule below the head
    assert has_text(figure, "Best: mean ± standard deviation of the runs, each run at its best epoch")
    assert has_text(figure, "1 diverged run left out; 1 run not ended, left out")


def test_curves_share_a_scale(digits: pd.DataFrame) -> None:
    figure = plots.overview(digits, "val/last/accuracy", n=5)
    *lines, _ = figure.axes[0].lines
    assert has_text(figure, "5 of 12 settings, best first")
    heights = [line.get_ydata().max() - line.get_ydata().min() for line in lines]
    assert 0 < max(heights) < 0.24, "a curve stays in its row"


def test_ranking_shows_ranks_and_dots(digits: pd.DataFrame) -> None:
    figure = plots.ranking(digits, n=6)
    assert_nothing_is_cut_off(figure)
    assert_words_do_not_overlap(figure)
    table = tables.ranking(digits)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == table["runs"].head(6).tolist()
    assert has_text(figure, "The best 6 of 12 settings")
    assert {line.get_color() for line, rank in zip(dots, table["rank"], strict=False) if rank == 1} == {"#D55E00"}


def test_ranks_say_what_they_mean_and_which_settings_lost_runs(digits: pd.DataFrame) -> None:
    figure = plots.ranking(digits)
    assert has_text(figure, "rank r: r − 1 settings are better beyond the noise of seeds (Welch's test of all pairs,")
    assert has_text(figure, "2 settings lost runs (n/N: runs that count of all)")
    assert texts(figure).count("1/2") == 2
    rank_1 = int((tables.ranking(digits)["rank"] == 1).sum())
    assert has_text(figure, f"{rank_1} of 12 settings have rank 1")


def test_what_ranks_by_a_test_split_says_so(digits: pd.DataFrame) -> None:
    for draw in (plots.ranking, plots.overview, plots.importance, plots.parallel_coordinates, plots.pareto,
                 plots.averaged_against_last):
        options = {"cost": "time"} if draw is plots.pareto else {}
        assert has_text(draw(digits, metric="test/last/accuracy", **options), "hosen by a test split"), draw
        assert not has_text(draw(digits, metric="val/last/accuracy", **options), "hosen by a test split"), draw
    for figure in (plots.heat_map(digits, "base_lr", "model", "test/last/accuracy"),
                   plots.metric_against(digits, "base_lr", "test/last/accuracy")):
        assert has_text(figure, "chosen by a test split: the best values are optimistic estimates")
    curves = plots.learning_curves(digits, "test/last/accuracy", best_so_far=True, columns="model")
    assert has_text(curves, "hosen by a test split")
    assert not has_text(plots.learning_curves(digits, "test/last/accuracy", columns="model"), "hosen by a test split")
    assert "chosen by a test split" in tables.ranking(digits, "test/last/accuracy").attrs["caption"]
    assert "chosen by a test split" in tables.best_runs(digits, "test/last/accuracy").attrs["caption"]


def test_one_seed_each_says_that_noise_is_unknown(digits: pd.DataFrame) -> None:
    figure = plots.ranking(digits[digits["seed_model"] == 2])
    assert has_text(figure, "nothing is known about the noise of seeds")
    assert "11" in texts(figure)


def test_too_wide_table_is_an_error(digits: pd.DataFrame) -> None:
    random = np.random.default_rng(0)
    wide = digits.assign(**{f"a_rather_long_parameter_{i}": random.normal(size=24) for i in range(40)})
    wide = wide[[*(name for name in wide if name.startswith("a_rather")), *digits]]
    with pytest.raises(ResultsError, match="wider than 24 inches: too many parameters vary"):
        plots.overview(wide)
