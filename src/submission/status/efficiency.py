"""Efficiency: the resources that the Slurm jobs of a batch used and requested, and what to request next time."""
from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from src.submission.batch import usage_history
from src.submission.slurm import client, sizes
from src.submission.status import states
from src.submission.status.observation import Observation
from src.submission.system.terminal import format_duration
from src.submission.usage.job_usage import JobUsage, parse_kib, parse_number, usage_of_jobs

_MAX_RUNS = 200  # whose records are read


class Resource(NamedTuple):
    """The use of one resource, as text: used, requested, the share of it, and the option to request enough next time.

    Empty where it is unknown.
    """

    name: str
    used: str
    requested: str
    share: str
    suggestion: str


@dataclass(frozen=True)
class Usage:
    """The use of the Slurm jobs of a batch that have ended."""

    jobs: Sequence[JobUsage] = ()

    def resources(self) -> list[Resource]:
        """Return memory, time, CPUs, and GPUs if there were any; empty if no job has ended."""
        if not self.jobs:
            return []
        memories, times = [job.memory for job in self.jobs], [job.seconds for job in self.jobs]
        memory = parse_kib(next((job.requested_memory for job in reversed(self.jobs) if job.requested_memory), ""))
        limit = 60 * parse_number(next((job.requested_time for job in reversed(self.jobs) if job.requested_time), ""))
        resources = [
            Resource("memory of a node, at most", f"{max(memories) / 1024:,.0f} MB" if max(memories) else "unknown",
                     f"{memory / 1024:,.0f} MB" if memory else "none", _percent(max(memories), memory),
                     f"--sbatch mem={sizes.suggested_megabytes(sizes.percentile(memories))}M" if max(memories) else ""),
            Resource("time, at most", format_duration(max(times)), format_duration(limit) if limit else "none",
                     _percent(max(times), limit),
                     f"--sbatch time={sizes.suggested_minutes(sizes.percentile(times))}"),
            self._cpus()]
        if allocated := sum(job.gpu_allocated for job in self.jobs):
            measured = [job for job in self.jobs if job.gpu_used is not None]
            busy, total = sum(job.gpu_used or 0.0 for job in measured), sum(job.gpu_allocated for job in measured)
            used, share = (format_duration(busy), _percent(min(busy, total), total)) if measured else (
                "not measured", "")
            resources.append(Resource("GPU time", used, format_duration(allocated), share, ""))
        return resources

    def _cpus(self) -> Resource:
        used, allocated = (sum(getattr(job, name) for job in self.jobs) for name in ("cpu_used", "cpu_allocated"))
        return Resource("CPU time", format_duration(used), format_duration(allocated), _percent(used, allocated), "")

    def lines(self) -> list[str]:
        """Return a line of what was used, and one of what to request; empty if no job has ended."""
        if not self.jobs:
            return []
        memory, longest, cpu, *gpu = self.resources()
        share = f", {cpu.share} of the CPU time" if cpu.share else ""
        if gpu:
            share += f", {gpu[0].share} of the GPU time" if gpu[0].share else " (this cluster does not measure GPU use)"
        suggestions = " ".join(filter(None, (memory.suggestion, longest.suggestion)))
        return [f"{len(self.jobs):,} ended: at most {memory.used} of memory (requested: {memory.requested}) and "
                f"{longest.used} (limit: {longest.requested}){share}",
                f"suggestion: {suggestions}; or --right-size, which requests for each run what those like it used"]


def _percent(used: float, total: float) -> str:
    return f"{100 * used / total:.0f} %" if total else ""


def usage_by_batch(observations: Iterable[Observation]) -> dict[str, Usage]:
    """Return the usage of each batch by its path. Calls sacct once for each cluster that had a job of theirs."""
    observations = list(observations)
    jobs = {batch.path: {job for ticket in batch.history.tickets.values() for job in ticket.slurm_jobs}
            for batch in observations}
    since = min((plan["time"] for batch in observations for plan in batch.history.recorded_plans), default=time.time())
    rows = client.usage(since, {job.partition(";")[2] for batch_jobs in jobs.values() for job in batch_jobs})
    accounted = {row[0].partition(".")[0] for row in rows}
    return {batch.path: Usage(_with_records(batch, usage_of_jobs(rows, jobs[batch.path]),
                                            has_accounting=not accounted.isdisjoint(jobs[batch.path])))
            for batch in observations}


def _with_records(batch: Observation, usage: dict[str, JobUsage], has_accounting: bool) -> list[JobUsage]:
    """Fill in what runs have recorded themselves: the use of GPUs, and all of it where sacct has no job of theirs."""
    ended = [name for name, run in batch.runs.items() if run.state.name == states.DONE]
    sample = ended[::max(1, -(-len(ended) // _MAX_RUNS))]
    if not has_accounting:
        return [JobUsage((use.memory or 0.0) / 1024, use.seconds, use.cpus or 0, (use.cpu or 0.0) * use.seconds,
                         (use.cpus or 0) * use.seconds, None if use.gpu is None else (
                             use.gpu / 100 * (use.gpus or 0) * use.seconds), (use.gpus or 0) * use.seconds)
                for use in usage_history.uses_of_runs(batch.path, sample).values()]
    if any(job.gpu_allocated and job.gpu_used is None for job in usage.values()):
        for use in usage_history.uses_of_runs(batch.path, sample).values():
            job = usage.get(use.slurm_job or "")
            if job and job.gpu_used is None and use.gpu is not None:
                job.gpu_used = use.gpu / 100 * job.gpu_allocated
    return list(usage.values())
