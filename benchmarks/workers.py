"""Local workers on runs that do nothing: the overhead per run, and the utilization of two cores by two workers."""
from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

from benchmarks import project

FEW, MANY = 100, 1_100  # the difference excludes a worker's start-up


def measure() -> list[tuple[str, float, float | None]]:
    """Return (label, value, limit). Idle is the share of the cores that no process of the batch used."""
    runs = MANY - FEW
    with tempfile.TemporaryDirectory() as temporary:
        folder = project.make(Path(temporary))
        (one, _), (wall, cpu) = (difference(folder, workers) for workers in (1, 2))
    return [(f"overhead per run of one worker, in ms ({runs:,} runs that do nothing)", 1e3 * one / runs, 40.0),
            (f"idle share of two cores with two workers ({1e3 * wall / runs:.0f} ms per run)",
             1 - cpu / (2 * wall), 0.1)]


def difference(folder: Path, workers: int) -> tuple[float, float]:
    """Return the wall and CPU seconds of MANY - FEW runs."""
    few, many = (timed(folder, f"noop{workers}x{runs}", runs, workers) for runs in (FEW, MANY))
    return many[0] - few[0], many[1] - few[1]


def timed(folder: Path, name: str, runs: int, workers: int) -> tuple[float, float]:
    """Return the wall and CPU seconds of a local batch, over all its processes."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    project.submit(folder, name, runs, "--local", "--workers", str(workers))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(getattr(after, kind) - getattr(before, kind) for kind in ("ru_utime", "ru_stime"))
    return time.perf_counter() - start, cpu
