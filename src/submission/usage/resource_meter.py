"""Measure the resources of a run while it runs: memory and CPU time of its processes, and its GPUs, which may idle."""
from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import Any

from src.io import machine, nvml, process_tree
from src.monitoring.gpu_idle import IdleNow, IdleWatch, Limits, Sample
from src.monitoring.loop_clock import clock
from src.submission.system import process


class ResourceMeter:
    """Measures this process and its descendants, and their GPUs. `sample` is called from time to time by one thread.

    Of several processes that srun or torchrun started, each would measure itself alone, so that memory and CPU time
    are not measured then.

    on_idle: called with how idle the GPUs are, at each sample at which they are, and with None when they no longer are.
    find_limits: returns when they count as idle; called once there is a GPU.
    has_loop: whether this process trains, so that the clock of its loop shows the cause.
    stacked: the number of runs that this process trains at once.
    """

    def __init__(self, on_idle: Callable[[IdleNow | None], None] = lambda idle: None,
                 find_limits: Callable[[], Limits] = Limits, has_loop: bool = True, stacked: int = 1) -> None:
        self._on_idle, self._find_limits, self._has_loop, self._stacked = on_idle, find_limits, has_loop, stacked
        self._watch: IdleWatch | None = None
        self._idle: IdleNow | None = None
        self._start = self._last = time.monotonic()
        self._cpu_before = process_tree.cpu_seconds(process_tree.pids(os.getpid()))
        self._memory = 0
        self._busy, self._measured = 0.0, 0.0  # percent × seconds, and seconds
        self._gpu_memory: int | None = None
        self._gpus: list[Any] = []  # handles
        self._nvml: Any = None
        self._has_driver = bool(nvml.visible_names()) or os.path.exists(nvml.DEVICE)

    def sample(self) -> None:
        """Take a sample."""
        processes = process_tree.pids(os.getpid())
        self._memory = max(self._memory, process_tree.memory(processes))
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        if self._has_driver:
            try:
                busy = self._sample_gpus(processes)
            except Exception:  # the driver has errors of its own; GPUs are not measured from here on
                self._has_driver, busy = False, None
            if busy is not None:
                self._busy += seconds * busy
                self._measured += seconds
                self._watch_gpus(now, busy, processes)

    def _watch_gpus(self, now: float, busy: float, processes: list[int]) -> None:
        """Report whether the GPUs idle."""
        self._watch = self._watch or IdleWatch(self._find_limits())
        data, evaluation = clock.totals()
        before, self._idle = self._idle, self._watch.add(
            Sample(now, busy, data, evaluation, process_tree.cpu_seconds(processes), self._has_loop and data > 0))
        if self._idle or before:
            self._on_idle(self._idle)

    def _sample_gpus(self, processes: list[int]) -> float | None:
        """Return the percent in which the GPUs were busy, on average; None if the run has none, or none so far."""
        self._nvml = self._nvml or nvml.load()
        self._gpus = self._gpus or nvml.handles(self._nvml, processes)  # a run may open its GPU late
        for gpu in self._gpus:
            if (used := nvml.memory_of(self._nvml, gpu, processes)) is not None:
                self._gpu_memory = max(used, self._gpu_memory or 0)
        return sum(nvml.busy(self._nvml, gpu) for gpu in self._gpus) / len(self._gpus) if self._gpus else None

    def use(self) -> dict[str, Any]:
        """Return what was used so far, for the record of the attempt: see `records.USED`. None: not measured."""
        use: dict[str, Any] = {"cpus": machine.allotted_cpus(), "gpus": len(self._gpus),
                               "gpu": self._busy / self._measured if self._measured else None,
                               "gpu_memory": self._gpu_memory}
        if self._stacked > 1:
            use["stacked"] = self._stacked
        if process.world_size() > 1:
            return {**use, "processes": process.world_size()}
        cpu = process_tree.cpu_seconds(process_tree.pids(os.getpid())) - self._cpu_before
        # of this process, and of the largest child that has ended; a short run has no sample
        peaks = process_tree.peak_memory(), 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return {**use, "memory": max(self._memory, *peaks), "cpu": cpu / max(time.monotonic() - self._start, 1e-3)}
