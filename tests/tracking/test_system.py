from __future__ import annotations

import csv
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from src.config import Config
from src.io import process_tree
from src.tracking import system
from tests.fake_nvml import FakeNvml
from tests.training.toys import make_toy, train_toy


def slow_down(seconds: float) -> Any:
    """A check that makes each epoch so long."""
    return lambda: time.sleep(seconds)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "system.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_samples_are_summarized_per_epoch(tmp_path: Path) -> None:
    rows, _ = train_toy(make_toy(system_metrics=0.02), str(tmp_path), slow_down(0.1))
    samples = rows_of(tmp_path)
    assert len(samples) >= 6
    assert list(samples[0]) == ["time", *system._MACHINE]
    times = [float(sample["time"]) for sample in samples]
    assert times == sorted(times) and abs(times[-1] - time.time()) < 60
    for sample in samples:
        assert 1e7 < float(sample["memory"]) < 1e12
        assert 0 <= float(sample["machine_memory"]) <= 100
        assert float(sample["cpu"]) >= 0 and float(sample["disk_write"]) >= 0
    header, *lines = (tmp_path / "stats.csv").read_text().splitlines()
    assert header.endswith(",system/cpu,system/memory")
    assert len(lines) == 3
    assert rows[1]["system/memory"] == pytest.approx(float(samples[0]["memory"]), rel=0.5)


def test_sampling_is_off_by_default_and_does_not_change_results(tmp_path: Path) -> None:
    calm, _ = train_toy(make_toy(), str(tmp_path))
    assert not (tmp_path / "system.csv").exists() and "system/cpu" not in calm[0]
    sampled, _ = train_toy(make_toy(system_metrics=0.01))
    assert [row["train/loss"] for row in sampled] == [row["train/loss"] for row in calm]


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_loader_processes_count(tmp_path: Path) -> None:
    take = system._machine_source()
    before = take()
    loader = multiprocessing.get_context("fork").Process(target=burn, args=(0.3,))
    loader.start()
    while loader.pid not in process_tree.pids(os.getpid()):
        time.sleep(0.01)
    memory = take()["memory"]
    used = 0.0
    start = time.monotonic()
    while loader.is_alive() and used < 0.1:
        last = time.monotonic()
        time.sleep(0.05)
        used += take()["cpu"] * (time.monotonic() - last)
        assert time.monotonic() < start + 60
    loader.join()
    assert used >= 0.1
    assert memory > 1.05 * before["memory"]


def sampled(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, folder: Path, device: str = "cuda:1") -> dict[str, Any]:
    """The cells of an epoch in which some samples were taken."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with system.SystemMonitor(Config.from_dict({"system_metrics": 0.01}), device, str(folder), logger) as samples:
        end = time.monotonic() + 300
        while len(samples._samples) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        return samples.epoch_cells()


def test_gpu_of_the_run_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    cells = sampled(monkeypatch, nvml, tmp_path)
    assert nvml.asked == [7]
    assert {name: value for name, value in cells.items() if "gpu" in name} == {
        "system/gpu": 23, "system/gpu_memory": 2**30, "system/gpu_power": 250.5, "system/gpu_temperature": 61}
    assert rows_of(tmp_path)[0]["gpu/busy"] == "23"
    assert list(cells) == system.columns(Config.from_dict({"system_metrics": 1}), True)


def test_machine_is_sampled_without_a_gpu_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    cells = sampled(monkeypatch, FakeNvml(broken=True), tmp_path)
    logger.remove(sink)
    assert cells["system/memory"] > 0 and cells["system/gpu"] is None
    assert lines == ["metrics of the GPU are not available: RuntimeError: NVML Shared Library Not Found\n"]


def test_run_continues_without_psutil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    rows, end = train_toy(make_toy(system_metrics=0.01), str(tmp_path), slow_down(0.02))
    assert end == "completed" and all(row["system/cpu"] is None for row in rows)
    warnings = [line for line in (tmp_path / "training.log").read_text().splitlines() if "WARNING" in line]
    assert len(warnings) == 1 and "system metrics are disabled from here on: ModuleNotFoundError" in warnings[0]


def test_full_disk_ends_sampling_but_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "system.csv").mkdir()
    _, end = train_toy(make_toy(system_metrics=0.01), str(tmp_path), slow_down(0.05))
    assert end == "completed"
    log = (tmp_path / "training.log").read_text()
    assert log.count("system metrics are disabled from here on: IsADirectoryError") == 1
