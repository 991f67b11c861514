"""Usage history: what completed runs of the same model, data and batch size used, from the files that they left.

Each batch gets an index of a sample of its runs, so that a batch is read once; it can be deleted at any time.
"""
from __future__ import annotations

import bisect
import contextlib
import os
import time
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from src import run_folder, stats_csv
from src.archive import run_files
from src.config import DEFAULTS, NOT_PARAMETERS
from src.errors import UserError
from src.io import files, records
from src.run_folder import RunFolder
from src.submission.batch import batch_folder, journal

_TIME_BUDGET = 0.5  # seconds for reading runs that are not in an index
_ENOUGH = 50  # runs of each kind
_SAMPLE = 200  # runs of a batch that are read
_FORM = 1  # version of the index
# parameters that determine the time and memory of a step, and the unit of train_length
_COSTLY = frozenset((
    "dataset", "data_splits_map", "eval_datasets", "model", "model_kwargs", "model_input_shape", "task", "batch_size",
    "eval_batch_size", "steps_per_epoch", "samples_per_epoch", "grad_accum_steps", "limit_train_batches",
    "limit_eval_batches", "overfit_batches", "fast_dev_run", "train_length_unit", "max_length", "auto_augment",
    "data_on_device", "device", "multi_gpu", "precision", "compile", "grad_checkpointing", "optim_alg", "averaging",
    "num_workers"))


class RunUse(NamedTuple):
    """The resources that a completed run used on Slurm. None: not measured, or not recorded.

    kind: the code that similar runs share: see `kind_of`
    length: its train_length; 0 for an external program
    seconds: from the start to the end of an attempt, summed over all attempts
    per_length, rest: the seconds for each unit of train_length, and for all else; None if they cannot be divided
    memory, gpu_memory: peaks of its processes, and of one GPU, in bytes: maxima over all attempts
    cpu, gpu: cores in use, and percent of the time in which its GPUs were busy: means
    cpus, gpus: that its last attempt had
    by_workers: a worker started it, with the libraries loaded already
    slurm_job: that ran its last attempt
    """

    kind: str
    length: float
    seconds: float
    per_length: float | None = None
    rest: float | None = None
    memory: float | None = None
    gpu_memory: float | None = None
    cpu: float | None = None
    gpu: float | None = None
    cpus: int | None = None
    gpus: int | None = None
    by_workers: bool = False
    slurm_job: str | None = None

    def seconds_for(self, length: float) -> float | None:
        """Return the seconds that a run of another train_length would take; None if that is unknown."""
        if self.per_length is None or self.rest is None:
            return self.seconds if length == self.length else None
        return self.per_length * length + self.rest


def kind_of(spec: Mapping[str, Any]) -> str:
    """Return a short code that similar runs share: a hash of all that determines the time and memory of a step; for an
    external program, of its command and all parameters but seeds.
    """
    if "COMMAND" in spec:
        parts = sorted((key, value) for key, value in spec.items()
                       if key == "COMMAND" or key not in NOT_PARAMETERS and "seed" not in key.lower())
    else:
        parts = sorted((key, value) for key, value in spec.items() if key in _COSTLY and value != DEFAULTS[key])
        parts.append(("trains", bool(length_of(spec))))
    text = repr(parts).encode("utf-8", "surrogateescape")
    return f"{zlib.crc32(text):08x}{zlib.adler32(text):08x}"


def length_of(spec: Mapping[str, Any]) -> float:
    """Return the train_length of a spec; 0 for an external program."""
    return 0.0 if "COMMAND" in spec else float(spec.get("train_length", DEFAULTS["train_length"]))


def key_of(spec: Mapping[str, Any]) -> str:
    """Return the code that runs share which take the same time and memory: their kind and length."""
    return f"{kind_of(spec)}-{length_of(spec):g}"


def similar_runs(kinds: Collection[str], output_dir: str, budget: float = _TIME_BUDGET,
              may_write: bool = True) -> dict[str, list[RunUse]]:
    """Return what completed runs of these kinds used on Slurm, in the newest batches under `output_dir`; not stacks.

    budget: seconds for reading runs that are in no index. may_write: write indices; otherwise an index is used as it
    is, and runs that have ended since are not read.
    """
    uses_by_kind: dict[str, list[RunUse]] = {}
    deadline = time.monotonic() + budget
    for batch in reversed(batch_folder.all_batches(output_dir) if kinds else []):
        for use in _uses_of_batch(batch, deadline, may_write):
            if use.kind in kinds:
                uses_by_kind.setdefault(use.kind, []).append(use)
        if time.monotonic() > deadline or len(uses_by_kind) == len(kinds) and (
                min(map(len, uses_by_kind.values())) >= _ENOUGH):
            break
    return uses_by_kind


def uses_of_runs(batch: str, names: Iterable[str], deadline: float = float("inf"),
                 by_workers: bool = False) -> dict[str, RunUse]:
    """Return what runs of a batch used, by name, as far as they can be read until a time.monotonic()."""
    uses = {}
    for name in names:
        if time.monotonic() > deadline:
            break
        with contextlib.suppress(OSError, ValueError, UserError):
            if use := _read_run(os.path.join(batch, name), by_workers):
                uses[name] = use
    return uses


