"""What the Slurm jobs of a batch used of what they asked for, and what to ask for next time."""
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

_SPARE_MEMORY, _SPARE_TIME = 1.25, 1.5  # times the most that was seen


class Resource(NamedTuple):
    """What was used of something, what was asked for, the share, and what to ask for; empty where it is not known."""

    what: str
    used: str
    asked: str
    share: str
    enough: str


@dataclass
class Usage:
    """Of one Slurm job or many: jobs; memory: the most that one had resident on a node, KiB; longest: seconds; cpu and
    allocated, gpu and gpus: CPU and GPU seconds used and had, gpu None where the cluster does not gather it; asked:
    ReqMem and limits (minutes) as they were given."""

    jobs: int = 0
    memory: float = 0.0
    longest: float = 0.0
    cpu: float = 0.0
    allocated: float = 0.0
    gpu: float | None = None
    gpus: float = 0.0
    asked_memory: str = ""
    asked_time: str = ""

    def resources(self) -> list[Resource]:
        """Memory, time, CPUs, and GPUs if there were any. Empty if no job has ended."""
        if not self.jobs:
            return []
        asked, limit = _kib(self.asked_memory), 60 * float(self.asked_time if self.asked_time.isdecimal() else 0)
        found = [Resource("memory of a node, at most", f"{self.memory / 1024:,.0f} MB" if self.memory else "unknown",
                          f"{asked / 1024:,.0f} MB" if asked else "none", _percent(self.memory, asked),
                          f"--sbatch mem={suggested_megabytes(self.memory)}M" if self.memory else ""),
                 Resource("time, at most", format_duration(self.longest), format_duration(limit) if limit else "none",
                          _percent(self.longest, limit), f"--sbatch time={suggested_minutes(self.longest)}"),
                 Resource("CPUs' time", format_duration(self.cpu), format_duration(self.allocated),
                          _percent(self.cpu, self.allocated), "")]
        if self.gpus:
            used, share = ("no books are kept", "") if self.gpu is None else (
                format_duration(self.gpu), _percent(min(self.gpu, self.gpus), self.gpus))
            found.append(Resource("GPUs' time", used, format_duration(self.gpus), share, ""))
        return found

    def lines(self) -> list[str]:
        """A line of what was used, and one of what to ask for. Empty if no job has ended."""
        if not self.jobs:
            return []
        memory, took, cpus, *gpus = self.resources()
        share = f", {cpus.share} of its CPUs' time" if cpus.share else ""
        if gpus:
            share += f", {gpus[0].share} of its GPUs'" if gpus[0].share else (
                " (of its GPUs' this cluster keeps no books)")
        return [f"{self.jobs:,} ended: at most {memory.used} of memory (asked: {memory.asked}) and {took.used} "
                f"(limit: {took.asked}){share}", f"would do: {' '.join(filter(None, (memory.enough, took.enough)))}"]


def _percent(used: float, of: float) -> str:
    return f"{100 * used / of:.0f} %" if of else ""


def suggested_megabytes(kib: float) -> int:
    """What to ask for: a quarter more than the most that was used, in steps of 100 MB."""
    return 100 * math.ceil(max(kib * _SPARE_MEMORY / 1024, 1) / 100)


def suggested_minutes(seconds: float) -> int:
    """What to ask for: half as much again as the longest run, in steps of 5 minutes."""
    return 5 * math.ceil(max(seconds * _SPARE_TIME / 60, 1) / 5)


def usage_by_batch(observations: Iterable[Observation]) -> dict[str, Usage]:
    """The usage of each batch, by its path; by one sacct, and by none if Slurm was given nothing of them."""
    found = list(observations)
    jobs = {one.path: {job for ticket in one.history.tickets.values() for job in ticket.slurm_jobs} for one in found}
    since = min((plan["time"] for one in found for plan in one.history.plans), default=time.time())
    rows = client.usage(since) if any(jobs.values()) else []
    return {path: usage_of_jobs(rows, given) for path, given in jobs.items()}


def usage_of_jobs(rows: Iterable[Sequence[str]], jobs: Collection[str]) -> Usage:
    """The usage of those of `jobs` that ended. rows: sacct's, of jobs and of their steps, as slurm.USAGE_FIELDS.

    A step's id is its job's with `.batch` or a number; memory and GPU use are known of steps alone.
    """
    usage = Usage()
    ended: set[str] = set()
    for identifier, state, elapsed, cpu, cpus, rss, memory, limit, had, used in rows:
        job, _, step = identifier.partition(".")
        if job not in jobs:
            continue
        if not step and state.split()[0] not in ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED"):
            ended.add(job)
            took = float(elapsed or 0)
            usage.jobs += 1
            usage.longest = max(usage.longest, took)
            usage.cpu += parse_cpu_time(cpu)
            usage.allocated += took * float(cpus or 0)
            usage.gpus += took * _gpus(parse_tres(had))
            usage.asked_memory, usage.asked_time = memory or usage.asked_memory, limit or usage.asked_time
        elif step and job in ended:
            total = parse_tres(used)  # of all tasks together, and MaxRSS of the largest
            nodes = float(parse_tres(had).get("node", 1))
            usage.memory = max(usage.memory, _kib(rss), _kib(total.get("mem", "")) / nodes)
            if "gres/gpuutil" in total:  # percent, of all GPUs together
                usage.gpu = (usage.gpu or 0.0) + float(total["gres/gpuutil"]) / 100 * float(elapsed or 0)
    return usage


def parse_tres(text: str) -> dict[str, str]:
    """Slurm's `cpu=4,gres/gpu=1,mem=8G` as a mapping."""
    return {key: value for key, equals, value in (part.partition("=") for part in text.split(",")) if equals}


def _gpus(had: dict[str, str]) -> int:
    """`gres/gpu`, or, where only kinds are counted, all `gres/gpu:kind` together."""
    return int(had.get("gres/gpu") or sum(int(number) for key, number in had.items() if key.startswith("gres/gpu:")))


def _kib(text: str) -> float:
    """`1234K`, `2.5M` or `4G` (also with Slurm's n or c behind it) in KiB."""
    match = re.match(r"([\d.]+)([KMGT]?)", text)
    return float(match[1]) * 1024 ** " KMGT".index(match[2] or "K") / 1024 if match else 0.0


def parse_cpu_time(text: str) -> float:
    """Slurm's `[days-][hours:]minutes:seconds[.fraction]` in seconds."""
    days, _, rest = text.rpartition("-")
    parts = [float(part) for part in rest.split(":")] if rest else [0.0]
    return float(days or 0) * 86400 + sum(part * 60 ** place for place, part in enumerate(reversed(parts)))
