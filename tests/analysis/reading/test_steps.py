"""steps.csv of runs as a frame, and drawn."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from src.analysis.plotting import plots
from src.analysis.reading.results import read_results
from src.analysis.reading.steps import read_steps
from src.errors import ResultsError
from tests.analysis.make_batch import make_empty_batch, make_run

HEADER = "step,epoch,timestamp,loss,learning_rate,examples_per_second"
STATS = "epoch,step,val/last/accuracy\n1,100,0.5\n2,200,0.75\n"


@pytest.fixture
def batch(tmp_path: Path) -> str:
    """Three runs: two with steps, one of which logs a column of its own, and one without."""
    batch = make_empty_batch(tmp_path)
    for index, rate in enumerate((0.1, 0.2, 0.4)):
        make_run(batch, index, {"base_lr": rate, "log_steps": 50, "loss": "log"}, stats=STATS)
    for index, header in ((0, HEADER), (1, f"{HEADER},kl")):
        rows = [[step, 1 + step // 101, 1.8e9 + step, 1 / step + index, 0.1, 1000.0] + [index] * (",kl" in header)
                for step in (50, 100, 150, 200)]
        text = f"{header}\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows)
        (Path(batch) / sorted(name for name in os.listdir(batch) if name[0] == "0")[index] / "steps.csv").write_text(
            text + "250,3,1.8")
    return batch


def test_steps_are_a_tidy_frame(batch: str) -> None:
    results = read_results(batch)
    steps = results.steps
    assert list(steps) == ["run", "step", "epoch", "timestamp", "loss", "learning_rate", "examples_per_second", "kl"]
    assert steps["step"].tolist() == [50, 100, 150, 200] * 2 and steps["step"].dtype == "int64"
    assert steps["epoch"].tolist() == [1, 1, 2, 2] * 2
    by_run = steps.groupby("run", observed=False)["loss"].apply(list)
    names = results.config["run"].tolist()
    assert by_run[names[1]] == [1 / step + 1 for step in (50, 100, 150, 200)] and by_run[names[2]] == []
    assert steps["kl"].isna().tolist() == [True] * 4 + [False] * 4


def test_curves_by_step_are_drawn(batch: str) -> None:
    df = read_results(batch).big_df()
    figure = plots.learning_curves(df, by="step", legend="base_lr", log_y=True)
    axes, = figure.axes
    assert axes.get_xlabel() == "step" and "loss" in axes.get_ylabel()
    assert sorted(line.get_ydata()[0] for line in axes.lines) == [1 / 50, 1 / 50 + 1]
    assert axes.lines[0].get_xdata().tolist() == [50, 100, 150, 200]
    own, = plots.learning_curves(df, "kl", by="step").axes
    assert own.lines[0].get_ydata().tolist() == [1, 1, 1, 1]
    with pytest.raises(ResultsError, match="no stats column matches 'steps/much'.*allowed: steps/loss"):
        plots.learning_curves(df, "much", by="step")
    with pytest.raises(ResultsError, match="unknown axis 'time'"):
        plots.learning_curves(df, by="time")


def test_batch_without_steps_says_how_to_log_them(tmp_path: Path) -> None:
    batch = make_empty_batch(tmp_path)
    make_run(batch, 0, {}, stats=STATS)
    results = read_results(batch)
    assert results.steps.empty and list(results.steps) == ["run", "step", "epoch"]
    with pytest.raises(ResultsError, match="no run has logged steps.*log_steps: 50"):
        plots.learning_curves(results.big_df(), by="step")


def test_words_in_place_of_steps_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_text("step,epoch,loss\n1,a,0.5\n2,b,0.25\n")
    assert read_steps([str(tmp_path)], ["a run"])["epoch"].tolist() == ["a", "b"]
