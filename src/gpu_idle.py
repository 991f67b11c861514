"""How busy the GPUs of runs are, by the system metrics of their epochs, and what to try where that is little"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

COLUMN = "system/gpu"  # of stats.csv: percent of the time in which the run's GPUs did anything
_ENOUGH = 70.0  # percent
_MOST_LOADERS = 16


class IdleGpu(NamedTuple):
    """A run whose GPU waits: how busy it is, in percent, and what to try."""

    busy: float
    tries: str


def assess(rows: Iterable[Mapping[str, Any]], config: Mapping[str, Any]) -> IdleGpu | None:
    """What the epochs of a run say; None if its GPU is busy enough, or nothing is known. Empty cells are left out."""
    known = [row for row in rows if row.get(COLUMN) not in (None, "")]
    if not known:
        return None
    busy = sum(float(row[COLUMN]) for row in known) / len(known)
    if busy >= _ENOUGH:
        return None
    seconds, waits = (sum(float(row.get(name) or 0) for row in known) for name in ("train/time", "train/data_time"))
    workers = int(config.get("num_workers") or 0)
    if seconds and waits / seconds > 0.3 and workers < _MOST_LOADERS:
        more = min(max(4 * workers, 4), _MOST_LOADERS)
        cpus = (config.get("facts") or {}).get("threads") or more
        return IdleGpu(busy, f"num_workers {more}" + (f" on as many CPUs (now {cpus})" if cpus < more else ""))
    return IdleGpu(busy, f"a batch_size above {config.get('batch_size')}")


def summarize(found: Iterable[IdleGpu | None]) -> list[str]:
    """`GPU 23 % busy: try num_workers 8 (3 runs)`, one for all runs that should try the same."""
    groups: dict[str, list[float]] = {}
    for idle in found:
        if idle:
            groups.setdefault(idle.tries, []).append(idle.busy)
    return [f"GPU {sum(busy) / len(busy):.0f} % busy: try {tries}{f' ({len(busy)} runs)' if len(busy) > 1 else ''}"
            for tries, busy in groups.items()]
