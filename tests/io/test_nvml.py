from __future__ import annotations

import pytest

from src.io import nvml
from tests.fake_nvml import FakeNvml


@pytest.mark.parametrize(("visible", "index", "asked"), [("", 1, 1), ("3", 0, 3), ("GPU-ab,GPU-cd", 1, "GPU-cd")])
def test_devices_are_numbered_as_in_cuda(visible: str, index: int, asked: object) -> None:
    driver = FakeNvml()
    nvml.handle(driver, index, {"CUDA_VISIBLE_DEVICES": visible})
    assert driver.asked == [asked]


def test_gpus_of_a_run_are_the_visible_ones_or_those_that_its_processes_use() -> None:
    driver = FakeNvml(count=3)
    driver.processes = {"handle 1": {7: 100, 8: 10, 9: 1}, "handle 2": {9: 5}}
    assert nvml.handles(driver, [7, 8], {"CUDA_VISIBLE_DEVICES": "2,0"}) == ["handle 2", "handle 0"]
    assert nvml.handles(driver, [7, 8], {}) == ["handle 1"]
    assert nvml.handles(driver, [7, 8], {"SLURM_JOB_ID": "5"}) == []  # the job has none: others use what is there
    assert nvml.memory_of(driver, "handle 1", [7, 8]) == 110
    assert nvml.memory_of(driver, "handle 2", [7, 8]) is None
