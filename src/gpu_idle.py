"""Find runs whose GPUs are idle, by the system metrics of their epochs, and suggest what to change."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

COLUMN = "system/gpu"  # of stats.csv: percent of the time in which the run's GPUs were busy
_BUSY_ENOUGH = 70.0  # percent
_MAX_LOADERS = 16


class IdleGpu(NamedTuple):
    """A run whose GPU is idle. busy: percent of the time; suggestion: what to try."""

    busy: float
    suggestion: str


def assess(rows: Iterable[Mapping[str, Any]], config: Mapping[str, Any]) -> IdleGpu | None:
    """Assess the epochs of a run. None if its GPU is busy enough, or was not measured. Empty cells are skipped."""
    measured = [row for row in rows if row.get(COLUMN) not in (None, "")]
    if not measured:
        return None
    busy = sum(float(row[COLUMN]) for row in measured) / len(measured)
    if busy >= _BUSY_ENOUGH:
        return None
    seconds, waiting = (sum(float(row.get(name) or 0) for row in measured)
                        for name in ("train/time", "train/data_time"))
    workers = int(config.get("num_workers") or 0)
    if seconds and waiting / seconds > 0.3 and workers < _MAX_LOADERS:
        more = min(max(4 * workers, 4), _MAX_LOADERS)
        cpus = (config.get("facts") or {}).get("threads") or more
        return IdleGpu(busy, f"num_workers {more}" + (f" on as many CPUs (now {cpus})" if cpus < more else ""))
    return IdleGpu(busy, f"a batch_size above {config.get('batch_size')}")


def summarize(runs: Iterable[IdleGpu | None]) -> list[str]:
    """Return lines such as `GPU 23 % busy: try num_workers 8 (3 runs)`, one per suggestion."""
    groups: dict[str, list[float]] = {}
    for idle in runs:
        if idle:
            groups.setdefault(idle.suggestion, []).append(idle.busy)
    return [f"GPU {sum(busy) / len(busy):.0f} % busy: try {suggestion}{f' ({len(busy)} runs)' if len(busy) > 1 else ''}"
            for suggestion, busy in groups.items()]
