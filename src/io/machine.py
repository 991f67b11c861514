"""What this machine has for a process: the CPUs that it was given, the memory that is left."""
from __future__ import annotations

import os
from pathlib import Path

from src.io import files, slurm_environment


def allotted_cpus() -> int:
    """CPUs that this process may use: its share of a worker's, or those of its task of a Slurm job, or all it sees."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get("GRIDIRON_THREADS") or slurm_environment.cpus_per_task()
    return max(1, min(seen, int(share or seen)))


def available_memory() -> int:
    """Bytes that this process may still take: the least of what the machine has, its cgroup and its Slurm job allow."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")]
    for line in (files.read_text("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            found = [1024 * int(line.split()[1])]
    limit, used = (files.read_text(Path("/sys/fs/cgroup") / f"memory.{name}") for name in ("max", "current"))
    if limit and used and limit.strip().isdigit():
        found.append(int(limit) - int(used))
    if job := slurm_environment.memory_per_node():
        found.append(job)
    return min(found)
