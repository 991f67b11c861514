"""Print what a command on a remote machine prints, without escape sequences, except those that our commands use."""
from __future__ import annotations

import codecs
import contextlib
import os
import re
import selectors
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from src.printable import printable, unfiltered

# clear the screen or a line, as `watch` and progress bars do; backspace and bell, as a terminal answers to keys
_SCREEN = re.compile(r"(\x1b\[(?:H|2J|2K)|\x08|\x07)")
_INCOMPLETE = re.compile(r"\x1b\[?2?\Z")


class FilteredCopy:
    """Writes bytes of a remote machine to a stream of this one, as text without harmful sequences."""

    def __init__(self, stream: TextIO, screen: bool) -> None:
        """screen: whether clearing the screen or a line is allowed."""
        self._stream, self._screen = unfiltered(stream), screen
        self._decoder, self._rest = codecs.getincrementaldecoder("utf-8")("replace"), ""

    def write(self, data: bytes) -> None:
        """Write the next bytes; empty ones are the end."""
        text = self._rest + self._decoder.decode(data, final=not data)
        self._rest = ""
        if self._screen:
            if data and (match := _INCOMPLETE.search(text)):
                text, self._rest = text[:match.start()], match[0]
            parts = _SCREEN.split(text)
            text = "".join(part if index % 2 else printable(part) for index, part in enumerate(parts))
        else:
            text = printable(text)
        self._stream.write(text)
        self._stream.flush()


def run_filtered(command: Sequence[str], screen: bool) -> int:
    """Run a command, usually ssh, on our standard input, and print what it prints, filtered. Return its exit status."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        try:
            _copy({process.stdout.fileno(): FilteredCopy(sys.stdout, screen),
                   process.stderr.fileno(): FilteredCopy(sys.stderr, screen)})
        except BaseException:
            with contextlib.suppress(subprocess.TimeoutExpired):  # Ctrl-C reaches it as well
                process.wait(0.25)
            process.kill()
            raise
    return process.returncode


def _copy(copies: Mapping[int, FilteredCopy]) -> None:
    """Copy from each descriptor until all have ended."""
    with selectors.DefaultSelector() as selector:
        for descriptor in copies:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                chunk = os.read(key.fd, 65536)
                copies[key.fd].write(chunk)
                if not chunk:
                    selector.unregister(key.fd)
