"""How far each run of a batch is: counts by state and a table of runs, as text or as plain values for JSON."""
from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from src import gpu_idle, metrics, run_folder
from src.io import files
from src.metrics import Metric
from src.submission.status import failures, retry_policy, run_lookup, states
from src.submission.status.observation import Observation, Run
from src.submission.system import terminal
from src.submission.system.terminal import format_duration, table

_BARS = "▁▂▃▄▅▆▇█"
MAX_GROUPS = 5  # of failures that are told below the runs


@dataclass(frozen=True)
class Row:
    """One run in a status table. epochs: planned, None if not known; left: seconds; metric: the column of `best`;
    idle: how busy its GPU is, if that is little; tags: its TAGS."""

    run: str
    state: str
    epochs_done: int
    epochs: int | None
    left: float | None
    metric: str | None
    best: float | None
    why: str
    slurm_job: str | None
    idle: gpu_idle.Idle | None = None
    tags: tuple[str, ...] = ()


def rows(runs: Iterable[Run], now: float | None = None, metric: Metric | None = None) -> list[Row]:
    """A row for each run, in order. metric: that their job spec names."""
    return [_row(run, time.time() if now is None else now, metric) for run in runs]


def _row(run: Run, now: float, judged_by: Metric | None) -> Row:
    state = run.state
    started = run.folder is not None and run_folder.STATS in run.folder.names
    header, lines = _stats(run.path) if started else ([], [])
    metric, best = _best(header, lines, judged_by)
    done = len(lines)
    config = _config(run) if started else {}
    planned = (config.get("facts") or {}).get("epochs")
    left = None
    if state.name == states.RUNNING and planned and done and run.attempt:
        left = max(0.0, (now - run.attempt.get("start", now)) / done * (planned - done))
    idle = gpu_idle.judged((dict(zip(header, cells, strict=True)) for cells in lines), config) if (
        gpu_idle.COLUMN in header) else None
    return Row(run.name, state.name, done, planned, left, metric, best, state.why, state.slurm_job, idle,
               tuple(run_folder.tags(run.path)) if run.folder is not None else ())


