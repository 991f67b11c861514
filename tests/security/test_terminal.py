"""Escape sequences in what others wrote do not reach the terminal."""
from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src import notes, printable, run_folder
from src.commands import monitor
from src.io import files
from src.printable import FilteredStream
from src.submission.status import follow_logs
from src.submission.system.terminal import Progress
from tests.analysis.make_batch import make_empty_batch, make_run
from tests.conftest import ROOT

CLIPBOARD = "\x1b]52;c;Y3VybCBldmlsLnNo\x07"
HOSTILE = f"before{CLIPBOARD}\x1b[2J\x1b[31mred\x1b[0m\x9b2J\x07\u202eafter"


def run_command(*words: str | Path, program: str = "experiments.py") -> str:
    """Return what a command prints in a process of its own, as on a terminal."""
    done = subprocess.run([sys.executable, ROOT / program, *words], capture_output=True, check=False)
    return (done.stdout + done.stderr).decode()


def has_controls(text: str) -> bool:
    return any(not character.isprintable() and character not in "\n\t\r" for character in text)


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """A batch of another user, with escape sequences wherever a text can be."""
    path = Path(make_empty_batch(tmp_path, "26-11-20-theirs"))
    specs = ({"model": "linear", "base_lr": rate} for rate in (0.1, 1.0))
    run, failed = (Path(make_run(str(path), index, spec, end=None)) for index, spec in enumerate(specs))
    (run / run_folder.LOG).write_text(f"{HOSTILE}\n")
    files.write_json(failed / run_folder.attempt_name(0, 0), {
        "ticket": 0, "number": 0, "start": 1.0, "end": 2.0, "how": "failed", "error": HOSTILE, "node": HOSTILE,
        "who": {"host": HOSTILE}})
    notes.add(str(path), HOSTILE, HOSTILE)
    failed.rename(path / f"001_{CLIPBOARD.replace('/', '')}x")
    return path


@pytest.mark.parametrize("command", [
    ["status"], ["status", "--names"], ["status", "--json"], ["watch", "--every", "0.01"], ["note"], ["wait"],
    ["cancel", "-y"], ["query", "model == 'linear'"], ["compare"], ["reproduce"]], ids=" ".join)
def test_commands_print_no_escape_sequences(command: list[str], batch: Path) -> None:
    name, *options = command
    output = run_command(name, batch, *([batch] if name == "compare" else []), *options)
    assert output
    assert not has_controls(output), repr(output)


def test_errors_and_questions_print_no_escape_sequences(batch: Path) -> None:
    for words in (["status", f"no{CLIPBOARD}such"], [CLIPBOARD], ["logs", CLIPBOARD]):
        output = run_command(*words)
        assert output
        assert not has_controls(output), repr(output)
    assert not has_controls(run_command(f"x{CLIPBOARD}.yaml", program="submit_multiple.py"))


def test_logs_are_filtered_unless_raw_is_given(batch: Path) -> None:
    run = batch / sorted(os.listdir(batch))[0]
    filtered, raw = (run_command("logs", run, *options) for options in ([], ["--raw"]))
    assert "beforered\\x9b2J\\x07\\u202eafter\n" in filtered
    assert not has_controls(filtered)
    assert HOSTILE in raw


def test_traceback_prints_no_escape_sequences() -> None:
    program = f"from src import printable; printable.filter_output(); raise SystemError({CLIPBOARD!r})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)
    assert b"SystemError" in done.stderr
    assert b"\x1b" not in done.stderr


@pytest.mark.parametrize(("text", "expected"), [
    ("plain ä ✓\t1\r2\n", "plain ä ✓\t1\r2\n"), ("\x1b[1;31mred\x1b[0m", "red"), ("\x1b]0;title\x1b\\x", "x"),
    ("\x1b]52;c;unterminated\nnext", "52;c;unterminated\nnext"), ("\x1bPdevice\x1b\\x", "x"), ("\x1bcreset", "reset"),
    ("\x1b", "\\x1b"), ("\x1b\x1b[31m[31m", "\\x1b[31m"), ("\x07\x08\x7f\x00", "\\x07\\x08\\x7f\\x00"),
    ("\x9b2J\x9d52;x\x9c", "\\x9b2J\\x9d52;x\\x9c"), ("a\u202eb\udcff", "a\\u202eb\\udcff")])
def test_printable_text(text: str, expected: str) -> None:
    assert printable.printable(text) == expected
    assert not any(ord(c) < 32 and c not in "\t\r\n" or 127 <= ord(c) < 160 for c in printable.printable(text))


def test_sequence_that_is_split_between_writes_is_not_completed() -> None:
    raw = io.StringIO()
    stream = FilteredStream(raw)
    for part in CLIPBOARD:
        stream.write(part)
    stream.writelines(["\x1b", "[2J"])
    assert "\x1b" not in raw.getvalue()
    assert printable.unfiltered(stream) is raw  # type: ignore[arg-type]


def test_followed_log_is_filtered_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, raw = tmp_path / run_folder.LOG, io.StringIO()
    monkeypatch.setattr(sys, "stdout", FilteredStream(raw))
    path.write_text(f"a{CLIPBOARD[:5]}")
    text, end = follow_logs.read_from(str(path), 0)
    path.write_text(f"a{CLIPBOARD}b")
    appended = (str(path), follow_logs.read_from(str(path), end)[0])
    list(monitor._follow([{"file": str(path), "text": text}], [appended, "done"], raw=False))
    assert raw.getvalue()
    assert "\x1b" not in raw.getvalue()


def test_own_progress_bar_is_not_filtered() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    raw = Terminal()
    with Progress(2, "runs", FilteredStream(raw)) as bar:  # type: ignore[arg-type]
        bar.step()
    assert "\r\x1b[2K[" in raw.getvalue()
