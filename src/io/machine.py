"""Resources of this machine that a process may use: CPUs and memory."""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from src.io import files, slurm_environment

_CGROUPS = "/sys/fs/cgroup"


def allotted_cpus() -> int:
    """Return the CPUs for this process: its share of a worker's, those of its Slurm task, or all that are visible."""
    visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get("GRIDIRON_THREADS") or slurm_environment.cpus_per_task()
    return max(1, min(visible, int(share or visible)))


def cpu_limit() -> float:
    """Return the CPUs that this process may use: as in allotted_cpus, and at most the quota of its cgroups."""
    quotas = [(quota, period) for line in _cgroup_files("", "cpu.max") for quota, period in [line.split()]]
    # version 1 has the quota and its period in two files
    quotas += zip(_cgroup_files("cpu", "cpu.cfs_quota_us"), _cgroup_files("cpu", "cpu.cfs_period_us"), strict=False)
    return min([allotted_cpus(), *(int(quota) / int(period) for quota, period in quotas
                                   if quota.isdecimal() and int(period))])


def memory_limit() -> int:
    """Return the bytes that the processes of this machine, of its cgroups or of its Slurm job may use together."""
    limits = [int(text) for group, name in (("", "memory.max"), ("memory", "memory.limit_in_bytes"))
              for text in _cgroup_files(group, name) if text.isdecimal()]
    return min(_of_machine("MemTotal", "SC_PHYS_PAGES"), *limits, *filter(None, [slurm_environment.memory_per_node()]))


def _of_machine(field: str, pages: str) -> int:
    """Return the bytes of a field of /proc/meminfo; without that file, those of a number of pages of sysconf."""
    lines = (files.read_text("/proc/meminfo") or "").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")),
                os.sysconf("SC_PAGE_SIZE") * os.sysconf(pages))


def _cgroup_files(controller: str, name: str) -> Iterator[str]:
    """Yield the contents of a file in each cgroup of this process, from the innermost outwards.

    controller: of version 1; empty for version 2, which has one tree.
    """
    for line in (files.read_text("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controller not in controllers.split(","):
            continue
        while True:
            with contextlib.suppress(OSError):
                if text := files.read_text(os.path.join(_CGROUPS, controller, path.lstrip("/"), name)):
                    yield text.strip()
            if path in ("", "/"):
                break
            path = os.path.dirname(path)


def available_memory() -> int:
    """Return the bytes that this process may still allocate: the minimum of machine, cgroup and Slurm job."""
    limits = [_of_machine("MemAvailable", "SC_AVPHYS_PAGES")]
    limit, used = (files.read_text(os.path.join(_CGROUPS, f"memory.{name}")) for name in ("max", "current"))
    if limit and used and limit.strip().isdigit():
        limits.append(int(limit) - int(used))
    if job := slurm_environment.memory_per_node():
        limits.append(job)
    return min(limits)