def _stats(folder: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a stats.csv; a torn last line is left out."""
    text = files.read_text(os.path.join(folder, run_folder.STATS)) or ""
    header, *lines = text[:text.rfind("\n") + 1].splitlines() or [""]
    return header.split(","), [cells for line in lines if len(cells := line.split(",")) == header.count(",") + 1]


def _best(header: list[str], lines: list[list[str]], metric: Metric | None) -> tuple[str | None, float | None]:
    """The best value, over all epochs, of the metric that runs are judged by, and its column."""
    found: tuple[str | None, float | None] = (None, None)
    for column in metrics.judging_columns(header, metric):
        position = header.index(column)
        values = [_number(cells[position]) for cells in lines]
        numbers = [value for value in values if value == value] or values[:1]
        if numbers:
            value = min(numbers) if metrics.descends(column, metric) else max(numbers)
            if found[1] is None or metrics.better(column, value, found[1], metric):
                found = (column, value)
    return found


def _config(run: Run) -> dict[str, Any]:
    """The run's config, with its facts; empty if it has none yet."""
    try:
        return run_folder.read_spec(os.path.join(run.path, run_folder.CONFIG))
    except ValueError:
        return {}


def counts(observation: Observation) -> dict[str, int]:
    """How many runs are in each state, in the order of states.ALL; states without a run are left out."""
    found = Counter(run.state.name for run in observation.runs.values())
    return {name: found[name] for name in states.ALL if found[name]}


def as_json(observation: Observation) -> dict[str, Any]:
    """A batch as plain values."""
    metric = metrics.of_batch(observation.path)
    return {"batch": observation.path, "counts": counts(observation),
            "throughput": asdict(throughput(observation, time.time())),
            "runs": [_plain(row) for row in rows(observation.runs.values(), metric=metric)],
            **({"canaries": [_plain(row) for row in rows(observation.canaries.values())]}
               if observation.canaries else {})}


def _plain(row: Row) -> dict[str, Any]:
    return {**asdict(row), "idle": "".join(gpu_idle.lines([row.idle])) or None}


def summary_table(observations: Iterable[Observation]) -> list[str]:
    """One line per batch: how many runs, and how many in each state that occurs."""
    lines = [(observation, counts(observation)) for observation in observations]
    columns = [name for name in states.ALL if any(name in found for _, found in lines)]
    body = [[observation.path, str(len(observation.runs)), *(str(found.get(name, "")) for name in columns)]
            for observation, found in lines]
    return table([["batch", "runs", *columns], *body])


def run_table(observation: Observation, limit: int | None = 50, starts: Mapping[str, float] | None = None,
              curves: bool = False) -> list[str]:
    """A line per run. Beyond `limit` runs, those that ended well give way to the best of them. curves: with small ones.
    """
    runs = list(observation.runs.values())
    metric = metrics.of_batch(observation.path)
    shown = runs if limit is None or len(runs) <= limit else _most_telling(runs, limit, metric)
    found = rows(shown, metric=metric)
    cells = [_cells(row, (starts or {}).get(row.slurm_job or "")) for row in found]
    names, drawn = _curves(shown, metric) if curves else ([], [[] for _ in shown])
    if any(row.tags for row in found):
        names, drawn = ["tags", *names], [[",".join(row.tags), *small] for row, small in zip(found, drawn, strict=True)]
    lines = table([["run", "state", "epochs", "left", "best", *names, ""],
                   *([*row[:5], *more, *row[5:]] for row, more in zip(cells, drawn, strict=True))])
    if len(shown) < len(runs):
        lines.append(f"… and {len(runs) - len(shown)} more; --all shows every run")
    if not observation.queue_answered and observation.count((states.UNKNOWN,)):
        lines.append("squeue did not answer: runs that Slurm has are shown as unknown")
    # what is ranked by another metric has no value of the named one
    others = [row.metric for row in found if row.metric]
    if metric and others and not metric.find(others):
        lines.append(f"no run has {metric.name}, the metric that the job spec names: judged by {others[0]}")
    return lines + gpu_idle.lines(row.idle for row in found)


def _most_telling(runs: list[Run], limit: int, judged_by: Metric | None) -> list[Run]:
    """Failures first, then what runs, then the best; in the order of the grid. What is not shown is hardly read."""
    order: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for index, run in enumerate(runs):
        name = run.state.name
        order[2 if name in retry_policy.ENDED_WELL else name in (states.NEW, states.PENDING)].append(index)
    chosen = [*order[0], *order[1]][:limit]
    if len(chosen) < limit:
        def value(index: int) -> float:
            metric, best = _best(*_stats(runs[index].path), judged_by)
            if best is None or best != best:
                return float("inf")
            return best if metrics.descends(metric or "", judged_by) else -best

        chosen += sorted(order[2], key=value)[:limit - len(chosen)]
    return [runs[index] for index in sorted(chosen)]


def _curves(runs: list[Run], metric: Metric | None) -> tuple[list[str], list[list[str]]]:
    """The training loss and the metrics that runs are judged by: their columns, and a small curve of each for each run.
    """
    found = []
    for run in runs:
        has_stats = run.folder is not None and run_folder.STATS in run.folder.names
        header, lines = _stats(run.path) if has_stats else ([], [])
        wanted = [name for name in ("train/loss", *metrics.judging_columns(header, metric)) if name in header]
        found.append({name: sparkline([_number(cells[header.index(name)]) for cells in lines]) for name in wanted})
    names = list(dict.fromkeys(name for curves in found for name in curves))
    return names, [[curves.get(name, "") for name in names] for curves in found]


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """▁▃▅▆▇█ for a curve: at most `width` parts of equal length, each by its last number; a blank where there is none.
    """
    parts = min(width, len(values))
    last = []
    for part in range(parts):
        numbers = [value for value in values[len(values) * part // parts:len(values) * (part + 1) // parts]
                   if math.isfinite(value)]
        last.append(numbers[-1] if numbers else math.nan)
    finite = [value for value in last if value == value]
    low, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    return "".join(" " if value != value else _BARS[round((value - low) / span * 7) if span else 3] for value in last)


def _cells(row: Row, start: float | None = None) -> list[str]:
    epochs = f"{row.epochs_done}/{row.epochs}" if row.epochs is not None else str(row.epochs_done or "")
    best = "" if row.best is None else f"{row.best:.4g} {row.metric}"
    why = row.why[:100]
    if start is not None and row.state == states.PENDING:
        why += f"{', ' if why else ''}starts {time.strftime('%a %H:%M', time.localtime(start))}"
    return [row.run, row.state.replace("_", " "), epochs, "" if row.left is None else format_duration(row.left), best,
            why]


def render(observations: list[Observation], limit: int | None = 50, newest_only: bool = False,
           only: Collection[str] = states.ALL, starts: Mapping[str, float] | None = None,
           curves: bool = False, now: float | None = None) -> str:
    """What `status` prints: all batches in one table of counts, then the runs of each, or of the newest alone.

    only: the states whose runs are shown; starts: when Slurm expects to start its jobs, unix seconds by id. Failures
    are told by groups below the runs. now: unix seconds, to tell how fast a batch goes and how long it will take.
    """
    parts = ["\n".join(summary_table(observations))]
    if newest_only:
        latest = run_lookup.newest_batch(observation.path for observation in observations)
        observations = [observation for observation in observations if observation.path == latest]
    for observation in observations:
        lines = run_table(filter_runs(observation, only), limit, starts or {}, curves)
        if observation.canaries:
            from src.submission.status import canary_results  # few batches have them

            lines += canary_results.status_lines(observation.canaries.values())
        groups = [found.line() for found in failures.group_failures(observation.runs.values()) if found.state in only]
        lines += groups[:MAX_GROUPS]
        lines += [f"… and {len(groups) - MAX_GROUPS} more kinds of failures"] if len(groups) > MAX_GROUPS else []
        if now and (speed := throughput(observation, now)):
            lines += speed.lines()
        parts.append("\n".join([observation.path, *lines]))
    return "\n\n".join(parts)


def filter_runs(observation: Observation, only: Collection[str], tags: Collection[str] = ()) -> Observation:
    """The batch with its runs in some states alone, of those that have all of these tags."""
    return replace(observation, runs={
        name: run for name, run in observation.runs.items()
        if run.state.name in only and (not tags or set(tags) <= set(run_folder.tags(run.path)))})


def progress_line(observations: Iterable[Observation], now: float, width: int = 30) -> str:
    """`[#####     ] 12/24 runs  1 failed  35 runs an hour, 0:20 left`: of all batches, by the ends of the last hour."""
    runs = [run for observation in observations for run in observation.runs.values()]
    ends = _ends(runs)
    bad = sum(run.state.name in retry_policy.UNSUCCESSFUL for run in runs)
    ended = sum(run.state.name in retry_policy.ENDED_WELL for run in runs)
    line = terminal.bar(ended, len(runs), width) + f" {ended:,}/{len(runs):,} runs{f'  {bad:,} failed' if bad else ''}"
    per_hour = runs_per_hour(ends, now)
    left = len(runs) - ended - bad
    if per_hour and left:
        line += f"  {_short(per_hour)} runs an hour, {format_duration(left / per_hour * 3600)} left"
    return line


@dataclass(frozen=True)
class Throughput:
    """How fast a batch goes: runs that end well an hour, in the last hour and over the batch, and the seconds that it
    will take at that speed. None of what is not known, left of a batch of which nothing is pending or running."""

    now: float | None
    over_the_batch: float | None
    left: float | None

    def lines(self) -> list[str]:
        """`throughput  35 runs an hour now, 28 over the batch, 0:20 left`, of a batch that goes on."""
        if self.left is None:
            return []
        told = [f"{_short(self.now)} runs an hour now" if self.now else "",
                f"{_short(self.over_the_batch)} over the batch" if self.over_the_batch else "",
                f"{format_duration(self.left)} left"]
        return [f"throughput  {', '.join(filter(None, told))}"]


def throughput(observation: Observation, now: float) -> Throughput:
    """How fast a batch goes, by when its runs ended; whatever they run, and whether they log anything or not."""
    runs = observation.runs.values()
    ends = _ends(runs)
    goes_on = observation.count((states.PENDING, states.RUNNING, states.SUBMITTED)) > 0
    recent = runs_per_hour(ends, now)
    overall = runs_per_hour(ends, now if goes_on else max(ends, default=now), math.inf)
    number = sum(run.state.name not in retry_policy.ENDED_WELL | retry_policy.UNSUCCESSFUL for run in runs)
    speed = recent or overall
    return Throughput(recent if goes_on else None, overall, number / speed * 3600 if goes_on and speed else None)


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _ends(runs: Iterable[Run]) -> list[float]:
    return [end for run in runs if run.state.name in retry_policy.ENDED_WELL and (end := _ended_at(run)) is not None]


def runs_per_hour(ends: Iterable[float], now: float, within: float = 3600) -> float | None:
    """Runs per hour, from when runs ended (unix seconds) in the last hour, or in `within` seconds; None before two
    have."""
    recent = sorted(end for end in ends if now - within <= end <= now)
    # the first of them begins the time in which the others ended
    return (len(recent) - 1) / (now - recent[0]) * 3600 if len(recent) > 1 and now > recent[0] else None


def _ended_at(run: Run) -> float | None:
    try:
        return os.stat(os.path.join(run.path, run_folder.DONE)).st_mtime
    except OSError:
        return None


def watch(look: Callable[[], list[Observation]], show: Callable[[list[Observation]], None], pause: float) -> None:
    """Look and show, again and again, until nothing is pending or running."""
    while True:
        observations = look()
        show(observations)
        if not any(observation.count(retry_policy.ALIVE) for observation in observations):
            return
        time.sleep(pause)
