"""The color of each state, and of what else stands out. Its name is always printed too."""
from __future__ import annotations

import os
import sys

from src.printable import unfiltered
from src.submission.status import retry_policy, states

# names of rich, which here are those of ANSI
BOLD, DIM, GREEN, YELLOW, RED, CYAN, MAGENTA, BLUE = "bold", "dim", "green", "yellow", "red", "cyan", "magenta", "blue"
_CODES = {BOLD: "1", DIM: "2", RED: "31", GREEN: "32", YELLOW: "33", BLUE: "34", MAGENTA: "35", CYAN: "36"}
_STATES = {states.RUNNING: CYAN, states.PENDING: YELLOW, states.SUBMITTED: YELLOW, states.DONE: GREEN,
           states.EARLY_STOPPED: GREEN, states.DIVERGED: MAGENTA, states.PAUSED: BLUE, states.UNKNOWN: MAGENTA}


def of_state(state: str) -> str:
    """Return the style of a state, for sgr() and for rich."""
    return RED if state in retry_policy.UNSUCCESSFUL else _STATES.get(state, DIM)


def sgr(text: str, style: str) -> str:
    """Return a cleaned text with the escape sequences of a style."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style and text.strip() else text


def terminal_width() -> int:
    """Return the width of the terminal that standard output is."""
    try:
        return int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def write(line: str) -> None:
    """Write a line whose only escape sequences are our own."""
    unfiltered(sys.stdout).write(f"{line}\n")
