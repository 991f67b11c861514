"""What a process was given of its machine."""
from __future__ import annotations

import os

import pytest

from src.io import machine


@pytest.mark.parametrize(("environment", "seen", "cpus"), [
    ({}, 8, 8), ({"SLURM_CPUS_PER_TASK": "4"}, 64, 4), ({"SLURM_CPUS_PER_TASK": "4"}, 2, 2),
    ({"SLURM_CPUS_PER_TASK": "8", "GRIDIRON_THREADS": "2"}, 8, 2), ({"GRIDIRON_THREADS": "1"}, 1, 1)])
def test_cpus_of_a_process_are_its_share(environment: dict[str, str], seen: int, cpus: int,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRIDIRON_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(seen)))
    assert machine.allotted_cpus() == cpus


def test_memory_is_what_the_job_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.available_memory() > 2**20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")  # MiB
    assert machine.available_memory() <= 100 * 2**20
