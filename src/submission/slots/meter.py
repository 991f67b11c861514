"""Measure the runs of a worker: memory and CPU time of their processes, their GPU, and how far they are."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from src import run_folder, stats_csv
from src.io import machine, nvml, process_tree, slurm_environment
from src.monitoring.worker_cell import Cell
from src.submission.slots.lane import Capacity, RunUse
from src.submission.slots.speeds import Progress

_GROWTH = 1.05  # of the resident memory, after which the proportional memory, which is slow to read, is read again
_AMOUNTS = ("train/seen_examples", "seen_examples", "samples", "step", "epoch")  # columns that show progress
_MAX_STATS = 2**22  # bytes of a stats.csv that is read for the progress of a program


class RunningProcess(NamedTuple):
    """The process of a run: what is measured of it. folder: of the run; setting: as in Progress."""

    pid: int
    folder: str
    setting: str
    cell: Cell


class Meter:
    """Reads what the runs of a worker use.

    lanes: number of lanes, which share the worker's memory and CPUs equally; workers: of this machine
    cpus: for each lane
    """

    def __init__(self, lanes: int = 1, workers: int = 1) -> None:
        self._limit, self.cpus = machine.memory_limit() / workers, machine.cpu_limit() / workers / lanes
        self._lanes, self._own = lanes, 0
        self._resident: dict[str, tuple[float, float]] = {}  # by folder: resident and proportional bytes
        self._logged: dict[str, tuple[int, float, float | None]] = {}  # by folder: size, time and amount of stats.csv

    def use(self, process: RunningProcess, time: float, gpu: Gpu | None = None) -> RunUse:
        """Return what a run uses now. time: on the clock of the readings."""
        pids = process_tree.pids(process.pid)
        # what it needs, also where others use the CPUs
        cpu_seconds = process_tree.cpu_seconds(pids) + process_tree.waiting_seconds(pids)
        return RunUse(self._progress(process, time), self._memory(process.folder, pids), cpu_seconds,
                      gpu.memory_of(pids) if gpu else None)

    def forget(self, folder: str) -> None:
        """Drop what is kept of a run that has ended."""
        self._resident.pop(folder, None)
        self._logged.pop(folder, None)

    def capacity(self, used: float, gpu: Gpu | None = None) -> Capacity:
        """Return what the runs of a lane may use. used: bytes of all runs of the worker."""
        self._own = self._own or process_tree.proportional_memory([os.getpid()]) or process_tree.memory([os.getpid()])
        free = min(self._limit - self._own, machine.available_memory() + used)
        return Capacity(free / self._lanes, self.cpus, *(gpu.read() if gpu else (None, None, None)))

    def _memory(self, folder: str, pids: Sequence[int]) -> float:
        resident = process_tree.memory(pids)
        before, proportional = self._resident.get(folder, (0.0, 0.0))
        if resident > _GROWTH * before:
            proportional = process_tree.proportional_memory(pids) or resident
            self._resident[folder] = resident, proportional
        return proportional

    def _progress(self, process: RunningProcess, time: float) -> Progress:
        if samples := process.cell.samples:
            return Progress(process.setting, samples, time)
        size, logged, amount = self._logged.get(process.folder, (0, time, None))
        try:
            status = os.stat(os.path.join(process.folder, run_folder.STATS))
        except OSError:
            return Progress(process.setting, None, time)
        if status.st_size != size and status.st_size <= _MAX_STATS:
            logged, amount = time, _amount(stats_csv.read(process.folder))
            self._logged[process.folder] = status.st_size, logged, amount
        return Progress(process.setting, amount, logged)


def _amount(stats: stats_csv.Stats) -> float | None:
    """Return how far a program is, by the last row of its stats.csv; None before the first one."""
    column = next((name for name in _AMOUNTS if name in stats.names), None)
    values = [value for value in stats.numbers(column) if value == value] if column else []
    return values[-1] if values else None


class Gpu:
    """One GPU, or a part of one (MIG), through NVML.

    It reads nothing, and so sets no limit, where the driver does not answer.
    """

    def __init__(self, library: Any, name: str) -> None:
        self._library, self._handle = library, nvml.handle(library, 0, {"CUDA_VISIBLE_DEVICES": name})
        self._others = self._used()  # bytes in use before the first run
        name = library.nvmlDeviceGetName(self._handle)
        self.model: str = name.decode(errors="replace") if isinstance(name, bytes) else name

    def _used(self) -> float:
        return float(self._library.nvmlDeviceGetMemoryInfo(self._handle).used)

    def memory_of(self, pids: Sequence[int]) -> float | None:
        """Return the bytes that processes use; None where the driver does not list them, as for MIG or in a container.
        """
        try:
            return nvml.memory_of(self._library, self._handle, pids)
        except Exception:  # of NVML, whose classes are those of the driver's answers
            return None

    def read(self) -> tuple[float | None, float | None, float | None]:
        """Return the bytes for runs, those that runs use, and the percent of the time in which the GPU is busy (None
        for a part of a GPU).
        """
        try:
            busy: float | None = nvml.busy(self._library, self._handle)
        except Exception:
            busy = None
        try:
            total = float(self._library.nvmlDeviceGetMemoryInfo(self._handle).total)
            return total - self._others, max(0.0, self._used() - self._others), busy
        except Exception:
            return None, None, busy


def gpu_names() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ or slurm_environment.job_id() or not os.path.exists(nvml.DEVICE):
        return nvml.visible_names()
    try:
        return list(map(str, range(nvml.load().nvmlDeviceGetCount())))
    except Exception:
        return []


def find_gpus(names: Sequence[str]) -> Mapping[str, Gpu]:
    """Return the GPUs of these names, as CUDA_VISIBLE_DEVICES takes them, that NVML can read."""
    gpus = {}
    try:
        library = nvml.load() if names else None
    except Exception:
        return {}
    for name in names:
        try:
            gpus[name] = Gpu(library, name)
        except Exception:
            continue
    return gpus
