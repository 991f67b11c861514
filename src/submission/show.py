"""What a submission says on the terminal: the grid, its axes, the resources, and one progress bar."""
from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from src.errors import BatchError
from src.submission import process, slurm
from src.submission.naming import show as short
from src.submission.plan import count
from src.submission.tasks import Team


def grid_lines(specs: Sequence[Mapping[str, Any]], axes: Sequence[tuple[str, int]], varying: Sequence[str],
               names: Sequence[str]) -> list[str]:
    """`108 configurations: 6 batch_size x 18 LIST`, a table of the varying parameters, the first and last run names."""
    product = " x ".join(f"{number} {key}" for key, number in axes)
    lines = [f"{count(len(specs), 'configuration')}{f': {product}' if product else ''}"]
    lines += subtests(specs)
    rows = [(key, f"{len(values)}", _clip(values, 88)) for key in varying
            for values in [list(dict.fromkeys(_word(spec[key]) for spec in specs if key in spec))]]
    lines += table(rows, indent="  ")
    if names:
        lines.append(f"first run  {names[0]}")
    if len(names) > 1:
        lines.append(f"last run   {names[-1]}")
    return lines


def subtests(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each subtest of a composite, with how many runs it has; those that it shares count for each."""
    numbers = Counter(name for spec in specs if "SUBTESTS" in spec for name in spec["SUBTESTS"])
    return table([("subtest", name, count(number, "run")) for name, number in numbers.items()], indent="  ")


def workers(teams: Sequence[Team]) -> str:
    """`2 for adam small, 1 for sgd, 4 for the rest`, or `4`."""
    if len(teams) < 2 and not any(team.name for team in teams):
        return str(sum(team.workers for team in teams))
    return ", ".join(f"{team.workers} for {team.name.replace(',', ' ') or 'the rest'}" for team in teams)


def _word(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}'" if "," in value else value
    return short(value)


def _clip(values: Sequence[str], width: int) -> str:
    """The values in a row; if that is too wide, the first two thirds and the last third of those that fit."""
    text = ", ".join(values)
    if len(text) <= width:
        return text
    values = [value if len(value) <= width // 2 - 3 else f"{value[:width // 2 - 4]}…" for value in values]
    for number in range(min(len(values), width), 1, -1):
        last = number // 3
        text = ", ".join([*values[:number - last], *["…"] * (number < len(values)), *values[len(values) - last:]])
        if len(text) <= width:
            break
    return text


def table(rows: Iterable[Sequence[str]], indent: str = "") -> list[str]:
    """Rows of cells as lines with aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows]


def resources(script: str, text: str, options: Iterable[str]) -> str:
    """`submit_2080.sh: partition killable, cpus-per-task 4, mem 8G`: what its directives and the options ask for."""
    asked: dict[str, str] = {}
    for option in (*slurm.script_directives(text), *options):
        name, _, value = option.strip().lstrip("-").replace("=", " ", 1).partition(" ")
        if name not in ("requeue", "open-mode", "signal", "output", "error", "job-name"):
            asked[name] = value.strip()
    return f"{script}: {', '.join(f'{name} {value}'.strip() for name, value in asked.items()) or 'no directives'}"


def point_options(specs: Iterable[Mapping[str, Any]]) -> list[str]:
    """What single grid points ask for instead, and how many do: `12 runs: mem 16G, script big.sh`."""
    asked: dict[str, int] = {}
    for spec in specs:
        words = [f"{key} {value}" for key, value in (spec.get("SBATCH") or {}).items()]
        words += [f"script {spec['SCRIPT']}"] if spec.get("SCRIPT") else []
        if words:
            asked[", ".join(words)] = asked.get(", ".join(words), 0) + 1
    return [f"{count(number, 'run')}: {words}" for words, number in asked.items()]


def ask(question: str) -> str:
    """What the user answers. BatchError if nobody is there."""
    if errand := os.environ.get(process.ERRAND):
        from src.submission import errands

        return errands.ask(errand, question)
    try:
        return input(question).strip()
    except EOFError:
        print()
        raise BatchError("nobody is there to ask", where="standard input",
                         hint="-y goes on without a question") from None


def bar(done: int, total: int, width: int) -> str:
    """`[####    ]`: `width` characters between its brackets."""
    filled = width * done // max(total, 1)
    return f"[{'#' * filled}{' ' * (width - filled)}]"


class Progress:
    """One progress bar on a terminal; elsewhere a line now and then. Use as a context manager."""

    def __init__(self, total: int, noun: str, stream: TextIO | None = None) -> None:
        self.total, self.noun, self.done, self.failed = total, noun, 0, 0
        self._stream = stream or sys.stderr
        self._errand = os.environ.get(process.ERRAND)
        self._on_terminal = self._stream.isatty() and not self._errand
        self._start = self._shown = time.monotonic()

    def __enter__(self) -> Progress:
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self._show(last=True)

    def step(self, failed: bool = False) -> None:
        """One more is done."""
        self.done += 1
        self.failed += failed
        if self._on_terminal or self._errand or time.monotonic() - self._shown > 10:
            self._show()

    def at(self, done: int, failed: int) -> None:
        """So many are done, as another process says."""
        if (done, failed) != (self.done, self.failed):
            self.done, self.failed = done - 1, failed
            self.step()

    def _show(self, last: bool = False) -> None:
        self._shown = time.monotonic()
        if self._errand:
            from src.submission import errands

            errands.tell(self._errand, self.done, self.total, self.noun, self.failed)
            return
        if self._on_terminal:
            self._stream.write(f"\r\x1b[2K{self.line(_columns(self._stream))}{chr(10) if last else ''}")
        elif self.done or last:
            self._stream.write(f"{self.line()}\n")
        self._stream.flush()

    def line(self, columns: int = 80) -> str:
        """`[####    ] 12/24 runs  1 failed  0:21, 0:20 left`, in one row of a terminal that is `columns` wide."""
        passed = time.monotonic() - self._start
        left = passed / self.done * (self.total - self.done) if self.done else None
        text = (f" {self.done}/{self.total} {self.noun}{f'  {self.failed} failed' if self.failed else ''}"
                f"  {clock(passed)}"
                f"{f', {clock(left)} left' if left is not None and self.done < self.total else ''}")
        width = max(0, min(30, columns - len(text) - 3))
        return (bar(self.done, self.total, width) + text)[:max(columns - 1, 1)]


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def clock(seconds: float) -> str:
    """0:07, 12:30, 3:05:00, 2d 03:00."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02d}:{minute:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
