"""The live screen of `watch` in a real terminal: it fits three sizes, answers keys, and restores the terminal."""
from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from src import run_folder
from tests.conftest import ROOT
from tests.searching import ASHA, write
from tests.submission.conftest import Project, project
from tests.submission.job.test_worker import both_run, states_of, submit_in_background, wait_for
from tests.terminal import live_batch
from tests.terminal.tmux import EXPERIMENTS, Terminal, terminal

__all__ = ["project"]  # the fixture

WATCH = f"{EXPERIMENTS} watch --every 0.5"
# what the live screen sends: other screen, cursor, colors, places and ends of lines
OWN = re.compile(r"\x1b\[(?:\?1049[hl]|\?25[hl]|2J|K|[0-9;]*m|[0-9]+;1H)")


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A batch of 36 runs, ten of them with the states of live_batch.STATES, in a working directory with `results`."""
    monkeypatch.chdir(tmp_path)
    return live_batch.make(tmp_path / "results")


@pytest.fixture
def screen(batch: Path, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in which `watch` shows the batch, with its exit code and the settings of the terminal afterwards."""
    with terminal(tmp_path) as opened:
        opened.run(f"{WATCH}; echo exit code $?; stty -a | tr ';' '\\n' | grep -w icanon")
        opened.wait_for("q quit")
        opened.wait_for("12/12")  # results were read
        opened.wait_for("so far")  # and the cost
        yield opened


def assert_restored(screen: Terminal, code: int) -> None:
    """The shell's screen is shown again, with its cursor, and lines are edited by the terminal."""
    screen.wait_for(f"exit code {code}")
    assert any(" icanon" in f" {row}" and "-icanon" not in row for row in screen.wait_for("icanon"))
    assert (screen.state("alternate_on"), screen.state("cursor_flag")) == ("0", "1")


def labels(rows: list[str]) -> list[str]:
    """The indices of the runs that are shown."""
    return [row[2:5] for row in rows if re.match(r"[> ] \d{3} ", row)]


def test_fits_three_sizes_and_follows_a_resize(screen: Terminal) -> None:
    assert (screen.state("alternate_on"), screen.state("cursor_flag")) == ("1", "0")
    for columns, lines in ((80, 24), (100, 30), (130, 40)):
        screen.resize(columns, lines)
        rows = screen.wait(lambda rows, lines=lines: len(rows) == lines and rows[-1].startswith("q quit"))  # type: ignore[misc]
        assert rows[0].startswith("results/26-11-20-digits-quickstart/*_digits-quickstart+*")
        text = "\n".join(rows)
        assert "22/36 runs" in text and "4 failed" in text and "runs an hour" in text and "left, until" in text
        assert "hours of runs so far" in text
        header = next(index for index, row in enumerate(rows) if row.startswith("  run"))
        assert re.match(r"  run +state +model +bas\w*_l\w*r +ave\w* +bat\w*_siz\w* +epochs", rows[header]), rows[header]
        shown = labels(rows)
        assert shown[:8] == ["004", "014", "024", "034", "003", "013", "023", "033"]  # failed, then running
        assert len(shown) == len(rows) - header - 4, "the rows fill the screen"
        assert not any("digits-q" in row for row in rows[1:-2]), "only in the title, and the name of the selected run"
        assert "36 of 36 runs  ·  sorted by urgency" in text
    assert re.search(r"timm_\w*…\w*in1k", text) and re.search("[▁▂▃▄▅▆▇█]{12}", text)
    assert "\x1b[31mfailed" in screen.colored() and "\x1b[36mrunning" in screen.colored()
    screen.press("q")
    assert_restored(screen, 0)
    assert any(re.match(r"\[#+ +\] 22/36 runs  4 failed", row) for row in screen.rows())


def test_no_color_if_the_user_wants_none(batch: Path, tmp_path: Path) -> None:
    with terminal(tmp_path, environment={"NO_COLOR": "1"}) as screen:
        screen.run(WATCH)
        screen.wait_for("q quit")
        rows = screen.wait_for("12/12")
        assert any(re.match(r"[> ] 004 +failed ", row) for row in rows)
        assert not re.search(r"\x1b\[(?:\d+;)*[34][0-7]m", screen.colored())


def test_keys_sort_filter_and_open_pages(screen: Terminal) -> None:
    screen.press("/", "lenet", "Space", "base_lr=0.01", "Enter")
    rows = screen.wait_for("with 'lenet base_lr=0.01'")
    assert labels(rows) == ["014", "013", "012", "015"]
    screen.press("f")
    assert labels(screen.wait_for("only failed")) == ["014"]
    screen.press("Escape")
    screen.wait_while("only failed")
    screen.press("S")
    screen.wait_for("sorted by best")
    best = screen.wait(lambda rows: labels(rows)[0] == "020")
    assert best
    screen.press("R")
    screen.wait(lambda rows: labels(rows)[0] == "014")
    screen.press("Down", "Down", "Up", "End", "Home", "c")
    rows = screen.wait_for("val/last/accuracy: last")
    assert "⠊" in "".join(rows) or "⠒" in "".join(rows)
    screen.press("y")
    screen.wait_for("3 epochs, logarithmic")
    screen.press("Right")
    screen.wait_for("train/loss: last")
    screen.press("Escape", "Enter")
    screen.wait_for("epoch 3")
    log = next(Path("results").glob("*/014_*/training.log"))
    with log.open("a") as file:
        file.write("".join(f"\r {percent} %" for percent in range(0, 101, 10)) + "\nthe newest line\n")
    rows = screen.wait_for("the newest line")
    assert " 100 %" in rows and not any("90 %" in row for row in rows)
    screen.press("Escape", "?")
    screen.wait_for("cancel the run, or the batch, after a question")
    screen.press("x")
    screen.wait_for("q quit")
    screen.press("q")
    assert_restored(screen, 0)


