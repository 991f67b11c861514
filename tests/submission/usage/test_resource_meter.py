from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.io import records
from src.run_folder import RunFolder
from src.submission.system import process
from src.submission.usage.resource_meter import ResourceMeter
from tests.conftest import ROOT
from tests.fake_nvml import FakeNvml


def test_use_has_peaks_of_memory_and_means_of_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    meter = ResourceMeter()
    pid = os.getpid()
    for busy, memory in ((10.0, 300), (30.0, 200)):
        driver.busy, driver.processes = busy, {"handle 0": {pid: 100}, "handle 1": {pid: memory, 1: 2**40}}
        time.sleep(0.02)
        meter.sample()
    used = meter.use()
    assert records.fields(used, records.USED) == used
    assert 10 < used["gpu"] < 30
    assert (used["gpu_memory"], used["gpus"]) == (300, 2)
    assert used["memory"] > 10_000_000 and used["cpu"] >= 0 and used["cpus"] >= 1


def test_run_without_a_driver_is_measured_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(broken=True))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    meter = ResourceMeter(stacked=3)
    meter.sample()
    used = meter.use()
    assert (used["gpu"], used["gpus"], used["stacked"]) == (None, 0, 3)
    assert used["memory"] > 10_000_000


def test_one_of_several_processes_measures_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is a part of that of the run."""
    monkeypatch.setattr(process, "world_size", lambda: 2)
    assert ResourceMeter().use().get("memory") is None
    assert ResourceMeter().use()["processes"] == 2


def test_attempt_records_what_its_program_used(tmp_path: Path) -> None:
    program = "x = b'x' * 80_000_000"
    (tmp_path / "spec.yaml").write_text(f'COMMAND: [{sys.executable}, -c, "{program}"]\n')
    run = "import sys; from src.submission.job import attempt; sys.exit(attempt.run_spec(sys.argv[1], None))"
    subprocess.run([sys.executable, "-c", run, tmp_path / "spec.yaml"], cwd=ROOT, check=True)
    record = RunFolder.read(tmp_path).last_attempt()
    assert record and 80_000_000 < record["used"]["memory"] < 160_000_000
    assert record["used"]["cpu"] > 0
