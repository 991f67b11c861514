"""Frames: the lines of JSON that the remote end of a command sends. They are checked before anything uses them."""
from __future__ import annotations

import json

from src.errors import RemoteError
from src.frozen import Frozen, field

MAX_BYTES = 1 << 20  # of a frame; the server sends 64 KiB of output at a time, escaped
_MAX_NUMBER = 10 ** 9
_STREAMS = ("out", "err")


class Frame(Frozen):
    """The report of the remote end in one line.

    output: new bytes of a stream, by its name;
    progress: runs that are done, all runs, what they are called, runs that failed; None if it has not changed;
    question: the number of a question to answer;
    exit_code: of the command, if it has ended;
    is_lost: the command died without an exit code.
    """

    output: dict[str, bytes] = field(default_factory=dict)
    progress: tuple[int, int, str, int] | None = None
    question: int | None = None
    exit_code: int | None = None
    is_lost: bool = False


def parse(line: bytes, host: str) -> Frame:
    """Return the frame in a line. RemoteError if it is not one."""
    try:
        frame = json.loads(line.decode())
        return Frame({stream: frame[stream].encode("utf-8", "surrogateescape")
                      for stream in _STREAMS if stream in frame},
                     _progress(frame["done"]) if frame.get("done") is not None else None,
                     _number(frame["ask"]) if "ask" in frame else None,
                     _number(frame["exit"], 255) if "exit" in frame else None, frame.get("lost") is True)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise malformed(host) from None


def parse_token(text: str, host: str) -> str | None:
    """Return the token of a running command in the answer of the server; None if none runs. RemoteError as above."""
    try:
        token = json.loads(text)["going"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise malformed(host) from None
    if token is not None and not (isinstance(token, str) and token.replace("-", "").isalnum() and token.isascii()):
        raise malformed(host)
    return token


def malformed(host: str) -> RemoteError:
    """Return the error about an answer that is not a frame."""
    return RemoteError("it sent an answer that cannot be parsed", where=host,
                       hint="check that the project there is as new as this one, and that its shell prints nothing")


def _number(value: object, largest: int = _MAX_NUMBER) -> int:
    if type(value) is not int or not 0 <= value <= largest:
        raise TypeError
    return value


def _progress(value: object) -> tuple[int, int, str, int]:
    if not isinstance(value, list):
        raise TypeError
    done, total, noun, failed = value
    if not isinstance(noun, str):
        raise TypeError
    return _number(done), _number(total), noun, _number(failed)


class Lines:
    """Splits what arrives into lines; those before the mark are skipped, since a login shell may print some."""

    def __init__(self, mark: str, host: str) -> None:
        self._mark, self._host = mark.encode(), host
        self._rest, self._has_mark = b"", False

    def add(self, chunk: bytes) -> list[bytes]:
        """Return the complete lines after the mark. RemoteError if a line is longer than a frame may be."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_BYTES:
            if self._has_mark:
                raise malformed(self._host)
            self._rest = b""
        frames = []
        for line in lines:
            if self._has_mark:
                frames.append(line)
            self._has_mark = self._has_mark or line.strip() == self._mark
        return frames
