"""Text in the cells of a terminal: cleaned of control characters, measured, shortened in the middle, folded."""
from __future__ import annotations

from src.errors import one_line
from src.printable import without_sequences

ELLIPSIS = "…"


def clean(text: str) -> str:
    """Return text on one line, without escape sequences, and with control characters as `\\x07`."""
    return text if text.isprintable() else one_line(without_sequences(text))


def width(text: str) -> int:
    """Return how many cells a cleaned text takes."""
    return len(text) if text.isascii() else sum(map(_width_of, text))


def _width_of(character: str) -> int:
    import unicodedata  # most text is ASCII

    return 0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shorten(text: str, cells: int) -> str:
    """Return text that takes at most `cells`, with … in its middle if it was longer."""
    if width(text) <= cells:
        return text
    if cells < 2:
        return ELLIPSIS[:max(cells, 0)]
    tail = prefix(text[::-1], (cells - 1) // 2)[::-1]
    return f"{prefix(text, cells - 1 - width(tail))}{ELLIPSIS}{tail}"


def truncate(text: str, cells: int) -> str:
    """Return text that takes at most `cells`, with … at its end if it was longer."""
    if width(text) <= cells:
        return text
    return prefix(text, cells - 1) + ELLIPSIS if cells > 0 else ""


def pad(text: str, cells: int) -> str:
    """Return text with blanks at its end, so that it takes `cells`."""
    return text + " " * (cells - width(text))


def fold(text: str, cells: int) -> list[str]:
    """Return text as lines of at most `cells`, broken at blanks where possible; all but the first are indented."""
    lines: list[str] = []
    margin = " " * (len(text) - len(text.lstrip(" ")))
    line = margin
    for word in text.split():
        joined = f"{line} {word}" if line.strip() else line + word
        if width(joined) <= cells:
            line = joined
            continue
        lines += [line] if line.strip() else []
        line = (f"{margin}    " if lines else margin) + word
        while width(line) > max(cells, len(margin) + 8):
            part = prefix(line, cells)
            lines.append(part)
            line = f"{margin}    {line[len(part):]}"
    return [*lines, line]


def wrap(text: str, cells: int) -> list[str]:
    """Return text in parts of at most `cells`, broken anywhere."""
    if text.isascii():
        return [text[start:start + cells] for start in range(0, len(text), cells)] or [""]
    parts, start, taken = [], 0, 0
    for position, character in enumerate(text):
        taken += _width_of(character)
        if taken > cells:
            parts.append(text[start:position])
            start, taken = position, _width_of(character)
    return [*parts, text[start:]]


def prefix(text: str, cells: int) -> str:
    """Return the longest beginning that takes at most `cells`."""
    if text.isascii():
        return text[:max(cells, 0)]
    taken = 0
    for position, character in enumerate(text):
        taken += _width_of(character)
        if taken > cells:
            return text[:position]
    return text
