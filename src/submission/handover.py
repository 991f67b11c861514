"""The time that a Slurm job has left, and the successor that a worker submits when the rest does not fit."""
from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Iterable

from src import files, run_folder
from src.run_folder import RunFolder
from src.submission import journal, process, slurm
from src.submission.journal import Journal, Units
from src.submission.tasks import Tasks

MAX_SUCCESSORS = 1000  # of one submission: an end to a chain that makes no progress
_REPEATED = ("argv", "identity", "script", "sbatch", "shape", "command_line")  # of a plan, for what comes after it
_MARGIN = 1.2  # a run fits if the time left is that many times the longest earlier duration
_LOOKED_AT = 200  # runs whose durations are looked up when a worker starts


def end_of_job() -> float | None:
    """When the time limit ends this Slurm job, in unix seconds; None outside Slurm or without a limit."""
    job = os.environ.get("SLURM_JOB_ID")
    return slurm.end_time(job) if job else None


def durations(tasks: Tasks) -> list[float]:
    """Seconds that finished runs of the batch took, as their attempts say; of the first few hundred only."""
    found = []
    for name in run_folder.run_names(tasks.batch)[:_LOOKED_AT]:
        try:
            run = RunFolder.read(tasks.folder(name))
        except OSError:
            continue
        attempt = run.last_attempt() if run_folder.DONE in run.names else None
        if attempt and attempt.get("end"):
            found.append(attempt["end"] - attempt["start"])
    return found


def fits(end: float | None, took: Iterable[float], now: float | None = None) -> bool:
    """Whether another run fits before `end`, to judge by what others took. The first run always does."""
    longest = max(took, default=None)
    return end is None or longest is None or (time.time() if now is None else now) + _MARGIN * longest < end


def succeed(path: str, tasks: Tasks) -> str | None:
    """Submit another worker for what is unclaimed; its Slurm job id, None if Slurm refuses or the chain is too long.

    path: of the task file, whose name begins with the token of the submission.
    """
    left = {name: tasks.tickets[name] for name in tasks.unclaimed()}
    token = os.path.basename(path).removesuffix(run_folder.TASKS_SUFFIX)
    folder = os.path.join(tasks.batch, run_folder.SUBMISSIONS)
    earlier = glob.glob(f"{glob.escape(os.path.join(folder, token))}.*.jsonl")
    if not left or not tasks.command or len(earlier) >= MAX_SUCCESSORS:
        return None
    book = Journal(tasks.batch, f"{token}.{process.slurm_job()}-{os.environ.get('SLURM_RESTART_COUNT', '0')}")
    if os.path.exists(book.path):
        return None  # this job has one already
    parent = json.loads((files.read_text(os.path.join(folder, f"{token}.jsonl")) or "{}").partition("\n")[0] or "{}")
    kept = {key: parent[key] for key in _REPEATED if key in parent}
    book.plan(journal.SLURM, left, Units(journal.WORKERS), **kept)
    tag = journal.comment(book.token, 0)
    command = [f"--comment={tag}" if word.startswith("--comment=") else word for word in tasks.command]
    book.sending(0)
    try:
        job = slurm.submit_patiently(command, None, tag)
    except slurm.Refusal as refusal:
        book.refused(0, refusal.words)
        return None
    else:
        book.accepted(0, job)
        return job
    finally:
        book.ended()