@pytest.mark.parametrize("end", ["C-c", "TERM", "error"])
def test_terminal_is_restored(screen: Terminal, batch: Path, end: str) -> None:
    if end == "C-c":
        screen.press("C-c")
        assert_restored(screen, 0)
        return
    if end == "error":
        shutil.rmtree(batch)
        assert_restored(screen, 2)
        assert any("no batch in results/" in row for row in screen.rows())
        return
    shell = int(screen.state("pane_pid"))
    child, = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    assert_restored(screen, 128 + signal.SIGTERM)


def test_suspended_watch_goes_on(screen: Terminal) -> None:
    screen.press("C-z")
    screen.wait_for("Stopped")
    assert (screen.state("alternate_on"), screen.state("cursor_flag")) == ("0", "1")
    screen.run("fg")
    screen.wait_for("q quit")
    assert screen.state("alternate_on") == "1"


def test_run_is_cancelled_after_a_question(project: Project) -> None:
    project.write_spec("[15, 8]")
    process = submit_in_background(project)
    wait_for(lambda: both_run(project))
    with terminal(project.folder) as screen:
        screen.run(f"GRIDIRON_RESULTS='re sults' {WATCH}")
        screen.wait_for("2 running")
        screen.press("x")
        screen.wait_for("Cancel 000_tiny+bat_siz=15+bas_lr=0.1 (running)? y: yes, any other key: no")
        screen.press("n")
        screen.wait_until_sent("nothing was cancelled")
        assert states_of(project)[:2] == ["running", "running"]
        screen.press("x", "y")
        screen.wait_until_sent("cancelled 1 run")
        wait_for(lambda: states_of(project)[0] == "cancelled")
        screen.press("X")
        screen.wait_for("pending or running)? y: yes, any other key: no")
        screen.press("y")
        screen.wait_for("cancelled")
        assert process.wait(30) == 130


def test_run_of_a_stack_is_not_cancelled_alone(screen: Terminal) -> None:
    screen.press("Down", "Down", "Down", "Down", "x", "y")
    screen.wait_until_sent("not cancelled: the process of this run trains a stack that has 3 other runs too")
    screen.wait_until_sent("cancel results/26-11-20-digits-quickstart` cancels all of them")


def test_search_shows_paused_trials_and_rungs(project: Project) -> None:
    (project.folder / "train.py").write_text((ROOT / "tests" / "submission" / "search_entry.py").read_text())
    write(project, ASHA.replace("18", "6"))
    assert project.submit(project.spec, "--local", "-y") == 0
    with terminal(project.folder, 100, 30) as screen:
        screen.run(f"GRIDIRON_RESULTS='re sults' {WATCH}")
        rows = screen.wait_for("every run has ended or is stuck")
        text = "\n".join(rows)
        assert "6 of 6 trials started: " in text and "rungs (trials, promoted, best)  1 6 2 " in text
        assert " paused " in "\n".join(row for row in rows if re.match("[> ] 00", row))


def test_hostile_names_values_and_logs_are_inert(batch: Path, tmp_path: Path) -> None:
    hostile = "a\x1b]52;c;Y3VybA\x07\x1b[2J\x1b[8mb\x9b2Jc\x07\u202ed\x1b]0;title\x07"
    victim = next(batch.glob("004_*"))
    (victim / run_folder.LOG).write_text(f"{hostile}\n" * 50)
    (victim / run_folder.SPEC).write_text('TAGS: ["\\e]0;tag\\a"]\n')
    attempt = victim / run_folder.attempt_name(1, 0)
    attempt.write_text(attempt.read_text().replace("CUDA", r"\u001b]0;error\u0007\u001b[3J"))
    stats = victim / run_folder.STATS
    stats.write_text(stats.read_text().replace("train/loss", "train/lo\x1b[5mss", 1))
    victim.rename(batch / f"004_x\x1b[31m{hostile.replace('/', '')}")
    with terminal(tmp_path) as screen:
        screen.run(WATCH)
        screen.wait_for("q quit")
        screen.wait_for("12/12")
        screen.press("Enter")
        screen.wait_for("following the end")
        screen.press("Escape", "c", "Right", "Right")
        screen.wait_for("other metrics")
        screen.press("Escape")
        screen.wait_for("q quit")
        screen.press("x")
        screen.wait_until_sent("nothing to cancel")
        screen.press("q")
        screen.wait_for("22/37 runs 4 failed")  # the renamed run is a new one
        wait_for(lambda: b"\x1b[?1049l" in screen.sent.read_bytes())
        sent = screen.sent.read_bytes().decode()
    live = sent[sent.index("\x1b[?1049h"):sent.rindex("\x1b[?1049l")]
    rest = OWN.sub("", live)
    assert "\\x07" in rest
    assert not [character for character in rest if not character.isprintable()]
