"""Read what is appended to the logs of a run until the run has ended."""
from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

from src.io import files
from src.submission.status import failures, retry_policy, states
from src.submission.status.observation import Run
from src.submission.status.observe import SlurmView, observe
from src.submission.status.wait import Poller

_INTERVAL = 1.0  # seconds between reads


def observe_run(folder: str, slurm: SlurmView | None = None) -> Run:
    """Observe the run in a run folder. slurm: earlier answers of Slurm, as for observe."""
    observation, = observe([os.path.dirname(folder) or "."], slurm)
    return observation.runs[os.path.basename(os.path.abspath(folder))]


def read_from(path: str, start: int) -> tuple[str, int]:
    """Return the text of a file from byte `start` on, and the position of its end."""
    with open(files.open_regular(path), "rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace"), file.tell()


def follow(folder: str, positions: Mapping[str, int], interval: float | None = None) -> Iterator[tuple[str, str] | str]:
    """Yield pairs of a path and the text that was appended to it, until the run has ended; then its state.

    positions: number of bytes that were read already, by path;
    interval: seconds between queries of Slurm, as for Poller.
    """
    ends, poller = dict(positions), Poller(interval)
    while True:
        run = poller.poll(lambda slurm: observe_run(folder, slurm))
        for path in failures.log_paths(run):
            text, ends[path] = read_from(path, ends.get(path, 0))
            if text:
                yield path, text
        if run.host:  # a copy: the run cannot be followed from here
            yield f"{run.state.name}, {run.state.why}" if run.state.why else run.state.name
            return
        if run.state.name not in (*retry_policy.ALIVE, states.NEW, states.UNKNOWN) and poller.is_current([run]):
            yield run.state.name
            return
        time.sleep(_INTERVAL)
