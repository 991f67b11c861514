"""Figures: the values of lines, captions, and that nothing is cut off, for many kinds of grids."""
from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from src import run_folder
from src.analysis.plotting import figure_layout, plots
from src.analysis.reading.results import read_experiments
from src.analysis.tables import tables
from src.errors import ResultsError
from tests.analysis.figures import assert_nothing_is_cut_off, has_text, texts
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


def of_lengths(curves: list[list[float]], ends: list[str | None] | None = None,
               **columns: list[object]) -> pd.DataFrame:
    """big_df of repeats with these accuracies."""
    count = len(curves)
    df = pd.DataFrame({"run": [f"r{i}" for i in range(count)], "batch": "b", "index": range(count),
                       "end": ends or ["completed"] * count, "folder": "", "seed_model": range(count), **columns})
    df["val/last/accuracy"] = pd.Series([pd.Series(curve, index=range(1, len(curve) + 1), dtype=float)
                                         for curve in curves], dtype=object)
    return df


def test_mean_does_not_jump_where_a_run_ends() -> None:
    figure = plots.learning_curves(of_lengths([[0.5, 0.6, 0.65], [0.7, 0.9], [0.6, 0.75, 0.65]]))
    mean, *thin = figure.axes[0].lines
    assert mean.get_xdata().tolist() == [1, 2], "over the epochs that all of them have"
    assert mean.get_ydata().tolist() == pytest.approx([0.6, 0.75])
    assert [line.get_xdata().tolist() for line in thin] == [[2, 3], [2, 3]], "then each run for itself"
    assert all(line.get_linewidth() < mean.get_linewidth() for line in thin)
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 0].max() == 2, "no band where runs are missing"
    assert has_text(figure, "1 mean line ends with the first run, the others continue as thin lines; mean of 3 runs")


def test_best_so_far_of_a_run_that_ended_goes_on() -> None:
    figure = plots.learning_curves(of_lengths([[0.5, 0.6, 0.65], [0.7, 0.9]]), best_so_far=True)
    (mean,) = figure.axes[0].lines
    assert mean.get_ydata().tolist() == pytest.approx([0.6, 0.75, 0.775])


def test_caption_counts_what_is_drawn() -> None:
    lengths = [[0.5, 0.6], [0.7, 0.9], [], [np.nan, np.nan], [0.4], [0.3, 0.3]]
    ends = ["completed", "completed", "completed", "completed", None, "diverged"]
    figure = plots.learning_curves(of_lengths(lengths, ends))
    assert has_text(figure, "2 runs without a value; mean of 2 runs that differ in seeds")
    assert has_text(figure, "1 diverged run left out; 1 run not ended, drawn thin")
    alone = plots.learning_curves(of_lengths([[0.5, 0.6], [0.7, 0.9], [0.1, 0.2]], base_lr=[1.0, 1.0, 2.0]),
                                  legend="base_lr")
    assert len(alone.axes[0].collections) == 1, "a single run has no band"
    assert has_text(alone, "Mean of 1 to 2 runs that differ in seeds; band: standard error, none for single runs")


def test_while_no_run_has_ended_all_count() -> None:
    figure = plots.learning_curves(of_lengths([[0.5, 0.6], [0.7]], [None, None]))
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.6]
    assert has_text(figure, "no run has ended: preliminary values")


def test_front_of_costs_marks_settings_that_lost_runs(digits: pd.DataFrame) -> None:
    runs = digits[digits["averaging"].isna()].copy()
    best = runs[runs["model"].eq("tiny/lenet") & runs["base_lr"].eq(0.1)].index
    runs.loc[best[:2], "end"] = run_folder.DIVERGED
    runs["facts/parameters"] = 10.0
    runs.loc[best[:2], "facts/parameters"] = 1e9  # the cost of a run that does not count
    figure = plots.pareto(runs, "facts/parameters", "val/last/accuracy", log_x=False)
    costs = np.concatenate([line.get_xdata() for line in figure.axes[0].lines if line.get_marker() == "o"])
    assert set(costs.tolist()) == {10.0}
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    assert sum(len(line.get_xdata()) for line in hollow) == 2, "this one, and the one that has a diverged run anyway"
    assert has_text(figure, "hollow: lost runs (2 of them); 3 diverged runs left out; 1 run not ended, left out")


