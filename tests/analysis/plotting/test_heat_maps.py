"""Figures over several parameters: the values of cells, lines and bars, captions, and errors."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src import run_folder
from src.analysis.plotting import plots
from src.analysis.reading.results import read_experiments
from src.errors import ResultsError
from tests.analysis.figures import assert_nothing_is_cut_off, has_text, texts
from tests.analysis.make_batch import AXES, DIGITS, grid, make_batch


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """24 runs: the digits grid, two seeds each."""
    return read_experiments(make_batch(tmp_path_factory.mktemp("maps"), grid({**AXES, "seed_model": [1, 2]}, **DIGITS),
                                       epochs=3))


def cells(figure: plots.Figure, panel: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def test_cell_is_the_mean_of_its_runs(digits: pd.DataFrame) -> None:
    figure = plots.heat_map(digits, "base_lr", "model", "val/last/loss", columns="averaging", epoch="last")
    runs = digits[digits["averaging"].isna()]
    last = runs["val/last/loss"].map(lambda curve: curve.iloc[-1])
    means = last.groupby([runs["model"], runs["base_lr"]]).mean()
    assert cells(figure) == [f"{means[model, rate]:#.3g}" for model in ("linear", "tiny/lenet")
                             for rate in (0.01, 0.1, 1.0)]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0.01", "0.1", "1"]
    assert figure.axes[0].get_ylabel() == "model"
    assert has_text(figure, "mean of 2 runs that differ in seeds")
    assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize(("metric", "best"), [("val/last/accuracy", max), ("val/last/loss", min)])
def test_best_cell_is_framed_and_the_brightest(digits: pd.DataFrame, metric: str, best: object) -> None:
    figure = plots.heat_map(digits, "base_lr", "model", metric)
    (axes, _) = figure.axes
    (frame,) = axes.patches
    values = axes.collections[0].get_array()
    at = tuple(int(place) for place in (frame.get_y(), frame.get_x()))
    assert values[at] == best(values.ravel())  # type: ignore[operator]
    colors = axes.collections[0].to_rgba(values)[..., :3].sum(-1)
    assert colors[at] == colors.max()


def test_cells_without_runs_are_grey_and_diverged_ones_crossed(digits: pd.DataFrame) -> None:
    runs = digits[~((digits["model"] == "linear") & (digits["base_lr"] == 1.0))].copy()
    runs.loc[(runs["model"] == "linear") & (runs["base_lr"] == 0.1), "end"] = run_folder.DIVERGED
    figure = plots.heat_map(runs, "base_lr", "model", "val/last/loss", log=True)
    values = figure.axes[0].collections[0].get_array()
    assert values.mask.tolist() == [[False, True, True], [False, False, False]]
    (cross,) = figure.axes[0].lines
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (1.5, 0.5)
    assert has_text(figure, "4 diverged runs left out, a cross where no run counts")
    assert_nothing_is_cut_off(figure)


def test_cell_that_lost_runs_says_so_and_its_frame_is_dashed(digits: pd.DataFrame) -> None:
    runs = digits.copy()
    best = runs["model"].eq("tiny/lenet") & runs["base_lr"].eq(0.1)
    lost = runs[best].index[:3]
    runs.loc[lost[:2], "end"] = run_folder.DIVERGED
    runs.loc[lost[2], "end"] = None
    figure = plots.heat_map(runs, "base_lr", "model", "val/last/accuracy")
    assert any(text.endswith("\n1/4") for text in cells(figure))
    (frame,) = figure.axes[0].patches
    assert frame.get_linestyle() == ("--" if (frame.get_x(), frame.get_y()) == (1, 1) else "-")
    assert has_text(figure, "1 cell lost runs (n/N: runs that count of all)")
    assert has_text(figure, "2 diverged runs left out; 1 run not ended, left out")
    assert has_text(figure, "the best cell is framed, dashed if it lost runs")
    assert_nothing_is_cut_off(figure)
    runs.loc[runs["model"].ne("tiny/lenet") | runs["base_lr"].ne(0.1), "end"] = run_folder.DIVERGED
    (frame,) = plots.heat_map(runs, "base_lr", "model", "val/last/accuracy").axes[0].patches
    assert (frame.get_x(), frame.get_y(), frame.get_linestyle()) == (1, 1, "--")


def test_cell_of_mostly_diverged_runs_is_not_the_best(digits: pd.DataFrame) -> None:
    runs = digits.copy()
    figure = plots.heat_map(runs, "base_lr", "model", "val/last/accuracy")
    (frame,) = figure.axes[0].patches
    best = (frame.get_x(), frame.get_y())
    in_cell = runs["base_lr"].eq([0.01, 0.1, 1.0][best[0]]) & runs["model"].eq(["linear", "tiny/lenet"][best[1]])
    runs.loc[runs[in_cell].index[:2], "end"] = run_folder.DIVERGED  # of four
    figure = plots.heat_map(runs, "base_lr", "model", "val/last/accuracy")
    (frame,) = figure.axes[0].patches
    assert (frame.get_x(), frame.get_y()) != best
    assert has_text(figure, "never one of which as many runs diverged as count")


def test_lossy_settings_are_dashed_lines(digits: pd.DataFrame) -> None:
    runs = digits.copy()
    runs.loc[0, "end"] = run_folder.DIVERGED
    figure = plots.parallel_coordinates(runs, "val/last/accuracy")
    assert has_text(figure, "dashed: lost runs (1 of them)")
    assert len({str(style) for style in figure.axes[0].collections[0].get_linestyle()}) == 2


def test_importance_says_when_it_is_not_above_chance(digits: pd.DataFrame) -> None:
    noise = digits.copy()
    random = np.random.default_rng(0).normal(size=12).repeat(2)
    noise["val/last/accuracy"] = pd.Series([pd.Series([value], index=[1]) for value in random], index=noise.index,
                                           dtype=object)
    figure = plots.importance(noise, "val/last/accuracy")
    assert has_text(figure, "not above chance, so the bars do not show what matters")
    assert figure.axes[0].get_title() == "not above chance"
    assert_nothing_is_cut_off(figure)
    real = plots.importance(digits, "val/last/accuracy", epoch="last")
    assert has_text(real, "24 runs of 12 settings")


@pytest.mark.parametrize(("x", "message"), [
    ("batch_size", "batch_size has 1 value, and a heat map shows 2 to 30; allowed: model, base_lr, averaging"),
    ("number", "number has 200 values, .*plots.metric_against.df, 'number'. shows many"),
    ("modle", "did you mean 'model'")])
def test_heat_map_of_unsuitable_parameters_is_an_error(digits: pd.DataFrame, x: str, message: str) -> None:
    many = pd.concat([digits] * 9, ignore_index=True).iloc[:200].assign(number=range(200))
    with pytest.raises(ResultsError, match=message):
        plots.heat_map(many, x, "base_lr")


def test_lines_pass_through_the_values_of_their_setting(digits: pd.DataFrame) -> None:
    figure = plots.parallel_coordinates(digits, "val/last/accuracy", parameters=["base_lr", "model", "averaging"])
    (lines,) = figure.axes[0].collections
    segments = np.array(lines.get_segments())  # (settings, coordinates, 2)
    assert segments.shape == (12, 4, 2)
    best = segments[-1]
    assert best[-1, 1] == 1.0
    assert set(np.round(segments[:, 0, 1] * 2) / 2) == {0.0, 0.5, 1.0}, "a logarithmic axis"
    assert {"base_lr", "model", "averaging", "val accuracy\n(last)", "none", "poly_8"} <= set(texts(figure))
    assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize(("parameters", "message"), [
    (["model", "batch_size"], "batch_size has a single value in 24 runs.*allowed: model, base_lr, averaging"),
    (["model"], "needs 2 parameters that vary, seeds apart; 24 runs have model"),
    (["model", "base_lr"] * 6, "12 parameters are too many")])
def test_parallel_coordinates_of_unsuitable_parameters_is_an_error(digits: pd.DataFrame, parameters: list[str],
                                                                   message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        plots.parallel_coordinates(digits, parameters=parameters)


def test_bars_are_importances_and_diverged_runs_the_worst(digits: pd.DataFrame) -> None:
    runs = digits.copy()
    runs.loc[runs["base_lr"] == 1.0, "end"] = run_folder.DIVERGED
    figure = plots.importance(runs)
    assert figure.axes[0].get_yticklabels()[0].get_text() == "base_lr"
    assert has_text(figure, "8 diverged runs taken as the worst")
    assert_nothing_is_cut_off(figure)


@pytest.fixture
def with_arrays(tmp_path: Path) -> pd.DataFrame:
    """Two runs with a confusion matrix of three classes, and one that has none."""
    models = ["linear", "tiny/lenet", "tiny/resnet_20"]
    df = read_experiments(make_batch(tmp_path, grid({"model": models}, **DIGITS), epochs=2))
    for number, folder in enumerate(df["folder"].iloc[:2]):
        path = Path(folder) / run_folder.arrays_name(2)
        path.parent.mkdir()
        np.savez(path, **{"val/last/confusion_matrix": np.array([[8, 2, 0], [0, 5, 5], [0, 0, 10 * number]])})
    return df


def test_confusion_is_added_up_and_in_percent(with_arrays: pd.DataFrame) -> None:
    figure = plots.confusion(with_arrays, classes=["cat", "dog", "a very long name of a class"])
    assert cells(figure) == ["80", "20", "50", "50", "100", "80.0", "50.0", "100.0"]
    assert "val (last), 2 runs" in texts(figure)
    assert_nothing_is_cut_off(figure)
    apart = plots.confusion(with_arrays.iloc[:2], columns="model")
    assert cells(apart, 0)[-1] == "0.0", "a class that is not there is found never, without a division by zero"
    assert_nothing_is_cut_off(apart)


def test_confusion_of_a_hundred_classes(with_arrays: pd.DataFrame) -> None:
    path = Path(with_arrays["folder"].iloc[0]) / run_folder.arrays_name(3)
    np.savez(path, **{"val/last/confusion_matrix": np.eye(100, dtype=int)})
    assert_nothing_is_cut_off(plots.confusion(with_arrays.iloc[:1], classes=[f"class number {i}" for i in range(100)]))
    with pytest.raises(ResultsError, match="different sizes"):
        plots.confusion(with_arrays.iloc[:2])


@pytest.mark.parametrize(("arguments", "message"), [
    ({"name": "test/last/confusion_matrix"}, "unknown array 'test/last/confusion_matrix'; allowed: val/last"),
    ({"epoch": 7}, "no arrays of epoch 7"), ({"classes": ["a"]}, "1 names for 3 classes"),
    ({"columns": "model"}, "this run has no arrays; set metrics")])
def test_missing_confusion_matrix_is_an_error(with_arrays: pd.DataFrame, arguments: dict[str, object],
                                              message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        plots.confusion(with_arrays, **arguments)
