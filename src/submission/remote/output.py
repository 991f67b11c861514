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

# what `watch` and progress bars use: clear the screen or a line, place the cursor, hide it, show the other screen, and
# styles in which text stays visible; backspace and bell, as a terminal answers to keys
_STYLE = "(?:[0127]|3[1-69])"
_SCREEN = re.compile(
    rf"(\x1b\[(?:H|2J|2?K|\d{{1,3}};\d{{1,3}}H|{_STYLE}(?:;{_STYLE})*m|\?(?:25|1049)[hl])|\x08|\x07)")
_INCOMPLETE = re.compile(r"\x1b(?:\[[\d;?]{0,20})?\Z")
_OTHER_SCREEN, _OWN_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


class FilteredCopy:
    """Writes bytes of a remote machine to a stream of this one, as text without harmful sequences."""

    def __init__(self, stream: TextIO, screen: bool) -> None:
        """screen: whether the sequences in _SCREEN are allowed."""
        self._stream, self._screen, self._is_on_other_screen = unfiltered(stream), screen, False
        self._decoder, self._rest = codecs.getincrementaldecoder("utf-8")("replace"), ""

    def write(self, data: bytes) -> None:
        """Write the next bytes; empty ones are the end."""
        text = self._rest + self._decoder.decode(data, final=not data)
        self._rest = ""
        if self._screen:
            if data and (match := _INCOMPLETE.search(text)):
                text, self._rest = text[:match.start()], match[0]
            parts = _SCREEN.split(text)
            for part in parts[1::2]:
                self._is_on_other_screen = part == _OTHER_SCREEN or part != _OWN_SCREEN and self._is_on_other_screen
            text = "".join(part if index % 2 else printable(part) for index, part in enumerate(parts))
        else:
            text = printable(text)
        self._stream.write(text)
        self._stream.flush()

    def close(self) -> None:
        """Show the screen before again, with its cursor, if the remote command ended without doing so."""
        if self._is_on_other_screen:
            self._stream.write(f"\x1b[0m\x1b[?25h{_OWN_SCREEN}")
            self._stream.flush()


def run_filtered(command: Sequence[str], screen: bool) -> int:
    """Run a command, usually ssh, on our standard input, and print what it prints, filtered. Return its exit status."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        output = FilteredCopy(sys.stdout, screen)
        try:
            _copy({process.stdout.fileno(): output, process.stderr.fileno(): FilteredCopy(sys.stderr, screen)})
        except BaseException:
            with contextlib.suppress(subprocess.TimeoutExpired):  # Ctrl-C reaches it as well
                process.wait(0.25)
            process.kill()
            raise
        finally:
            output.close()
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
