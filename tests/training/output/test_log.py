from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from loguru import logger

from src import logs
from src.training.output.log import Progress, epoch_line, open_log, progress
from src.training.output.recorder import stats_columns


@pytest.fixture
def no_default_sink() -> None:
    """Other tests may have replaced loguru's default sink; these look only at sinks of their own."""
    logger.remove()


def test_lines_go_to_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], no_default_sink: None) -> None:
    with open_log(str(tmp_path), to_stdout=False) as log:
        log.info("epoch {} {tricky}", 1, tricky="<red>é</red>")
    assert (tmp_path / "training.log").read_text("utf-8").endswith("| INFO    | epoch 1 <red>é</red>\n")
    assert capsys.readouterr() == ("", "")


def test_appended_line_has_the_format_of_the_log(tmp_path: Path) -> None:
    with open_log(str(tmp_path), to_stdout=False) as log:
        log.info("one")
    logs.append(str(tmp_path), "two")
    first, second = (re.sub(r"\d", "0", line) for line in (tmp_path / "training.log").read_text().splitlines())
    assert second == first.replace("one", "two")


@pytest.mark.parametrize("in_folder", [True, False])
def test_lines_go_to_stdout_if_requested_or_without_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                             in_folder: bool, no_default_sink: None) -> None:
    with open_log(str(tmp_path) if in_folder else None, to_stdout=in_folder) as log:
        log.info("hello")
    assert capsys.readouterr().out.endswith("hello\n")


def test_terminal_shows_progress_and_warnings_unless_it_shows_the_log(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], no_default_sink: None) -> None:
    for to_stdout in (False, True):
        with open_log(str(tmp_path), to_stdout, shows_progress=True) as log:
            log.info("a fact")
            progress(log).info("epoch 1")
            log.warning("careful")
        lines = capsys.readouterr().out.splitlines()
        if to_stdout:
            assert [line.rpartition("| ")[2] for line in lines] == ["a fact", "epoch 1", "careful"]
        else:
            assert lines == ["epoch 1", "careful"]
    with open_log(str(tmp_path), False) as log:
        progress(log).info("epoch 1")
    assert capsys.readouterr().out == ""


def test_two_runs_have_separate_logs_and_host_sinks_stay(tmp_path: Path, no_default_sink: None) -> None:
    host = io.StringIO()
    sink = logger.add(host, format="{message}")
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    with open_log(str(folders[0]), False) as one, open_log(str(folders[1]), False) as two:
        one.info("of one")
        two.info("of two")
        logger.bind(run=0).info("of a layer in between")  # a name that anybody may bind
    logger.info("afterwards")
    logger.remove(sink)
    texts = [(folder / "training.log").read_text() for folder in folders]
    assert ["of one" in text for text in texts] == [True, False]
    assert ["of two" in text for text in texts] == [False, True]
    assert all("in between" in text and "afterwards" not in text for text in texts)
    assert host.getvalue() == "of one\nof two\nof a layer in between\nafterwards\n"


def test_default_sink_shows_lines_outside_runs() -> None:
    script = ("from loguru import logger; from src.training.output.log import open_log\n"
              "with open_log(None, False) as log: log.info('of a run'); logger.info('of the host')\n"
              "logger.bind(run=1).info('later')")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "of a run" in done.stdout
    assert "of a run" not in done.stderr
    assert "of the host" in done.stderr
    assert "later" in done.stderr


def test_epoch_lines_are_aligned() -> None:
    columns = stats_columns(("loss", "accuracy"), ("val", "test"), ("last", "av"))
    lines = [epoch_line({**dict.fromkeys(columns, value), "test/last/loss": None, "epoch": epoch, "step": 9 * epoch},
                        100) for epoch, value in ((9, 0.25), (10, 1.23456789e-7))]
    assert len(lines[0]) == len(lines[1])
    assert [index for index, char in enumerate(lines[0]) if char == "|"] == [
        index for index, char in enumerate(lines[1]) if char == "|"]
    assert "val/av loss 0.25" in lines[0]
    assert "None" not in lines[0]


def test_progress_is_logged_at_its_interval(tmp_path: Path, no_default_sink: None) -> None:
    with open_log(str(tmp_path), False) as log:
        progress = Progress(log, "epoch 3", interval=50.0)
        due = progress.due
        progress.report(2, 8)
        assert progress.due >= due
        assert Progress(log, "epoch 3", interval=0).due == float("inf")
    assert "epoch 3:  25 % (2 of 8)" in (tmp_path / "training.log").read_text()
