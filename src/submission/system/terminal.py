"""Terminal output: tables, counts, durations, progress bars and questions."""
from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from src.errors import BatchError
from src.printable import printable, unfiltered
from src.submission.system import process

if TYPE_CHECKING:
    import argparse


def table(rows: Iterable[Sequence[str]], indent: str = "") -> list[str]:
    """Format rows of cells as lines with aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows]


def is_terminal() -> bool:
    """Return whether standard output is a terminal whose cursor can be moved."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def is_plain() -> bool:
    """Return whether standard output gets full text without colors: it is no terminal, or the user set NO_COLOR."""
    return not is_terminal() or bool(os.environ.get("NO_COLOR"))


def help_formatter(prog: str) -> argparse.HelpFormatter:
    """Return a formatter of the terminal's width; without a width it would load shutil and compression libraries."""
    import argparse  # of those who call this

    try:
        columns = int(os.environ.get("COLUMNS") or os.get_terminal_size().columns)
    except (OSError, ValueError):
        columns = 80
    return argparse.HelpFormatter(prog, width=columns - 2)


def ask(question: str) -> str:
    """Ask the user, and return the answer. BatchError if standard input is closed."""
    if folder := os.environ.get(process.DETACHED_COMMAND):
        from src.submission.system import detached

        return detached.ask(folder, question)
    try:
        return input(printable(question)).strip()
    except EOFError:
        print()
        raise BatchError("nobody answered the question", where="standard input",
                         hint="pass -y to continue without a question") from None


def bar(done: int, total: int, width: int) -> str:
    """Format a progress bar, `[####    ]`, with `width` characters between the brackets."""
    filled = width * done // max(total, 1)
    return f"[{'#' * filled}{' ' * (width - filled)}]"


class Progress:
    """Context manager that shows a progress bar: on a terminal in place, elsewhere as a line every ten seconds.

    In a detached command it stores the progress for the bar on the other machine.
    """

    def __init__(self, total: int, noun: str, stream: TextIO | None = None) -> None:
        self.total, self.noun, self.done, self.failed = total, noun, 0, 0
        self._stream = stream or sys.stderr
        self._detached_folder = os.environ.get(process.DETACHED_COMMAND)
        self._on_terminal = self._stream.isatty() and not self._detached_folder
        self._start = self._last_shown = time.monotonic()

    def __enter__(self) -> Progress:
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self._show(last=True)

    def step(self, failed: bool = False) -> None:
        """Count one more as done."""
        self.done += 1
        self.failed += failed
        if self._on_terminal or self._detached_folder or time.monotonic() - self._last_shown > 10:
            self._show()

    def set(self, done: int, failed: int) -> None:
        """Set the counts, as reported by another process."""
        if (done, failed) != (self.done, self.failed):
            self.done, self.failed = done - 1, failed
            self.step()

    def _show(self, last: bool = False) -> None:
        self._last_shown = time.monotonic()
        if self._detached_folder:
            from src.submission.system import detached

            detached.write_progress(self._detached_folder, self.done, self.total, self.noun, self.failed)
            return
        if self._on_terminal:
            unfiltered(self._stream).write("\r\x1b[2K")
            self._stream.write(f"{self.line(_columns(self._stream))}{chr(10) if last else ''}")
        elif self.done or last:
            self._stream.write(f"{self.line()}\n")
        self._stream.flush()

    def line(self, columns: int = 80) -> str:
        """Format `[####    ] 12/24 runs  1 failed  0:21, 0:20 left` in one row of a terminal that is `columns` wide."""
        elapsed = time.monotonic() - self._start
        left = elapsed / self.done * (self.total - self.done) if self.done else None
        text = (f" {self.done}/{self.total} {self.noun}{f'  {self.failed} failed' if self.failed else ''}"
                f"  {format_duration(elapsed)}"
                f"{f', {format_duration(left)} left' if left is not None and self.done < self.total else ''}")
        width = max(0, min(30, columns - len(text) - 3))
        return (bar(self.done, self.total, width) + text)[:max(columns - 1, 1)]


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def format_duration(seconds: float) -> str:
    """Format seconds as 0:07, 12:30, 3:05:00 or 2d 03:00."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02d}:{minute:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def count(number: int, noun: str) -> str:
    """Format a number with its noun: `1 run`, `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
