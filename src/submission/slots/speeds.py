"""The speed of runs at each number of runs at a time: rates in windows of steady state, and how these compare."""
from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from src.frozen import Frozen

WARM_UP = 3.0  # seconds after the first progress of a run, in which it is not measured
SHORTEST, LONGEST = 8.0, 60.0  # seconds of a window
_MAX_ERROR = 0.015  # standard error, relative to the rate, at which a window closes
_PARTS = 4  # of a window, which are compared
_MIN_POINTS = 3  # of the progress of each run in a window


class Progress(Frozen):
    """The progress of a run.

    setting: what runs of the same speed have in common
    amount: samples, or the steps or epochs of a program that logs only those; None if it logs nothing
    time: when that was the amount, on the clock of the readings
    """

    setting: str
    amount: float | None
    time: float


class Rates(NamedTuple):
    """The speeds of runs in one window, in amounts per second.

    runs: by name; settings: means by setting; durations: runs per second, by setting, of runs that have ended.
    """

    runs: Mapping[str, float]
    settings: Mapping[str, float]
    durations: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The mean speed of a run; in a window that has runs, which may be more than ran at a time."""
        return statistics.fmean(self.runs.values())


def relative_speed(before: Rates, after: Rates, only_alike: bool = False) -> float | None:
    """Return how much faster a single run is in `after`; None if the windows have nothing to compare.

    The same runs are compared, else runs of the same settings, else all, unless only_alike.
    """
    for first, second in ((before.runs, after.runs), (before.settings, after.settings),
                          (before.durations, after.durations)):
        if ratios := [math.log(second[key] / first[key]) for key in first.keys() & second.keys()]:
            return math.exp(statistics.fmean(ratios))
    for first, second in ((before.runs, after.runs), (before.durations, after.durations)):
        if first and second and not only_alike:
            return statistics.fmean(second.values()) / statistics.fmean(first.values())
    return None


class _Track:
    """The progress of a run since it started; `points` are those of the window."""

    def __init__(self, progress: Progress) -> None:
        self.setting, self.begin = progress.setting, progress.amount
        self.first: float | None = None  # when it had made progress
        self.points: list[tuple[float, float]] = []

    def add(self, progress: Progress) -> None:
        if self.begin is None:
            self.begin = progress.amount
        elif progress.amount is not None and progress.amount > self.begin:
            if self.first is None:
                self.first = progress.time
            if progress.time >= self.first + WARM_UP and (not self.points or progress.time > self.points[-1][0]):
                self.points.append((progress.time, progress.amount))

    @property
    def is_warm(self) -> bool:
        return bool(self.points)

    @property
    def span(self) -> float:
        return self.points[-1][0] - self.points[0][0] if self.points else 0.0

    def rate(self) -> float:
        """Return the rate in the window; 0 before it can be computed."""
        return (self.points[-1][1] - self.points[0][1]) / self.span if self.span else 0.0

    def amount_at(self, time: float) -> float:
        """Return the amount at a time, between the points."""
        earlier = self.points[0]
        for later in self.points[1:]:
            if later[0] >= time:
                return earlier[1] + (later[1] - earlier[1]) * (time - earlier[0]) / (later[0] - earlier[0])
            earlier = later
        return earlier[1]


class Window:
    """Collects the progress of runs while their number is the same.

    begin: when all of them were warm for the first time
    """

    def __init__(self) -> None:
        self._tracks: dict[str, _Track] = {}
        self._ended: dict[str, _Track] = {}  # of the window
        self._durations: dict[str, list[float]] = {}
        self.begin: float | None = None
        self._next_length = SHORTEST  # seconds of the window at which it is checked

    def restart(self) -> None:
        """Forget what was measured; runs that are warm stay warm."""
        self.begin, self._next_length, self._durations, self._ended = None, SHORTEST, {}, {}
        for track in self._tracks.values():
            track.points.clear()

    def add(self, time: float, runs: Mapping[str, Progress]) -> None:
        """Add the progress of the runs that run at a time."""
        for name in self._tracks.keys() - runs.keys():
            track = self._tracks.pop(name)
            if self.begin is not None and track.span >= SHORTEST / 2:
                self._ended[name] = track
        for name, progress in runs.items():
            self._tracks.setdefault(name, _Track(progress)).add(progress)
        if self.begin is None and self._running(runs) and all(track.is_warm for track in self._running(runs)):
            self.begin = time
            for track in self._tracks.values():
                del track.points[:-1]

    def add_duration(self, setting: str, seconds: float) -> None:
        """Add a run that had, during its whole life, as many others beside it as now."""
        self._durations.setdefault(setting, []).append(seconds)

    def rates(self, time: float, runs: Mapping[str, Progress]) -> Rates | None:
        """Return the rates once they are precise enough; None before.

        Runs that log nothing, or that end before they can be measured, are timed as a whole.
        """
        steady = [track for track in self._running(runs) if track.is_warm]
        seconds = 0.0 if self.begin is None else time - self.begin
        if seconds >= self._next_length and steady and all(
                len(track.points) >= _MIN_POINTS and track.span >= SHORTEST / 2 for track in steady):
            if seconds >= LONGEST or self._error(steady) <= _MAX_ERROR:
                return self._result()
            self._next_length = min(2 * seconds, LONGEST)  # few checks pass by chance
        number = sum(map(len, self._durations.values()))
        return self._result() if number >= max(3, 2 * len(runs)) else None

    def _running(self, runs: Iterable[str]) -> list[_Track]:
        """The tracks of runs that log their progress."""
        return [self._tracks[name] for name in runs if name in self._tracks and self._tracks[name].begin is not None]

    def _error(self, tracks: list[_Track]) -> float:
        """Return the standard error of the sum of rates, relative to it, from the parts of the window."""
        begin = max(track.points[0][0] for track in tracks)
        end = min(track.points[-1][0] for track in tracks)
        if end - begin < SHORTEST / 2:
            return math.inf
        times = [begin + (end - begin) * part / _PARTS for part in range(_PARTS + 1)]
        sums = [sum((track.amount_at(after) - track.amount_at(before)) / max(track.rate(), 1e-12) for track in tracks)
                for before, after in itertools.pairwise(times)]
        mean = statistics.fmean(sums)
        return statistics.stdev(sums) / _PARTS ** 0.5 / mean if mean else math.inf

    def _result(self) -> Rates:
        tracks = {**self._ended, **self._tracks}
        runs = {name: rate for name, track in tracks.items() if (rate := track.rate()) > 0}
        by_setting: dict[str, list[float]] = {}
        for name, rate in runs.items():
            by_setting.setdefault(tracks[name].setting, []).append(rate)
        return Rates(runs, {setting: statistics.fmean(rates) for setting, rates in by_setting.items()},
                     {setting: 1 / max(statistics.fmean(times), 1e-9) for setting, times in self._durations.items()})
