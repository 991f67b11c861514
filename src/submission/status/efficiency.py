"""Efficiency: the resources that the Slurm jobs of a batch used and requested, and what to request next time."""
from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from src.submission.slurm import client
from src.submission.status.observation import Observation
from src.submission.system.terminal import format_duration

_MAX_DIGITS = 16  # of a number that Slurm prints
_MEMORY_MARGIN, _TIME_MARGIN = 1.25, 1.5  # times the maximum that was used


class Resource(NamedTuple):
    """The use of one resource, as text: used, requested, the share of it, and the option to request enough next time.

    Empty where it is unknown.
    """

    name: str
    used: str
    requested: str
    share: str
    suggestion: str


@dataclass
class Usage:
    """The use of some Slurm jobs together.

    jobs: that have ended;
    memory: the maximum on one node, in KiB;
    longest: the longest time of one, in seconds;
    cpu_used, cpu_allocated: CPU seconds;
    gpu_used, gpu_allocated: GPU seconds; gpu_used is None if the cluster does not measure it;
    requested_memory, requested_time: memory and limit (minutes) as sacct prints them.
    """

    jobs: int = 0
    memory: float = 0.0
    longest: float = 0.0
    cpu_used: float = 0.0
    cpu_allocated: float = 0.0
    gpu_used: float | None = None
    gpu_allocated: float = 0.0
    requested_memory: str = ""
    requested_time: str = ""

    def resources(self) -> list[Resource]:
        """Return memory, time, CPUs, and GPUs if there were any; empty if no job has ended."""
        if not self.jobs:
            return []
        memory = _parse_kib(self.requested_memory)
        limit = 60 * _number(self.requested_time)
        resources = [
            Resource("memory of a node, at most", f"{self.memory / 1024:,.0f} MB" if self.memory else "unknown",
                     f"{memory / 1024:,.0f} MB" if memory else "none", _percent(self.memory, memory),
                     f"--sbatch mem={suggested_megabytes(self.memory)}M" if self.memory else ""),
            Resource("time, at most", format_duration(self.longest), format_duration(limit) if limit else "none",
                     _percent(self.longest, limit), f"--sbatch time={suggested_minutes(self.longest)}"),
            Resource("CPU time", format_duration(self.cpu_used), format_duration(self.cpu_allocated),
                     _percent(self.cpu_used, self.cpu_allocated), "")]
        if self.gpu_allocated:
            used, share = ("not measured", "") if self.gpu_used is None else (
                format_duration(self.gpu_used), _percent(min(self.gpu_used, self.gpu_allocated), self.gpu_allocated))
            resources.append(Resource("GPU time", used, format_duration(self.gpu_allocated), share, ""))
        return resources

    def lines(self) -> list[str]:
        """Return a line of what was used, and one of what to request; empty if no job has ended."""
        if not self.jobs:
            return []
        memory, longest, cpu, *gpu = self.resources()
        share = f", {cpu.share} of the CPU time" if cpu.share else ""
        if gpu:
            share += f", {gpu[0].share} of the GPU time" if gpu[0].share else " (this cluster does not measure GPU use)"
        suggestions = " ".join(filter(None, (memory.suggestion, longest.suggestion)))
        return [f"{self.jobs:,} ended: at most {memory.used} of memory (requested: {memory.requested}) and "
                f"{longest.used} (limit: {longest.requested}){share}", f"suggestion: {suggestions}"]


def _percent(used: float, total: float) -> str:
    return f"{100 * used / total:.0f} %" if total else ""


def suggested_megabytes(kib: float) -> int:
    """Return the memory to request: the maximum that was used and a quarter, rounded up to 100 MB."""
    return 100 * math.ceil(max(kib * _MEMORY_MARGIN / 1024, 1) / 100)


def suggested_minutes(seconds: float) -> int:
    """Return the time to request: the longest run and half as much again, rounded up to 5 minutes."""
    return 5 * math.ceil(max(seconds * _TIME_MARGIN / 60, 1) / 5)


