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

PATIENCE = 600.0  # seconds that the others wait for the first, whose node may be slow to start
_PAUSE = 0.2  # seconds between looks


def this_start() -> str:
    """What all processes that were started together share, and no others: Slurm job, restart and step, and those of
    torchrun also where and how often it began."""
    start = (f"{slurm_environment.job_id()}.{slurm_environment.restart_count()}."
             f"{slurm_environment.step_id() or 'batch'}")
    if not process.by_torchrun():
        return start
    said = [os.environ.get(name, "") for name in (
        "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")]
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        said.append(str(process.starter()))  # of one node; the others must be told apart by --rdzv-id
    return re.sub(r"[^\w.-]", "-", ".".join([start, *said]))


def tell_that_first_leaves(folder: str) -> None:
    """The first process does not run the run: the others need not wait."""
    if process.ranks() > 1 and os.path.isdir(folder):
        files.create_exclusive(os.path.join(folder, run_folder.left_name(this_start())), "")


def tell_failure(folder: str, words: str) -> None:
    """A process fails: the first to say so is what the run failed of, since the others then miss it."""
    if process.ranks() > 1 and os.path.isdir(folder):
        files.create_exclusive(os.path.join(folder, run_folder.failed_name(this_start())),
                               f"process {process.rank()} on {os.uname().nodename}: {words}\n")


def told_failure(folder: str) -> str | None:
    """What a process of this start has failed of; None if none said so."""
    return (files.read_text(os.path.join(folder, run_folder.failed_name(this_start()))) or "").strip() or None


def follow(folder: str) -> tuple[int, int] | None:
    """The (ticket, number) of the attempt that the first process began; None if it left the run alone, or it is over.

    BatchError if it says nothing for ten minutes.
    """
    start, end = this_start(), time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            run = RunFolder.read(folder)
        except FileNotFoundError:
            return None
        if run.ended is not None or run_folder.left_name(start) in run.names:
            return None
        for ticket, number in reversed(run.attempts):
            record = files.read_json(run.file(run_folder.attempt_name(ticket, number))) or {}
            if record.get("started_by") == start:
                return None if record.get("how") else (ticket, number)
        time.sleep(_PAUSE)
    raise BatchError(f"process {process.rank()} of {process.ranks()} heard nothing of the first for "
                     f"{PATIENCE / 60:.0f} minutes", where=folder, hint="its log says why; `-r BATCH` submits it again")
