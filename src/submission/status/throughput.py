"""Throughput of a batch: how many of its runs end per hour, and how long the rest will take."""
from __future__ import annotations

import math
from collections.abc import Iterable

from src import run_folder
from src.archive import run_files
from src.frozen import Frozen
from src.submission.status import retry_policy, states
from src.submission.status.observation import Observation, Run
from src.submission.system import terminal
from src.submission.system.terminal import format_duration

_MAX_DURATIONS = 50  # runs whose records are read


class Throughput(Frozen):
    """Runs that end well per hour, in the last hour and over the batch, and the seconds that the rest will take.

    now: over the last hour. Each is None where it is unknown; `now` and `left` also if nothing is pending or running,
    and `left` if a run already takes longer than those that have ended, which then say nothing about the rest.
    """

    now: float | None
    over_the_batch: float | None
    left: float | None

    def lines(self) -> list[str]:
        """Return `throughput  35 runs an hour now, 28 over the batch, 0:20 left`; empty if nothing is running."""
        if self.left is None and self.now is None:
            return []
        parts = [f"{format_rate(self.now)} runs an hour now" if self.now else "",
                 f"{format_rate(self.over_the_batch)} over the batch" if self.over_the_batch else "",
                 f"{format_duration(self.left)} left" if self.left is not None else ""]
        return [f"throughput  {', '.join(filter(None, parts))}"]


def throughput(observation: Observation, now: float) -> Throughput:
    """Return the throughput of a batch, from the times at which its runs ended."""
    runs = observation.runs.values()
    ends = _ends(runs)
    is_running = observation.count((states.PENDING, states.RUNNING, states.SUBMITTED)) > 0
    recent = runs_per_hour(ends, now)
    overall = runs_per_hour(ends, now if is_running else max(ends, default=now), math.inf)
    open_runs = sum(run.state.name not in retry_policy.CLOSED | retry_policy.UNSUCCESSFUL for run in runs)
    speed = recent or overall
    return Throughput(recent if is_running else None, overall,
                      _seconds_left(runs, open_runs, speed, now) if is_running and speed else None)


def _seconds_left(runs: Iterable[Run], open_runs: int, runs_an_hour: float, now: float) -> float | None:
    """Return how long the open runs will take, at least as long as the running ones if they take as long as the median
    of those that ended; None if one of them has taken longer than all of these.
    """
    left = open_runs / runs_an_hour * 3600
    running = [now - run.attempt["start"] for run in runs
               if run.state.name == states.RUNNING and run.attempt and run.attempt.get("start")]
    durations = _durations(runs) if running else []
    if not durations or not running:
        return left
    if max(running) > durations[-1]:
        return None
    return max(left, durations[len(durations) // 2] - min(running))


def _durations(runs: Iterable[Run]) -> list[float]:
    """Return the seconds that the last starts of runs took that ended well, ascending; of many runs, a sample."""
    ended = [run for run in runs if run.state.name in retry_policy.ENDED_WELL and run.files and run.files.attempts]
    durations = []
    for run in ended[::max(1, len(ended) // _MAX_DURATIONS)]:
        start, end = (run.files.last_attempt() or {}).get("start") if run.files else None, _end(run)
        if start is not None and end is not None and end >= start:
            durations.append(end - start)
    return sorted(durations)


def runs_per_hour(ends: Iterable[float], now: float, within: float = 3600) -> float | None:
    """Return the runs per hour in the last `within` seconds; None before two have ended.

    ends: when runs ended, in unix seconds.
    """
    recent = sorted(end for end in ends if now - within <= end <= now)
    # the first end is the start of the interval in which the others ended
    return (len(recent) - 1) / (now - recent[0]) * 3600 if len(recent) > 1 and now > recent[0] else None


def progress_line(observations: Iterable[Observation], now: float, width: int = 30) -> str:
    """Return `[#####     ] 12/24 runs  1 failed  35 runs an hour, 0:20 left` for all batches together."""
    runs = [run for observation in observations for run in observation.runs.values()
            if run.state.name != states.DELETED]
    failed = sum(run.state.name in retry_policy.UNSUCCESSFUL for run in runs)
    ended = sum(run.state.name in retry_policy.ENDED_WELL for run in runs)
    line = f"{terminal.bar(ended, len(runs), width)} {ended:,}/{len(runs):,} runs"
    if failed:
        line += f"  {failed:,} failed"
    speed = runs_per_hour(_ends(runs), now)
    open_runs = len(runs) - ended - failed
    if speed and open_runs:
        left = _seconds_left(runs, open_runs, speed, now)
        line += f"  {format_rate(speed)} runs an hour{'' if left is None else f', {format_duration(left)} left'}"
    return line


def format_rate(number: float) -> str:
    """Format a number of runs per hour: 1.25, 35, 7,110."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _ends(runs: Iterable[Run]) -> list[float]:
    """Return when each run that ended well did so, in unix seconds."""
    return [end for run in runs if run.state.name in retry_policy.ENDED_WELL and (end := _end(run)) is not None]


def _end(run: Run) -> float | None:
    try:
        done = run_files.status(run.path, run_folder.DONE)
    except OSError:
        return None
    return done.st_mtime if done else None
