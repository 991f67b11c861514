"""The last lines of logs as a terminal shows them, and the comparison of errors."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from src import logs


@pytest.mark.parametrize(("one", "other"), [
    ("ValueError: 3 is not 4", "ValueError: 12 is not -1e5"),
    ("FileNotFoundError: '/data/a9a/x 1'", "FileNotFoundError: '/scratch/b/x 2'"),
    ("OSError: results/a/000_x/stats.csv: full", "OSError: results/b/001_y/stats.csv: full"),
    ("RuntimeError: 0x7f1 at 0.5", "RuntimeError: 0xa02 at 3.25")])
def test_normalized_errors_ignore_paths_and_numbers(one: str, other: str) -> None:
    assert logs.normalize_error(one) == logs.normalize_error(other)


@pytest.mark.parametrize(("one", "other"), [
    ("ValueError: no", "TypeError: no"), ("KeyError: 'conv1'", "KeyError: 'conv2'")])
def test_normalized_errors_keep_words(one: str, other: str) -> None:
    assert logs.normalize_error(one) != logs.normalize_error(other)


def test_logs_are_sorted_by_modification_time(tmp_path: Path) -> None:
    for time, (name, text) in enumerate([("local.out", "x"), ("training.log", "x"), ("7.out", "x"), ("8.out", ""),
                                         ("spec.yaml", "x")]):
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (10 - time, 10 - time))
    assert [os.path.basename(path) for path in logs.log_paths(str(tmp_path))] == ["7.out", "training.log", "local.out"]
    assert logs.log_paths(str(tmp_path / "gone")) == []


@pytest.mark.parametrize(("text", "shown"), [
    ("a\nb\n\nc\n", "b\nc"), ("no end", "no end"), ("  0%|\r 50%|\r100%|\nTraceback\n", "100%|\nTraceback"),
    ("\x1b[1;31merror\x1b[0m: no\r\n", "error: no"), ("a\x00\tb\n", "a\ufffd\tb"), ("x" * 50 + "\n", "x" * 40 + " …")])
def test_tail_shows_the_end_as_a_terminal_does(tmp_path: Path, text: str, shown: str) -> None:
    path = tmp_path / "local.out"
    path.write_bytes(text.encode())
    assert logs.tail(str(path), lines=2, width=40) == shown


def test_tail_reads_only_the_end_of_a_large_log(tmp_path: Path) -> None:
    path = tmp_path / "local.out"
    path.write_bytes(b"x" * (1 << 20) + "\nénd\n".encode())
    with path.open("r+b") as file:
        file.truncate(1 << 30)  # a sparse file: reading all of it would take a gigabyte
        file.seek(0, os.SEEK_END)
        file.write("\nénd\n".encode())
    assert logs.tail(str(path), lines=1) == "énd"


TRACEBACK = "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\n    f()\n" \
    "RuntimeError: mat1\nand mat2\n"
CHILD_FAILED = TRACEBACK.replace(
    "RuntimeError: mat1\n", "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n")


@pytest.mark.parametrize(("text", "error"), [
    ("epoch 1\nbad input\n\n", "bad input"),
    ("--- | ---\n", ""),
    ("epoch 1\n" + TRACEBACK + "srun: error: task 0 exited\n", "RuntimeError: mat1"),
    ("".join(f"[rank1]: {line}\n" for line in TRACEBACK.splitlines()), "RuntimeError: mat1"),
    (TRACEBACK + CHILD_FAILED + "traceback: to enable it see the docs\n", "RuntimeError: mat1"),
    (TRACEBACK + "epoch\n" * 40 + "disk is full\n", "disk is full")],
    ids=["last line", "rules", "traceback", "prefix", "launcher", "handled"])
def test_error_is_the_exception_or_the_last_line(text: str, error: str) -> None:
    assert logs.last_error(text) == error
