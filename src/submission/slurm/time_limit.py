"""When the time limit ends this Slurm job: for workers, and for whoever plans by it."""
from __future__ import annotations

import functools
import math
import time

from src.io import slurm_environment
from src.submission.slurm import client


def remaining_time() -> float:
    """Seconds until the time limit ends this Slurm job; inf outside Slurm, or without a limit.

    Slurm is asked at most once in a process: a limit that somebody changes later is not seen.
    """
    end = end_of_job()
    return math.inf if end is None else max(0.0, end - time.time())


def end_of_job() -> float | None:
    """When the time limit ends this Slurm job, in unix seconds; None outside Slurm, without a limit, or if Slurm is
    silent."""
    job = slurm_environment.raw_job_id()
    return _end(job, slurm_environment.end_time()) if job else None


@functools.cache
def _end(job: str, told: float | None) -> float | None:
    """told: Slurm 23.02 and newer say it in the job's environment."""
    return told if told is not None else client.end_time(job)
