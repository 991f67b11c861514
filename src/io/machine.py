"""Resources of this machine that a process may use: CPUs and memory."""
from __future__ import annotations

import os
from pathlib import Path

from src.io import files, slurm_environment


def allotted_cpus() -> int:
    """Return the CPUs for this process: its share of a worker's, those of its Slurm task, or all that are visible."""
    visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get("GRIDIRON_THREADS") or slurm_environment.cpus_per_task()
    return max(1, min(visible, int(share or visible)))


def available_memory() -> int:
    """Return the bytes that this process may still allocate: the least of machine, cgroup and Slurm job."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")]
    for line in (files.read_text("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            limits = [1024 * int(line.split()[1])]
    limit, used = (files.read_text(Path("/sys/fs/cgroup") / f"memory.{name}") for name in ("max", "current"))
    if limit and used and limit.strip().isdigit():
        limits.append(int(limit) - int(used))
    if job := slurm_environment.memory_per_node():
        limits.append(job)
    return min(limits)
