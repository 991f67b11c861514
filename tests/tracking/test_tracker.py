from __future__ import annotations

import csv
import os
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from src.config import Config
from src.tracking import trackers
from src.tracking.tracker import Tracker
from src.tracking.wandb_tracker import WandbTracker
from tests.training.toys import make_toy, train_toy


class _FakeRun:
    def __init__(self, module: _FakeWandb) -> None:
        self.module, self.summary = module, {}  # as W&B's, a mapping with `update`
        self.starting_step = module.starting_step

    def log(self, row: dict[str, float], step: int) -> None:
        self.module.rows.append((step, row))
        if self.module.fails_at == step:
            raise ConnectionError("the network is down\nand more")

    def finish(self, exit_code: int) -> None:
        self.module.ended = (self.summary["end"], exit_code)


class _FakeWandb(types.ModuleType):
    """Stands for the package: remembers what it was told."""

    Settings = dict

    def __init__(self, has_key: bool = True, fails_at: int | None = None) -> None:
        super().__init__("wandb")
        self.has_key, self.fails_at, self.starting_step = has_key, fails_at, 0
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
    rows, end = train_toy(make_toy(wandb=True, wandb_project_name="p", wandb_tags=["t"], **options), str(folder))
    assert (len(rows), end) == (3, "completed")
    return "\n".join(line for line in (folder / "training.log").read_text().splitlines() if "WARNING" in line)


def test_tracked_run_receives_config_rows_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert wandb.started["id"] and wandb.started["resume"] == "allow"


def test_resumed_run_sends_no_epoch_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B has the epochs up to step 8, the run goes on from step 5, in its second epoch."""
    wandb = _FakeWandb()
    wandb.starting_step = 9
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tmp_path / "stats.csv").write_text("epoch,step,val/last/loss\n1,4,0.25\n")
    shown = WandbTracker()
    shown.start(Config(), {"resumed_at_step": 5}, str(tmp_path))
    for step, loss in ((8, 0.5), (12, 0.75)):
        shown.log({"epoch": step / 4, "step": step, "val/last/loss": loss}, step)
    shown.finish("completed")
    assert [step for step, _ in wandb.rows] == [12]
    assert shown._run.summary["best/val/last/loss"] == 0.25


def test_wandb_gets_one_row_for_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of an epoch joins that of its last step, also if the run was interrupted between them."""
    wandb = _FakeWandb()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tmp_path / "stats.csv").write_text("epoch,step,val/last/loss\n")
    (tmp_path / "steps.csv").write_text("step,epoch,timestamp,loss\n2,1,5.0,0.5\n4,1,6.0,0.25\n6,2,6.0,0.25\n")
    rows = [{"step": step, "epoch": 1, "timestamp": 5.0, "loss": loss} for step, loss in ((2, 0.5), (4, 0.25))]
    first = WandbTracker()
    first.start(Config(), {}, str(tmp_path))
    first.log_steps(rows)
    first.finish(None)  # interrupted in the evaluation after step 4
    assert wandb.rows == [(2, {"steps/loss": 0.5})]
    wandb.starting_step = 3
    second = WandbTracker()
    second.start(Config(), {"resumed_at_step": 4}, str(tmp_path))
    second.log({"epoch": 1, "step": 4, "val/last/loss": 0.125}, 4)
    second.log_steps([{"step": 6, "epoch": 2, "timestamp": 6.0, "loss": 0.0}])
    second.finish("completed")
    assert wandb.rows[1:] == [(4, {"steps/loss": 0.25, "epoch": 1, "step": 4, "val/last/loss": 0.125}),
                              (6, {"steps/loss": 0.0})]


def test_run_without_a_key_is_not_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _FakeWandb(has_key=False)
    warnings = _track(monkeypatch, tmp_path, wandb)
    assert warnings.count("WARNING") == 1
    assert "WANDB_API_KEY" in warnings
    assert wandb.started is None


def test_offline_needs_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _FakeWandb(has_key=False)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setenv("WANDB_MODE", "offline")
    train_toy(make_toy(wandb=True), str(tmp_path))
    assert len(wandb.rows) == 3


def test_run_without_the_package_is_not_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings = _track(monkeypatch, tmp_path, None)  # None in sys.modules: import fails
    assert warnings.count("WARNING") == 1
    assert "WandbTracker failed and may miss data; the local files are complete: ModuleNotFoundError" in warnings


