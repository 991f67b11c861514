"""Find runs whose GPUs are idle, by the system metrics of their epochs, and suggest what to change."""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from src.io import records

COLUMN = "system/gpu"  # of stats.csv: percent of the time in which the run's GPUs were busy
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
    if seconds and waiting / seconds > 0.3 and workers < _MAX_LOADERS:
        more = min(max(4 * workers, 4), _MAX_LOADERS)
        facts = config.get("facts")
        threads = facts.get("threads") if isinstance(facts, dict) else None
        cpus = threads if threads and records.is_count(threads) else more
        return IdleGpu(busy, f"num_workers {more}" + (f" on as many CPUs (now {cpus})" if cpus < more else ""))
    return IdleGpu(busy, f"a batch_size above {config.get('batch_size')}")


def _number(cell: Any) -> float:
    """Return a cell as a number; NaN if it is empty or none."""
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
