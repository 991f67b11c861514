"""What ended Slurm jobs used, from rows as sacct prints them."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from src.submission.batch.journal import SLURM, History, Ticket
from src.submission.slurm import client
from src.submission.status import efficiency
from src.submission.status.observation import Observation
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm

__all__ = ["fake_slurm"]  # the fixture

# in the form of a Slurm that gathers the use of GPUs (AccountingStorageTRES=gres/gpu,gres/gpumem,gres/gpuutil)
SACCT = """\
7|COMPLETED|600|40:00|8||64G|60|billing=8,cpu=8,gres/gpu:a100=2,gres/gpu=2,mem=64G,node=1|
7.batch|COMPLETED|600|40:00|8|2097152K|||cpu=8,gres/gpu:a100=2,gres/gpu=2,mem=64G,node=1|\
cpu=00:40:00,energy=0,fs/disk=1048576,gres/gpumem=9216M,gres/gpuutil=150,mem=2097152K,pages=0,vmem=9G
7.extern|COMPLETED|600|00:00|8|0|||billing=8,cpu=8,gres/gpu=2,mem=64G,node=1|cpu=00:00:00,energy=0,mem=0,pages=0,vmem=0
8|COMPLETED|600|00:00|16||64G|60|billing=16,cpu=16,gres/gpu:a100=4,mem=128G,node=2|
8.batch|COMPLETED|600|00:00|8|8192K|||cpu=8,gres/gpu:a100=2,mem=64G,node=1|cpu=00:00:00,energy=0,mem=8192K
8.0|COMPLETED|600|00:00|16|2097152K|||cpu=16,gres/gpu:a100=4,mem=128G,node=2|cpu=00:00:00,gres/gpuutil=50,mem=8388608K
"""


def lines(fake_slurm: FakeSlurm, text: str, *jobs: str) -> list[str]:
    fake_slurm.inject_fault("sacct", stdout=text)
    found = efficiency.usage_of_jobs(client.usage(0.0, [""]), jobs).lines()
    fake_slurm.clear_faults()
    return found


def test_gpu_use_is_shown_if_the_cluster_measures_it(fake_slurm: FakeSlurm) -> None:
    both = lines(fake_slurm, SACCT, "7", "8")
    assert "17 % of the CPU time, 33 % of the GPU time" in both[0]  # (1.5 + 0.5) of 2 + 4 GPUs
    assert "75 % of the GPU time" in lines(fake_slurm, SACCT, "7")[0]
    without = SACCT.replace(",gres/gpuutil=150", "").replace(",gres/gpuutil=50", "")
    assert "CPU time (this cluster does not measure GPU use)" in lines(fake_slurm, without, "7")[0]
    assert "GPU" not in lines(fake_slurm, without.replace("gres/gpu", "gres/disk"), "7")[0]


def test_memory_is_that_of_all_tasks_on_a_node(fake_slurm: FakeSlurm) -> None:
    assert lines(fake_slurm, SACCT, "8")[1] == "suggestion: --sbatch mem=5200M --sbatch time=15"  # 8 GiB on two nodes


def test_each_cluster_of_the_jobs_is_queried(fake_slurm: FakeSlurm, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = tmp_path / "sacct"
    wrapper.write_text("""#!/bin/sh
case "$*" in
    *--clusters=c2*) echo '7|COMPLETED|600|10:00|1||1G|60||'; echo '7.batch|COMPLETED|600|10:00|1|2048K||||';;
    *) echo '7|COMPLETED|60|01:00|1||9G|60||'; echo '7.batch|COMPLETED|60|01:00|1|1024K||||';;
esac
""")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def usage(*jobs: str) -> list[tuple[int, float, str]]:
        history = History({str(index): Ticket(1, 0.0, SLURM, {}, [], [job]) for index, job in enumerate(jobs)})
        found = efficiency.usage_by_batch([Observation("b", history, {}, True)])["b"]
        return [(found.jobs, found.longest, found.requested_memory)]
    assert usage("7;c2") == [(1, 600.0, "1G")]
    assert usage("7") == [(1, 60.0, "9G")]
    assert usage("7", "7;c2") == [(2, 600.0, "1G")]


ROWS = [["7", "COMPLETED", "600", "10:00", "2", "", "8G", "60"],
        ["7.batch", "COMPLETED", "600", "10:00", "2", "2048K", "", ""],
        ["7.0", "COMPLETED", "600", "10:00", "2", "1048576K", "", ""],
        ["8_1", "CANCELLED by 0", "300", "05:00.500", "2", "", "8G", "60"],
        ["9", "RUNNING", "999", "00:00", "2", "", "8G", "60"], ["9.batch", "RUNNING", "9", "0", "2", "9G", "", ""],
        ["10", "COMPLETED", "9999", "00:00", "2", "", "8G", "60"]]


def test_usage_counts_only_ended_jobs_of_the_batch() -> None:
    rows = [[*row, "", ""] for row in ROWS]  # of a Slurm without TRES
    usage = efficiency.usage_of_jobs(rows, {"7", "8_1", "9"})
    assert (usage.jobs, usage.memory, usage.longest) == (2, 1048576, 600)
    assert usage.cpu_used / usage.cpu_allocated == pytest.approx(900.5 / 1800)
    assert usage.lines() == [
        "2 ended: at most 1,024 MB of memory (requested: 8,192 MB) and 10:00 (limit: 1:00:00), 50 % of the CPU time",
        "suggestion: --sbatch mem=1300M --sbatch time=15"]
    assert efficiency.usage_of_jobs(rows, {"9"}).lines() == []


@pytest.mark.parametrize(("text", "seconds"), [("00:07.5", 7.5), ("01:02:03", 3723), ("1-00:00:01", 86401), ("", 0)])
def test_cpu_time_is_parsed(text: str, seconds: float) -> None:
    assert efficiency.parse_cpu_time(text) == seconds


@pytest.mark.parametrize("cell", ["", "x", "-", ".", "1.2.3", "UNLIMITED", "9" * 5000, "nan", "1e999", " "])
def test_a_cell_that_is_no_number_counts_as_zero(cell: str) -> None:
    """Slurm's versions differ, and what it prints may be cut."""
    rows = [["7", cell, cell, cell, cell, cell, cell, cell, f"gres/gpu={cell}", cell], ["7", "COMPLETED", *[cell] * 8],
            ["7.batch", "COMPLETED", *[cell] * 6, f"node={cell}", f"mem={cell},gres/gpuutil={cell}"]]
    usage = efficiency.usage_of_jobs(rows, {"7"})
    assert (usage.jobs, usage.longest, usage.gpu_allocated) == (2, 0, 0)
    assert usage.lines() and usage.resources()
