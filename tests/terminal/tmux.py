"""A program in a real terminal: tmux without a screen, whose content can be read, and to which keys can be sent."""
from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROGRAM = shutil.which("tmux")
EXPERIMENTS = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'experiments.py'))}"
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[@-~]")  # colors, places, ends of lines
_SECONDS = 300.0  # to wait for something on a loaded machine


class Terminal:
    """A shell in a terminal. `sent` is the file with all that was sent to the terminal."""

    def __init__(self, socket: Path, sent: Path) -> None:
        self._socket, self.sent = socket, sent

    def tmux(self, *arguments: str) -> str:
        """Run a command of tmux, and return its output."""
        done = subprocess.run([PROGRAM or "tmux", "-S", self._socket, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, command: str) -> None:
        """Type a command into the shell."""
        self.tmux("send-keys", "-t", "main", "-l", command)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        """Press keys, named as tmux does; other texts are typed."""
        for key in keys:
            self.tmux("send-keys", "-t", "main", key)

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of the terminal."""
        self.tmux("resize-window", "-t", "main", "-x", str(columns), "-y", str(lines))

    def rows(self) -> list[str]:
        """Return what the terminal shows, without trailing blanks."""
        return [row.rstrip() for row in self.tmux("capture-pane", "-p", "-t", "main").split("\n")[:-1]]

    def colored(self) -> str:
        """Return what the terminal shows, with the sequences of its colors."""
        return self.tmux("capture-pane", "-e", "-p", "-t", "main")

    def state(self, name: str) -> str:
        """Return a variable of the terminal, such as alternate_on or cursor_flag."""
        return self.tmux("display-message", "-p", "-t", "main", f"#{{{name}}}").strip()

    def wait(self, condition: Callable[[list[str]], object]) -> list[str]:
        """Wait until a condition on the rows holds, and return them."""
        deadline = time.monotonic() + _SECONDS
        while not condition(rows := self.rows()):
            assert time.monotonic() < deadline, "\n".join(["the terminal shows:", *rows])
            time.sleep(0.1)
        return rows

    def wait_for(self, text: str) -> list[str]:
        """Wait until a text is shown, perhaps folded."""
        return self.wait(lambda rows: text in joined(rows))

    def wait_until_sent(self, text: str) -> None:
        """Wait until a text was sent to the terminal, which may show it no more."""
        deadline = time.monotonic() + _SECONDS
        while text not in joined([_SEQUENCE.sub(" ", self.sent.read_text(errors="replace"))]):
            assert time.monotonic() < deadline, "\n".join(["the terminal shows:", *self.rows()])
            time.sleep(0.1)

    def wait_while(self, text: str) -> list[str]:
        """Wait until a text is not shown any more."""
        return self.wait(lambda rows: text not in joined(rows))


def joined(rows: list[str]) -> str:
    """Return the words of all rows, with one blank between."""
    return " ".join(" ".join(rows).split())


@contextmanager
def terminal(folder: Path, columns: int = 80, lines: int = 24, environment: Mapping[str, str] | None = None
             ) -> Iterator[Terminal]:
    """Open a terminal with a shell in a folder."""
    if PROGRAM is None:
        pytest.skip("tests in a terminal need tmux")
    private = folder / ".terminal"
    private.mkdir(exist_ok=True)
    opened = Terminal(Path(os.path.relpath(private / "s")), private / "sent")
    if len(str(opened._socket)) > 90:  # the path of a socket is limited
        pytest.fail(f"the temporary folder is too deep for a socket: {private}")
    variables = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR", "TMUX")}
    variables |= {"TERM": "xterm-256color", **(environment or {})}
    shell = "env PS1='$ ' bash --norc --noprofile -i"
    subprocess.run([PROGRAM, "-u", "-f", "/dev/null", "-S", opened._socket, "new-session", "-d", "-s", "main", "-x",
                    str(columns), "-y", str(lines), "-c", folder, shell], check=True, env=variables)
    opened.tmux("pipe-pane", "-t", "main", f"cat >> {shlex.quote(str(opened.sent.absolute()))}")
    try:
        opened.wait_for("$")
        yield opened
    finally:
        opened.tmux("kill-server")
