"""The processes of one run that srun or torchrun starts together: the first claims the run, the others follow it."""
from __future__ import annotations

import os
import re
import time

from src import run_folder
from src.errors import BatchError
from src.io import files, slurm_environment
from src.run_folder import RunFolder
from src.submission.system import process

FOLLOW_TIMEOUT = 600.0  # seconds that the others wait for the first, whose node may be slow to start
_PAUSE = 0.2  # seconds between looks


def start_id() -> str:
    """What all processes that were started together share, and no others: Slurm job, restart and step, and those of
    torchrun also where and how often it began."""
    start = (f"{slurm_environment.job_id()}.{slurm_environment.restart_count()}."
             f"{slurm_environment.step_id() or 'batch'}")
    if not process.started_by_torchrun():
        return start
    said = [os.environ.get(name, "") for name in (
        "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")]
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        said.append(str(process.parent_pid()))  # of one node; the others must be told apart by --rdzv-id
    return re.sub(r"[^\w.-]", "-", ".".join([start, *said]))


def announce_no_attempt(folder: str) -> None:
    """The first process does not run the run: the others need not wait."""
    if process.world_size() > 1 and os.path.isdir(folder):
        files.create_exclusive(os.path.join(folder, run_folder.no_attempt_name(start_id())), "")


def record_failure(folder: str, words: str) -> None:
    """A process fails: the first to say so is what the run failed of, since the others then miss it."""
    if process.world_size() > 1 and os.path.isdir(folder):
        files.create_exclusive(os.path.join(folder, run_folder.failed_name(start_id())),
                               f"process {process.rank()} on {os.uname().nodename}: {words}\n")


def read_failure(folder: str) -> str | None:
    """What a process of this start has failed of; None if none said so."""
    return (files.read_text(os.path.join(folder, run_folder.failed_name(start_id()))) or "").strip() or None


def wait_for_attempt(folder: str) -> tuple[int, int] | None:
    """The (ticket, number) of the attempt that the first process began; None if it left the run alone, or it is over.

    BatchError if it says nothing for ten minutes.
    """
    start, end = start_id(), time.monotonic() + FOLLOW_TIMEOUT
    while time.monotonic() < end:
        try:
            run = RunFolder.read(folder)
        except FileNotFoundError:
            return None
        if run.ended is not None or run_folder.no_attempt_name(start) in run.names:
            return None
        for ticket, number in reversed(run.attempts):
            record = files.read_json(run.file(run_folder.attempt_name(ticket, number))) or {}
            if record.get("started_by") == start:
                return None if record.get("how") else (ticket, number)
        time.sleep(_PAUSE)
    raise BatchError(f"process {process.rank()} of {process.world_size()} heard nothing of the first for "
                     f"{FOLLOW_TIMEOUT / 60:.0f} minutes", where=folder,
                     hint="its log says why; `-r BATCH` submits it again")