def test_failure_during_the_run_causes_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _FakeWandb(fails_at=8)
    warnings = _track(monkeypatch, tmp_path, wandb)
    assert warnings.count("WARNING") == 1
    assert warnings.endswith("ConnectionError: the network is down")
    assert [step for step, _ in wandb.rows] == [4, 8, 8]  # once more at the end


def test_interrupted_run_is_shown_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _FakeWandb()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", wandb)

    def check() -> None:
        if (tmp_path / "stats.csv").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_toy(make_toy(wandb=True), str(tmp_path), check)
    assert wandb.ended == (None, 1)


class _Own(Tracker):
    """A tracker of one's own that answers as a test wants."""

    def __init__(self, down: range = range(0), hangs_at: int = 0) -> None:
        self.down, self.hangs_at = down, hangs_at
        self.calls: list[str] = []
        self.threads: set[str] = set()
        self.tried = 0

    def _call(self, what: str) -> None:
        self.tried += 1
        self.threads.add(threading.current_thread().name)
        if self.tried in self.down:
            raise ConnectionError("down")
        if self.tried == self.hangs_at:
            time.sleep(600)
        self.calls.append(what)

    def start(self, config: Any, facts: Any, folder: str | None) -> None:
        self._call("start")

    def log(self, row: Any, step: int) -> None:
        self._call(f"log {step}")

    def finish(self, end: str | None) -> None:
        self._call(f"finish {end}")


ALL = ["start", "log 4", "log 8", "log 12", "finish completed"]


def _run(monkeypatch: pytest.MonkeyPatch, folder: Path, *own: Tracker) -> tuple[str, list[str]]:
    """Train with these trackers: stats.csv without its times, and the warnings."""
    monkeypatch.setattr(trackers, "_make_trackers", lambda config, log: list(own))
    train_toy(make_toy(), str(folder))
    lines = [line for line in (folder / "training.log").read_text().splitlines() if "WARNING" in line]
    rows = csv.DictReader((folder / "stats.csv").read_text().splitlines())
    return str([row["train/loss"] for row in rows]), lines


def test_each_tracker_is_called_in_its_own_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = _Own(), _Own()
    assert _run(monkeypatch, tmp_path, one, other)[1] == []
    assert one.calls == other.calls == ALL
    assert one.threads == {"_Own"}


@pytest.mark.parametrize("down", [range(1, 2), range(2, 3), range(4, 5)])
def test_failed_calls_are_retried_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, down: range) -> None:
    one, other = _Own(down), _Own()
    warnings = _run(monkeypatch, tmp_path, one, other)[1]
    assert one.calls == other.calls == ALL
    assert len(warnings) == 1
    assert warnings[0].endswith("_Own failed and may miss data; the local files are complete: "
                                "ConnectionError: down")


@pytest.mark.parametrize("broken", [_Own(range(1, 99)), _Own(range(3, 99)), _Own(hangs_at=2)])
def test_broken_tracker_causes_one_warning_and_no_delay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                               broken: _Own) -> None:
    monkeypatch.setattr(trackers, "_SHORT_TIMEOUT", 0.1)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    well = _Own()
    start = time.monotonic()
    numbers, warnings = _run(monkeypatch, tmp_path / "a", broken, well)
    assert time.monotonic() - start < 60  # and not the ten minutes for which it hangs
    assert len(warnings) == 1 and well.calls == ALL
    assert numbers == _run(monkeypatch, tmp_path / "b")[0]


class _Answers(_Own):
    """Shows when somebody has answered."""

    def log(self, row: Any, step: int) -> None:
        super().log(row, step)
        self.heartbeat()


def test_end_does_not_wait_for_a_server_that_stopped_answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a minute is for what may be sending a model."""
    monkeypatch.setattr(trackers, "_SHORT_TIMEOUT", 0.1)
    monkeypatch.setattr(trackers, "_LONG_TIMEOUT", 300.0)
    start, silent = time.monotonic(), _Answers(hangs_at=5)
    warnings = _run(monkeypatch, tmp_path, silent)[1]
    assert time.monotonic() - start < 60
    assert silent.calls == ALL[:-1] and "it does not respond, and the run does not wait for it" in warnings[0]


def test_key_is_not_written_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-planted-key-123")
    _track(monkeypatch, tmp_path, _FakeWandb())
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"a-planted-key-123" not in path.read_bytes()
