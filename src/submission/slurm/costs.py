"""CPU- and GPU-hours of a submission: an upper bound from its time limits, and an estimate from earlier runs."""
from __future__ import annotations

import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from src import run_folder, stats_csv
from src.config import NOT_PARAMETERS, Config
from src.run_folder import RunFolder
from src.submission.batch import batch_folder, journal
from src.submission.slurm import directives
from src.submission.system.terminal import count

_TIME_BUDGET = 0.5  # seconds for reading earlier runs
_ENOUGH = 50  # like runs of each kind
# parameters that determine the time of a step, and the unit of train_length
_SPEED = ("dataset", "data_splits_map", "eval_datasets", "model", "model_kwargs", "model_input_shape", "task",
          "batch_size", "eval_batch_size", "steps_per_epoch", "samples_per_epoch", "grad_accum_steps",
          "limit_train_batches", "limit_eval_batches", "overfit_batches", "fast_dev_run", "train_length_unit",
          "max_length", "auto_augment", "data_on_device", "device", "multi_gpu", "precision", "compile",
          "grad_checkpointing")


def cpus_and_gpus(options: Mapping[str, str]) -> tuple[int, int]:
    """Return the CPUs and GPUs of one Slurm job, as far as its options, by long name, give them."""
    nodes = _number(options.get("nodes", ""), 1)
    tasks = _number(options.get("ntasks", ""), nodes * _number(options.get("ntasks-per-node", ""), 1))
    gpus = (_gpus(options.get("gpus", "")) or nodes * _gpus(options.get("gpus-per-node", ""))
            or tasks * _gpus(options.get("gpus-per-task", ""))
            or nodes * sum(_gpus(part) for part in options.get("gres", "").split(",") if part.startswith("gpu")))
    return tasks * _number(options.get("cpus-per-task", ""), 1), gpus


def _number(text: str, default: int) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else default


def _gpus(text: str) -> int:
    """The number of GPUs in `2`, `a100:2`, `gpu:a100:2` or `gpu`."""
    number = text.rpartition(":")[2]
    return int(number) if number.isdecimal() else int(bool(text))


def upper_bound(jobs: Iterable[tuple[int, Mapping[str, str]]]) -> str | None:
    """Return `at most 96 GPU-hours, 384 CPU-hours (time limits)`; None if a job has no time limit.

    jobs: the number of Slurm jobs, and their options by long name.
    """
    cpu_hours, gpu_hours = 0.0, 0.0
    for number, options in jobs:
        seconds = directives.parse_time(options.get("time", ""))
        if seconds is None:
            return None
        hours = seconds / 3600
        cpus, gpus = cpus_and_gpus(options)
        cpu_hours += number * hours * cpus
        gpu_hours += number * hours * gpus
    parts = [f"{_format_hours(hours)} {unit}-hours"
             for hours, unit in ((gpu_hours, "GPU"), (cpu_hours, "CPU")) if hours]
    return f"at most {', '.join(parts)} (time limits)"


def _format_hours(hours: float) -> str:
    return f"{hours:,.{0 if hours >= 10 else 1 if hours >= 1 else 3}f}"


def estimate(specs: Sequence[Mapping[str, Any]], output_dir: str, cpus: float, gpus: float,
             by_workers: bool = False) -> str | None:
    """Return `probably 1.2 to 1.9 GPU-hours, 4.8 to 7.6 CPU-hours (30 like runs)`.

    A like run trained the same model on the same data at the same batch size (or is a run of the same external program
    with equal parameters, apart from seeds), and was started in the same way. Its seconds per unit of train_length and
    its seconds for the rest, such as starting up, are counted apart. The range is that of the middle half of the like
    runs; of all if there are fewer than four.

    cpus, gpus: of each run. by_workers: workers share the runs, so that the libraries are not loaded for each run.
    None unless there are like runs of each spec in the newest batches under output_dir, as far as they can be read in
    half a second.
    """
    counts = Counter((_kind(spec), _length(spec)) for spec in specs)
    like_runs = _like_runs({kind for kind, _ in counts}, output_dir, by_workers)
    if not like_runs or any(kind not in like_runs for kind, _ in counts):
        return None
    low = high = 0.0
    for (kind, length), number in counts.items():
        shortest, longest = _range([pace.per_length * length + pace.rest for pace in like_runs[kind]])
        low, high = low + number * shortest / 3600, high + number * longest / 3600
    parts = [" to ".join(dict.fromkeys((_format_hours(low * number), _format_hours(high * number)))) + f" {unit}-hours"
             for number, unit in ((gpus, "GPU"), (cpus, "CPU")) if number]
    return f"probably {', '.join(parts)} ({count(sum(map(len, like_runs.values())), 'like run')})"


