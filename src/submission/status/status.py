"""The progress of batches: runs per state, and a table of runs, as text or as values for JSON."""
from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from src import metrics, run_folder, stats_csv
from src.archive import run_files
from src.code import code_state
from src.frozen import Frozen
from src.io import records
from src.metrics import Metric
from src.monitoring import gpu_idle
from src.stats_csv import Stats
from src.submission.status import failures, retry_policy, run_lookup, states, throughput
from src.submission.status.failures import FailureGroup
from src.submission.status.observation import Observation, Run
from src.submission.system.terminal import count, format_duration, table

if TYPE_CHECKING:
    from src.search.summary import Summary

_BARS = "▁▂▃▄▅▆▇█"
MAX_GROUPS = 5  # groups of failures that are listed below the runs


class StatusRow(Frozen):
    """One run in a table of runs. The names of the fields are the keys of `status --json`.

    epochs: planned epochs; None if unknown;
    left: remaining seconds; None if unknown;
    metric: the column of `best`;
    idle: the use of its GPU, if that is low, by the epochs so far;
    gpu_idle: a warning that its GPU idles now, and the likely cause; also in `why`; empty if it does not run;
    tags: its TAGS;
    notes: what of its stats.csv was left out;
    code_changed: files that differed from the submission when it started.
    """

    run: str
    state: str
    epochs_done: int
    epochs: int | None
    left: float | None
    metric: str | None
    best: float | None
    why: str
    slurm_job: str | None
    idle: gpu_idle.IdleGpu | None = None
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    code_changed: tuple[str, ...] = ()
    gpu_idle: str = ""


def rows(runs: Iterable[Run], now: float | None = None, metric: Metric | None = None) -> list[StatusRow]:
    """Return a row for each run, in order. metric: the one that their job spec names."""
    return [_row(run, _read_stats(run), time.time() if now is None else now, metric) for run in runs]


def read_row(run: Run, metric: Metric | None) -> tuple[StatusRow, dict[str, str]]:
    """Return the row of a run, and small curves of its training loss and ranking metrics."""
    stats = _read_stats(run)
    return _row(run, stats, time.time(), metric), _curves_of(stats, metric)


def _row(run: Run, stats: Stats, now: float, metric: Metric | None) -> StatusRow:
    done = len(stats.epochs)
    column, best = _best(stats, metric)
    config = _read_config(run) if stats.names else {}
    facts = config.get("facts") or _read_own_facts(run)
    facts = facts if isinstance(facts, dict) else {}
    epochs = facts.get("epochs") if records.is_count(facts.get("epochs")) else None
    left = _seconds_left(stats, epochs, run.attempt or {}, now) if run.state.name == states.RUNNING and epochs else None
    idle = gpu_idle.assess((dict(zip(stats.names, cells, strict=True)) for cells in stats.rows), config) if (
        gpu_idle.COLUMN in stats.names and not stats.words) else None
    tags = tuple(run_folder.tags(run.path)) if run.files is not None else ()
    ranked = metrics.ranking_columns(stats.names, metric)
    words = [name for name in stats.words if name in ranked or metric and metric.names(name)]
    notes = *stats.notes, *(stats_csv.words_message(name, stats.words[name]) for name in words)
    changed = facts.get(code_state.CHANGED)
    warning = _idle_now(run)
    return StatusRow(run.name, run.state.name, done, epochs, left, column, best,
                     ", ".join(filter(None, (run.state.why, warning))), run.state.slurm_job, idle, tags, notes,
                     tuple(map(str, changed)) if isinstance(changed, list) else (), warning)


def _idle_now(run: Run) -> str:
    """The warning that the GPU of a running run idles; empty if it does not."""
    if run.files is None or run_folder.GPU_IDLE not in run.files.names or run.state.name != states.RUNNING:
        return ""
    record, attempt = run_files.read_json(run.path, run_folder.GPU_IDLE), run.attempt or {}
    idle = gpu_idle.read_record(record)
    is_current = idle and all(record.get(key) == attempt.get(key) for key in ("ticket", "number"))
    return idle.line() if idle and is_current else ""


def idle_lines(observation: Observation) -> list[str]:
    """Return a line for each run whose GPU idles now."""
    return [f"{run.name}: {warning}" for run in observation.runs.values() if (warning := _idle_now(run))]


def _seconds_left(stats: Stats, epochs: int, attempt: Mapping[str, Any], now: float) -> float | None:
    """Return the time until the last of `epochs`, by the pace since the attempt's start; None before its first epoch.

    Epochs that an earlier attempt has trained do not count for the pace.
    """
    start = attempt.get("start", now)
    times = stats.numbers("timestamp") if "timestamp" in stats.names else []
    trained = sum(not time_of_epoch < start for time_of_epoch in times) if times else len(stats.epochs)
    return max(0.0, (now - start) / trained * (epochs - len(stats.epochs))) if trained else None


