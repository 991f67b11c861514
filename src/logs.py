"""Logs of a run: find them, show their last lines, and compare error lines apart from paths and numbers."""
from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterable, Sequence

from src import run_folder
from src.archive import run_files
from src.io import files
from src.printable import without_sequences

_TAIL_BYTES = 16_384  # read at the end of a log
_MAX_LINE = 500  # characters of an error that are compared
_LINES_AFTER_TRACEBACK = 30  # of a tracker that ends, or of srun; after more lines the traceback was probably handled
_REPORTS_CHILD = r"(?:torch\.distributed\.elastic\.\S*ChildFailedError|subprocess\.CalledProcessError)\b"


def log_paths(folder: str) -> list[str]:
    """Return the paths of a run's logs that are not empty, the one written last at the end; none if the run is gone."""
    try:
        paths = [os.path.join(folder, name) for name in sorted(run_files.list_names(folder))
                 if name == run_folder.LOG or name.endswith(".out")]
    except FileNotFoundError:
        return []
    return newest_last(paths)


def newest_last(paths: Iterable[str]) -> list[str]:
    """Return those of the files that are not empty, the one written last at the end."""
    statuses = {path: status for path in paths if (status := run_files.status(*os.path.split(path))) and status.st_size
                and stat.S_ISREG(status.st_mode)}
    return sorted(statuses, key=lambda path: statuses[path].st_mtime)


def append(folder: str, message: str) -> None:
    """Append a line to the training.log of a run, in its format; nothing if there is none or it cannot be written."""
    path = os.path.join(folder, run_folder.LOG)
    if os.path.isfile(path):
        with contextlib.suppress(OSError):
            files.append_line(path, f"{time.strftime('%Y-%m-%d %H:%M:%S')} | INFO    | {message}")


def tail(path: str, lines: int = 12, width: int = 300, start: int = 0) -> str:
    """Return the last lines of a log as a terminal shows them: only the last state of a progress bar, and no colors.

    Lines of more than `width` characters are truncated. start: position in the file, in bytes, of the first line.
    """
    with run_files.open_binary(*os.path.split(path)) as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    shown = [without_sequences(line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in text.split("\n")]
    shown = ["".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line) for line in shown if line]
    return "\n".join(line if len(line) <= width else f"{line[:width]} …" for line in shown[-lines:])


def last_error(text: str) -> str:
    """Return the line of a log's tail that names the error: the exception of a traceback near the end, else the last
    line with a letter or digit; empty if there is none.

    A traceback of torchrun or subprocess, which only reports that its child failed, gives way to an earlier one.
    """
    lines = text.splitlines()
    exceptions = [(number, line) for number, line in _exceptions(lines) if not re.match(_REPORTS_CHILD, line)]
    if exceptions and (len(lines) - exceptions[-1][0] <= _LINES_AFTER_TRACEBACK or any(
            re.search(_REPORTS_CHILD, line) for line in lines)):
        return exceptions[-1][1]
    return next((line.strip(" |") for line in reversed(lines) if re.search(r"\w", line)), "")


def _exceptions(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Return the index and the text of the exception of each traceback. Lines may have a prefix, e.g. `[rank0]: `."""
    exceptions = []
    for start, header in enumerate(lines):
        prefix, mark, rest = header.partition("Traceback (most recent call last):")
        if not mark or rest:
            continue
        for number, line in enumerate(lines[start + 1:], start + 1):
            if line.startswith(prefix) and not line[len(prefix):].startswith(" "):
                exceptions.append((number, line[len(prefix):]))
                break
    return exceptions


def normalize_error(line: str) -> str:
    """Replace paths and numbers, which differ between runs that failed for the same reason. A long line is cut."""
    line = line[:_MAX_LINE]  # the expressions take a time that grows with its square
    line = re.sub(r"(?<![\w.])[\w.~+=-]*(?:/[^\s'\",:;()\[\]]+)+", "PATH", line)
    return re.sub(r"0x[0-9a-fA-F]+|(?<![A-Za-z_])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", "N", line)
