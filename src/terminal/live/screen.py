"""The terminal while a live screen is shown: its other screen, and keys without Enter. Its state before is restored."""
from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType
from typing import TextIO

from rich.console import Console
from rich.text import Text

from src.printable import unfiltered

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"  # alternate screen, no cursor, clear
_LEAVE = "\x1b[0m\x1b[?25h\x1b[?1049l"
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Screen:
    """Context manager of a live screen on standard input and output. For the main thread.

    Ctrl-C raises KeyboardInterrupt as usual, TERM and HUP raise SystemExit, and Ctrl-Z suspends the process.
    """

    def __init__(self) -> None:
        self._out: TextIO = unfiltered(sys.stdout)
        self._input = sys.stdin.fileno()
        self._console = Console(file=self._out, force_terminal=True, legacy_windows=False, highlight=False)
        self._shown: list[str] = []
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def __enter__(self) -> Screen:
        self._handlers = {number: signal.signal(number, self._end) for number in _ENDING}
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._resized)
        self._attributes = termios.tcgetattr(self._input)
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would interrupt this
        self._restore()
        for number, handler in {**self._handlers, signal.SIGINT: interrupt}.items():
            signal.signal(number, handler)

    def _show(self) -> None:
        tty.setcbreak(self._input)
        self._shown = []
        self._write(_ENTER)

    def _restore(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            self._write(_LEAVE)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._attributes)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def _suspend(self, _number: int, _frame: FrameType | None) -> None:
        self._restore()
        os.kill(os.getpid(), signal.SIGSTOP)  # until SIGCONT
        self._show()
        self.wake()

    def _resized(self, _number: int, _frame: FrameType | None) -> None:
        self._shown = []
        self.wake()

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    @property
    def size(self) -> tuple[int, int]:
        """The columns and lines of the terminal, at least 20 and 6."""
        try:
            columns, lines = os.get_terminal_size(self._out.fileno())
        except OSError:
            columns, lines = 0, 0
        return max(columns or 80, 20), max(lines or 24, 6)

    def wake(self) -> None:
        """End a `wait`, from any thread or a signal handler."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"w")

    def wait(self, seconds: float) -> bytes:
        """Return what was typed; empty after `seconds` or when woken. EOFError if the terminal is gone."""
        ready, _, _ = select.select([self._input, self._reader], [], [], seconds)
        if self._reader in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 4096)
        if self._input not in ready:
            return b""
        if not (data := os.read(self._input, 1024)):
            raise EOFError
        return data

    def paint(self, lines: Sequence[Text]) -> None:
        """Show lines from the top; what is shown already is not sent again."""
        columns, height = self.size
        if not self._shown:
            self._write("\x1b[2J")
        rendered = [self._render(line, columns) for line in lines[:height]]
        rendered += [""] * (height - len(rendered))
        previous = self._shown + [""] * (height - len(self._shown))
        changed = [f"\x1b[{number + 1};1H{line}\x1b[K" for number, line in enumerate(rendered)
                   if line != previous[number]]
        self._write("".join(changed))
        self._shown = rendered

    def _render(self, line: Text, columns: int) -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", width=columns, no_wrap=True, overflow="crop", soft_wrap=False)
        return capture.get()
