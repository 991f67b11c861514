"""What ended Slurm jobs used, from rows as sacct prints them."""
from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from src.submission.batch.journal import SLURM, History, Ticket
from src.submission.slurm import client
from src.submission.status import efficiency
from src.submission.status.observation import Observation
from src.submission.status.observe import observe
from src.submission.usage import job_usage, jobstats
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.usage.test_costs import earlier_run

__all__ = ["fake_slurm"]  # the fixture

SUGGESTION = "suggestion: --sbatch"
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


def usage_of(rows: Iterable[Sequence[str]], jobs: Collection[str]) -> efficiency.Usage:
    return efficiency.Usage(list(job_usage.usage_of_jobs(rows, jobs).values()))


def lines(fake_slurm: FakeSlurm, text: str, *jobs: str) -> list[str]:
    fake_slurm.inject_fault("sacct", stdout="".join(
        f"{row}{'|' * (10 - row.count('|'))}\n" for row in text.splitlines()))  # without a comment
    found = usage_of(client.usage(0.0, [""]), jobs).lines()
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
    assert lines(fake_slurm, SACCT, "8")[1].startswith(f"{SUGGESTION} mem=5200M --sbatch time=15")  # 8 GiB on two nodes


def test_each_cluster_of_the_jobs_is_queried(fake_slurm: FakeSlurm, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = tmp_path / "sacct"
    wrapper.write_text("""#!/bin/sh
case "$*" in
    *--clusters=c2*) echo '7|COMPLETED|600|10:00|1||1G|60|||'; echo '7.batch|COMPLETED|600|10:00|1|2048K|||||';;
    *) echo '7|COMPLETED|60|01:00|1||9G|60|||'; echo '7.batch|COMPLETED|60|01:00|1|1024K|||||';;
esac
""")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def usage(*jobs: str) -> list[tuple[float, str]]:
        history = History({str(index): Ticket(1, 0.0, SLURM, {}, [], [job]) for index, job in enumerate(jobs)})
        found = efficiency.usage_by_batch([Observation("b", history, {}, True)])["b"]
        return sorted((job.seconds, job.requested_memory) for job in found.jobs)
    assert usage("7;c2") == [(600.0, "1G")]
    assert usage("7") == [(60.0, "9G")]
    assert usage("7", "7;c2") == [(60.0, "9G"), (600.0, "1G")]


ROWS = [["7", "COMPLETED", "600", "10:00", "2", "", "8G", "60"],
        ["7.batch", "COMPLETED", "600", "10:00", "2", "2048K", "", ""],
        ["7.0", "COMPLETED", "600", "10:00", "2", "1048576K", "", ""],
        ["8_1", "CANCELLED by 0", "300", "05:00.500", "2", "", "8G", "60"],
        ["9", "RUNNING", "999", "00:00", "2", "", "8G", "60"], ["9.batch", "RUNNING", "9", "0", "2", "9G", "", ""],
        ["10", "COMPLETED", "9999", "00:00", "2", "", "8G", "60"]]


def test_usage_counts_only_ended_jobs_of_the_batch() -> None:
    rows = [[*row, "", "", ""] for row in ROWS]  # of a Slurm without TRES
    usage = job_usage.usage_of_jobs(rows, {"7", "8_1", "9"})
    assert {job: (use.memory, use.seconds, use.cpu_used / use.cpu_allocated) for job, use in usage.items()} == {
        "7": (1048576, 600, 0.5), "8_1": (0, 300, 300.5 / 600)}
    assert usage_of(rows, {"7", "8_1", "9"}).lines() == [
        "2 ended: at most 1,024 MB of memory (requested: 8,192 MB) and 10:00 (limit: 1:00:00), 50 % of the CPU time",
        f"{SUGGESTION} mem=1300M --sbatch time=15; or --right-size, which requests for each run what those like it "
        "used"]
    assert usage_of(rows, {"9"}).lines() == []


def test_suggestion_leaves_out_the_largest_of_many_jobs() -> None:
    rows = []
    for job in range(40):
        kib = 1024 * (100 if job else 100_000)
        rows += [[f"{job}", "COMPLETED", "60" if job else "6000", "", "1", "", "8G", "600", "", "", ""],
                 [f"{job}.batch", "COMPLETED", "60", "", "1", f"{kib}K", "", "", "", "", ""]]
    found = usage_of(rows, {str(job) for job in range(40)}).lines()
    assert "100,000 MB" in found[0] and f"{SUGGESTION} mem=500M --sbatch time=5;" in found[1]


@pytest.mark.parametrize(("text", "seconds"), [("00:07.5", 7.5), ("01:02:03", 3723), ("1-00:00:01", 86401), ("", 0)])
def test_cpu_time_is_parsed(text: str, seconds: float) -> None:
    assert job_usage.parse_cpu_time(text) == seconds


@pytest.mark.parametrize("cell", ["", "x", "-", ".", "1.2.3", "UNLIMITED", "9" * 5000, "nan", "1e999", " ", "JS1:x"])
def test_a_cell_that_is_no_number_counts_as_zero(cell: str) -> None:
    """Slurm's versions differ, and what it prints may be cut."""
    rows = [["7", *[cell] * 7, f"gres/gpu={cell}", cell, cell], ["8", "COMPLETED", *[cell] * 9],
            ["7.batch", "COMPLETED", *[cell] * 6, f"node={cell}", f"mem={cell},gres/gpuutil={cell}", cell]]
    usage = usage_of(rows, {"7", "8"})
    assert [(job.seconds, job.gpu_allocated) for job in usage.jobs] == [(0, 0), (0, 0)]
    assert usage.lines() and usage.resources()


# as jobstats stores it: JSON, gzipped, in base64
NODES = {"a": {"cpus": 12, "gpu_utilization": {"0": 98.5, "1": 0}, "gpu_used_memory": {"0": 8e10, "1": 1e9},
               "total_memory": 1.3e11, "total_time": 57620.8, "used_memory": 84683702272},
         "b": {"cpus": 12, "total_time": 10, "used_memory": 5}}


def comment_of(content: object) -> str:
    return f"JS1:{base64.b64encode(gzip.compress(json.dumps(content).encode(), mtime=0)).decode()}"


def test_jobstats_of_the_site_fill_in_what_sacct_does_not_measure(fake_slurm: FakeSlurm) -> None:
    comment = comment_of({"gpus": 2, "nodes": NODES, "total_time": 600})
    measured = jobstats.parse(comment)
    assert measured == jobstats.JobStats(84683702272, 98.5)
    without = SACCT.replace(",gres/gpuutil=150", "").replace(",gres/gpuutil=50", "")
    first, *rest = without.splitlines()
    found = lines(fake_slurm, "\n".join([f"{first}|{comment}", *rest]), "7")
    assert "at most 80,761 MB of memory" in found[0] and "49 % of the GPU time" in found[0]


@pytest.mark.parametrize("comment", [
    "", "JS1:", "JS1:Short", "JS1:None", "a|b", "JS1:!!!!", comment_of([]), comment_of({"nodes": []}),
    comment_of({"nodes": 1}), comment_of({"nodes": NODES})[:-40], comment_of("0" * 2**25), f"JS1:{'A' * 2**19}"])
def test_comment_that_is_no_record_of_jobstats_is_ignored(comment: str) -> None:
    """A site may store anything there, and a user with the right to change it too."""
    assert jobstats.parse(comment) is None


def observation(tmp_path: Path, count: int, **used: Any) -> Observation:
    """A batch of completed runs, each in a Slurm job of its own."""
    batch = tmp_path / "26-01-01-a"
    for number in range(count):
        run = batch / f"00{number}_a"
        earlier_run(run, 290, job=str(number + 1), train_length=2)
        record = run / "attempt-1-0.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "used": used}))
    tickets = {f"00{number}_a": Ticket(1, 0.0, SLURM, {}, [], [str(number + 1)]) for number in range(count)}
    return observe([str(batch)])[0]._replace(history=History(tickets))


def test_records_of_the_runs_stand_in_where_there_is_no_accounting(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    batch = observation(tmp_path, 2, memory=3 * 2**30, cpu=1.5, cpus=3, gpus=2, gpu=25.0)
    fake_slurm.inject_fault("sacct", stdout="")
    assert efficiency.usage_by_batch([batch])[batch.path].lines() == [
        "2 ended: at most 3,072 MB of memory (requested: none) and 9:50 (limit: none), 50 % of the CPU time, 25 % of "
        "the GPU time",
        f"{SUGGESTION} mem=3900M --sbatch time=15; or --right-size, which requests for each run what those like it "
        "used"]


def test_gpu_use_that_sacct_does_not_have_is_that_of_the_runs(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    batch = observation(tmp_path, 1, gpus=1, gpu=40.0)
    fake_slurm.inject_fault("sacct", stdout="1|COMPLETED|600|40:00|8||64G|60|cpu=8,gres/gpu=1,mem=64G,node=1||\n")
    assert "40 % of the GPU time" in efficiency.usage_by_batch([batch])[batch.path].lines()[0]


def test_comment_of_a_job_is_read_through_sacct(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    (tmp_path / "s.sh").write_text("#!/bin/sh\ntrue\n")
    job = client.submit(["sbatch", "--parsable", "--mem=4G", str(tmp_path / "s.sh")])
    fake_slurm.run_all()
    comment = comment_of({"nodes": {"a": {"used_memory": 2**31, "total_time": 5}}, "total_time": 9})
    fake_slurm.set_state(job, "COMPLETED", AdminComment=comment)
    usage = job_usage.usage_of_jobs(client.usage(0.0, [""], [job]), [job])
    assert usage[job].memory == 2**21


@pytest.mark.parametrize("node", [5, None, {"used_memory": "x", "gpu_utilization": [1]}, {"used_memory": -1},
                                  {"used_memory": 1e300, "gpu_used_memory": {"0": None}}])
def test_value_of_jobstats_that_is_no_number_counts_as_zero(node: object) -> None:
    assert jobstats.parse(comment_of({"nodes": {"a": node}})) == jobstats.JobStats(0, None)
