"""NVML, the library of the NVIDIA driver: the GPUs of a process, and how busy they are."""
from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from src.io import slurm_environment

DEVICE = "/dev/nvidiactl"  # exists where the driver is loaded


def load() -> Any:
    """Return the library, initialized. It raises an error of its own, or ImportError, where there is no driver."""
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def visible_names(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the indices or ids of the GPUs in CUDA_VISIBLE_DEVICES."""
    return [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]


def handle(nvml: Any, index: int, environment: Mapping[str, str] = os.environ) -> Any:
    """Return the handle of a CUDA device: CUDA numbers those in CUDA_VISIBLE_DEVICES, NVML all."""
    names = visible_names(environment)
    return _handle_of(nvml, names[index] if names else str(index))


def handles(nvml: Any, processes: Collection[int], environment: Mapping[str, str] = os.environ) -> list[Any]:
    """Return the handles of the GPUs of a run: those in CUDA_VISIBLE_DEVICES; without that variable, outside Slurm,
    those that its processes use.
    """
    if names := visible_names(environment):
        return [_handle_of(nvml, name) for name in names]
    if slurm_environment.job_id(environment) is not None:
        return []
    all_gpus = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
    return [gpu for gpu in all_gpus if memory_of(nvml, gpu, processes) is not None]


def busy(nvml: Any, gpu: Any) -> float:
    """Return the percent of the last second, or less, in which a GPU was busy."""
    return float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu)


def memory_of(nvml: Any, gpu: Any, processes: Collection[int]) -> int | None:
    """Return the bytes that processes use on a GPU; None if none of them uses it, or the driver does not list them."""
    used = [process.usedGpuMemory for process in nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
            if process.pid in processes]
    return sum(filter(None, used)) if any(used) else None


def _handle_of(nvml: Any, name: str) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(name)
