"""How far each run of a batch is: counts by state and a table of runs, as text or as plain values for JSON."""
from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from src import files, metrics, run_folder
from src.submission import states
from src.submission.observe import Observation, Run
from src.submission.show import clock, table


@dataclass(frozen=True)
class Row:
    """One run in a status table. epochs: planned, None if not known; left: seconds; metric: the column of `best`."""

    run: str
    state: str
    epochs_done: int
    epochs: int | None
    left: float | None
    metric: str | None
    best: float | None
    why: str
    slurm_job: str | None


def rows(observation: Observation, now: float | None = None) -> list[Row]:
    """A row for each run of a batch, in order."""
    return [_row(run, time.time() if now is None else now) for run in observation.runs.values()]


def _row(run: Run, now: float) -> Row:
    state = run.state
    started = run.folder is not None and run_folder.STATS in run.folder.names
    header, lines = _stats(run.path) if started else ([], [])
    metric, best = _best(header, lines)
    done = len(lines)
    planned = _planned_epochs(run) if started else None
    left = None
    if state.name == states.RUNNING and planned and done and run.attempt:
        left = max(0.0, (now - run.attempt.get("start", now)) / done * (planned - done))
    return Row(run.name, state.name, done, planned, left, metric, best, state.why, state.slurm_job)


def _stats(folder: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a stats.csv; a torn last line is left out."""
    text = files.read_text(os.path.join(folder, run_folder.STATS)) or ""
    header, *lines = text[:text.rfind("\n") + 1].splitlines() or [""]
    return header.split(","), [cells for line in lines if len(cells := line.split(",")) == header.count(",") + 1]


def _best(header: list[str], lines: list[list[str]]) -> tuple[str | None, float | None]:
    """The best value, over all epochs, of the metric that runs are judged by, and its column."""
    found: tuple[str | None, float | None] = (None, None)
    for column in metrics.judging_columns(header):
        position = header.index(column)
        for cells in lines:
            value = float(cells[position] or "nan")
            if found[1] is None or metrics.better(column, value, found[1]):
                found = (column, value)
    return found


def _planned_epochs(run: Run) -> int | None:
    try:
        facts = run_folder.read_spec(os.path.join(run.path, run_folder.CONFIG)).get("facts") or {}
    except ValueError:
        return None
    return facts.get("epochs")


def counts(observation: Observation) -> dict[str, int]:
    """How many runs are in each state, in the order of states.ALL; states without a run are left out."""
    found = {name: observation.count((name,)) for name in states.ALL}
    return {name: number for name, number in found.items() if number}


def as_json(observation: Observation) -> dict[str, Any]:
    """A batch as plain values."""
    return {"batch": observation.path, "counts": counts(observation),
            "runs": [asdict(row) for row in rows(observation)]}


def summary_table(observations: Iterable[Observation]) -> list[str]:
    """One line per batch: how many runs, and how many in each state that occurs."""
    lines = [(observation, counts(observation)) for observation in observations]
    columns = [name for name in states.ALL if any(name in found for _, found in lines)]
    body = [[observation.path, str(len(observation.runs)), *(str(found.get(name, "")) for name in columns)]
            for observation, found in lines]
    return table([["batch", "runs", *columns], *body])


def run_table(observation: Observation, limit: int | None = 50) -> list[str]:
    """A line per run. Beyond `limit` runs, those that ended well give way to the best of them."""
    all_rows = rows(observation)
    shown = all_rows if limit is None or len(all_rows) <= limit else _most_telling(all_rows, limit)
    header = ["run", "state", "epochs", "left", "best", ""]
    lines = table([header, *map(_cells, shown)])
    if len(shown) < len(all_rows):
        lines.append(f"… and {len(all_rows) - len(shown)} more; --all shows every run")
    if not observation.queue_answered and any(row.state == states.UNKNOWN for row in all_rows):
        lines.append("squeue did not answer: runs that Slurm has are shown as unknown")
    return lines


def _most_telling(all_rows: list[Row], limit: int) -> list[Row]:
    """Failures first, then what runs, then the best; in the order of the grid."""
    def weight(row: Row) -> tuple[int, float]:
        if row.state in states.ENDED_WELL:
            value = row.best if row.best is not None and row.best == row.best else float("-inf")
            return (2, value if metrics.descends(row.metric or "") else -value)
        return (1 if row.state in (states.NEW, states.PENDING) else 0, 0.0)

    chosen = set(sorted(range(len(all_rows)), key=lambda index: weight(all_rows[index]))[:limit])
    return [row for index, row in enumerate(all_rows) if index in chosen]


def _cells(row: Row) -> list[str]:
    epochs = f"{row.epochs_done}/{row.epochs}" if row.epochs is not None else str(row.epochs_done or "")
    best = "" if row.best is None else f"{row.best:.4g} {row.metric}"
    return [row.run, row.state.replace("_", " "), epochs, "" if row.left is None else clock(row.left), best,
            row.why[:100]]


def render(observations: list[Observation], limit: int | None = 50, newest_only: bool = False) -> str:
    """What `status` prints: all batches in one table of counts, then the runs of each, or of the newest alone."""
    parts = ["\n".join(summary_table(observations))]
    if newest_only:
        observations = [max(observations, key=lambda observation: os.path.basename(observation.path))]
    for observation in observations:
        parts.append(f"{observation.path}\n" + "\n".join(run_table(observation, limit)))
    return "\n\n".join(parts)


def watch(look: Callable[[], list[Observation]], show: Callable[[list[Observation]], None], pause: float) -> None:
    """Look and show, again and again, until nothing is pending or running."""
    while True:
        observations = look()
        show(observations)
        if not any(observation.count(states.ALIVE) for observation in observations):
            return
        time.sleep(pause)
