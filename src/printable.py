"""Text for terminals: escape sequences are removed and other control characters made visible, never sent.

File names, error messages, notes and logs may come from other users and machines, and an escape sequence in them could
set the clipboard or hide text.
"""
from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

# Patterns, compiled when they are first used: most output of a command is plain ASCII.
# colors and cursor movements; strings such as window titles and the clipboard, up to their end; other sequences
_SEQUENCE = r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[PX^_\]][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]"
# all control characters but tab, newline and carriage return; characters that change the direction of text; surrogates
_CONTROL = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


def printable(text: str) -> str:
    """Return text without escape sequences, and with other control characters as `\\x07`."""
    if text.isascii() and text.replace("\n", "").isprintable() or not re.search(_CONTROL, text):
        return text
    return re.sub(_CONTROL, lambda match: match[0].encode("unicode_escape").decode(), without_sequences(text))


def without_sequences(text: str) -> str:
    """Return text without escape sequences."""
    return re.sub(_SEQUENCE, "", text)


class FilteredStream:
    """A text stream to which only printable text is written; `raw` is the stream itself."""

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        """Write the printable form of a text."""
        self.raw.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write the printable form of lines."""
        self.raw.writelines(map(printable, lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def filter_output() -> None:
    """Filter what this process prints from now on, tracebacks included."""
    sys.stdout, sys.stderr = FilteredStream(sys.stdout), FilteredStream(sys.stderr)


def unfiltered(stream: TextIO) -> TextIO:
    """Return the stream to which terminal sequences of our own are written."""
    return stream.raw if isinstance(stream, FilteredStream) else stream
