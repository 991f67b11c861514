"""CPU- and GPU-hours of a submission: an upper bound from its time limits, and an estimate from earlier runs."""
from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src.submission.batch import usage_history
from src.submission.slurm import directives
from src.submission.system.terminal import count


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
    parts = [f"{format_hours(hours)} {unit}-hours"
             for hours, unit in ((gpu_hours, "GPU"), (cpu_hours, "CPU")) if hours]
    return f"at most {', '.join(parts)} (time limits)"


def format_hours(hours: float) -> str:
    """Format hours with as many digits as matter: 0.004, 1.5, 120."""
    return f"{hours:,.{0 if hours >= 10 else 1 if hours >= 1 else 3}f}"


def estimate(specs: Sequence[Mapping[str, Any]], output_dir: str, cpus: float, gpus: float,
             by_workers: bool = False) -> str | None:
    """Return `probably 1.2 to 1.9 GPU-hours, 4.8 to 7.6 CPU-hours (30 similar runs)`.

    A similar run trained the same model on the same data at the same batch size (or is a run of the same external
    program with equal parameters, apart from seeds), and was started in the same way. Its seconds per unit of
    train_length and its other seconds, such as starting up, are counted separately. The range is that of the middle
    half of the similar runs; of all if there are fewer than four.

    cpus, gpus: of each run. by_workers: workers share the runs, so that the libraries are not loaded for each run.
    None unless each spec has a similar run in the newest batches under output_dir, as far as they can be read in half a
    second.
    """
    counts = Counter((usage_history.kind_of(spec), usage_history.length_of(spec)) for spec in specs)
    similar_runs = usage_history.similar_runs({kind for kind, _ in counts}, output_dir)
    low = high = 0.0
    number_of_runs = 0
    for kind, runs in similar_runs.items():
        similar_runs[kind] = [run for run in runs if run.by_workers == by_workers and run.per_length is not None]
        number_of_runs += len(similar_runs[kind])
    if not all(similar_runs.get(kind) for kind, _ in counts) or not counts:
        return None
    for (kind, length), number in counts.items():
        shortest, longest = _range([run.seconds_for(length) or 0.0 for run in similar_runs[kind]])
        low, high = low + number * shortest / 3600, high + number * longest / 3600
    parts = [" to ".join(dict.fromkeys((format_hours(low * number), format_hours(high * number)))) + f" {unit}-hours"
             for number, unit in ((gpus, "GPU"), (cpus, "CPU")) if number]
    return f"probably {', '.join(parts)} ({count(number_of_runs, 'similar run')})"


def _range(durations: list[float]) -> tuple[float, float]:
    """The quartiles of durations; their extremes if they are fewer than four."""
    if len(durations) < 4:
        return min(durations), max(durations)
    low, _, high = statistics.quantiles(durations, n=4, method="inclusive")
    return low, high
