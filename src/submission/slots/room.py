"""The number of runs that fit: by the memory of the machine and the GPU, and by the CPUs."""
from __future__ import annotations

import math
from typing import NamedTuple

RESERVE = 0.1  # share of a memory that is left free
_FULL_CPUS = 0.1  # part of the CPUs of a run that may be free although all are busy
_FULL = 0.97  # share of a memory in use at which a run has to yield


class Room(NamedTuple):
    """The resources of the runs of one GPU, or of a worker without one: limits and use. Bytes and cores.

    memory, gpu_memory: for runs; None if unknown. gpu_memory is of the whole GPU, without what others use.
    cpus: for all runs
    used, gpu_used: by all runs now
    memory_per_run, gpu_memory_per_run: the peak of the largest run; None if unknown
    cpus_per_run: that it needs in the steady state; None if unknown
    """

    memory: float | None = None
    cpus: float | None = None
    gpu_memory: float | None = None
    used: float = 0.0
    gpu_used: float = 0.0
    memory_per_run: float | None = None
    gpu_memory_per_run: float | None = None
    cpus_per_run: float | None = None

    def largest(self) -> tuple[int | None, str]:
        """Return how many runs fit at most, at least 1, and why not more; None if nothing limits them."""
        limits = [(int(total * (1 - RESERVE) / per_run), f"{name} of a run: {_gigabytes(per_run)} of "
                   f"{_gigabytes(total)}, of which a tenth is left free")
                  for name, total, per_run in (("memory", self.memory, self.memory_per_run),
                                               ("GPU memory", self.gpu_memory, self.gpu_memory_per_run))
                  if total and per_run]
        if self.cpus and self.cpus_per_run:
            # one more may run if a part of a CPU is free: the rate then shows whether it pays
            limits.append((math.ceil(self.cpus / self.cpus_per_run - _FULL_CPUS),
                           f"CPUs of a run: {self.cpus_per_run:.2g} of {self.cpus:.3g}"))
        if not limits:
            return None, ""
        number, reason = min(limits)
        return max(1, number), reason

    def full(self) -> str:
        """Return which memory is nearly full; empty if none is."""
        for name, total, used in (("memory", self.memory, self.used), ("GPU memory", self.gpu_memory, self.gpu_used)):
            if total and used > _FULL * total:
                return f"{name} is nearly full: {_gigabytes(used)} of {_gigabytes(total)} in use"
        return ""


def _gigabytes(number: float) -> str:
    return f"{number / 2**30:.2g} GB"
