"""The use and the requests of each Slurm job, from the rows of sacct for the job and its steps."""
from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from src.submission.slurm import job_states
from src.submission.usage import jobstats

_MAX_DIGITS = 16  # of a number that Slurm prints


@dataclass
class JobUsage:
    """The use of one Slurm job that has ended.

    memory: the maximum on one node, in KiB;
    seconds: from its start to its end;
    cpu_used, cpu_allocated: CPU seconds; cpus: their number;
    gpu_used, gpu_allocated: GPU seconds; gpu_used is None if the cluster does not measure it;
    requested_memory, requested_time: memory and limit (minutes) as sacct prints them.
    """

    memory: float = 0.0
    seconds: float = 0.0
    cpus: float = 0.0
    cpu_used: float = 0.0
    cpu_allocated: float = 0.0
    gpu_used: float | None = None
    gpu_allocated: float = 0.0
    requested_memory: str = ""
    requested_time: str = ""

    def add_step(self, seconds: float, max_rss: str, allocated: str, used: str) -> None:
        """Add what a step used; only steps have the use of memory and GPUs."""
        totals = parse_tres(used)  # of all tasks together; MaxRSS is of the largest task
        nodes = parse_number(parse_tres(allocated).get("node", "1")) or 1.0
        self.memory = max(self.memory, parse_kib(max_rss), parse_kib(totals.get("mem", "")) / nodes)
        if "gres/gpuutil" in totals:  # percent, of all GPUs together
            self.gpu_used = (self.gpu_used or 0.0) + parse_number(totals["gres/gpuutil"]) / 100 * seconds


def usage_of_jobs(rows: Iterable[Sequence[str]], jobs: Collection[str]) -> dict[str, JobUsage]:
    """Return the usage of those of `jobs` that have ended, by id.

    rows: of client.usage, for jobs and their steps. A step's id is that of its job with `.batch`, `.extern` or a
    number.
    """
    usage: dict[str, JobUsage] = {}
    stats: dict[str, jobstats.JobStats] = {}
    for identifier, state, elapsed, cpu, cpus, max_rss, memory, limit, allocated, used, comment in rows:
        job, _, step = identifier.partition(".")
        if job not in jobs:
            continue
        seconds = parse_number(elapsed)
        if not step and (state.split() or [""])[0] not in job_states.PENDING | job_states.RUNNING:
            usage[job] = JobUsage(seconds=seconds, cpus=parse_number(cpus), cpu_used=parse_cpu_time(cpu),
                                  cpu_allocated=seconds * parse_number(cpus),
                                  gpu_allocated=seconds * _gpu_count(parse_tres(allocated)),
                                  requested_memory=memory, requested_time=limit)
            if measured := jobstats.parse(comment):
                stats[job] = measured
        elif step and job in usage:
            usage[job].add_step(seconds, max_rss, allocated, used)
    for job, measured in stats.items():
        usage[job].memory = max(usage[job].memory, measured.memory / 1024)
        if usage[job].gpu_used is None and measured.gpu is not None:
            usage[job].gpu_used = measured.gpu / 100 * usage[job].seconds
    return usage


def parse_tres(text: str) -> dict[str, str]:
    """Convert Slurm's `cpu=4,gres/gpu=1,mem=8G` to a mapping."""
    return {key: value for key, equals, value in (part.partition("=") for part in text.split(",")) if equals}


def _gpu_count(tres: dict[str, str]) -> int:
    """`gres/gpu`; the sum of all `gres/gpu:TYPE` where only those are counted."""
    return int(parse_number(tres.get("gres/gpu", "")) or sum(
        parse_number(count) for key, count in tres.items() if key.startswith("gres/gpu:")))


def parse_kib(text: str) -> float:
    """`1234K`, `2.5M` or `4G` in KiB; Slurm may append n or c."""
    match = re.match(r"([\d.]+)([KMGT]?)", text)
    return parse_number(match[1]) * 1024 ** " KMGT".index(match[2] or "K") / 1024 if match else 0.0


def parse_number(text: str) -> float:
    """Return a number as Slurm prints one, and 0 for anything else, such as nothing or UNLIMITED."""
    return float(text) if len(text) < _MAX_DIGITS and re.fullmatch(r"\d+\.?\d*", text) else 0.0


def parse_cpu_time(text: str) -> float:
    """Convert Slurm's `[days-][hours:]minutes:seconds[.fraction]` to seconds."""
    days, _, rest = text.rpartition("-")
    parts = [parse_number(part) for part in rest.split(":", 2)]
    return parse_number(days) * 86400 + sum(part * 60 ** power for power, part in enumerate(reversed(parts)))
