from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.training.toys import parts, train


class _FakeRun:
    def __init__(self, module: _FakeWandb) -> None:
        self.module, self.summary = module, {}

    def log(self, row: dict[str, float], step: int) -> None:
        self.module.rows.append((step, row))
        if self.module.fails_at == step:
            raise ConnectionError("the network is down\nand more")

    def finish(self, exit_code: int) -> None:
        self.module.ended = (self.summary["end"], exit_code)


class _FakeWandb(types.ModuleType):
    """Stands for the package: remembers what it was told."""

    def __init__(self, has_key: bool = True, fails_at: int | None = None) -> None:
        super().__init__("wandb")
        self.has_key, self.fails_at = has_key, fails_at
        self.started: dict[str, Any] | None = None
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.ended: tuple[str | None, int] | None = None

    def setup(self) -> Any:
        return types.SimpleNamespace(settings=types.SimpleNamespace(mode=os.environ.get("WANDB_MODE", "online")))

    def login(self, prompt: bool = True) -> bool:
        assert not prompt, "a run must never ask for a key"
        return self.has_key

    def init(self, **options: Any) -> _FakeRun:
        self.started = options
        return _FakeRun(self)


def _track(monkeypatch: pytest.MonkeyPatch, folder: Path, wandb: Any, **options: Any) -> str:
    """Train with W&B on; the warnings in the log."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    rows, end = train(parts(wandb=True, wandb_project_name="p", wandb_tags=["t"], **options), str(folder))
    assert (len(rows), end) == (3, "completed")
    return "\n".join(line for line in (folder / "training.log").read_text().splitlines() if "WARNING" in line)


def test_a_tracked_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _FakeWandb()
    assert _track(monkeypatch, tmp_path, wandb, eval_at_end=["test"]) == ""
    assert wandb.started is not None
    assert (wandb.started["project"], wandb.started["tags"], wandb.started["name"]) == ("p", ["t"], tmp_path.name)
    assert wandb.started["config"]["base_lr"] == 0.1
    assert wandb.started["config"]["facts"]["classes"] == 3
    assert [step for step, _ in wandb.rows] == [4, 8, 12]
    assert "test/last/loss" not in wandb.rows[0][1]  # an empty cell
    assert "test/last/loss" in wandb.rows[2][1]
    assert wandb.ended == ("completed", 0)


def test_without_a_key_the_run_goes_on_untracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _FakeWandb(has_key=False)
    warnings = _track(monkeypatch, tmp_path, wandb)
    assert warnings.count("WARNING") == 1
    assert "WANDB_API_KEY" in warnings
    assert wandb.started is None


def test_offline_needs_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _FakeWandb(has_key=False)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(parts(wandb=True), str(tmp_path))
    assert len(wandb.rows) == 3


def test_without_the_package_the_run_goes_on_untracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings = _track(monkeypatch, tmp_path, None)  # None in sys.modules: import fails
    assert warnings.count("WARNING") == 1
    assert "WandbTracker is left out from here on" in warnings


def test_a_failure_on_the_way_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _FakeWandb(fails_at=8)
    warnings = _track(monkeypatch, tmp_path, wandb)
    assert warnings.count("WARNING") == 1
    assert warnings.endswith("ConnectionError: the network is down")
    assert [step for step, _ in wandb.rows] == [4, 8]


def test_a_run_that_is_broken_off_is_shown_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _FakeWandb()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", wandb)

    def check() -> None:
        if wandb.rows:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(parts(wandb=True), str(tmp_path), check)
    assert wandb.ended == (None, 1)