def _read_stats(run: Run) -> Stats:
    """The stats of a run; empty if it has none yet."""
    has_stats = run.files is not None and run_folder.STATS in run.files.names
    return stats_csv.read(run.path) if has_stats else stats_csv.parse("", b"")


def _best(stats: Stats, metric: Metric | None) -> tuple[str | None, float | None]:
    """The column of the ranking metric, and its best value over all epochs; None without one.

    A run with averaged weights is ranked by these, any other by its last ones.
    """
    only_nan: tuple[str | None, float | None] = None, None
    for column in metrics.by_preference(metrics.ranking_columns(_number_columns(stats), metric)):
        values = stats.numbers(column)
        if numbers := [value for value in values if value == value]:
            return column, min(numbers) if metrics.lower_is_better(column, metric) else max(numbers)
        if values and only_nan[0] is None:
            only_nan = column, math.nan
    return only_nan


def _number_columns(stats: Stats) -> list[str]:
    return [name for name in stats.names if name not in stats.words]


def _read_config(run: Run) -> dict[str, Any]:
    """The run's config with its facts; empty if it does not exist yet."""
    try:
        return run_folder.read_spec(os.path.join(run.path, run_folder.CONFIG))
    except ValueError:
        return {}


def _read_own_facts(run: Run) -> dict[str, Any]:
    """The facts of a run of an external program; empty for others."""
    return run_folder.read_facts(run.path) if run.files is not None and run_folder.FACTS in run.files.names else {}


def _code_lines(run_rows: Iterable[StatusRow]) -> list[str]:
    """A line about the runs that started with other code than was submitted."""
    changed = [row.code_changed for row in run_rows if row.code_changed]
    names = dict.fromkeys(name for names in changed for name in names)
    return [f"{code_state.change_message(names)} ({count(len(changed), 'run')})"] if changed else []


def _code_versions(observation: Observation) -> list[Any]:
    """The versions of the code that its runs started with; empty if there is one."""
    if not code_state.may_have_versions(observation.path):
        return []
    from src.code import code_versions  # few batches have several

    started = [run.path for run in observation.runs.values()
               if run.files and run.files.names & {run_folder.FACTS, run_folder.CONFIG}]
    versions = code_versions.read_versions(observation.path, started)
    return versions if len(versions) > 1 else []


def _version_lines(observation: Observation) -> list[str]:
    """A line about the versions of the code, if there are several."""
    if not (versions := _code_versions(observation)):
        return []
    from src.code import code_versions

    return [code_versions.line(versions)]


def counts(observation: Observation) -> dict[str, int]:
    """Return how many runs are in each state that occurs, in the order of states.ALL."""
    numbers = Counter(run.state.name for run in observation.runs.values())
    return {state: numbers[state] for state in states.ALL if numbers[state]}


def as_json(observation: Observation) -> dict[str, Any]:
    """Return a batch as plain values."""
    metric = metrics.read_from_batch(observation.path)
    return {"batch": observation.path, "counts": counts(observation),
            "throughput": throughput.throughput(observation, time.time())._asdict(),
            "code_versions": [version._asdict() for version in _code_versions(observation)],
            "runs": [_plain(row) for row in rows(observation.runs.values(), metric=metric)], **_search(observation),
            **({"canaries": [_plain(row) for row in rows(observation.canaries.values())]}
               if observation.canaries else {})}


def _search(observation: Observation) -> dict[str, Any]:
    """The search of a batch as plain values; nothing for a grid."""
    search = summarize_search(observation.path)
    return {"search": {**search._asdict(), "rungs": [rung._asdict() for rung in search.rungs]}} if search else {}


def _plain(row: StatusRow) -> dict[str, Any]:
    return {**row._asdict(), "idle": "".join(gpu_idle.summarize([row.idle])) or None}


def summary_table(observations: Iterable[Observation]) -> list[str]:
    """Return a line per batch: the number of runs, and how many are in each state that occurs."""
    batches = [(observation, counts(observation)) for observation in observations]
    columns = [state for state in states.ALL if any(state in numbers for _, numbers in batches)]
    return table([["batch", "runs", *columns],
                  *([observation.path, str(len(observation.runs)), *(str(numbers.get(name, "")) for name in columns)]
                    for observation, numbers in batches)])


class RunTable(Frozen):
    """The rows of a table of runs, and what is shown with them.

    remarks: for each row why it is in its state, or when it is expected to start;
    curve_names, curves: with small curves of the training loss and the ranking metrics, for each row;
    search: of the batch; None for a grid;
    notes: lines for below the table.
    """

    rows: list[StatusRow]
    remarks: list[str]
    curve_names: list[str]
    curves: list[list[str]]
    search: Summary | None
    notes: list[str]


