"""The time limit of this Slurm job: when it ends the job, and the time that remains."""
from __future__ import annotations

import functools
import math
import time

from src.io import slurm_environment
from src.submission.slurm import client


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


@functools.cache
def _end(job: str, from_environment: float | None) -> float | None:
    return client.end_time(job) if from_environment is None else from_environment
