"""Find the run that a user names: by its folder, its name, its index in a batch, or its Slurm job id."""
from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterable, Sequence

from src import run_folder
from src.errors import BatchError, experiments_command, listed
from src.io import files, yaml_io
from src.submission.batch import batch_folder, claims, journal
from src.submission.batch.journal import WORKERS, Units

ACCEPTED_FORMS = ("a run's folder, its name, BATCH:12 or JOB_SPEC:12 (or 12 in the newest batch), its Slurm job id "
                  "(123 or 123_4), or a batch of one run")
NO_RUN = "no such run"


def find_run(name: str, results: str) -> str:
    """Return the folder of the one run that `name` refers to, in one of ACCEPTED_FORMS.

    Batches under `results` are searched first, then those under the output_dir of each job spec in jobs/.
    BatchError if no run matches, or several do.
    """
    path = os.path.normpath(name)
    if run_folder.is_run_folder(path):
        return path
    runs = _candidates(name, results, batch_folder.all_batches(results)) or _candidates(
        name, results, [batch for folder in _output_dirs() for batch in batch_folder.all_batches(folder)])
    if not runs and not name.isdecimal() and (batch := batch_folder.named_batch(name, results)):
        return _only_run(batch, name)
    if not runs:
        raise BatchError(NO_RUN, where=name, allowed=ACCEPTED_FORMS,
                         hint=f"`{experiments_command('status')}` lists them")
    if len(runs) > 1:
        raise BatchError(f"{len(runs)} runs match", where=name, allowed=listed(runs, 10), hint="give the folder of one")
    return runs[0]


def _only_run(batch: str, name: str) -> str:
    """Return the run of a batch. BatchError, which says how to name one, if it has several. name: of the batch."""
    runs = [path for path in (os.path.join(batch, run) for run in run_folder.run_names(batch))
            if run_folder.is_run_folder(path)]
    if len(runs) == 1:
        return runs[0]
    example = next((index for index in map(run_folder.run_index, map(os.path.basename, runs)) if index is not None), 0)
    raise BatchError(f"this is a batch of {len(runs):,} runs, not a run", where=name, allowed=ACCEPTED_FORMS,
                     hint=f"name one of them, for example {name.rstrip('/')}:{example}; "
                     f"`{experiments_command('status', batch)}` lists them")


def newest_batch(batches: Iterable[str]) -> str | None:
    """Return the batch with the newest submission; None without batches."""
    return max(batches, key=lambda path: (last_submission(path), os.path.basename(path)), default=None)


def last_submission(batch: str) -> str:
    """Return the name of the newest journal of a batch, which sorts by time; empty if there is none."""
    return max(_journals(batch), default="")


def _output_dirs() -> list[str]:
    """The output_dir of each job spec in jobs/; searched as text, so that an invalid job spec is not an error."""
    folders = []
    for path in sorted(glob.glob("jobs/**/*.yaml", recursive=True)):
        with contextlib.suppress(OSError):  # a pipe, or larger than a job spec can be
            folders += re.findall(r"""\boutput_dir:\s*["']?([^"'\s,}]+)""",
                                  files.read_text(path, yaml_io.MAX_FILE) or "")
    return [os.path.expanduser(os.path.expandvars(folder)) for folder in dict.fromkeys(folders)]


def _candidates(name: str, results: str, batches: Sequence[str]) -> list[str]:
    """The folders of all runs that `name` may refer to."""
    batch, colon, run = name.rpartition(":")
    if colon and batch:
        return _runs_by_name_or_index(batch_folder.require_batch(batch, results), run)
    if not re.fullmatch(r"\d+(_\d+)?", name):
        return [path for path in (os.path.join(folder, name) for folder in batches)
                if os.path.basename(name) == name and run_folder.is_run_folder(path)]
    newest = newest_batch(batches)
    by_index = _runs_by_name_or_index(newest, name) if newest and name.isdecimal() else []
    by_job = [run for batch in batches for folder in (batch, os.path.join(batch, run_folder.CANARY))
              for run in _runs_of_job(folder, name)]
    if not by_index and not by_job:
        by_job = [run for batch in _batches_of_job(name) for run in _runs_of_job(batch, name)]
    return list(dict.fromkeys([*by_index, *by_job]))


def _batches_of_job(job: str) -> list[str]:
    """The batch of a job that Slurm still lists, in any folder: its output goes into the batch or one of its runs."""
    from src.submission.slurm import client

    output = client.query(["scontrol", "--all", "show", "job", job]) or ""
    folders = {os.path.dirname(path) for path in re.findall(r"^ *StdOut=(.+)$", output, re.MULTILINE)}
    return [path for path in dict.fromkeys(map(os.path.dirname, folders)) if run_folder.is_batch_folder(path)]


def _runs_by_name_or_index(batch: str, run: str) -> list[str]:
    names = [name for name in run_folder.run_names(batch) if name == run or (
        run.isdecimal() and run_folder.run_index(name) == int(run) and not run_folder.is_repeat(name))]
    return [os.path.join(batch, name) for name in names]


def _runs_of_job(batch: str, job: str) -> list[str]:
    """The runs of a batch that the Slurm job may run; of a worker, those that it has claimed."""
    base = job.partition("_")[0]
    names: list[str] = []
    for name in _journals(batch):
        records = journal.read_records(os.path.join(batch, run_folder.SUBMISSIONS, name))
        unit_numbers = [record["unit"] for record in records
                        if record["kind"] == "job" and record["slurm_job"].partition(";")[0] == base]
        if not unit_numbers or records[0]["kind"] != "plan":
            continue
        planned = list(records[0]["tickets"])
        units = Units(records[0]["way"], records[0]["bounds"])
        for unit in [unit for unit in dict.fromkeys(unit_numbers) if units.has_unit(unit, planned)]:
            runs = units.runs(unit, planned)
            names += [name for name, task in zip(runs, units.job_ids(base, runs), strict=True)
                      if job in (task, base) and (units.kind != WORKERS or _has_claimed(base, batch, name))]
    return [run for name in dict.fromkeys(names) if run_folder.is_run_folder(run := os.path.join(batch, name))]


def _has_claimed(job: str, batch: str, name: str) -> bool:
    try:
        run = run_folder.RunFolder.read(os.path.join(batch, name))
    except OSError:
        return False
    return claims.was_claimed_by(run, job)


def _journals(batch: str) -> Sequence[str]:
    try:
        return sorted(name for name in os.listdir(os.path.join(batch, run_folder.SUBMISSIONS))
                      if name.endswith(".jsonl"))
    except OSError:
        return []
