"""What a run uses, measured while it runs: the memory and CPU time of its processes, and its GPUs."""
from __future__ import annotations

import os
import resource
import time
from typing import Any

from src.io import machine, nvml, process_tree
from src.submission.system import process


class ResourceMeter:
    """Measures this process and its descendants, and their GPUs. `sample` is called from time to time by one thread.

    Of several processes that srun or torchrun started, each would measure itself alone, so that memory and CPU time
    are not measured then. stacked: the number of runs that this process trains at once.
    """

    def __init__(self, stacked: int = 1) -> None:
        self._stacked = stacked
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
                self._sample_gpus(processes, seconds)
            except Exception:  # the driver has errors of its own; GPUs are not measured from here on
                self._has_driver = False

    def _sample_gpus(self, processes: list[int], seconds: float) -> None:
        self._nvml = self._nvml or nvml.load()
        self._gpus = self._gpus or nvml.handles(self._nvml, processes)  # a run may open its GPU late
        for gpu in self._gpus:
            self._busy += seconds * nvml.busy(self._nvml, gpu) / len(self._gpus)
            self._measured += seconds / len(self._gpus)
            if (used := nvml.memory_of(self._nvml, gpu, processes)) is not None:
                self._gpu_memory = max(used, self._gpu_memory or 0)

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
        peaks = [1024 * resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return {**use, "memory": max(self._memory, *peaks), "cpu": cpu / max(time.monotonic() - self._start, 1e-3)}
