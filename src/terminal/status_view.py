"""The output of `status` on a terminal: it fits the width, and states have colors."""
from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial

from src import run_folder
from src.errors import experiments_command
from src.submission.status import states, status
from src.submission.status.failures import FailureGroup
from src.submission.status.observation import Observation
from src.submission.system.terminal import table
from src.terminal import cells, colors, run_columns, run_names
from src.terminal.cells import clean, fold
from src.terminal.colors import sgr
from src.terminal.table import Column, Fitted, fit


def lines(observations: Sequence[Observation], limit: int | None, newest_only: bool, only: Collection[str],
          now: float, width: int) -> Iterator[str]:
    """Yield the output of `status`, of which each line takes at most `width` cells. The arguments are those of
    status.render.
    """
    yield from _summary(observations, width)
    for observation in status.newest(observations) if newest_only else observations:
        shown = status.filter_runs(observation, only)
        yield ""
        yield from _runs(shown, limit, width)
        yield from _folded(status.lines_below(observation, only, now, partial(_failure, observation.path)), width)


def _summary(observations: Sequence[Observation], width: int) -> Iterator[str]:
    """A line per batch: the number of runs, and how many are in each state that occurs."""
    batches = [(observation, status.counts(observation)) for observation in observations]
    columns = [Column("batch", [clean(observation.path) for observation, _ in batches], wish=24, floor=24),
               Column("runs", [str(len(observation.runs)) for observation, _ in batches])]
    by_state = [Column(states.shown(state), [str(numbers.get(state, "")) for _, numbers in batches])
                for state in states.ALL if any(state in numbers for _, numbers in batches)]
    fitted = fit([*columns, *by_state], width)
    if fitted.left_out:
        texts = [", ".join(f"{number} {states.shown(state)}" for state, number in numbers.items())
                 for _, numbers in batches]
        fitted = fit([*columns, Column("states", texts, wish=12, floor=12)], width)
    yield from _table(fitted, len(batches))


def _runs(observation: Observation, limit: int | None, width: int) -> Iterator[str]:
    """The title, the table and the notes of a batch."""
    content, names = status.read_table(observation, limit), run_names.read(observation)
    metrics = run_columns.best_metrics(content.rows)
    yield from _title(names.title(observation.path), metrics.title, width)
    if content.rows:
        fitted = fit(run_columns.columns(content.rows, content.remarks, names, metrics), width)
        yield from _table(fitted, len(content.rows), [colors.of_state(row.state) for row in content.rows])
        if fitted.left_out:
            yield from fold(f"columns that do not fit: {', '.join(fitted.left_out)}", width)
    if content.search:
        yield from fold(clean(content.search.headline()), width)
        yield from (cells.shorten(clean(line), width) for line in table(content.search.rows(), indent="  "))
    yield from _folded(content.notes, width)


def _title(runs: str, metric: str, width: int) -> list[str]:
    """The title of a batch: what its runs share, and the metric of their best values."""
    parts = [runs, *([f"best: {metric}"] if metric else [])]
    joined = "   ".join(parts)
    return [sgr(cells.shorten(part, width), colors.BOLD)
            for part in ([joined] if cells.width(joined) <= width else parts)]


def _table(fitted: Fitted, rows: int, styles: Sequence[str] = ()) -> Iterator[str]:
    """The lines of a table. styles: of each row's state."""
    yield sgr("".join(fitted.header()).rstrip(), colors.DIM)
    position = next((index for index, column in enumerate(fitted.columns) if column.title == run_columns.STATE), None)
    for index in range(rows):
        row = fitted.row(index)
        if styles and position is not None:
            row[position] = sgr(row[position], styles[index])
        yield "".join(row).rstrip()


def _folded(texts: Iterable[str], width: int) -> Iterator[str]:
    for text in texts:
        for line in text.split("\n"):
            yield from fold(clean(line), width)


def _failure(path: str, group: FailureGroup) -> str:
    """A group of failures of a batch, and below it the command that prints one of their logs."""
    run = group.runs[0].name
    index = run_folder.run_index(run)
    reference = run if index is None or run_folder.is_repeat(run) else str(index)
    return f"{group.summary()}\n    {experiments_command('logs', f'{path}:{reference}')}"
