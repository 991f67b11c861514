"""What ended Slurm jobs used, from rows as sacct prints them."""
from __future__ import annotations

import pytest

from src.submission import efficiency

ROWS = [["7", "COMPLETED", "600", "10:00", "2", "", "8G", "60"],
        ["7.batch", "COMPLETED", "600", "10:00", "2", "2048K", "", ""],
        ["7.0", "COMPLETED", "600", "10:00", "2", "1048576K", "", ""],
        ["8_1", "CANCELLED by 0", "300", "05:00.500", "2", "", "8G", "60"],
        ["9", "RUNNING", "999", "00:00", "2", "", "8G", "60"], ["9.batch", "RUNNING", "9", "0", "2", "9G", "", ""],
        ["10", "COMPLETED", "9999", "00:00", "2", "", "8G", "60"]]


def test_the_usage_of_a_batch() -> None:
    usage = efficiency.of_jobs(ROWS, {"7", "8_1", "9"})
    assert (usage.jobs, usage.memory, usage.longest) == (2, 1048576, 600)
    assert usage.cpu / usage.allocated == pytest.approx(900.5 / 1800)
    assert usage.lines() == [
        "2 ended: at most 1,024 MB of memory (asked: 8,192 MB) and 10:00 (limit: 1:00:00), 50 % of its CPUs' time",
        "would do: --sbatch mem=1300M --sbatch time=15"]
    assert efficiency.of_jobs(ROWS, {"9"}).lines() == []


@pytest.mark.parametrize(("text", "seconds"), [("00:07.5", 7.5), ("01:02:03", 3723), ("1-00:00:01", 86401), ("", 0)])
def test_cpu_time(text: str, seconds: float) -> None:
    assert efficiency.cpu_seconds(text) == seconds
