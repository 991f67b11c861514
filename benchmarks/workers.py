"""Local workers on runs that do nothing: what a run costs one worker, and how busy two keep two cores."""
from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

from benchmarks import project

FEW, MANY = 100, 1_100  # the difference leaves out what a worker does once


def measure() -> list[tuple[str, float, float | None]]:
    """(what, figure, the most it may be). Idle is the share of the cores that none of our processes used."""
    runs = MANY - FEW
    with tempfile.TemporaryDirectory() as temporary:
        folder = project.make(Path(temporary))
        (one, _), (wall, cpu) = (difference(folder, workers) for workers in (1, 2))
    return [(f"milliseconds of a worker for each of {runs:,} runs that do nothing", 1e3 * one / runs, 40.0),
            (f"idle share of two cores, with two workers ({1e3 * wall / runs:.0f} ms for each run)",
             1 - cpu / (2 * wall), 0.1)]


def difference(folder: Path, workers: int) -> tuple[float, float]:
    """Wall and CPU seconds of MANY - FEW runs."""
    few, many = (timed(folder, f"noop{workers}x{runs}", runs, workers) for runs in (FEW, MANY))
    return many[0] - few[0], many[1] - few[1]


def timed(folder: Path, name: str, runs: int, workers: int) -> tuple[float, float]:
    """Wall seconds and CPU seconds of a local batch, all its processes together."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    project.submit(folder, name, runs, "--local", "--workers", str(workers))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(getattr(after, kind) - getattr(before, kind) for kind in ("ru_utime", "ru_stime"))
    return time.perf_counter() - start, cpu
