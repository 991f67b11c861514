"""CPU- and GPU-hours of a submission: at most, by its time limits, and probably, by earlier runs."""
from __future__ import annotations

import os
import re
import shlex
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src import run_folder
from src.run_folder import RunFolder
from src.submission.batch import batch_folder
from src.submission.slurm import client
from src.submission.system.terminal import count

_SHORT = {"p": "partition", "t": "time", "c": "cpus-per-task", "n": "ntasks", "N": "nodes", "G": "gpus", "A": "account",
          "q": "qos", "C": "constraint", "d": "dependency"}
_PATIENCE = 0.5  # seconds for a look at earlier runs
_ENOUGH = 50  # earlier runs of a model and data set


def requested(script: str, words: Iterable[str]) -> dict[str, str]:
    """What a script's directives, and the words of a command line over them, ask sbatch for; by long names."""
    found: dict[str, str] = {}
    directives = [part for line in client.script_directives(script) for part in shlex.split(line)]
    name = ""
    for word in (*directives, *words):
        if word.startswith("--"):
            name, _, found[name] = word[2:].partition("=")
        elif re.match(r"-[A-Za-z]", word):
            name = _SHORT.get(word[1], word[1])
            found[name] = word[2:].removeprefix("=")
        elif name and not found[name]:  # the value is a word of its own
            found[name] = word
    return found


def parse_hours(limit: str) -> float | None:
    """Hours of a time limit as Slurm writes it: minutes, h:m:s, d-h:m:s …; None if it is none."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
        return None
    days, dash, rest = limit.rpartition("-")
    numbers = list(map(int, rest.split(":")))
    if dash:
        weights = (1.0, 1 / 60, 1 / 3600)
    else:
        weights = (1.0, 1 / 60, 1 / 3600) if len(numbers) == 3 else (1 / 60, 1 / 3600, 0.0)
    return 24 * int(days or 0) + sum(number * weight for number, weight in zip(numbers, weights, strict=False))


def cpus_and_gpus(asked: Mapping[str, str]) -> tuple[int, int]:
    """How many of each one Slurm job gets, as far as its options say."""
    nodes = _number(asked.get("nodes", ""), 1)
    tasks = _number(asked.get("ntasks", ""), nodes * _number(asked.get("ntasks-per-node", ""), 1))
    gpus = (_gpus(asked.get("gpus", "")) or nodes * _gpus(asked.get("gpus-per-node", ""))
            or tasks * _gpus(asked.get("gpus-per-task", ""))
            or nodes * sum(_gpus(part) for part in asked.get("gres", "").split(",") if part.startswith("gpu")))
    return tasks * _number(asked.get("cpus-per-task", ""), 1), gpus


def _number(text: str, default: int) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else default


def _gpus(text: str) -> int:
    """Of `2`, `a100:2`, `gpu:a100:2` or `gpu`."""
    last = text.rpartition(":")[2]
    return int(last) if last.isdecimal() else int(bool(text))


def upper_bound(jobs: Iterable[tuple[int, Mapping[str, str]]]) -> str | None:
    """`at most 96 GPU-hours, 384 CPU-hours (time limits)` of (number, options) of Slurm jobs; None without a limit."""
    cpu, gpu = 0.0, 0.0
    for number, asked in jobs:
        hours = parse_hours(asked.get("time", ""))
        if hours is None:
            return None
        cpus, gpus = cpus_and_gpus(asked)
        cpu, gpu = cpu + number * hours * cpus, gpu + number * hours * gpus
    return f"at most {_hours(cpu, gpu)} (time limits)"


def _hours(cpu: float, gpu: float) -> str:
    return ", ".join(f"{number:,.{0 if number >= 10 else 1 if number >= 1 else 3}f} {kind}-hours"
                     for number, kind in ((gpu, "GPU"), (cpu, "CPU")) if number)


def _kind(spec: Mapping[str, Any]) -> tuple[str, str]:
    return str(spec.get("model")), str(spec.get("dataset"))


def estimate(specs: Sequence[Mapping[str, Any]], output_dir: str, cpus: float, gpus: float) -> str | None:
    """`probably 4.8 GPU-hours, 19 CPU-hours (30 earlier runs of the same model and data)`; None if there are none.

    cpus, gpus: of each run. The newest batches under output_dir are looked at, for half a second.
    """
    wanted: dict[tuple[str, str], int] = {}
    for spec in specs:
        wanted[_kind(spec)] = wanted.get(_kind(spec), 0) + 1
    took = _durations(wanted, output_dir)
    if set(took) != set(wanted):
        return None
    medians = {kind: statistics.median(seconds) for kind, seconds in took.items()}
    total = sum(medians[kind] * number for kind, number in wanted.items()) / 3600
    seen = sum(map(len, took.values()))
    return f"probably {_hours(total * cpus, total * gpus)} ({count(seen, 'earlier run')} of the same model and data)"


def _durations(wanted: Iterable[tuple[str, str]], output_dir: str) -> dict[tuple[str, str], list[float]]:
    """Seconds that finished runs took, by model and data set."""
    wanted = set(wanted)
    took: dict[tuple[str, str], list[float]] = {}
    end = time.monotonic() + _PATIENCE
    for path in reversed(batch_folder.all_batches(output_dir)):
        for name in run_folder.run_names(path):
            if time.monotonic() > end or len(took) == len(wanted) and min(map(len, took.values())) >= _ENOUGH:
                return took
            try:
                run = RunFolder.read(os.path.join(path, name))
                attempt = run.last_attempt() if run.ended else None
                if attempt and len(run.attempts) == 1 and attempt.get("end"):
                    kind = _kind(run_folder.read_spec(run.file(run_folder.SPEC)))
                    if kind in wanted:
                        took.setdefault(kind, []).append(attempt["end"] - attempt["start"])
            except (OSError, ValueError):
                continue
    return took
