"""The base of all pages of the live screen: lines for a size, and reactions to keys."""
from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from src.terminal import cells, colors
from src.terminal.live import keys


class Page:
    """A page. `press` returns another page to open above it, itself to stay, or None to close it."""

    interval = 1.0  # seconds until it is drawn again if nothing happens

    def lines(self, columns: int, height: int) -> list[Text]:
        """Return what the page shows."""
        raise NotImplementedError

    def press(self, key: str) -> Page | None:
        """React to a key."""
        raise NotImplementedError


def key_line(pairs: Sequence[tuple[str, str]], columns: int) -> Text:
    """Return `q quit  ? help` with as many pairs of a key and its meaning as fit."""
    text = Text()
    for key, meaning in pairs:
        if text.cell_len + cells.width(key) + len(meaning) + 3 > columns:
            break
        text.append("  " if text else "").append(key, colors.BOLD).append(f" {meaning}", colors.DIM)
    return text


def scroll(key: str, top: int, height: int, total: int) -> int | None:
    """Return the first line in view after a key that scrolls; None for other keys."""
    last = max(0, total - height)
    steps = {keys.UP: -1, "k": -1, keys.DOWN: 1, "j": 1, keys.PAGE_UP: -height, keys.PAGE_DOWN: height, " ": height,
             keys.HOME: -total, "g": -total, keys.END: total, "G": total}
    return max(0, min(top + steps[key], last)) if key in steps else None


class HelpPage(Page):
    """The keys, and what the colors and the bar mean."""

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        self._rows, self._top = rows, 0
        self._height = 1

    def lines(self, columns: int, height: int) -> list[Text]:
        """Return the keys."""
        self._height = height - 2
        width = max(cells.width(key) for key, _ in self._rows) + 2
        body = []
        for key, meaning in self._rows:
            parts = cells.fold(meaning, columns - width)
            body.append(Text(cells.pad(key, width), colors.BOLD).append(parts[0], "not bold"))
            body += [Text(" " * width + part) for part in parts[1:]]
        self._total = len(body)
        shown = body[self._top:self._top + self._height]
        shown += [Text()] * (self._height - len(shown))
        return [Text("Keys", colors.BOLD), *shown, key_line((("any key", "back"), ("↑↓", "scroll")), columns)]

    def press(self, key: str) -> Page | None:
        """Scroll; any other key closes the page."""
        top = scroll(key, self._top, self._height, self._total)
        if top is None:
            return None
        self._top = top
        return self