def _uses_of_batch(batch: str, deadline: float, may_write: bool) -> Iterable[RunUse]:
    """Return what a sample of the runs of a batch used: from its index, and from runs that ended since."""
    path = os.path.join(batch, run_folder.USAGE_INDEX)
    uses, is_complete = _read_index(path)
    if is_complete or uses and not may_write or time.monotonic() > deadline:
        return uses.values()
    plans = journal.read_history(batch).recorded_plans
    # the time of a run in a stack is that of the whole stack
    if not plans or plans[-1].get("stack"):
        return uses.values()
    names = run_folder.run_names(batch)
    sample = names[::max(1, -(-len(names) // _SAMPLE))]
    new = uses_of_runs(batch, (name for name in sample if name not in uses), deadline,
                       plans[-1]["way"] == journal.WORKERS)
    uses |= new
    if new and may_write:
        with contextlib.suppress(OSError):  # the batch may be of another user
            files.write_json(path, {"form": _FORM, "complete": len(uses) == len(sample) or len(uses) >= _SAMPLE,
                                    "runs": {name: use._asdict() for name, use in uses.items()}}, sync=False)
    return uses.values()


_FORMS: records.Forms = {
    "kind": records.is_text, "length": records.is_number, "seconds": records.is_number, "by_workers": lambda value:
    isinstance(value, bool), "slurm_job": records.optional(records.is_text),
    **dict.fromkeys(("per_length", "rest", "memory", "gpu_memory", "cpu", "gpu", "cpus", "gpus"),
                    records.optional(records.is_number))}


def _read_index(path: str) -> tuple[dict[str, RunUse], bool]:
    """Return what the runs of an index used, by name, and whether it has all that it will have."""
    content = files.read_json(path)
    if not isinstance(content, dict) or content.get("form") != _FORM or not isinstance(content.get("runs"), dict):
        return {}, False
    uses = {}
    for name, fields in content["runs"].items():
        checked = records.fields(fields, _FORMS)
        with contextlib.suppress(TypeError):  # a field is missing, or one of a later version
            uses[name] = RunUse(**checked)
    return uses, content.get("complete") is True


class _Attempt(NamedTuple):
    """One start of a run on Slurm, in unix seconds, and what it recorded of its use."""

    start: float
    end: float
    used: Mapping[str, Any]
    slurm_job: str


def _read_run(path: str, by_workers: bool) -> RunUse | None:
    """Return what a completed run used; None if an attempt was not on Slurm or in a stack, or if a time is unknown."""
    run = RunFolder.read(path)
    attempts = _read_attempts(run) if run.ended == run_folder.COMPLETED else None
    if not attempts or any(attempt.used.get("stacked") for attempt in attempts):
        return None
    last = attempts[-1]
    spec = run_folder.read_spec(run.file(run_folder.SPEC))
    seconds, length = sum(attempt.end - attempt.start for attempt in attempts), length_of(spec)
    per_length, rest = _divide(run.path, attempts, seconds, length) if length else (0.0, seconds)
    peaks = {key: max((value for attempt in attempts if (value := attempt.used.get(key)) is not None), default=None)
             for key in ("memory", "gpu_memory")}
    return RunUse(kind_of(spec), length, seconds, per_length, rest, **peaks, cpu=_mean(attempts, "cpu"),
                  gpu=_mean(attempts, "gpu"), cpus=last.used.get("cpus"), gpus=last.used.get("gpus"),
                  by_workers=by_workers, slurm_job=last.slurm_job)


def _read_attempts(run: RunFolder) -> list[_Attempt] | None:
    """Return the attempts of a run; None without any, or if not all were on Slurm and contributed to its result.

    An attempt that was killed has recorded neither its end nor its use: it ended at its last heartbeat.
    """
    attempts: list[_Attempt] = []
    if len(run.attempts) > 1 and any(name.startswith("before-") for name in run.names):  # it was started with --fresh
        return None
    following = None  # the start of the next attempt
    for ticket, number in reversed(run.attempts):
        record = run.attempt(ticket, number)
        start, end = record.get("start"), record.get("end")
        if end is None and start and following:
            beat = run_files.status(run.path, run_folder.attempt_name(ticket, number))
            end = max(start, min(following, beat.st_mtime)) if beat else None
        if not start or not end or not record.get("slurm_job"):
            return None
        attempts.insert(0, _Attempt(start, end, record.get("used", {}), record["slurm_job"]))
        following = start
    return attempts


def _mean(attempts: Iterable[_Attempt], key: str) -> float | None:
    """Return the mean over the time of the attempts that measured it; None if none did."""
    measured = [(attempt.used[key], attempt.end - attempt.start) for attempt in attempts
                if attempt.used.get(key) is not None]
    total = sum(seconds for _, seconds in measured)
    if total <= 0:
        return measured[-1][0] if measured else None
    return sum(value * seconds for value, seconds in measured) / total


def _divide(folder: str, attempts: Sequence[_Attempt], seconds: float,
            length: float) -> tuple[float | None, float | None]:
    """Return the seconds of a run for each unit of its train_length, and those for all else.

    The time per step is that between rows of stats.csv that one attempt wrote, so that it contains neither the start
    nor the time between attempts. A run of one epoch, as a canary, is divided by the times that its row names.
    """
    stats = stats_csv.read(folder)
    if len(stats.rows) > 1:
        rows = list(zip(stats.numbers("step"), stats.numbers("timestamp"), strict=True))
        starts = [attempt.start for attempt in attempts[1:]]
        intervals = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(rows)
                     if bisect.bisect(starts, before[1]) == bisect.bisect(starts, after[1])]
        steps, time_of_steps = map(sum, zip(*intervals, strict=True)) if intervals else (0.0, 0.0)
        training = rows[-1][0] * time_of_steps / max(steps, 1)
    elif stats.rows and len(attempts) == 1:  # otherwise the times may be those of the last attempt only
        training = sum(value for name in stats.names if name.endswith("/time")
                       and (value := stats.numbers(name)[0]) == value)
    else:
        return None, None
    return (training / length, max(0.0, seconds - training)) if 0 < training <= seconds else (None, None)
