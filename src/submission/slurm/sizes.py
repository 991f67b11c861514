"""Sizes: the time and memory that runs need, by earlier ones, as options of sbatch that request no more than before."""
from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from src.io import records
from src.submission.slurm import directives

MEMORY_MARGIN, TIME_MARGIN = 1.25, 1.5  # times what was used
_LEAST = 500  # MB: for the shell and the environment that start a run
_SHARE = 0.95  # of the earlier runs must have needed no more
_UNITS = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}  # MiB
_MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")  # options that exclude each other


class Size(NamedTuple):
    """The seconds and bytes that a Slurm job needs, with a margin; None leaves them as requested otherwise."""

    seconds: float | None = None
    memory: float | None = None


NO_SIZE = Size()


def percentile(values: Iterable[float]) -> float:
    """Return the smallest of some values that is not exceeded by 95 % of them; of fewer than 20 the largest."""
    ordered = sorted(values)
    return ordered[math.ceil(_SHARE * len(ordered)) - 1]


def suggested_megabytes(kib: float) -> int:
    """Return the memory to request: what was used and a quarter, rounded up to 100 MB, and no less than 500 MB."""
    return max(_LEAST, 100 * math.ceil(kib * MEMORY_MARGIN / 1024 / 100))


def suggested_minutes(seconds: float) -> int:
    """Return the time to request: what was used and half as much again, rounded up to 5 minutes."""
    return 5 * math.ceil(max(seconds * TIME_MARGIN / 60, 1) / 5)


def megabytes(memory: str) -> float | None:
    """Return the MiB of a value of --mem; None if it is not a size, or 0, which stands for all of a node."""
    match = re.fullmatch(r"(\d{1,15})([KMGT]?)B?", memory.upper())
    return int(match[1]) * _UNITS[match[2]] or None if match else None


def smaller_request(size: Size, requested: Mapping[str, Any], fixed: Collection[str]) -> dict[str, str]:
    """Return the options `time` and `mem` that request less than is requested so far; what is not requested stays so.

    requested: the options of the job, by long name. fixed: options that stay as they are.
    """
    options = {}
    limit = directives.parse_time(str(requested.get("time") or ""))
    if size.seconds is not None and limit and "time" not in fixed:
        minutes = suggested_minutes(size.seconds)
        if 60 * minutes < limit:
            options["time"] = str(minutes)
    memory = megabytes(str(requested.get("mem") or ""))
    if size.memory is not None and memory and not any(requested.get(name) for name in _MEMORY[1:]) and (
            not set(_MEMORY) & set(fixed)):
        needed = suggested_megabytes(size.memory / 1024)
        if needed < memory:
            options["mem"] = f"{needed}M"
    return options


def as_record(by_key: Mapping[str, Size]) -> dict[str, list[float | None]]:
    """Return sizes as the journal stores them, for jobs that are submitted later for the same runs."""
    return {key: list(size) for key, size in by_key.items()}


def from_record(record: Any) -> dict[str, Size]:
    """Return the sizes that a journal stores; those of another form are left out."""
    return {key: Size(*value) for key, value in (record if isinstance(record, dict) else {}).items()
            if isinstance(value, list) and len(value) == len(Size._fields)
            and all(item is None or records.is_number(item) for item in value)}
