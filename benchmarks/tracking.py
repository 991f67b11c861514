"""What it costs to be watched: system metrics every five seconds, as percent of one core."""
from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from loguru import logger

from src.config import Config
from src.tracking import system

SECONDS = 5.0  # between samples, as the docs advise
LOADERS = 8


def measure() -> list[tuple[str, float, float | None]]:
    """(what, figure, the most it may be)."""
    return [(f"percent of one core for a sample every {SECONDS:.0f} s of a run with {LOADERS} loaders", _percent(),
             0.5)]


def _percent() -> float:
    """CPU time, of the median sample and of writing it down, over the time between samples."""
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(LOADERS)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            samples = system.System(Config(system_metrics=SECONDS), "cpu", folder, logger)
            take, spent = system._machine(), []
            for _ in range(50):
                time.sleep(0.1)  # others use the caches in between
                start = time.thread_time()
                samples._write({"time": time.time(), **take()})
                spent.append(time.thread_time() - start)
            return 100 * statistics.median(spent) / SECONDS
    finally:
        for each in sleepers:
            each.kill()
            each.wait()
