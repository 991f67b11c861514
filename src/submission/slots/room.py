"""The number of runs that fit: by the memory of the machine and the GPU, and by the CPUs."""
from __future__ import annotations

import bisect
import functools
from typing import NamedTuple

RESERVE = 0.1  # share of a memory that is left free
_BUSY = 0.98  # share of the CPUs that runs keep busy, from which more of them cannot raise the rate
_MOST = 1024  # runs that the CPUs are computed for
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
            limits.append((_most_useful(self.cpus, round(self.cpus_per_run, 2)),
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


@functools.lru_cache(maxsize=64)
def _most_useful(cpus: float, per_run: float) -> int:
    """Return the smallest number of runs that keeps the CPUs busy; with fewer, the rate shows whether more pay."""
    if cpus < 1:  # a quota: one CPU that is slower
        cpus, per_run = 1.0, per_run / cpus
    return 1 + bisect.bisect_left(range(1, _MOST), _BUSY * cpus, key=lambda runs: busy_cpus(runs, cpus, per_run))


def busy_cpus(runs: int, cpus: float, per_run: float) -> float:
    """Return how many of the CPUs, at least 1, are busy on average with runs that use `per_run` of them each if alone.

    More than cpus / per_run runs are needed to keep all CPUs busy, because now and then several runs wait for something
    else at the same time. This is the machine interference problem (M/M/c//N; Kleinrock, Queueing Systems, volume 1,
    1975, chapter 3): each of N runs computes and waits in turn, for times with exponential distributions, and computes
    on one of c CPUs, for which it queues. The probability that n runs compute or queue is proportional to the product
    over i = 1 … n of (N - i + 1) / min(i, c) · u / (1 - u), where u is per_run. Of a run that uses more than one CPU,
    whole CPUs are always busy, and the rest waits in this way.
    """
    always, part = divmod(per_run, 1.0)
    free = cpus - runs * always  # for the parts
    if free <= 0:
        return cpus
    weight = total = 1.0
    busy = 0.0
    for computing in range(1, runs + 1):
        weight *= (runs - computing + 1) / min(computing, free) * part / (1 - part)
        total, busy = total + weight, busy + weight * min(computing, free)
        if total > 1e200:  # probabilities are relative
            weight, total, busy = weight / total, 1.0, busy / total
    return runs * always + busy / total


def _gigabytes(number: float) -> str:
    return f"{number / 2**30:.2g} GB"
