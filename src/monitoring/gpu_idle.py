"""Find runs whose GPUs are idle: by the system metrics of their epochs, or while they run, with the likely cause."""
from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from src.io import records

COLUMN = "system/gpu"  # of stats.csv: percent of the time in which the run's GPUs were busy
DATA_BOUND = 0.3  # share of the training that waits for data, above which the data is the bottleneck
_BUSY_ENOUGH = 70.0  # percent
_MAX_LOADERS = 16


class IdleGpu(NamedTuple):
    """A run whose GPU is idle. busy: percent of the time; suggestion: what to try."""

    busy: float
    suggestion: str


def assess(rows: Iterable[Mapping[str, Any]], config: Mapping[str, Any]) -> IdleGpu | None:
    """Assess the epochs of a run. None if its GPU is busy enough, or was not measured. Empty cells are skipped."""
    measured = [row for row in rows if math.isfinite(_number(row.get(COLUMN)))]
    if not measured:
        return None
    busy = sum(_number(row[COLUMN]) for row in measured) / len(measured)
    if busy >= _BUSY_ENOUGH:
        return None
    seconds, waiting = (sum(value for row in measured if math.isfinite(value := _number(row.get(name))))
                        for name in ("train/time", "train/data_time"))
    workers: int = config["num_workers"] if records.is_count(config.get("num_workers")) else 0
    if seconds and waiting / seconds > DATA_BOUND and workers < _MAX_LOADERS:
        more = min(max(4 * workers, 4), _MAX_LOADERS)
        facts = config.get("facts")
        threads = facts.get("threads") if isinstance(facts, dict) else None
        cpus = threads if threads and records.is_count(threads) else more
        return IdleGpu(busy, f"num_workers {more}" + (f" on as many CPUs (now {cpus})" if cpus < more else ""))
    return IdleGpu(busy, f"a batch_size above {config.get('batch_size')}")


def _number(cell: Any) -> float:
    """Return a cell as a number; NaN if it is empty or not a number."""
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def summarize(runs: Iterable[IdleGpu | None]) -> list[str]:
    """Return lines such as `GPU 23 % busy: try num_workers 8 (3 runs)`, one per suggestion."""
    groups: dict[str, list[float]] = {}
    for idle in runs:
        if idle:
            groups.setdefault(idle.suggestion, []).append(idle.busy)
    return [f"GPU {sum(busy) / len(busy):.0f} % busy: try {suggestion}{f' ({len(busy)} runs)' if len(busy) > 1 else ''}"
            for suggestion, busy in groups.items()]


class Limits(NamedTuple):
    """When a GPU that a run has counts as idle: below this percent on average, for these minutes."""

    below: float = 10.0
    minutes: float = 15.0


def read_limits(record: Any) -> Limits | None:
    """Return the limits that a journal stores; None if it stores none, or they are damaged."""
    checked = records.fields(record, dict.fromkeys(Limits._fields, records.is_number))
    return Limits(**checked) if checked and checked.keys() <= set(Limits._fields) else None


class IdleNow(NamedTuple):
    """A run whose GPU is idle at the moment.

    busy: percent; minutes: over which it was measured; cause: what the run does meanwhile, in words
    """

    busy: float
    minutes: float
    cause: str

    def line(self) -> str:
        """Return `GPU 4 % busy in the last 15 min: data loading takes 83 % of the time`."""
        return f"GPU {self.busy:.0f} % busy in the last {self.minutes:.0f} min: {self.cause}"


class Sample(NamedTuple):
    """The progress of a run so far, in seconds: the time, by a clock; waits for data, evaluations, CPU time.

    busy: percent, of its GPUs on average; sees_loop: whether data and evaluation were measured
    """

    time: float
    busy: float
    data: float
    evaluation: float
    cpu: float
    sees_loop: bool = True


class IdleWatch:
    """Watches the GPUs of a run that goes on."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> IdleNow | None:
        """Add a sample. Return how idle the GPUs are, if they have been for long enough."""
        samples, seconds = self._samples, 60 * self._limits.minutes
        samples.append(sample)
        while len(samples) > 2 and samples[1].time <= sample.time - seconds:
            samples.popleft()
        first = samples[0]
        if sample.time - first.time < seconds:
            return None
        # the load between two samples is that of the later one
        busy, before = 0.0, first.time
        for later in list(samples)[1:]:
            busy += later.busy * (later.time - before) / (sample.time - first.time)
            before = later.time
        if busy >= self._limits.below:
            return None
        return IdleNow(busy, (sample.time - first.time) / 60, _cause(first, sample))


def _cause(first: Sample, last: Sample) -> str:
    """Return what takes at least half of the time between two samples, or else how busy the CPUs are."""
    seconds = last.time - first.time
    if last.sees_loop:
        for name, activity in (("data", "data loading"), ("evaluation", "evaluation")):
            share = (getattr(last, name) - getattr(first, name)) / seconds
            if share >= 0.5:
                return f"{activity} takes {100 * min(share, 1.0):.0f} % of the time"
    cores = (last.cpu - first.cpu) / seconds
    return f"it waits, using {cores:.2f} CPUs" if cores < 0.1 else f"its processes use {cores:.1f} CPUs meanwhile"


def read_record(record: Any) -> IdleNow | None:
    """Return the content of a file about the GPU of a run; None if it is damaged."""
    forms = {"busy": records.is_number, "minutes": records.is_number, "cause": records.is_text}
    checked = records.fields(record, forms)
    try:
        return IdleNow(checked["busy"], checked["minutes"], checked["cause"])
    except KeyError:
        return None
