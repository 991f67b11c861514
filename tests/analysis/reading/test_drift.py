"""Changed defaults are found, reported once per batch, and never for parameters that a spec sets."""
from __future__ import annotations

import logging
from pathlib import Path

import pytest

from src import config
from src.analysis.reading.drift import Drift
from src.analysis.reading.results import read_experiments, read_results
from src.analysis.report import write_report
from src.config import Config, defaults_version
from src.io import yaml_io
from tests.analysis.make_batch import curves, make_empty_batch, make_run
from tests.analysis.test_report import text_of


def add_run(batch: str, index: int, spec: dict[str, object], version: str | None, **defaults: object) -> str:
    """A run that was made where some defaults were others. version: None: before config.yaml carried one."""
    facts = {} if version is None else {"facts": {"defaults": version}}
    made = {**Config.from_dict(spec).to_dict(), **defaults, **spec, "seed_model": index, **facts}
    return make_run(batch, index, spec, stats=curves(spec, 2), config=yaml_io.dump_flat(made))


def test_changed_default_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, new = make_empty_batch(tmp_path, "26-01-01-old"), make_empty_batch(tmp_path, "26-02-01-new")
    for index in range(3):
        add_run(old, index, {"batch_size": 8 * 2**index}, "before", base_lr=0.5, averaging="poly_8", batch_size=7)
        add_run(new, index, {"batch_size": 8 * 2**index}, defaults_version())
    with caplog.at_level(logging.WARNING):
        results = read_results([old, new])
    assert results.drift == [Drift("base_lr", 0.5, 1.0, "26-01-01-old", 3),
                             Drift("averaging", "poly_8", None, "26-01-01-old", 3)]
    assert "the default of base_lr was 0.5 for 3 runs of 26-01-01-old, and is 1.0 now" in caplog.text
    page = text_of(write_report([old, new]))
    assert "was 'poly_8' for 3 runs" in page
    assert read_results(new).drift == []


def test_batch_with_two_defaults_is_reported_twice(tmp_path: Path) -> None:
    batch = make_empty_batch(tmp_path)
    for index, (version, rate) in enumerate([("first", 0.5), ("second", 0.25), (None, 0.125), (None, 1.0)]):
        add_run(batch, index, {}, version, base_lr=rate)
    assert [(one.parameter, one.then, one.runs) for one in read_results(batch).drift] == [
        ("base_lr", 0.5, 1), ("base_lr", 0.25, 1), ("base_lr", 0.125, 2)]


@pytest.mark.parametrize("version", ["before", None])
def test_equal_or_explicit_values_are_no_drift(tmp_path: Path, version: str | None) -> None:
    batch = make_empty_batch(tmp_path)
    add_run(batch, 0, {"base_lr": 0.5, "batch_size": 8}, version)  # said in the spec
    make_run(batch, 1, {}, config="base_lr: 1.0\nmomentum: 0.9\ngone: 3\n")  # parameters that came or went since
    make_run(batch, 2, {"base_lr": 0.5}, config=None)  # a foreign program
    lost = add_run(batch, 3, {"base_lr": 0.5}, version)
    Path(lost, "spec.yaml").write_text("")
    assert read_results(batch).drift == []


def test_version_covers_all_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    now = defaults_version()
    monkeypatch.setattr(config, "DEFAULTS", {**config.DEFAULTS, "base_lr": 0.5})
    defaults_version.cache_clear()
    assert defaults_version() != now
    monkeypatch.undo()
    defaults_version.cache_clear()
    assert defaults_version() == now


def test_older_runs_have_the_default_of_a_newer_parameter(tmp_path: Path) -> None:
    batch = make_empty_batch(tmp_path)
    make_run(batch, 0, {}, config="base_lr: 0.5\nold_option: x\n")
    make_run(batch, 1, {}, config="base_lr: 0.5\nprecision: bf16\ndata_splits_map: {train: train}\n")
    make_run(batch, 2, {"base_lr": 3}, config=None)  # a foreign program has no parameters of ours
    df = read_experiments(batch)
    assert df["precision"].tolist() == ["float32", "bf16", None]
    assert df["data_splits_map"].tolist() == [Config().data_splits_map, {"train": "train"}, None]
    assert df["old_option"].tolist() == ["x", None, None]
    assert df["batch_size"].tolist()[:2] == [Config().batch_size] * 2
    df["data_splits_map"][0]["more"] = "test"
    assert "more" not in Config().data_splits_map
