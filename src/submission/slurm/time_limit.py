"""The time limit of this Slurm job: when it ends the job, the time that remains, and when a run must save its state."""
from __future__ import annotations

import functools
import math
import sys
import threading
import time
from collections.abc import Callable

from src.io import slurm_environment
from src.submission.slurm import client

_LEAD_PER_SAVING = 2.0  # an exit is requested when the remaining time is this many times that of the last save
# seconds; Slurm's signal comes at least this early: a fifth of the shortest time limit, which is one minute
_SHORTEST_LEAD = 12.0


def remaining_time() -> float:
    """Return the seconds until the time limit ends this Slurm job; inf outside Slurm or without a limit.

    Slurm is queried at most once per process, so a limit that is changed later is not noticed.
    """
    end = end_of_job()
    return math.inf if end is None else max(0.0, end - time.time())


def end_of_job() -> float | None:
    """Return when the time limit ends this Slurm job, in unix seconds; None outside Slurm, or if it is unknown."""
    job = slurm_environment.raw_job_id()
    return _end(job, slurm_environment.end_time()) if job else None


class SaveTimer:
    """Requests the exit of a run early enough before the time limit, by the time that its last save took.

    Slurm's own warning comes a fixed time before the limit, which is too short for a state that takes minutes to write.

    request_exit: called in another thread; has the run save its state and exit.
    """

    def __init__(self, request_exit: Callable[[], None]) -> None:
        self._request_exit, self._start = request_exit, time.time()
        self._timer: threading.Timer | None = None
        self._has_warned = False

    def set(self, saving: float) -> None:
        """Set the timer, given the seconds that a save took. Print a warning if saving takes a third of the time."""
        lead = _LEAD_PER_SAVING * saving
        if lead <= _SHORTEST_LEAD or (end := end_of_job()) is None:
            return
        self.cancel()
        self._timer = threading.Timer(max(0.0, end - lead - time.time()), self._request_exit)
        self._timer.daemon = True
        self._timer.start()
        if 3 * lead >= end - self._start and not self._has_warned:
            self._has_warned = True
            print(f"warning: saving the state takes {saving:.0f} s, so that this run exits {lead:.0f} s before the end "
                  f"of its {end - self._start:.0f} s: request more time", file=sys.stderr, flush=True)

    def cancel(self) -> None:
        """End the timer, if one is set."""
        if self._timer:
            self._timer.cancel()


@functools.cache
def _end(job: str, from_environment: float | None) -> float | None:
    return client.end_time(job) if from_environment is None else from_environment
