"""The log of a run on the live screen: its end, which follows what is appended, or any part above."""
from __future__ import annotations

import os

from rich.text import Text

from src.archive import run_files
from src.submission.status import failures, states
from src.submission.status.observation import Run
from src.terminal import cells, colors
from src.terminal.cells import clean
from src.terminal.live import keys
from src.terminal.live.pages import Page, key_line, scroll

_MAX_BYTES = 2**20  # read at the end of a log


class LogPage(Page):
    """The logs of one run, the one that was written last first."""

    def __init__(self, run: Run) -> None:
        self._run, self._number = run, 0
        self._top: int | None = None  # the first line in view; None to follow the end
        self._key: tuple[object, ...] = ()
        self._folded: list[str] = []
        self._height = 1

    def lines(self, columns: int, height: int) -> list[Text]:
        """Return the lines in view, folded to the width."""
        self._height = height - 2
        paths = failures.log_paths(self._run)[::-1]
        path = paths[self._number % len(paths)] if paths else None
        self._read(path, columns)
        top = max(0, len(self._folded) - self._height) if self._top is None else self._top
        shown = [Text(line) for line in self._folded[top:top + self._height]]
        shown += [Text()] * (self._height - len(shown))
        where = "following the end" if self._top is None else (
            f"lines {top + 1} to {min(top + self._height, len(self._folded))} of {len(self._folded)}")
        title = clean(path) if path else f"{clean(self._run.path)}: no log yet"
        pairs = [("Esc", "back"), ("↑↓", "scroll"), ("G", "follow the end")]
        if len(paths) > 1:
            pairs.append(("n", f"next log ({self._number % len(paths) + 1} of {len(paths)})"))
        state = states.shown(self._run.state.name)
        return [Text(cells.shorten(title, columns - len(state) - 2), colors.BOLD).append(f"  {state}", "not bold"),
                *shown, key_line([*pairs, ("", where)], columns)]

    def _read(self, path: str | None, columns: int) -> None:
        """Read the end of a log, if it or the width has changed."""
        status = run_files.status(*os.path.split(path)) if path else None
        size = status.st_size if status else None
        if self._key == (path, size, columns):
            return
        self._key = path, size, columns
        self._folded = []
        if path is None or size is None:
            return
        with run_files.open_binary(*os.path.split(path)) as file:
            file.seek(max(0, size - _MAX_BYTES))
            text = file.read(_MAX_BYTES).decode(errors="replace")
        for line in text.split("\n") if not text.endswith("\n") else text[:-1].split("\n"):
            last_state = clean(line.rstrip("\r").rpartition("\r")[2].expandtabs())  # of a progress bar
            self._folded += cells.wrap(last_state, columns)

    def press(self, key: str) -> Page | None:
        """Scroll, show the next log, or close."""
        if key in (keys.ESCAPE, "q", "l", keys.LEFT, keys.BACKSPACE):
            return None
        if key == "n":
            self._number, self._top = self._number + 1, None
        last = max(0, len(self._folded) - self._height)
        top = scroll(key, last if self._top is None else self._top, self._height, len(self._folded))
        if top is not None:
            self._top = None if top >= last else top
        return self
