"""A line at the bottom of the terminal while `wait` and `logs -f` go on; what is printed meanwhile appears above it."""
from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

from src.printable import unfiltered
from src.submission.status import states, status, throughput
from src.submission.status.observation import Observation, Run
from src.submission.system.terminal import format_duration
from src.terminal import cells, colors
from src.terminal.cells import clean


class Footer:
    """Context manager of the line. It is removed at the end."""

    def __init__(self) -> None:
        self._console = Console(file=unfiltered(sys.stdout), highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False,
                          redirect_stderr=False)
        self._unfinished = ""  # the beginning of a line whose end is not written yet

    def __enter__(self) -> Footer:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.write("\n" if self._unfinished else "")
        self._live.stop()

    def show(self, text: str, style: str = "") -> None:
        """Replace the line. style: of its first word, or empty."""
        word, blank, rest = cells.truncate(clean(text), self._console.width - 1).partition("  ")
        self._live.update(Text(word, style).append(blank + rest, "not bold default"), refresh=True)

    def write(self, text: str) -> None:
        """Print the complete lines of a text above the line, the last state of each progress bar only."""
        *lines, self._unfinished = f"{self._unfinished}{text}".split("\n")
        if lines:
            shown = "\n".join(clean(line.rstrip("\r").rpartition("\r")[2].expandtabs()) for line in lines)
            self._console.print(Text(shown), soft_wrap=True)


def of_batches(observations: Sequence[Observation]) -> str:
    """Return the line of `wait`: a bar, and how many runs are in each state."""
    numbers = dict.fromkeys(states.ALL, 0)
    for observation in observations:
        for state, number in status.counts(observation).items():
            numbers[state] += number
    text = ", ".join(f"{number:,} {states.shown(state)}" for state, number in numbers.items() if number)
    return f"{throughput.progress_line(observations, time.time(), 12)}  ({text})"


def of_run(run: Run) -> tuple[str, str]:
    """Return the line of `logs -f`, and the style of its state, which comes first."""
    row, = status.rows([run])
    epochs = f"epoch {status.epochs(row)}" if status.epochs(row) else ""
    left = f"{format_duration(row.left)} left" if row.left is not None else ""
    parts = (states.shown(row.state), epochs, left, row.why, "Ctrl-C stops following; the run goes on")
    return "  ".join(filter(None, parts)), colors.of_state(row.state)
