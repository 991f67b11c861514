"""System metrics: CPU, memory, disk, network and GPUs, sampled beside a training into system.csv, and told per epoch"""
from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from src import gpu_idle, run_folder
from src.config import Config
from src.io import files

if TYPE_CHECKING:
    from loguru import Logger

_MACHINE = ("cpu", "memory", "machine_cpu", "machine_memory", "disk_read", "disk_write", "network_received",
            "network_sent")
_GPU = ("busy", "memory", "power", "temperature")
_Sample = dict[str, float]


def columns(config: Config, on_gpu: bool) -> list[str]:
    """What stats.csv has of an epoch: system/cpu, cores that the run kept busy (mean); system/memory, bytes that it and
    its loaders hold (most); and of its GPU: system/gpu, percent of the time (mean); gpu_memory, bytes (most);
    gpu_power, watts (mean); gpu_temperature, °C (most). None unless it is asked for."""
    if not config.system_metrics:
        return []
    gpu = [gpu_idle.COLUMN, *(f"{gpu_idle.COLUMN}_{name}" for name in _GPU[1:])] if on_gpu else []
    return ["system/cpu", "system/memory", *gpu]


class SystemMonitor:
    """Takes a sample every `config.system_metrics` seconds, in a thread, in a `with`. What fails is told once and left
    out; the training goes on.

    device: that of the training, as cuda:0.
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
            self._thread.join(2.0)  # a driver that hangs must not hold up the end

    def epoch_cells(self) -> dict[str, float | None]:
        """The cells of stats.csv, of the samples since the last call; empty where there were none."""
        samples, self._samples = self._samples, []
        return {name: _summary(name, samples) for name in self._columns}

    def _run(self) -> None:
        assert self._seconds
        try:
            take = [_machine(), *self._gpu()]
            for part in take:
                part()  # rates need something to begin from
            while not self._stop.wait(self._seconds):
                sample = {"time": time.time()}
                for part in take:
                    sample |= part()
                self._samples.append(sample)
                self._write(sample)
        except Exception as error:
            self._log.warning("no system metrics from here on: {}: {}", type(error).__name__, error)

    def _gpu(self) -> list[Callable[[], _Sample]]:
        if not self._device.startswith("cuda"):
            return []
        try:
            return [_gpu(self._device)]
        except Exception as error:
            self._log.warning("no metrics of the GPU: {}: {}", type(error).__name__, error)
            return []

    def _write(self, sample: _Sample) -> None:
        if not self._folder:
            return
        path = os.path.join(self._folder, run_folder.SYSTEM)
        if not os.path.exists(path):
            files.append_line(path, ",".join(sample))
        files.append_line(path, ",".join(f"{value:.10g}" for value in sample.values()))


def _summary(column: str, samples: list[_Sample]) -> float | None:
    """Of a column of stats.csv: the most of memory and temperature, the mean of all else."""
    name = column.partition("/")[2]
    key = f"gpu/{name[4:] or 'busy'}" if column.startswith(gpu_idle.COLUMN) else name
    values = [sample[key] for sample in samples if key in sample]
    if not values:
        return None
    return max(values) if name.endswith(("memory", "temperature")) else sum(values) / len(values)


def _machine() -> Callable[[], _Sample]:
    """What samples CPU, memory, disk and network. cpu in cores, memory in bytes, both of this process and those that it
    started; machine_… in percent of all there is; disk_… and network_… in bytes a second, of the whole machine."""
    import psutil

    processes: dict[int, psutil.Process] = {}
    spent: dict[int, float] = {}  # CPU seconds by process
    counted: dict[str, float] = {}
    last = 0.0

    def take() -> _Sample:
        nonlocal last
        now = time.monotonic()
        used = memory = 0.0
        mine = _family(os.getpid())
        for pid in mine:
            with contextlib.suppress(psutil.Error):
                process = processes.get(pid) or processes.setdefault(pid, psutil.Process(pid))
                with process.oneshot():
                    times, held = process.cpu_times(), process.memory_info().rss
                seconds = times.user + times.system
                used += seconds - spent.get(pid, 0.0)
                spent[pid] = seconds
                memory += held
        for gone in processes.keys() - set(mine):
            del processes[gone]
            spent.pop(gone, None)
        disk, network = psutil.disk_io_counters(), psutil.net_io_counters()
        counts = {"disk_read": disk.read_bytes if disk else 0, "disk_write": disk.write_bytes if disk else 0,
                  "network_received": network.bytes_recv, "network_sent": network.bytes_sent}
        between = max(now - last, 1e-9)
        rates = {name: (value - counted.get(name, value)) / between for name, value in counts.items()}
        counted.update(counts)
        last = now
        return dict(zip(_MACHINE, (used / between, memory, psutil.cpu_percent(), psutil.virtual_memory().percent,
                                   *rates.values()), strict=True))

    return take


def _family(pid: int) -> list[int]:
    """This process and those below it, as the kernel lists them: going through all processes would take too long."""
    family = [pid]
    for one in family:
        family += map(int, (files.read_text(f"/proc/{one}/task/{one}/children") or "").split())
    return family


def _gpu(device: str) -> Callable[[], _Sample]:
    """What samples the GPU of a device of torch, cuda or cuda:1: busy in percent, memory in bytes, watts, °C."""
    import pynvml

    pynvml.nvmlInit()
    handle = _handle(pynvml, int(device.partition(":")[2] or 0), os.environ)

    def take() -> _Sample:
        return {f"gpu/{name}": float(value) for name, value in zip(_GPU, (
            pynvml.nvmlDeviceGetUtilizationRates(handle).gpu, pynvml.nvmlDeviceGetMemoryInfo(handle).used,
            pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)), strict=True)}

    return take


def _handle(pynvml: Any, index: int, environment: Mapping[str, str]) -> Any:
    """NVML's handle for the index-th device that CUDA sees: it numbers those in CUDA_VISIBLE_DEVICES, NVML all."""
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    name = visible[index].strip() if visible else str(index)
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID(name)
