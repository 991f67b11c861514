"""The processes of one run that srun or torchrun starts together: the first claims the run, the others follow it."""
from __future__ import annotations

import os
import re
import time

from src import run_folder
from src.errors import BatchError
from src.io import files, slurm_environment
from src.run_folder import RunFolder
from src.submission.batch import claims
from src.submission.system import process

FOLLOW_TIMEOUT = 600.0  # seconds that the others wait for the first process, whose node may be slow to start
_POLL_INTERVAL = 0.2  # seconds
_SILENCE = 5.0  # seconds before it is printed who is waited for
_TORCHRUN_VARIABLES = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")


def start_id() -> str:
    """Return an id that all processes started together share, and no others.

    It consists of Slurm job, restart count and step; under torchrun also of its rendezvous and its restart count.
    """
    start = (f"{slurm_environment.job_id()}.{slurm_environment.restart_count()}."
             f"{slurm_environment.step_id() or 'batch'}")
    if not process.started_by_torchrun():
        return start
    values = [os.environ.get(name, "") for name in _TORCHRUN_VARIABLES]
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        # torchrun itself distinguishes starts on one node; those on several nodes need a --rdzv-id each
        values.append(str(process.parent_pid()))
    return re.sub(r"[^\w.-]", "-", ".".join([start, *values]))


def announce_no_attempt(folder: str) -> None:
    """Record that the first process of this start has begun no attempt, so that the others need not wait."""
    if process.world_size() > 1 and os.path.isdir(folder):
        files.create_exclusive(os.path.join(folder, run_folder.no_attempt_name(start_id())), "")


def record_failure(folder: str, error: str) -> None:
    """Record the error of this process, unless another one of this start, which is the reason, has failed before."""
    if process.world_size() > 1 and os.path.isdir(folder):
        files.create_exclusive(os.path.join(folder, run_folder.failed_name(start_id())),
                               f"process {process.rank()} on {os.uname().nodename}: {error}\n")


def read_failure(folder: str) -> str | None:
    """Return the first error that a process of this start has recorded; None if there is none."""
    return (files.read_text(os.path.join(folder, run_folder.failed_name(start_id()))) or "").strip() or None


def wait_for_attempt(folder: str) -> tuple[int, int] | None:
    """Return the (ticket, number) of the attempt that the first process began; None if it began none, or it is over.

    BatchError if neither is recorded within ten minutes.
    """
    start, deadline = start_id(), time.monotonic() + FOLLOW_TIMEOUT
    message: str | None = (f"{folder}: rank {process.rank()} of {process.world_size()} processes waits for rank 0 to "
                           f"start the run, at most {FOLLOW_TIMEOUT / 60:.0f} minutes")
    while time.monotonic() < deadline:
        try:
            run = RunFolder.read(folder)
        except FileNotFoundError:
            return None
        if run.ended is not None or run_folder.no_attempt_name(start) in run.names:
            return None
        if attempt := claims.attempt_of_start(run, start):
            ticket, number, has_ended = attempt
            return None if has_ended else (ticket, number)
        if message and time.monotonic() > deadline - FOLLOW_TIMEOUT + _SILENCE:
            print(message, flush=True)
            message = None
        time.sleep(_POLL_INTERVAL)
    raise BatchError(f"process {process.rank()} of {process.world_size()} waited {FOLLOW_TIMEOUT / 60:.0f} minutes for "
                     "the first process", where=folder, hint="see its log; `-r BATCH` resubmits the run")
