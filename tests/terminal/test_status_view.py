"""`status` on a terminal: it fits the width, has colors, and loads no rich; elsewhere the full text is printed."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from src.submission.status import states
from src.submission.status.observe import observe
from src.terminal import cells, status_view
from tests.conftest import ROOT
from tests.terminal import live_batch
from tests.terminal.tmux import EXPERIMENTS, terminal


@pytest.mark.parametrize("width", [40, 80, 100, 130])
def test_lines_fit_the_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.chdir(tmp_path)
    observations = observe([str(live_batch.make("results", 36))])
    lines = list(status_view.lines(observations, None, False, states.ALL, 2e9, width))
    plain = [re.sub(r"\x1b\[\d*m", "", line) for line in lines]
    assert all(cells.width(line) <= width for line in plain), "\n".join(plain)
    assert sum(bool(re.match(r"\d{3} ", line)) for line in plain) == 36, "a line for each run"
    assert "\n".join(plain).count("digits-quickstart+") == 1
    text = " ".join(" ".join(plain).split())
    assert "4 failed: RuntimeError: CUDA error: an illegal memory access was encountered (exit status 1)" in text
    assert width < 70 or "    python experiments.py logs results/26-11-20-digits-quickstart:4" in plain
    assert any(re.search(r"\x1b\[31mfailed +\x1b\[0m", line) for line in lines)


def test_terminal_gets_columns_and_others_the_full_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    live_batch.make("results", 12)
    full = subprocess.run([sys.executable, ROOT / "experiments.py", "status"], capture_output=True, text=True).stdout
    assert re.search(r"^004_digits-quickstart\+mod=linear\+bas_lr=0.1\+ave=null\+bat_siz=16 +failed +7/12 ", full, re.M)
    with terminal(tmp_path) as screen:
        screen.run(f"{EXPERIMENTS} status")
        rows = screen.wait_for("runs an hour now")
        assert any(re.match("004  failed +0.1 +null +16 +7/12 ", row) for row in rows)
        assert "\x1b[31mfailed" in screen.colored()
        screen.run(f"clear; NO_COLOR=1 {EXPERIMENTS} status")
        rows = screen.wait(lambda rows: any(row.startswith("004_digits-quickstart+mod=linear") for row in rows))
        assert "\x1b[31m" not in screen.colored()


def test_status_does_not_load_rich() -> None:
    program = ("import sys, src.terminal.status_view, src.terminal.colors, src.commands.monitor\n"
               "print('rich' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n"
