"""Two local workers on runs that do nothing: what a run costs, and how busy both cores are kept."""
from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

from benchmarks import project

FEW, MANY, WORKERS = 100, 1_100, 2  # the difference leaves out what a worker does once


def measure() -> list[tuple[str, float, float | None]]:
    """(what, figure, the most it may be). Idle is the share of two cores that none of our processes used."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = project.make(Path(temporary))
        few, many = (timed(folder, f"noop{runs}", runs) for runs in (FEW, MANY))
    wall, cpu = many[0] - few[0], many[1] - few[1]
    runs = MANY - FEW
    return [(f"milliseconds of a worker for each of {runs:,} runs that do nothing", 1e3 * WORKERS * wall / runs, 40.0),
            (f"idle share of two cores meanwhile ({wall:.1f} s)", 1 - cpu / (WORKERS * wall), 0.1)]


def timed(folder: Path, name: str, runs: int) -> tuple[float, float]:
    """Wall seconds and CPU seconds of a local batch, all its processes together."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    project.submit(folder, name, runs, "--local", "--workers", str(WORKERS))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(getattr(after, kind) - getattr(before, kind) for kind in ("ru_utime", "ru_stime"))
    return time.perf_counter() - start, cpu
