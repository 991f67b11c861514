"""The run that a user means: by its folder, its name, its index in a batch, or its Slurm job id."""
from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence

from src import run_folder
from src.errors import BatchError, shell_command
from src.io import files
from src.submission.batch import batch_folder, claims
from src.submission.batch.journal import WORKERS, Units

ACCEPTED_FORMS = "a run's folder, its name, BATCH:12 (or 12 in the newest batch), or its Slurm job id (123 or 123_4)"
_LISTED = 10  # candidates in a message


def find_batch(word: str, results: str) -> str:
    """A batch by its folder, or by its name under `results`. BatchError if there is none."""
    inside = os.path.join(results, word)
    if not run_folder.is_batch_folder(word) and run_folder.is_batch_folder(inside):
        return inside
    return batch_folder.require_batch(word)


def find_run(word: str, results: str) -> str:
    """The folder of the one run that `word` means; all but folders are looked up in the batches under `results`, and if
    nothing is found there in those under the output_dir of each job spec in jobs/.

    BatchError if no run is meant (it says what is allowed), or several are (it lists them).
    """
    path = os.path.normpath(word)
    if run_folder.is_run_folder(path):
        return path
    found = _candidates(word, results, batch_folder.all_batches(results)) or _candidates(
        word, results, [path for folder in _output_dirs() for path in batch_folder.all_batches(folder)])
    if not found:
        raise BatchError("there is no run here", where=word, allowed=ACCEPTED_FORMS,
                         hint=f"`{shell_command('python', 'experiments.py', 'status')}` lists them")
    if len(found) > 1:
        more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise BatchError(f"this may be any of {len(found)} runs", where=word,
                         allowed=", ".join(found[:_LISTED]) + more, hint="name the folder of one")
    return found[0]


def newest_batch(batches: Iterable[str]) -> str | None:
    """The batch that was submitted to last; None if there is no batch."""
    return max(batches, key=lambda path: (max(_journals(path), default=""), os.path.basename(path)), default=None)


def _output_dirs() -> list[str]:
    """Where the job specs in jobs/ have their batches. Read by the line, for a broken job spec is no reason to stop."""
    found = []
    for path in sorted(glob.glob("jobs/**/*.yaml", recursive=True)):
        with open(path, encoding="utf-8", errors="replace") as file:
            found += re.findall(r"""\boutput_dir:\s*["']?([^"'\s,}]+)""", file.read())
    return [os.path.expanduser(os.path.expandvars(folder)) for folder in dict.fromkeys(found)]


def _candidates(word: str, results: str, batches: Sequence[str]) -> list[str]:
    """The folders of all runs that `word` may mean."""
    name, colon, last = word.rpartition(":")
    if colon and name:
        path = find_batch(name, results)
        return _in_batch(path, last)
    if not re.fullmatch(r"\d+(_\d+)?", word):
        return [path for path in (os.path.join(folder, word) for folder in batches)
                if os.path.basename(word) == word and run_folder.is_run_folder(path)]
    latest = newest_batch(batches)
    by_index = _in_batch(latest, word) if latest and word.isdecimal() else []
    of_job = [path for folder in batches for place in (folder, os.path.join(folder, run_folder.CANARY))
              for path in _of_slurm_job(place, word)]
    if not by_index and not of_job:
        of_job = [path for folder in _batches_of_slurm_job(word) for path in _of_slurm_job(folder, word)]
    return list(dict.fromkeys([*by_index, *of_job]))


def _batches_of_slurm_job(job: str) -> list[str]:
    """The batch, wherever it lies, of a job that Slurm still knows: its output goes into it, or into a run of it."""
    from src.submission.slurm import client

    shown = client.query(["scontrol", "show", "job", job]) or ""
    logs = {os.path.dirname(path) for path in re.findall(r"^ *StdOut=(.+)$", shown, re.MULTILINE)}
    return [path for path in dict.fromkeys(map(os.path.dirname, logs)) if run_folder.is_batch_folder(path)]


def _in_batch(path: str, word: str) -> list[str]:
    """The runs of a batch with that index, or that name."""
    names = [name for name in run_folder.run_names(path) if name == word or (
        word.isdecimal() and run_folder.run_index(name) == int(word))]
    return [os.path.join(path, name) for name in names]


def _of_slurm_job(path: str, job: str) -> list[str]:
    """The runs of a batch that were given to the Slurm job: a worker's runs are those that it claimed."""
    base = job.partition("_")[0]
    found: list[str] = []
    for journal in _journals(path):
        records = files.read_json_lines(os.path.join(path, run_folder.SUBMISSIONS, journal))
        jobs = {record["unit"]: record["slurm_job"] for record in records if isinstance(record, dict)
                and record.get("kind") == "job" and record.get("slurm_job") == base}
        if not jobs:
            continue
        names = list(records[0]["tickets"])
        units = Units(records[0]["way"], records[0]["bounds"])
        for unit, given in jobs.items():
            runs = units.runs(unit, names)
            found += [name for name, task in zip(runs, units.job_ids(given, runs), strict=True)
                      if job in (task, base) and (units.kind != WORKERS or _claimed(path, name, base))]
    return [folder for name in dict.fromkeys(found) if run_folder.is_run_folder(folder := os.path.join(path, name))]


def _claimed(path: str, name: str, job: str) -> bool:
    try:
        run = run_folder.RunFolder.read(os.path.join(path, name))
    except OSError:
        return False
    return claims.was_claimed_by(run, job)


def _journals(path: str) -> Sequence[str]:
    try:
        return sorted(name for name in os.listdir(os.path.join(path, run_folder.SUBMISSIONS))
                      if name.endswith(".jsonl"))
    except OSError:
        return []