def test_setting_of_mostly_diverged_runs_is_not_on_the_front(digits: pd.DataFrame) -> None:
    runs = digits[digits["averaging"].isna()].copy()
    runs["facts/parameters"] = 10.0
    best = tables.ranking(runs, "val/last/accuracy")["members"][0]
    runs.loc[best[:1], "end"] = run_folder.DIVERGED
    figure = plots.pareto(runs, "facts/parameters", "val/last/accuracy")
    table = tables.ranking(runs, "val/last/accuracy")
    (front,) = [line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post"]
    assert front.get_ydata().tolist() == [table["value"][0]]
    assert has_text(figure, "not on the front: settings of which as many runs diverged as count")


def test_averaging_has_no_advantage_by_chance() -> None:
    # averaged and last weights are equally good: settings with both must not win more often than half
    random, wins = np.random.default_rng(0), 0
    for _ in range(200):
        last, averaged = random.normal(0.9, 0.01, size=(2, 2))
        df = of_lengths([[last[0]], [last[1]]], averaging=[None, "poly_8"])
        df["val/av/accuracy"] = pd.Series([pd.Series([np.nan], index=[1]), pd.Series([averaged[1]], index=[1])],
                                          dtype=object)
        wins += tables.ranking(df)["averaging"].iloc[0] == "poly_8"
    assert 80 <= wins <= 120, "within 3 standard deviations of 100; the better of both would win 133"


def test_range_is_least_and_most(digits: pd.DataFrame) -> None:
    runs = digits[(digits["model"] == "linear") & (digits["base_lr"] == 1.0)]
    figure = plots.learning_curves(runs, "train/loss", spread="range")
    corners = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    table = np.array([cell.to_numpy() for cell in runs["train/loss"]])
    assert (corners.min(), corners.max()) == (table.min(), table.max())


@pytest.mark.parametrize("values", [[0.0, 0.5, 0.9, 0.95, 0.99], [0.1, 0.5, 0.9], [1e-4, 2e-4, 0.5, 0.51]])
def test_numbers_on_an_axis_do_not_touch(tmp_path: Path, values: list[float]) -> None:
    specs = grid({"momentum": values, "model": ["linear", "tiny/lenet"]}, **DIGITS)
    figure = plots.metric_against(read_experiments(make_batch(tmp_path, specs, epochs=2)), "momentum", columns="model")
    figure.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in figure.axes[0].get_xticklabels() if tick.get_text()]
    assert len(boxes) >= 2
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))


def test_panels_and_legend_are_the_values(digits: pd.DataFrame) -> None:
    figure = plots.learning_curves(digits, "val/last/loss", rows="averaging", columns="model", legend="base_lr")
    assert len(figure.axes) == 4
    assert figure.axes[1].get_title() == "averaging = none\nmodel = tiny/lenet"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0.01", "0.1", "1"]
    assert legend.get_title().get_text() == "base_lr"
    assert [len(axes.lines) for axes in figure.axes] == [4, 3, 3, 3], "an unfinished run has its own line"
    assert has_text(figure, "1 diverged run left out; 1 run not ended, drawn thin")
    assert_nothing_is_cut_off(figure)


def test_last_and_averaged_have_line_styles(digits: pd.DataFrame) -> None:
    figure = plots.learning_curves(digits, legend="model")
    assert {line.get_linestyle() for line in figure.axes[0].lines} == {"-", "--"}
    assert "val accuracy (averaged)" in texts(figure)
    plain = plots.learning_curves(digits[digits["averaging"].isna()], legend="model")
    assert "val accuracy (averaged)" not in texts(plain)


def test_metric_against_a_number(digits: pd.DataFrame) -> None:
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


