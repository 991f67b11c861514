"""A stand-in for pynvml, the driver's library: GPUs whose load a test sets."""
from __future__ import annotations

import types
from typing import Any


class FakeNvml(types.ModuleType):
    """GPUs that all answer alike.

    broken: there is no driver. busy: percent. processes: the bytes of each process that computes on a GPU, by GPU and
    process id. asked: the numbers and ids of GPUs that were looked up.
    """

    NVML_TEMPERATURE_GPU = 0

    def __init__(self, broken: bool = False, count: int = 8) -> None:
        super().__init__("pynvml")
        self.broken, self.count, self.busy = broken, count, 23.0
        self.processes: dict[str, dict[int, int | None]] = {}
        self.asked: list[int | str] = []

    def nvmlInit(self) -> None:
        if self.broken:
            raise RuntimeError("NVML Shared Library Not Found")

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self.asked.append(index)
        return f"handle {index}"

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        self.asked.append(name)
        return name

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return types.SimpleNamespace(gpu=self.busy)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return types.SimpleNamespace(used=2**30)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 250_500

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        return 61

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=memory)
                for pid, memory in self.processes.get(handle, {}).items()]
