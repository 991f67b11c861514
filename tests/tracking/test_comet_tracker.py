"""Comet: what it is told, and, where it is installed, the archive that it leaves."""
from __future__ import annotations

import contextlib
import json
import socket
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from src import run_folder
from src.tracking import mlflow_run, trackers
from tests.training.toys import make_toy, train_toy


class _FakeComet(types.ModuleType):
    """Stands for the package: remembers what it was told."""

    def __init__(self) -> None:
        super().__init__("comet_ml")
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.told: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "ExperimentConfig":
            return dict

        def make(**options: Any) -> Any:
            self.made.append((name, options))
            return types.SimpleNamespace(**{call: self._remember(call) for call in (
                "set_name", "log_parameters", "log_metrics", "log_other", "end", "add_tags")})

        return make

    def _remember(self, call: str) -> Any:
        return lambda *words, **options: self.told.append((call, words, options))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("COMET_API_KEY", raising=False)
    monkeypatch.setattr(trackers, "_SHORT_TIMEOUT", 60.0)  # a busy machine is no failure
    (tmp_path / "spec.yaml").write_text('base_lr: 0.1\nTAGS: ["adam", "small"]\n')
    return tmp_path


@pytest.mark.parametrize(("key", "archive", "kind"), [
    (None, None, "OfflineExperiment"), (None, "x.zip", "ExistingOfflineExperiment"), ("k" * 25, None, "start")])
def test_experiment_receives_config_metrics_and_end(
        folder: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, archive: str | None, kind: str) -> None:
    comet = _FakeComet()
    monkeypatch.setitem(sys.modules, "comet_ml", comet)
    if key:
        monkeypatch.setenv("COMET_API_KEY", key)
    if archive:
        (folder / "comet").mkdir()
        (folder / "comet" / archive).touch()
    train_toy(make_toy(comet=True, comet_project="p", log_steps=3), str(folder))
    assert "WARNING" not in (folder / "training.log").read_text()
    (made, options), = comet.made
    assert made == kind and options["project_name"] == "p"
    assert 2 * run_folder.identity(folder) in options.values()
    told = [(words[0], options) for call, words, options in comet.told if call == "log_metrics"]
    steps = [(cells["train/loss"], options["step"]) for cells, options in told if "train/loss" in cells]
    assert [(cells["steps/loss"], options) for cells, options in told if "steps/loss" in cells] == [
        (row["loss"], {"step": row["step"], "epoch": row["epoch"]}) for row in mlflow_run.read_rows(
            str(folder), "steps.csv")]
    header, *lines = [line.split(",") for line in (folder / "stats.csv").read_text().splitlines()]
    assert steps == [(float(line[header.index("train/loss")]), int(line[1])) for line in lines]
    assert [call for call, _, _ in comet.told][-2:] == ["log_other", "end"]
    params = next(words[0] for call, words, _ in comet.told if call == "log_parameters")
    assert ("add_tags", (["adam", "small"],), {}) in comet.told
    assert params["base_lr"] == 0.1 and params["facts/classes"] == 3


def test_offline_archives_are_complete_without_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comet itself: a run that is stopped and goes on leaves two archives of one experiment; nothing is connected."""
    monkeypatch.setenv("SOME_TOKEN", "a-planted-key-123")
    asked: list[Any] = []

    def connect(_: Any, address: Any) -> None:
        asked.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **_: connect(None, words))

    def stop() -> None:
        if (folder / "stats.csv").exists() and len((folder / "stats.csv").read_text().splitlines()) == 3:
            raise KeyboardInterrupt

    for check in (stop, lambda: None):
        with contextlib.suppress(KeyboardInterrupt):
            train_toy(make_toy(comet=True, comet_project="p", checkpoint_every="1epoch"), str(folder), check)
    assert asked == [] and "WARNING" not in (folder / "training.log").read_text()
    messages: list[dict[str, Any]] = []
    ends = []
    for path in sorted((folder / "comet").glob("*.zip"), key=lambda path: path.stat().st_mtime):
        archive = zipfile.ZipFile(path)
        assert json.loads(archive.read("experiment.json"))["offline_id"] == 2 * run_folder.identity(folder)
        messages += [json.loads(line)["payload"] for line in archive.read("messages.json").splitlines()]
        assert not [name for name in archive.namelist() if b"a-planted-key-123" in archive.read(name)]
        ends.append([item["value"] for item in messages if item.get("key") == "end"])
    assert ends[-1] == [None, "completed"]
    told = {item["metric"]["step"]: item["metric"]["metricValue"] for item in messages
            if item.get("metric", {}).get("metricName") == "train/loss"}
    header, *lines = [line.split(",") for line in (folder / "stats.csv").read_text().splitlines()]
    assert told == {int(line[1]): float(line[header.index("train/loss")]) for line in lines}