def test_metric_against_strings_and_missing_values(digits: pd.DataFrame) -> None:
    figure = plots.metric_against(digits, "averaging", legend="model", columns="base_lr", spread="range")
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["none", "poly_8"]
    assert_nothing_is_cut_off(figure)


def test_categories_are_strips_with_means(digits: pd.DataFrame) -> None:
    runs = digits[digits["end"] == run_folder.COMPLETED]
    figure = plots.metric_against(runs, "model", "val/last/accuracy", legend="averaging")
    axes = figure.axes[0]
    last, averaged = (line.get_xdata() for line in axes.lines)
    for dots in (last, averaged):
        assert len(np.unique(dots)) == len(dots), "dots of a strip do not lie on a line"
    assert max(last[last < 0.5]) < min(averaged[averaged < 0.5]), "strips of a category lie beside each other"
    bars = [segment for collection in axes.collections for segment in collection.get_segments()
            if segment[0][1] == segment[1][1]]
    scores = tables.scores(runs, ["val/last/accuracy"], "best")
    means = scores.groupby([runs["averaging"].map(str), runs["model"]]).mean()
    np.testing.assert_allclose(sorted(bar[0][1] for bar in bars), sorted(means))
    assert all(bar[1][0] - bar[0][0] > 0.2 for bar in bars)


def test_more_than_eight_numbers_have_a_color_bar(tmp_path: Path) -> None:
    rates = [2.0**power for power in range(-9, 1)]
    specs = grid({"model": ["linear", "tiny/lenet"], "base_lr": rates}, **DIGITS)
    df = read_experiments(make_batch(tmp_path, specs, epochs=2))
    for figure in (plots.learning_curves(df, "val/last/loss", columns="model", legend="base_lr"),
                   plots.metric_against(df, "model", legend="base_lr")):
        assert not figure.legends
        (bar,) = (axes for axes in figure.axes if axes.get_label() == "<colorbar>")
        assert bar.get_ylabel() == "base_lr"
        assert [text.get_text() for text in bar.get_yticklabels()] == [f"{rate:.8g}" for rate in rates]
        assert_nothing_is_cut_off(figure)
    few = plots.learning_curves(df[df["base_lr"] > 2.0**-8], "val/last/loss", legend="base_lr")
    assert few.legends and len(few.axes) == 1


def test_curves_of_two_kinds_of_weights_say_which_counts(digits: pd.DataFrame) -> None:
    assert has_text(plots.learning_curves(digits), "averaged weights where a run has them, else the last")
    assert not has_text(plots.learning_curves(digits, "val/last/loss"), "averaged weights where")


def test_zero_is_shown_beside_a_logarithmic_axis(tmp_path: Path) -> None:
    df = read_experiments(make_batch(tmp_path, grid({"weight_decay": [0.0, 1e-4, 1e-2]}, **DIGITS)))
    figure = plots.metric_against(df, "weight_decay")
    assert figure.axes[0].get_xscale() == "symlog"
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "0.0001", "0.01"]


def test_single_run_with_one_epoch_is_a_dot(digits: pd.DataFrame) -> None:
    run = digits.iloc[[5]].copy()
    run["val/last/loss"] = pd.Series([run["val/last/loss"].iloc[0].iloc[:1]], index=run.index, dtype=object)
    for figure in (plots.learning_curves(run, "val/last/loss", log_x=True, log_y=True),
                   plots.metric_against(run, "base_lr", "val/last/loss")):
        assert_nothing_is_cut_off(figure)


def test_hundreds_of_runs_are_drawn(digits: pd.DataFrame) -> None:
    many = pd.concat([digits] * 12, ignore_index=True)
    many["run"] = [f"{index:04d}_a_rather_long_name_of_a_run+bas={index}" for index in range(len(many))]
    many["base_lr"] = np.geomspace(1e-4, 10, len(many))
    for figure in (plots.learning_curves(many, legend="run", columns="model"),
                   plots.metric_against(many, "base_lr", legend="averaging")):
        assert len(figure.legends[0].get_texts()) <= 14
        assert_nothing_is_cut_off(figure)


