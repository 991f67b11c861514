"""The best settings: intervals, ranks, and the runs that do not count, as text, in the report and as JSON."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

import experiments
from src.analysis.plotting import best_settings
from src.analysis.reading.results import read_experiments, read_results
from src.analysis.report import build_report
from tests.analysis.make_batch import make_batch, make_empty_batch, make_run
from tests.analysis.page.test_document import strings
from tests.analysis.page.test_write import read_document

STATS = "epoch,step,train/loss,val/last/accuracy\n1,9,1.0,{}\n"


@pytest.fixture
def batch(tmp_path: Path) -> str:
    """Three settings of three seeds: one is best, of one a run has not ended, of one two of three runs diverged."""
    path = make_empty_batch(tmp_path)
    values = {0.1: (0.6, 0.7, 0.8), 0.2: (0.6, 0.5, 0.4), 10.0: (0.99, 0.9, 0.9)}
    ends = {(0.2, 2): None, (10.0, 1): "diverged", (10.0, 2): "diverged"}
    runs = [(rate, seed, value) for rate, several in values.items() for seed, value in enumerate(several)]
    for index, (rate, seed, value) in enumerate(runs):
        make_run(path, index, {"base_lr": rate, "seed_model": seed}, stats=STATS.format(value),
                 end=ends.get((rate, seed), "completed"))
    return path


def test_settings_as_text(batch: str) -> None:
    found = best_settings.find(read_experiments(batch))
    texts = best_settings.to_text(found)
    # t = 4.303 for three runs, s = 0.1; t = 12.706 for two, s = 0.0707: half a width of 0.2484 and 0.6353
    assert texts.to_numpy().tolist() == [
        ["1=", "0.1", "0.700 ± 0.100", "0.452 to 0.948", "3", ""],
        ["1=", "0.2", "0.550 ± 0.071", "-0.085 to 1.185", "2", "1 of 3 not ended"],
        ["–", "10", "0.990", "–", "1", "2 of 3 diverged"]]
    assert list(texts)[2:4] == ["val accuracy (last): mean ± s", "95 % interval"]
    lines = best_settings.name_uncounted(found)
    names = read_experiments(batch)["run"].tolist()
    assert lines == [f"not counted, diverged (2 runs): {names[7]}, {names[8]}",
                     f"not counted, not ended (1 run): {names[5]}"]
    assert "no rank (–): as many runs diverged as count, or more" in found.note


def test_report_has_the_best_settings_if_there_are_seeds(batch: str, tmp_path: Path) -> None:
    [part] = read_document(build_report(read_results(batch)))["batches"]
    texts = strings(part["best"])
    assert "0.452 to 0.948" in texts
    assert any("2 of 3 diverged" in text for text in texts)
    single = make_batch(tmp_path, [{"base_lr": rate} for rate in (0.1, 0.2)], "26-11-21-single")
    [part] = read_document(build_report(read_results(single)))["batches"]
    assert part["best"] is None


def test_best_command(batch: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert experiments.main(["best", batch]) == 0
    printed = capsys.readouterr().out
    assert "0.452 to 0.948" in printed
    assert "3 of 3 settings; " in printed
    assert "not counted, diverged (2 runs)" in printed
    assert experiments.main(["best", batch, "--where", "base_lr > 1", "--json"]) == 0
    setting, = json.loads(capsys.readouterr().out)["settings"]
    assert (setting["rank"], setting["counted"], setting["low"], len(setting["runs"])) == (None, 1, None, 3)