def _range(durations: list[float]) -> tuple[float, float]:
    """The quartiles of durations; their extremes if they are fewer than four."""
    if len(durations) < 4:
        return min(durations), max(durations)
    low, _, high = statistics.quantiles(durations, n=4, method="inclusive")
    return low, high


class _Pace(NamedTuple):
    """The seconds that a run took for each unit of its train_length, and for all else."""

    per_length: float
    rest: float


def _kind(spec: Mapping[str, Any]) -> str:
    """What like runs have in common: all that determines the time of a step; of an external program all but seeds."""
    if "COMMAND" in spec:
        return repr([spec["COMMAND"], *sorted((key, value) for key, value in spec.items()
                                              if key not in NOT_PARAMETERS and "seed" not in key.lower())])
    values = {**Config().to_dict(), **spec}
    return repr([bool(values["train_length"]), *(values[key] for key in _SPEED)])


def _length(spec: Mapping[str, Any]) -> float:
    return 0.0 if "COMMAND" in spec else float(spec.get("train_length", Config.train_length))


def _like_runs(kinds: set[str], output_dir: str, by_workers: bool) -> dict[str, list[_Pace]]:
    """The paces of completed runs on Slurm, by kind."""
    like_runs: dict[str, list[_Pace]] = {}
    deadline = time.monotonic() + _TIME_BUDGET
    for batch in reversed(batch_folder.all_batches(output_dir)):
        plans = journal.read_history(batch).recorded_plans
        # the time of a run in a stack is that of the whole stack
        if not plans or plans[-1].get("stack") or (plans[-1]["way"] == journal.WORKERS) != by_workers:
            continue
        for name in run_folder.run_names(batch):
            is_enough = len(like_runs) == len(kinds) and min(map(len, like_runs.values())) >= _ENOUGH
            if is_enough or time.monotonic() > deadline:
                return like_runs
            try:
                run = RunFolder.read(os.path.join(batch, name))
                spec = run_folder.read_spec(run.file(run_folder.SPEC)) if run.ended == run_folder.COMPLETED else {}
                if spec and (kind := _kind(spec)) in kinds and (pace := _pace(run, spec)):
                    like_runs.setdefault(kind, []).append(pace)
            except (OSError, ValueError):
                continue
    return like_runs


def _pace(run: RunFolder, spec: Mapping[str, Any]) -> _Pace | None:
    """The pace of a completed run; None if it was not on Slurm, had several starts, or cannot be divided.

    The time per step is that between the first and the last row of stats.csv, so that it does not contain the start.
    """
    attempt = run.last_attempt()
    if attempt is None or len(run.attempts) != 1 or not attempt.get("end") or not attempt.get("slurm_job"):
        return None
    duration, length = attempt["end"] - attempt["start"], _length(spec)
    if not length:
        return _Pace(0.0, duration)
    stats = stats_csv.read(run.path)
    if len(stats.rows) < 2:
        return None
    steps, clock = stats.numbers("step"), stats.numbers("timestamp")
    training = steps[-1] * (clock[-1] - clock[0]) / (steps[-1] - steps[0])
    return _Pace(training / length, max(0.0, duration - training))
