"""Print what is appended to the logs of a run until the run has ended."""
from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from src.io import files
from src.printable import unfiltered
from src.submission.status import failures, retry_policy, states
from src.submission.status.observation import Run
from src.submission.status.observe import SlurmView, observe
from src.submission.status.wait import Poller

_INTERVAL = 1.0  # seconds between reads


def observe_run(folder: str, slurm: SlurmView | None = None) -> Run:
    """Observe the run in a run folder. slurm: earlier answers of Slurm, as for observe."""
    observation, = observe([os.path.dirname(folder) or "."], slurm)
    return observation.runs[os.path.basename(os.path.abspath(folder))]


def print_from(path: str, start: int, raw: bool = False) -> int:
    """Print a file from byte `start` on. Return the position of its end. raw: with its escape sequences."""
    with open(files.open_regular(path), "rb") as file:
        file.seek(start)
        (unfiltered(sys.stdout) if raw else sys.stdout).write(file.read().decode(errors="replace"))
        return file.tell()


def follow(folder: str, printed: Mapping[str, int], interval: float | None = None, raw: bool = False) -> None:
    """Print what is appended to the logs of a run until it has ended, or until Ctrl-C.

    printed: number of bytes that were printed already, by path;
    interval: seconds between queries of Slurm, as for Poller;
    raw: with escape sequences.
    """
    positions, poller = dict(printed), Poller(interval)
    try:
        while True:
            run = poller.poll(lambda slurm: observe_run(folder, slurm))
            for path in failures.log_paths(run):
                positions[path] = print_from(path, positions.get(path, 0), raw)
            sys.stdout.flush()
            if run.host:  # a copy: the run cannot be followed from here
                print(f"state: {run.state.name}, {run.state.why}" if run.state.why else f"state: {run.state.name}")
                return
            if run.state.name not in (*retry_policy.ALIVE, states.NEW, states.UNKNOWN) and poller.is_current([run]):
                print(f"state: {run.state.name}")
                return
            time.sleep(_INTERVAL)
    except KeyboardInterrupt:
        print()
