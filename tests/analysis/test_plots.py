"""Pictures: the numbers in their lines, and nothing cut off, whatever the grid."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from src import run_folder
from src.analysis import plots
from src.analysis.results import read_experiments
from src.errors import ResultsError
from tests.analysis.make_batch import AXES, DIGITS, curves, grid, make_batch, make_empty_batch, make_run

SEEDS = {**AXES, "seed_model": [1, 2, 3]}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """36 runs: the digits grid, three seeds each; one diverged, one still going."""
    batch = make_empty_batch(tmp_path_factory.mktemp("plots"))
    for index, spec in enumerate(grid(SEEDS, **DIGITS)):
        end = {0: run_folder.DIVERGED, 1: None}.get(index, run_folder.COMPLETED)
        make_run(batch, index, spec, stats=curves(spec, 2 if end is None else 6, index), end=end)
    return read_experiments(batch)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def assert_nothing_is_cut_off(figure: Figure) -> None:
    """Every visible text lies within the picture, to a pixel; no panel has collapsed."""
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    not_drawn = ticks_beyond_limits(figure)
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in not_drawn:
            box = text.get_window_extent()
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
            assert inside, f"{text.get_text()!r} at {box}"
    assert all(axes.bbox.width > 60 and axes.bbox.height > 60 for axes in figure.axes)


def ticks_beyond_limits(figure: Figure) -> set[Text]:
    """The labels of ticks that matplotlib keeps, and does not draw."""
    labels = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                labels |= {tick.label1, tick.label2}
    return labels


def test_lines_are_means_and_bands_standard_errors(digits: pd.DataFrame) -> None:
    runs = digits[(digits["model"] == "tiny/lenet") & (digits["base_lr"] == 0.1) & digits["averaging"].isna()]
    assert len(runs) == 3
    figure = plots.learning_curves(runs, "val/last/accuracy")
    (line,) = figure.axes[0].lines
    table = np.array([cell.to_numpy() for cell in runs["val/last/accuracy"]])
    np.testing.assert_allclose(line.get_ydata(), table.mean(axis=0))
    assert line.get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
    corners = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    error = table.std(axis=0, ddof=1) / np.sqrt(3)
    assert corners.max() == pytest.approx((table.mean(axis=0) + error).max())
    assert any("Mean of 3 runs that differ in seeds; band: standard error" in text for text in texts(figure))


def test_the_range_is_least_and_most(digits: pd.DataFrame) -> None:
    runs = digits[(digits["model"] == "linear") & (digits["base_lr"] == 1.0)]
    figure = plots.learning_curves(runs, "train/loss", spread="range")
    corners = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    table = np.array([cell.to_numpy() for cell in runs["train/loss"]])
    assert (corners.min(), corners.max()) == (table.min(), table.max())


def test_panels_and_legend_are_the_values(digits: pd.DataFrame) -> None:
    figure = plots.learning_curves(digits, "val/last/loss", rows="averaging", columns="model", legend="base_lr")
    assert len(figure.axes) == 4
    assert figure.axes[1].get_title() == "averaging = none\nmodel = tiny/lenet"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0.01", "0.1", "1"]
    assert legend.get_title().get_text() == "base_lr"
    assert [len(axes.lines) for axes in figure.axes] == [3, 3, 3, 3]
    assert any("1 diverged run left out; 1 run not ended" in text for text in texts(figure))
    assert_nothing_is_cut_off(figure)


def test_last_and_averaged_have_line_styles(digits: pd.DataFrame) -> None:
    figure = plots.learning_curves(digits, legend="model")
    assert {line.get_linestyle() for line in figure.axes[0].lines} == {"-", "--"}
    assert "val accuracy (averaged)" in texts(figure)
    plain = plots.learning_curves(digits[digits["averaging"].isna()], legend="model")
    assert "val accuracy (averaged)" not in texts(plain)


def test_against_a_number(digits: pd.DataFrame) -> None:
    runs = digits[(digits["model"] == "tiny/lenet") & digits["averaging"].isna()]
    figure = plots.metric_against(runs, "base_lr", "val/last/accuracy", epoch="last")
    dots, means = figure.axes[0].lines
    assert figure.axes[0].get_xscale() == "log"
    assert list(means.get_xdata()) == [0.01, 0.1, 1.0]
    last = runs["val/last/accuracy"].map(lambda curve: curve.iloc[-1])
    np.testing.assert_allclose(means.get_ydata(), last.groupby(runs["base_lr"]).mean())
    np.testing.assert_allclose(dots.get_ydata(), last)
    assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize(("metric", "edge"), [("val/last/accuracy", 0.03), ("val/last/loss", 0.97)])
def test_diverged_runs_are_crosses_at_the_worse_edge(digits: pd.DataFrame, metric: str, edge: float) -> None:
    figure = plots.metric_against(digits, "base_lr", metric)
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [line.get_ydata().tolist() for line in crosses] == [[edge]]
    assert [line.get_xdata().tolist() for line in crosses] == [[0.01]]


def test_against_words_and_missing_values(digits: pd.DataFrame) -> None:
    figure = plots.metric_against(digits, "averaging", legend="model", columns="base_lr", spread="range")
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["none", "poly_8"]
    assert_nothing_is_cut_off(figure)


def test_zero_has_its_place_beside_a_logarithmic_axis(tmp_path: Path) -> None:
    df = read_experiments(make_batch(tmp_path, grid({"weight_decay": [0.0, 1e-4, 1e-2]}, **DIGITS)))
    figure = plots.metric_against(df, "weight_decay")
    assert figure.axes[0].get_xscale() == "symlog"
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "0.0001", "0.01"]


def test_one_run_with_one_epoch(digits: pd.DataFrame) -> None:
    run = digits.iloc[[5]].copy()
    run["val/last/loss"] = pd.Series([run["val/last/loss"].iloc[0].iloc[:1]], index=run.index, dtype=object)
    for figure in (plots.learning_curves(run, "val/last/loss", log_x=True, log_y=True),
                   plots.metric_against(run, "base_lr", "val/last/loss")):
        assert_nothing_is_cut_off(figure)


def test_a_thousand_runs(digits: pd.DataFrame) -> None:
    many = pd.concat([digits] * 28, ignore_index=True)
    many["run"] = [f"{index:04d}_a_rather_long_name_of_a_run+bas={index}" for index in range(len(many))]
    many["base_lr"] = np.geomspace(1e-4, 10, len(many))
    for figure in (plots.learning_curves(many, legend="run", columns="model"),
                   plots.metric_against(many, "base_lr", legend="averaging")):
        assert len(figure.legends[0].get_texts()) <= 14
        assert_nothing_is_cut_off(figure)


def test_names_with_formulas_and_great_length(digits: pd.DataFrame) -> None:
    odd = digits.copy()
    odd["model"] = ["$x^{", "a" * 300, "<b>&\n"] * 12
    for figure in (plots.learning_curves(odd, columns="model", legend="model"),
                   plots.metric_against(odd, "model", legend="model", rows="averaging")):
        assert any("$x^{" in text for text in texts(figure))
        assert_nothing_is_cut_off(figure)


def test_only_diverged_runs(digits: pd.DataFrame) -> None:
    gone = digits[digits["end"] == run_folder.DIVERGED]
    assert len(plots.learning_curves(gone).axes[0].lines) == 0
    assert len(plots.metric_against(gone, "base_lr").axes[0].lines) == 2


@pytest.mark.parametrize(("arguments", "says"), [
    ({"columns": "modle"}, "did you mean 'model'"), ({"spread": "std"}, "standard error, range"),
    ({"metric": "nothing"}, "no stats column"), ({"rows": "run", "columns": "model"}, "too many")])
def test_what_cannot_be_drawn_is_an_error(digits: pd.DataFrame, arguments: dict[str, str], says: str) -> None:
    with pytest.raises(ResultsError, match=says):
        plots.learning_curves(digits, **arguments)


def test_no_runs_is_an_error(digits: pd.DataFrame) -> None:
    with pytest.raises(ResultsError, match="no runs"):
        plots.learning_curves(digits.iloc[:0], "val/last/loss")


@pytest.mark.parametrize(("name", "text"), [
    ("val/av/accuracy", "val accuracy (averaged)"), ("train/time", "train time (s)"), ("step", "step"),
    ("train/seen_examples", "train seen examples"), ("a/b/c/d", "a/b/c/d")])
def test_labels(name: str, text: str) -> None:
    assert plots.label(name) == text
