"""Real runs on CPUs for the section `slots`: the best fixed number of slots by trying all, and `--slots auto`."""
from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks import project

TRIED = range(1, 7)  # slots
_PLATEAU = 0.98  # of the highest rate, from which a number of slots is as good as that with the highest
_LIMIT = 1.1  # of a batch of a minute, of which the search is a larger part than of a longer one

TRAIN = """\
import fcntl, sys, time

from src.monitoring import worker_cell
from src.submission.job import attempt, auto_worker
from src.submission.slots import lane, speeds
from src.submission.system.signals import signals

# a run takes about two seconds, so the times of the measurement are a tenth of the usual ones
speeds.WARM_UP, speeds.SHORTEST, speeds.LONGEST, auto_worker._INTERVAL = 0.2, 0.8, 6.0, 0.1
lane._SETTLING = 0.6  # the kernel counts CPU time in steps of 0.01 s
auto_worker.Worker._warm_up = lambda self, warm_up: None  # nothing to load: the first run starts at once


def compute(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(2000))


def train(spec, folder, check):
    with open(__file__) as shared, open(f"{folder}/cpu_seconds", "w") as used:
        for step in range(160):
            if LOCKED:
                fcntl.flock(shared, fcntl.LOCK_EX)
                compute(LOCKED)
                fcntl.flock(shared, fcntl.LOCK_UN)
            compute(COMPUTING)
            time.sleep(WAITING)
            worker_cell.add_samples(1)
            if signals.time_is_short():
                return "requeued"  # the benchmark counts time, and begins such a run anew
        used.write(str(time.process_time()))
    return "completed"


if __name__ == "__main__":
    sys.exit(attempt.main(sys.argv[1:], train=train, warm_up=lambda specs: None))
"""


class Kind(NamedTuple):
    """A kind of real runs, and the number of them with `--slots auto`. Seconds of a step: computing while it holds a
    lock of all runs, computing, and waiting.
    """

    label: str
    runs: int
    locked: float
    computing: float
    waiting: float


KINDS = (
    Kind("use one core each", 48, 0.0, 0.010, 0.0),
    Kind("use 0.6 of a core each", 108, 0.0, 0.006, 0.004),
    Kind("use 0.6 of a core each and share a lock for 40 % of the time", 72, 0.004, 0.002, 0.004),
)


class Rate(NamedTuple):
    """The rate of a batch: runs per second, and the cores that its runs kept busy."""

    runs: float
    cores: float


def measure_rate(folder: Path, slots: str, runs: int) -> Rate:
    """Run a batch of real processes, and return its rate from the start of the first to the end of the last."""
    name = f"real-{slots}"
    project.submit(folder, name, runs, "--local", "--workers", "1", "--slots", slots)
    records = [json.loads(path.read_text()) for path in folder.glob(f"results/*-{name}/*/attempt-*.json")]
    seconds = max(record["end"] for record in records) - min(record["start"] for record in records)
    used = [float(path.read_text()) for path in folder.glob(f"results/*-{name}/*/cpu_seconds")]
    return Rate(runs / seconds, sum(used) / seconds)


def measure_kind(kind: Kind, rounds: int = 2) -> tuple[str, float, float | None]:
    """Try each fixed number of slots with a multiple of as many runs, then auto. rounds: of the larger numbers."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = project.make(Path(temporary))
        (folder / "train.py").write_text(
            f"LOCKED, COMPUTING, WAITING = {kind.locked}, {kind.computing}, {kind.waiting}\n{TRAIN}")
        rates = {slots: measure_rate(folder, str(slots), slots * (rounds + (slots < 3))) for slots in TRIED}
        auto = measure_rate(folder, "auto", kind.runs)
        path, = folder.glob("results/*-real-auto/submissions/*.slots.json")
        chosen = json.loads(path.read_text())["lanes"][0]["best"]
    highest = max(rate.runs for rate in rates.values())
    best = next(slots for slots in TRIED if rates[slots].runs >= _PLATEAU * highest)
    label = (f"real runs that {kind.label}: runs per second with the best of {TRIED[0]} to {TRIED[-1]} slots ({best}, "
             f"which keep {rates[best].cores:.1f} cores busy) / with `--slots auto` ({chosen}), the search included")
    return label, highest / auto.runs, _LIMIT


def measure() -> list[tuple[str, float, float | None]]:
    """Return (label, value, limit). It takes less than five minutes on two cores that are otherwise idle."""
    return [measure_kind(kind) for kind in KINDS]