def test_long_names_and_formulas_fit(digits: pd.DataFrame) -> None:
    odd = digits.copy()
    odd["model"] = ["$x^{", "a" * 300, "<b>&\n"] * 12
    for figure in (plots.learning_curves(odd, columns="model", legend="model"),
                   plots.metric_against(odd, "model", legend="model", rows="averaging")):
        assert any("$x^{" in text for text in texts(figure))
        assert_nothing_is_cut_off(figure)


def test_only_diverged_runs_give_an_empty_figure(digits: pd.DataFrame) -> None:
    gone = digits[digits["end"] == run_folder.DIVERGED]
    assert len(plots.learning_curves(gone).axes[0].lines) == 0
    assert len(plots.metric_against(gone, "base_lr").axes[0].lines) == 2


@pytest.mark.parametrize(("arguments", "message"), [
    ({"columns": "modle"}, "did you mean 'model'"), ({"spread": "std"}, "95% confidence, standard deviation, range"),
    ({"metric": "nothing"}, "no stats column"), ({"rows": "run", "columns": "model"}, "too many")])
def test_undrawable_column_is_an_error(digits: pd.DataFrame, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        plots.learning_curves(digits, **arguments)


def test_no_runs_is_an_error(digits: pd.DataFrame) -> None:
    with pytest.raises(ResultsError, match="no runs"):
        plots.learning_curves(digits.iloc[:0], "val/last/loss")


@pytest.mark.parametrize(("name", "text"), [
    ("val/av/accuracy", "val accuracy (averaged)"), ("train/time", "train time (s)"), ("step", "step"),
    ("train/seen_examples", "train seen examples"), ("a/b/c/d", "a/b/c/d")])
def test_column_labels(name: str, text: str) -> None:
    assert plots.column_label(name) == text


def test_confidence_is_students(digits: pd.DataFrame) -> None:
    table = pd.DataFrame([[0.9, 0.92, 0.97], [0.5, np.nan, np.nan]])
    low, high = figure_layout.spread_bounds(table, "95% confidence")
    half = 4.302653 * np.std([0.9, 0.92, 0.97], ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom, from a table
    assert (low[0], high[0]) == pytest.approx((0.93 - half, 0.93 + half))
    assert np.isnan([low[1], high[1]]).all(), "a single value has no spread"


def test_best_so_far_never_gets_worse_and_stays(digits: pd.DataFrame) -> None:
    runs = digits[digits["model"] == "linear"].iloc[[5, 6]].copy()
    curves = [pd.Series([0.1, 0.5, 0.3], index=[1, 2, 3]), pd.Series([0.2, np.nan], index=[1, 2])]
    runs["val/last/accuracy"] = pd.Series(curves, index=runs.index, dtype=object)
    (line,) = plots.learning_curves(runs, "val/last/accuracy", best_so_far=True).axes[0].lines
    assert line.get_ydata().tolist() == pytest.approx([0.15, 0.35, 0.35])
    runs["val/last/loss"] = runs["val/last/accuracy"]
    (line,) = plots.learning_curves(runs, "val/last/loss", best_so_far=True).axes[0].lines
    assert line.get_ydata().tolist() == pytest.approx([0.15, 0.15, 0.15])


def test_styles_are_a_parameter(digits: pd.DataFrame) -> None:
    figure = plots.learning_curves(digits, "val/last/loss", columns="base_lr", legend="model", style="averaging")
    assert [line.get_linestyle() for line in figure.axes[1].lines] == ["-", "--", "-", "--"]
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == ["linear", "tiny/lenet", "averaging", "none", "poly_8"]
    assert_nothing_is_cut_off(figure)


def test_averaged_against_last(digits: pd.DataFrame) -> None:
    figure = plots.averaged_against_last(digits, columns="model", legend="base_lr")
    dots = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "o"]
    x, y = (np.concatenate([getattr(line, f"get_{side}data")() for line in dots]) for side in "xy")
    runs = digits[(digits["averaging"] == "poly_8") & (digits["end"] != run_folder.DIVERGED)]
    assert sorted(x) == sorted(runs["val/last/accuracy"].map(max))
    assert sorted(y) == sorted(runs["val/av/accuracy"].map(max))
    gain = runs["val/av/accuracy"].map(max) - runs["val/last/accuracy"].map(max)
    assert has_text(figure, f"by {gain.mean():.2g} ±") and has_text(figure, f"in {(gain > 0).sum()} of 18 runs")
    assert_nothing_is_cut_off(figure)
    losses = plots.averaged_against_last(digits, "val/.*/loss", log=True)
    assert any("below the diagonal averaging is better" in text for text in texts(losses))


def test_front_is_what_none_beats_in_both(digits: pd.DataFrame) -> None:
    runs = digits.iloc[12:36:3].copy()  # eight settings
    costs, values = [1, 2, 3, 4, 5, 6, 7, 8], [0.2, 0.1, 0.5, 0.5, 0.4, 0.9, 0.8, 0.3]
    runs["facts/parameters"] = costs
    runs["val/last/accuracy"] = pd.Series([pd.Series([v], index=[1]) for v in values], index=runs.index, dtype=object)
    figure = plots.pareto(runs, "facts/parameters", "val/last/accuracy", legend="model")
    front = next(line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post")
    assert (front.get_xdata().tolist(), front.get_ydata().tolist()) == ([1, 3, 6], [0.2, 0.5, 0.9])
    assert "front: model, base_lr," in texts(figure)[-4]
    assert_nothing_is_cut_off(figure)


def test_costs_have_labels_and_units(digits: pd.DataFrame) -> None:
    seconds = plots.pareto(digits, legend="averaging")
    assert seconds.axes[0].get_xlabel() == "training (s)"
    runs = digits.copy()
    runs["system/memory"] = pd.Series([pd.Series([2.0**29, 2.0**30], index=[1, 2])] * len(runs), index=runs.index)
    memory = plots.pareto(runs, "memory")
    assert memory.axes[0].get_xlabel() == "memory at most (GiB)"
    assert set(memory.axes[0].lines[0].get_xdata()) == {1.0}
    for figure in (seconds, memory):
        assert_nothing_is_cut_off(figure)


def test_saved_as_png_and_pdf_the_same_each_time(digits: pd.DataFrame, tmp_path: Path) -> None:
    figure = plots.learning_curves(digits.iloc[[5]], "val/last/loss")
    assert plots.save(figure, tmp_path / "v1.2") == [f"{tmp_path}/v1.2.png", f"{tmp_path}/v1.2.pdf"]
    pdf = (tmp_path / "v1.2.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Type0" in pdf, "fonts as text: Type 3 is refused by some journals"
    assert (tmp_path / "v1.2.png").read_bytes().startswith(b"\x89PNG")
    plots.save(plots.learning_curves(digits.iloc[[5]], "val/last/loss"), tmp_path / "v1.2.pdf")
    assert (tmp_path / "v1.2.pdf").read_bytes() == pdf


PICTURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "overview": plots.overview, "learning_curves": plots.learning_curves, "ranking": plots.ranking,
    "metric_against": lambda df: plots.metric_against(df, "base_lr"),
    "heat_map": lambda df: plots.heat_map(df, "base_lr", "model"),
    "parallel_coordinates": plots.parallel_coordinates, "importance": plots.importance,
    "averaged_against_last": plots.averaged_against_last, "pareto": plots.pareto, "confusion": plots.confusion,
}
each_picture = pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)


def drawn_or_told(draw: Callable[[pd.DataFrame], Figure], df: pd.DataFrame) -> None:
    """A picture without a flaw, or a sentence of one line."""
    try:
        figure = draw(df)
    except ResultsError as error:
        sentence = str(error)
    else:
        assert_nothing_is_cut_off(figure)
        sentence = "there is a picture, which needs no words"
    assert "\n" not in sentence and len(sentence) > 30


def test_every_figure_function_is_tested() -> None:
    assert set(PICTURES) == {name for name in plots.__all__ if getattr(
        getattr(plots, name), "__annotations__", {}).get("return") == "Figure"}


@each_picture
def test_awkward_runs_give_a_figure_or_an_error(draw: Callable[[pd.DataFrame], Figure], digits: pd.DataFrame) -> None:
    no_numbers = digits.copy()
    for name in ("val/last/accuracy", "val/av/accuracy"):
        no_numbers[name] = pd.Series([cell * np.nan for cell in digits[name]], index=digits.index, dtype=object)
    mixed = digits.iloc[::3].copy()
    mixed["base_lr"] = pd.Series([0.1, "auto", None, [1, 2]] * 3, index=mixed.index, dtype=object)
    for df in (digits.iloc[[5]], digits[digits["end"] == run_folder.DIVERGED], digits.iloc[::3], mixed,
               digits.drop(columns=["averaging"])):
        drawn_or_told(draw, df)
    if draw is not plots.confusion:
        with pytest.raises(ResultsError, match="not a number in any of 36 runs; allowed: train/loss"):
            draw(no_numbers)
    with pytest.raises(ResultsError, match="there are no runs"):
        draw(digits.iloc[:0])


@each_picture
def test_two_hundred_values_give_a_figure_or_an_error(draw: Callable[[pd.DataFrame], Figure],
                                                      digits: pd.DataFrame) -> None:
    many = pd.concat([digits] * 6, ignore_index=True).iloc[:200]
    many["run"] = [str(number) for number in range(200)]
    many["base_lr"] = np.geomspace(1e-4, 10, 200)
    drawn_or_told(draw, many)


@pytest.mark.parametrize(("draw", "message"), [
    (lambda df: plots.metric_against(df.assign(word=[f"w{i}" for i in range(36)]), "word"), "36 values .* too many"),
    (lambda df: plots.learning_curves(df, style="base_lr"), "so one column can be drawn; allowed: val/last/accuracy"),
    (lambda df: plots.learning_curves(df, "val/last/loss", style="run"), "too many for line styles; allowed: 4"),
    (lambda df: plots.averaged_against_last(df[df["averaging"].isna()]), "`averaging: poly_8` in the job spec"),
    (lambda df: plots.pareto(df, "memory"), "no run has measured system/memory; `system_metrics: 5`"),
    (lambda df: plots.pareto(df, "model"), "model is a number in no run; allowed: time, memory"),
    (lambda df: plots.pareto(df, "tiem"), "unknown cost 'tiem'; allowed: time, memory, .*; did you mean 'time'"),
    (lambda df: plots.pareto(df, legend="modle"), "did you mean 'model'"),
])
def test_errors_name_what_is_missing(draw: Callable[[pd.DataFrame], Figure], message: str,
                                     digits: pd.DataFrame) -> None:
    with pytest.raises(ResultsError, match=message):
        draw(digits)


def test_bands_on_a_logarithmic_axis_stay_above_zero(digits: pd.DataFrame) -> None:
    low, high = figure_layout.spread_bounds(pd.DataFrame([[0.1, 0.1, 5.0]]), "95% confidence", log=True)
    assert low[0] == 0.1
    assert high[0] == figure_layout.spread_bounds(pd.DataFrame([[0.1, 0.1, 5.0]]), "95% confidence")[1][0]
    figure = plots.metric_against(digits, "base_lr", "val/last/loss", spread="95% confidence", log_y=True)
    assert has_text(figure, "bars (cut at the lowest run): 95% confidence")


def test_dots_of_a_front_that_are_close_share_a_label(digits: pd.DataFrame) -> None:
    runs = digits.iloc[12:36:3].copy()
    runs["facts/parameters"] = [1, 50, 50.01, 50.02, 99, 99, 99, 99]
    values = [0.1, 0.5, 0.5001, 0.5002, 0.9, 0.2, 0.2, 0.2]
    runs["val/last/accuracy"] = pd.Series([pd.Series([v], index=[1]) for v in values], index=runs.index, dtype=object)
    figure = plots.pareto(runs, "facts/parameters", "val/last/accuracy", log_x=False)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2–4", "5"]
