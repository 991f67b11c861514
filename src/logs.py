"""The logs of a run: which there are, the last lines of one, and error lines that differ in paths and numbers alone."""
from __future__ import annotations

import os
import re

from src import run_folder

_MOST_BYTES = 16_384  # that are read of a log's end
_ESCAPE = r"\x1b\[[0-9;?]*[ -/]*[@-~]"  # colours and moves of a terminal's cursor


def log_paths(folder: str) -> list[str]:
    """The paths of a run's logs that hold something, the one that was written last at the end. None if it is gone."""
    try:
        paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))
                 if name == run_folder.LOG or name.endswith(".out")]
    except FileNotFoundError:
        return []
    return sorted(filter(_holds_something, paths), key=os.path.getmtime)


def _holds_something(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0


def tail(path: str, lines: int = 12, width: int = 300) -> str:
    """The last lines of a log as a terminal shows them: of a progress bar its last state, and no colours. Longer ones
    are cut."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _MOST_BYTES))
        text = file.read().decode(errors="replace")
    shown = [re.sub(_ESCAPE, "", line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in text.split("\n")]
    shown = ["".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line) for line in shown if line]
    return "\n".join(line if len(line) <= width else f"{line[:width]} …" for line in shown[-lines:])


def normalize_error(line: str) -> str:
    """The line without what differs between runs that failed alike: paths and numbers."""
    line = re.sub(r"(?<![\w.])[\w.~+=-]*(?:/[^\s'\",:;()\[\]]+)+", "PATH", line)
    return re.sub(r"0x[0-9a-fA-F]+|(?<![A-Za-z_])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", "N", line)