def read_table(observation: Observation, limit: int | None = 50, starts: Mapping[str, float] | None = None,
               curves: bool = False) -> RunTable:
    """Return the rows of a batch, and the notes below them.

    limit: maximum number of runs; failures, then open runs, then the best of the others are shown;
    starts: when Slurm expects to start its jobs, unix seconds by id;
    curves: also read curves of the training loss and the ranking metrics.
    """
    runs = list(observation.runs.values())
    metric = metrics.read_from_batch(observation.path)
    shown = runs if limit is None or len(runs) <= limit else _most_important(runs, limit, metric)
    run_rows = rows(shown, metric=metric)
    curve_names, run_curves = _curves(shown, metric) if curves else ([], [[] for _ in shown])
    search = summarize_search(observation.path)
    stopped = frozenset(search.stopped if search else ())
    remarks = [remark(row, (starts or {}).get(row.slurm_job or ""), row.run in stopped) for row in run_rows]
    return RunTable(run_rows, remarks, curve_names, run_curves, search,
                    _notes(observation, run_rows, metric, len(runs) - len(shown)))


def run_table(observation: Observation, limit: int | None = 50, starts: Mapping[str, float] | None = None,
              curves: bool = False) -> list[str]:
    """Return a line per run, and notes below. The arguments are those of read_table."""
    content = read_table(observation, limit, starts, curves)
    has_tags = any(row.tags for row in content.rows)
    body = [[*_cells(row), *([",".join(row.tags)] if has_tags else []), *cells, text]
            for row, cells, text in zip(content.rows, content.curves, content.remarks, strict=True)]
    extra = [*(["tags"] if has_tags else []), *content.curve_names, ""]
    lines = table([["run", "state", "epochs", "left", "best", *extra], *body])
    if content.search:
        lines += [content.search.headline(), *table(content.search.rows(), indent="  ")]
    return lines + content.notes


def _notes(observation: Observation, run_rows: list[StatusRow], metric: Metric | None, more: int) -> list[str]:
    """The lines below a table of runs. more: how many runs it does not show."""
    lines = []
    if more:
        lines.append(f"… and {more} more; --all shows every run")
        if any(metrics.chooses_by_test(row.metric) for row in run_rows):
            lines.append(f"the runs above are {metrics.TEST_NOTE}")
    if not observation.queue_answered and observation.count((states.UNKNOWN,)):
        lines.append("squeue did not answer: runs that were submitted to Slurm are shown as unknown")
    # rank by another metric if no run has the one of the job spec
    columns = [row.metric for row in run_rows if row.metric]
    if metric and columns and not metric.find(columns):
        reason = f"no run has {metric.name}" if metrics.direction(metric.name, metric) else f"no goal for {metric.name}"
        lines.append(f"{reason}, the metric of the job spec: ranked by {columns[0]}")
    elif not columns and (problem := metrics.missing_metric_message(
            metric, [], any(row.state in retry_policy.ENDED_WELL for row in run_rows))):
        lines.append(problem)
    return lines + _code_lines(run_rows) + _note_lines(run_rows) + gpu_idle.summarize(row.idle for row in run_rows)


def _note_lines(run_rows: list[StatusRow]) -> list[str]:
    """A line for each note on a stats.csv, with the first run that has it."""
    runs: dict[str, list[str]] = {}
    for row in run_rows:
        for note in row.notes:
            runs.setdefault(note, []).append(row.run)
    lines = [f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}"
             for note, names in runs.items()]
    return lines[:MAX_GROUPS] + ([f"… and {len(lines) - MAX_GROUPS} more notes"] if len(lines) > MAX_GROUPS else [])


def _most_important(runs: list[Run], limit: int, metric: Metric | None) -> list[Run]:
    """Failures and running runs first, then waiting ones, then the best of the ended, in the order of the grid.

    Only if there is room for ended runs are their results read.
    """
    urgent: list[int] = []
    waiting: list[int] = []
    ended: list[int] = []
    for index, run in enumerate(runs):
        if run.state.name in retry_policy.CLOSED:
            ended.append(index)
        else:
            (waiting if run.state.name in (states.NEW, states.PENDING) else urgent).append(index)
    chosen = [*urgent, *waiting][:limit]
    if len(chosen) < limit:
        def rank(index: int) -> float:
            column, best = _best(_read_stats(runs[index]), metric)
            if best is None or best != best:
                return math.inf
            return best if metrics.lower_is_better(column or "", metric) else -best

        chosen += sorted(ended, key=rank)[:limit - len(chosen)]
    return [runs[index] for index in sorted(chosen)]


