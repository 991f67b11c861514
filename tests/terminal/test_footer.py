"""`wait` and `logs -f` in a real terminal: how far the runs are is shown at the bottom, and removed at the end."""
from __future__ import annotations

from pathlib import Path

import pytest

from tests.terminal import live_batch
from tests.terminal.tmux import EXPERIMENTS, terminal


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return live_batch.make("results", 1, states=("running",))


def test_wait_shows_a_bar_until_the_batch_ends(batch: Path, tmp_path: Path) -> None:
    with terminal(tmp_path) as screen:
        screen.run(f"{EXPERIMENTS} wait results/* --every 0.1; echo exit code $?")
        screen.wait_for("] 0/1 runs (1 running)")
        (next(batch.glob("000_*")) / "done").write_text("completed\n")
        rows = screen.wait_for("exit code 0")
        assert "results/26-11-20-digits-quickstart: 1 done" in rows
        assert not any("running)" in row for row in rows), "the bar is removed"
        assert screen.state("cursor_flag") == "1"


def test_followed_log_scrolls_above_the_state(batch: Path, tmp_path: Path) -> None:
    run = next(batch.glob("000_*"))
    log = run / "training.log"
    log.write_text("first line\nbegun ")
    with terminal(tmp_path) as screen:
        screen.run(f"{EXPERIMENTS} logs -f 0; echo exit code $?")
        screen.wait_for("running epoch 3/12")
        with log.open("a") as file:
            file.write("and ended\n 10 %|#\r 90 %|###\rlast\x1b]52;c;eA==\x07\x1b[2J state\n")
        rows = screen.wait_for("last state")
        position = rows.index("begun and ended")
        assert rows[position - 1] == "first line" and rows[position + 1] == "last state"
        assert rows[position + 2].startswith("running  epoch 3/12")
        (run / "done").write_text("completed\n")
        rows = screen.wait_for("exit code 0")
        assert "state: done" in rows and not any(row.startswith("running  ") for row in rows)
        assert screen.state("cursor_flag") == "1"
        sent = screen.sent.read_bytes()
        assert b"\x1b]52" not in sent and b"\x07" not in sent
