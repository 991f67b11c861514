"""CPU- and GPU-hours of a submission: an upper bound from its time limits, and an estimate from earlier runs."""
from __future__ import annotations

import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src import run_folder
from src.run_folder import RunFolder
from src.submission.batch import batch_folder
from src.submission.system.terminal import count

_TIME_BUDGET = 0.5  # seconds for reading earlier runs
_ENOUGH = 50  # earlier runs per model and data set


def parse_hours(limit: str) -> float | None:
    """Convert a time limit of Slurm (minutes, h:m:s, d-h:m:s …) to hours; None if it is not one."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
        return None
    days, dash, rest = limit.rpartition("-")
    numbers = list(map(int, rest.split(":")))
    if dash:
        weights = (1.0, 1 / 60, 1 / 3600)
    else:
        weights = (1.0, 1 / 60, 1 / 3600) if len(numbers) == 3 else (1 / 60, 1 / 3600, 0.0)
    return 24 * int(days or 0) + sum(number * weight for number, weight in zip(numbers, weights, strict=False))


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
        hours = parse_hours(options.get("time", ""))
        if hours is None:
            return None
        cpus, gpus = cpus_and_gpus(options)
        cpu_hours += number * hours * cpus
        gpu_hours += number * hours * gpus
    return f"at most {_format_hours(cpu_hours, gpu_hours)} (time limits)"


def _format_hours(cpu: float, gpu: float) -> str:
    return ", ".join(f"{number:,.{0 if number >= 10 else 1 if number >= 1 else 3}f} {kind}-hours"
                     for number, kind in ((gpu, "GPU"), (cpu, "CPU")) if number)


def _model_and_dataset(spec: Mapping[str, Any]) -> tuple[str, str]:
    return str(spec.get("model")), str(spec.get("dataset"))


def estimate(specs: Sequence[Mapping[str, Any]], output_dir: str, cpus: float, gpus: float) -> str | None:
    """Return `probably 4.8 GPU-hours, 19 CPU-hours (30 earlier runs of the same model and data)`.

    cpus, gpus: of each run. None unless there are earlier runs of each model and data set in the newest batches under
    output_dir, as far as they can be read in half a second.
    """
    counts = Counter(map(_model_and_dataset, specs))
    durations = _durations(set(counts), output_dir)
    if set(durations) != set(counts):
        return None
    hours = sum(statistics.median(durations[kind]) * number for kind, number in counts.items()) / 3600
    earlier = count(sum(map(len, durations.values())), "earlier run")
    return f"probably {_format_hours(hours * cpus, hours * gpus)} ({earlier} of the same model and data)"


def _durations(kinds: set[tuple[str, str]], output_dir: str) -> dict[tuple[str, str], list[float]]:
    """The durations of finished runs in seconds, by model and data set."""
    durations: dict[tuple[str, str], list[float]] = {}
    deadline = time.monotonic() + _TIME_BUDGET
    for batch in reversed(batch_folder.all_batches(output_dir)):
        for name in run_folder.run_names(batch):
            is_enough = len(durations) == len(kinds) and min(map(len, durations.values())) >= _ENOUGH
            if is_enough or time.monotonic() > deadline:
                return durations
            try:
                run = RunFolder.read(os.path.join(batch, name))
                attempt = run.last_attempt() if run.ended else None
                if attempt and len(run.attempts) == 1 and attempt.get("end"):
                    kind = _model_and_dataset(run_folder.read_spec(run.file(run_folder.SPEC)))
                    if kind in kinds:
                        durations.setdefault(kind, []).append(attempt["end"] - attempt["start"])
            except (OSError, ValueError):
                continue
    return durations
