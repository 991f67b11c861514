"""Logs of a run: find them, show their last lines, and compare error lines apart from paths and numbers."""
from __future__ import annotations

import os
import re

from src import run_folder

_TAIL_BYTES = 16_384  # read at the end of a log
_ESCAPE = r"\x1b\[[0-9;?]*[ -/]*[@-~]"  # terminal colours and cursor movements


def log_paths(folder: str) -> list[str]:
    """Return the paths of a run's logs that are not empty, the one written last at the end; none if the run is gone."""
    try:
        paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))
                 if name == run_folder.LOG or name.endswith(".out")]
    except FileNotFoundError:
        return []
    return sorted(filter(_is_not_empty, paths), key=os.path.getmtime)


def _is_not_empty(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0


def tail(path: str, lines: int = 12, width: int = 300) -> str:
    """Return the last lines of a log as a terminal shows them: only the last state of a progress bar, and no colours.

    Lines of more than `width` characters are truncated.
    """
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    shown = [re.sub(_ESCAPE, "", line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in text.split("\n")]
    shown = ["".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line) for line in shown if line]
    return "\n".join(line if len(line) <= width else f"{line[:width]} …" for line in shown[-lines:])


def normalize_error(line: str) -> str:
    """Replace paths and numbers, which differ between runs that failed for the same reason."""
    line = re.sub(r"(?<![\w.])[\w.~+=-]*(?:/[^\s'\",:;()\[\]]+)+", "PATH", line)
    return re.sub(r"0x[0-9a-fA-F]+|(?<![A-Za-z_])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", "N", line)