def _curves(runs: list[Run], metric: Metric | None) -> tuple[list[str], list[list[str]]]:
    """The columns of the training loss and of the ranking metrics, and for each run a small curve of each."""
    curves = [_curves_of(_read_stats(run), metric) for run in runs]
    names = list(dict.fromkeys(name for curve in curves for name in curve))
    return names, [[curve.get(name, "") for name in names] for curve in curves]


def _curves_of(stats: Stats, metric: Metric | None) -> dict[str, str]:
    names = _number_columns(stats)
    return {name: sparkline(stats.numbers(name))
            for name in ("train/loss", *metrics.ranking_columns(names, metric)) if name in names}


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """Return a curve as `▁▃▅▆▇█`: at most `width` equal parts, each by its last finite value; a blank without one."""
    parts = min(width, len(values))
    heights = []
    for part in range(parts):
        finite = [value for value in values[len(values) * part // parts:len(values) * (part + 1) // parts]
                  if math.isfinite(value)]
        heights.append(finite[-1] if finite else math.nan)
    finite = [height for height in heights if height == height]
    low, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    return "".join(" " if height != height else _BARS[round((height - low) / span * 7) if span else 3]
                   for height in heights)


def _cells(row: StatusRow) -> list[str]:
    best = "" if row.best is None else f"{row.best:.4g} {row.metric}"
    return [row.run, states.shown(row.state), epochs(row), "" if row.left is None else format_duration(row.left), best]


def epochs(row: StatusRow) -> str:
    """Return `3/12`, or `3` if the planned epochs are unknown."""
    return f"{row.epochs_done}/{row.epochs}" if row.epochs is not None else str(row.epochs_done or "")


def remark(row: StatusRow, start: float | None = None, is_stopped: bool = False) -> str:
    """Return why a run is in its state. start: expected, in unix seconds; is_stopped: by its search."""
    if is_stopped:
        return "stopped by its search"
    why = row.why[:100]
    if start is not None and row.state == states.PENDING:
        why += f"{', ' if why else ''}starts {time.strftime('%a %H:%M', time.localtime(start))}"
    return why


def render(observations: list[Observation], limit: int | None = 50, newest_only: bool = False,
           only: Collection[str] = states.ALL, starts: Mapping[str, float] | None = None,
           curves: bool = False, now: float | None = None) -> str:
    """Return the output of `status`: a table of all batches, then the runs of each, or only of the newest.

    only: the states whose runs are shown; limit, starts, curves: as in `run_table`;
    now: unix seconds; adds lines with the versions of the code, the points left out, and the throughput.
    """
    parts = ["\n".join(summary_table(observations))]
    for observation in newest(observations) if newest_only else observations:
        lines = run_table(filter_runs(observation, only), limit, starts or {}, curves)
        parts.append("\n".join([observation.path, *lines, *lines_below(observation, only, now)]))
    return "\n\n".join(parts)


def newest(observations: Iterable[Observation]) -> list[Observation]:
    """Return the batch with the newest submission."""
    batches = {observation.path: observation for observation in observations}
    path = run_lookup.newest_batch(batches)
    return [batches[path]] if path else []


def lines_below(observation: Observation, only: Collection[str] = states.ALL, now: float | None = None,
                format_group: Callable[[FailureGroup], str] = FailureGroup.line) -> list[str]:
    """Return the lines below the table of a batch: canaries, failures, and what `render` adds with `now`."""
    lines = []
    if observation.canaries:
        from src.submission.status import canary_results  # few batches have canaries

        lines += canary_results.status_lines(observation.canaries.values())
    groups = [group for group in failures.group_failures(observation.runs.values()) if group.state in only]
    lines += map(format_group, groups[:MAX_GROUPS])
    if len(groups) > MAX_GROUPS:
        lines.append(f"… and {len(groups) - MAX_GROUPS} more kinds of failures")
    if now:
        lines += _version_lines(observation)
        lines += filter(None, [observation.history.left_out_line()])
        lines += throughput.throughput(observation, now).lines()
    return lines


def summarize_search(batch: str) -> Summary | None:
    """Return the summary of the search of a batch; None for a grid."""
    if not os.path.isdir(os.path.join(batch, run_folder.SEARCH)):
        return None
    from src.search import summary  # few batches are searches

    return summary.summarize(batch)


def filter_runs(observation: Observation, only: Collection[str], tags: Collection[str] = ()) -> Observation:
    """Return the batch with only those runs that are in one of the states and have all of the tags."""
    return observation._replace(runs={
        name: run for name, run in observation.runs.items()
        if run.state.name in only and (not tags or set(tags) <= set(run_folder.tags(run.path)))})
