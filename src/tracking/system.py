"""System metrics: CPU, memory, disk, network and GPU, sampled in a thread into system.csv and averaged per epoch."""
from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from src import run_folder
from src.config import Config
from src.io import files, nvml, process_tree
from src.monitoring import gpu_idle

if TYPE_CHECKING:
    from loguru import Logger

_MACHINE = ("cpu", "memory", "machine_cpu", "machine_memory", "disk_read", "disk_write", "network_received",
            "network_sent")
_GPU = ("busy", "memory", "power", "temperature")
_Sample = dict[str, float]


def columns(config: Config, on_gpu: bool) -> list[str]:
    """Return the columns of stats.csv; none if system_metrics is null.

    system/cpu: number of cores in use by the run (mean).
    system/memory: bytes of the run and its loaders (maximum).
    system/gpu, gpu_memory, gpu_power, gpu_temperature: % of time (mean), bytes (maximum), watts (mean), °C (maximum).
    """
    if not config.system_metrics:
        return []
    gpu = [gpu_idle.COLUMN, *(f"{gpu_idle.COLUMN}_{name}" for name in _GPU[1:])] if on_gpu else []
    return ["system/cpu", "system/memory", *gpu]


class SystemMonitor:
    """Takes a sample every `config.system_metrics` seconds in a thread, as a context manager.

    An error is logged once and ends the sampling, not the training. device: that of the training, such as cuda:0.
    """

    def __init__(self, config: Config, device: str, folder: str | None, log: Logger) -> None:
        self._seconds, self._device, self._folder, self._log = config.system_metrics, device, folder, log
        self._columns = columns(config, device.startswith("cuda"))
        self._stop = threading.Event()
        self._samples: list[_Sample] = []  # of this epoch
        self._thread: threading.Thread | None = None

    def __enter__(self) -> SystemMonitor:
        if self._seconds:
            self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(2.0)  # a driver that hangs must not delay the end

    def epoch_cells(self) -> dict[str, float | None]:
        """Return the cells of stats.csv for the samples since the last call; None without samples."""
        samples, self._samples = self._samples, []
        return {name: _summary(name, samples) for name in self._columns}

    def _run(self) -> None:
        assert self._seconds
        try:
            sources = [_machine_source(), *self._gpu_sources()]
            for take in sources:
                take()  # rates need a first value
            while not self._stop.wait(self._seconds):
                sample = {"time": time.time()}
                for take in sources:
                    sample |= take()
                self._samples.append(sample)
                self._write(sample)
        except Exception as error:
            self._log.warning("system metrics are disabled from here on: {}: {}", type(error).__name__, error)

    def _gpu_sources(self) -> list[Callable[[], _Sample]]:
        if not self._device.startswith("cuda"):
            return []
        try:
            return [_gpu_source(self._device)]
        except Exception as error:
            self._log.warning("metrics of the GPU are not available: {}: {}", type(error).__name__, error)
            return []

    def _write(self, sample: _Sample) -> None:
        if not self._folder:
            return
        path = os.path.join(self._folder, run_folder.SYSTEM)
        if not os.path.exists(path):
            files.append_line(path, ",".join(sample))
        files.append_line(path, ",".join(f"{value:.10g}" for value in sample.values()))


def _summary(column: str, samples: list[_Sample]) -> float | None:
    """Return the value of a column of stats.csv: the maximum of memory and temperature, the mean of the rest."""
    name = column.partition("/")[2]
    key = f"gpu/{name[4:] or 'busy'}" if column.startswith(gpu_idle.COLUMN) else name
    values = [sample[key] for sample in samples if key in sample]
    if not values:
        return None
    return max(values) if name.endswith(("memory", "temperature")) else sum(values) / len(values)


def _machine_source() -> Callable[[], _Sample]:
    """Return a function that samples CPU, memory, disk and network.

    cpu in cores and memory in bytes, both of this process and its descendants; machine_… in percent; disk_… and
    network_… in bytes per second, of the whole machine.
    """
    import psutil

    processes: dict[int, psutil.Process] = {}
    cpu_seconds: dict[int, float] = {}  # by process
    last_counts: dict[str, float] = {}
    last = 0.0

    def take() -> _Sample:
        nonlocal last
        now = time.monotonic()
        used = memory = 0.0
        pids = process_tree.pids(os.getpid())
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                process = processes.get(pid) or processes.setdefault(pid, psutil.Process(pid))
                with process.oneshot():
                    times, rss = process.cpu_times(), process.memory_info().rss
                seconds = times.user + times.system
                used += seconds - cpu_seconds.get(pid, 0.0)
                cpu_seconds[pid] = seconds
                memory += rss
        for ended in processes.keys() - set(pids):
            del processes[ended]
            cpu_seconds.pop(ended, None)
        disk, network = psutil.disk_io_counters(), psutil.net_io_counters()
        counts = {"disk_read": disk.read_bytes if disk else 0, "disk_write": disk.write_bytes if disk else 0,
                  "network_received": network.bytes_recv, "network_sent": network.bytes_sent}
        interval = max(now - last, 1e-9)
        rates = {name: (value - last_counts.get(name, value)) / interval for name, value in counts.items()}
        last_counts.update(counts)
        last = now
        return dict(zip(_MACHINE, (used / interval, memory, psutil.cpu_percent(), psutil.virtual_memory().percent,
                                   *rates.values()), strict=True))

    return take


def _gpu_source(device: str) -> Callable[[], _Sample]:
    """Return a function that samples the GPU of a torch device, such as cuda or cuda:1: percent busy, bytes, W, °C."""
    driver = nvml.load()
    gpu = nvml.handle(driver, int(device.partition(":")[2] or 0))

    def take() -> _Sample:
        return {f"gpu/{name}": float(value) for name, value in zip(_GPU, (
            nvml.busy(driver, gpu), driver.nvmlDeviceGetMemoryInfo(gpu).used,
            driver.nvmlDeviceGetPowerUsage(gpu) / 1000,
            driver.nvmlDeviceGetTemperature(gpu, driver.NVML_TEMPERATURE_GPU)), strict=True)}

    return take