def usage_by_batch(observations: Iterable[Observation]) -> dict[str, Usage]:
    """Return the usage of each batch by its path. Calls sacct once for each cluster that had a job of theirs."""
    observations = list(observations)
    jobs = {batch.path: {job for ticket in batch.history.tickets.values() for job in ticket.slurm_jobs}
            for batch in observations}
    since = min((plan["time"] for batch in observations for plan in batch.history.recorded_plans), default=time.time())
    rows = client.usage(since, {job.partition(";")[2] for batch_jobs in jobs.values() for job in batch_jobs})
    return {path: usage_of_jobs(rows, batch_jobs) for path, batch_jobs in jobs.items()}


def usage_of_jobs(rows: Iterable[Sequence[str]], jobs: Collection[str]) -> Usage:
    """Return the usage of those of `jobs` that have ended.

    rows: of client.usage, for jobs and their steps. A step's id is that of its job with
    `.batch`, `.extern` or a number; only steps have the use of memory and GPUs.
    """
    usage = Usage()
    ended: set[str] = set()
    for identifier, state, elapsed, cpu, cpus, max_rss, memory, limit, allocated, used in rows:
        job, _, step = identifier.partition(".")
        if job not in jobs:
            continue
        seconds = _number(elapsed)
        if not step and (state.split() or [""])[0] not in ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED"):
            ended.add(job)
            usage.jobs += 1
            usage.longest = max(usage.longest, seconds)
            usage.cpu_used += parse_cpu_time(cpu)
            usage.cpu_allocated += seconds * _number(cpus)
            usage.gpu_allocated += seconds * _gpu_count(parse_tres(allocated))
            usage.requested_memory = memory or usage.requested_memory
            usage.requested_time = limit or usage.requested_time
        elif step and job in ended:
            totals = parse_tres(used)  # of all tasks together; MaxRSS is of the largest task
            nodes = _number(parse_tres(allocated).get("node", "1")) or 1.0
            usage.memory = max(usage.memory, _parse_kib(max_rss), _parse_kib(totals.get("mem", "")) / nodes)
            if "gres/gpuutil" in totals:  # percent, of all GPUs together
                usage.gpu_used = (usage.gpu_used or 0.0) + _number(totals["gres/gpuutil"]) / 100 * seconds
    return usage


def parse_tres(text: str) -> dict[str, str]:
    """Convert Slurm's `cpu=4,gres/gpu=1,mem=8G` to a mapping."""
    return {key: value for key, equals, value in (part.partition("=") for part in text.split(",")) if equals}


def _gpu_count(tres: dict[str, str]) -> int:
    """`gres/gpu`; the sum of all `gres/gpu:TYPE` where only those are counted."""
    return int(_number(tres.get("gres/gpu", "")) or sum(
        _number(count) for key, count in tres.items() if key.startswith("gres/gpu:")))


def _parse_kib(text: str) -> float:
    """`1234K`, `2.5M` or `4G` in KiB; Slurm may append n or c."""
    match = re.match(r"([\d.]+)([KMGT]?)", text)
    return _number(match[1]) * 1024 ** " KMGT".index(match[2] or "K") / 1024 if match else 0.0


def _number(text: str) -> float:
    """Return a number as Slurm prints one, and 0 for anything else, such as nothing or UNLIMITED."""
    return float(text) if len(text) < _MAX_DIGITS and re.fullmatch(r"\d+\.?\d*", text) else 0.0


def parse_cpu_time(text: str) -> float:
    """Convert Slurm's `[days-][hours:]minutes:seconds[.fraction]` to seconds."""
    days, _, rest = text.rpartition("-")
    parts = [_number(part) for part in rest.split(":", 2)]
    return _number(days) * 86400 + sum(part * 60 ** power for power, part in enumerate(reversed(parts)))
