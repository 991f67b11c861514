"""What is measured of runs: processes, and GPUs by a stand-in for NVML with two GPUs and a part of one (MIG)."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from src.io import machine, nvml, process_tree
from src.monitoring import worker_cell
from src.submission.batch import usage_history
from src.submission.slots import meter, record
from src.submission.slots.lane import Capacity, Lane, RunUse
from src.submission.slots.meter import Meter, RunningProcess, find_gpus
from src.submission.slots.policy import Guess
from src.submission.slots.speeds import Progress, Rates

_GIB = 2**30


class NvmlStandIn(types.ModuleType):
    """Two GPUs, and a part of one, which shows neither how busy it is nor its processes. used: bytes in use of each."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.used = {"0": 1 * _GIB, "1": 2 * _GIB, "MIG-a": 0}
        self.processes: dict[str, dict[int, int]] = {"0": {}, "1": {}}

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return list(self.used)[index]

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        if name not in self.used:
            raise RuntimeError("Not Found")
        return name

    def nvmlDeviceGetName(self, handle: str) -> bytes:
        return b"NVIDIA H100"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return types.SimpleNamespace(used=self.used[handle], total=(10 if handle == "MIG-a" else 80) * _GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        if handle == "MIG-a":
            raise RuntimeError("Not Supported")
        return types.SimpleNamespace(gpu=23)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> Any:
        if handle == "MIG-a":
            raise RuntimeError("Not Supported")
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes[handle].items()]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> NvmlStandIn:
    stand_in = NvmlStandIn()
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    return stand_in


def test_each_gpu_is_read_by_itself(stand_in: NvmlStandIn) -> None:
    gpus = find_gpus(["1", "0", "MIG-a", "GPU-none"])
    assert list(gpus) == ["1", "0", "MIG-a"] and gpus["1"].model == "NVIDIA H100"
    stand_in.used["1"] += 5 * _GIB
    stand_in.processes["1"] = {11: 2 * _GIB, 12: 3 * _GIB, 99: 2 * _GIB}
    # what others had in use before the first run is not for the runs
    assert gpus["1"].read() == (78 * _GIB, 5 * _GIB, 23.0)
    assert gpus["0"].read() == (79 * _GIB, 0, 23.0)
    assert gpus["1"].memory_of([11, 12]) == 5 * _GIB and gpus["0"].memory_of([11, 12]) is None


def test_memory_that_others_take_later_is_not_for_the_runs(stand_in: NvmlStandIn) -> None:
    gpu, lane = find_gpus(["0"])["0"], Lane("0")
    stand_in.used["0"] += 24 * _GIB
    uses = {"x": RunUse(Progress("a", 0.0, 1.0), gpu_memory=4.0 * _GIB)}  # and 20 GiB of others, who came later
    lane.read(1.0, uses, 9, Capacity(None, None, *gpu.read()))
    assert (lane.room.gpu_memory, lane.room.gpu_used) == (59 * _GIB, 4 * _GIB)


def test_part_of_a_gpu_shows_its_memory_alone(stand_in: NvmlStandIn) -> None:
    gpu = find_gpus(["MIG-a"])["MIG-a"]
    stand_in.used["MIG-a"] = 6 * _GIB
    assert gpu.read() == (10 * _GIB, 6 * _GIB, None) and gpu.memory_of([11]) is None
    lane = Lane("MIG-a")
    uses = {name: RunUse(Progress("a", 0.0, 1.0)) for name in ("x", "y")}
    lane.read(1.0, uses, 9, Capacity(None, None, *gpu.read()))
    assert lane.room.gpu_memory_per_run == 3 * _GIB and lane.room.largest()[0] == 3


def test_visible_devices_are_the_gpus(stand_in: NvmlStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvml, "DEVICE", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert meter.gpu_names() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,MIG-a")
    assert meter.gpu_names() == ["1", "MIG-a"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # a job that requested none
    assert meter.gpu_names() == []
    monkeypatch.setattr(nvml, "DEVICE", str(tmp_path / "none"))
    assert meter.gpu_names() == []


def test_process_tree_is_measured(tmp_path: Path) -> None:
    child = "import time; data = b'x' * (30 << 20); end = time.process_time() + 0.3"
    child += "\nwhile time.process_time() < end: 0"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child + chr(10) + 'time.sleep(60)'!r}])"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            measured, running = Meter(), RunningProcess(process.pid, str(tmp_path), "a", worker_cell.make(1)[0])
            end = time.monotonic() + 300
            while True:
                use = measured.use(running, 1.0)
                if use.cpu_seconds > 0.3 and use.memory > 30 << 20:
                    break
                assert time.monotonic() < end
                time.sleep(0.05)
            assert use.memory < 100 << 20
        finally:
            for pid in reversed(process_tree.pids(process.pid)):
                os.kill(pid, 9)


def test_waiting_for_a_cpu_counts_as_need(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {"/proc/5/schedstat": "1000000000 2500000000 7\n", "/proc/6/schedstat": "5 500000000 1\n"}
    monkeypatch.setattr(process_tree, "_read", lambda path: lines.get(path, ""))
    assert process_tree.waiting_seconds([5, 6, 7]) == 3.0
    lane = Lane()
    # needs 0.5 of a CPU, later 1; the second from 4 to 5 is too short for a mean
    for now, seconds in ((0.0, 0.0), (4.0, 1.0), (5.0, 1.1), (8.0, 3.0), (12.0, 7.0)):
        lane.read(now, {"x": RunUse(Progress("a", now, now), 0.0, seconds)}, 9, Capacity(cpus=2.0))
    assert lane.room.cpus_per_run == 0.5 and lane.room.largest()[0] == 7


def test_peaks_of_the_largest_run_count() -> None:
    """What a run used earlier, it may need again; a run of the same setting may need as much."""
    lane = Lane("0")
    for now, memory, gpu_memory in ((0.0, 3.0, 5.0), (1.0, 7.0, 9.0), (2.0, 2.0, 1.0)):
        uses = {name: RunUse(Progress("a", now, now), share * memory * _GIB, 0.0, share * gpu_memory * _GIB)
                for name, share in (("x", 1.0), ("y", 0.5))}
        lane.read(now, uses, 9, Capacity(100.0 * _GIB, None, 80.0 * _GIB, None, 40.0))
    assert (lane.room.memory_per_run, lane.room.gpu_memory_per_run) == (7 * _GIB, 9 * _GIB)
    assert (lane.room.used, lane.room.gpu_used) == (3 * _GIB, 1.5 * _GIB)
    lane.read(3.0, {"z": RunUse(Progress("b", 3.0, 3.0), 1.0 * _GIB)}, 9, Capacity(100.0 * _GIB))
    assert lane.room.memory_per_run == 1 * _GIB  # those of other settings do not count


def test_samples_a_second_are_those_of_the_runs_at_a_time() -> None:
    """A run that ended in the window and the one that replaced it count as one."""
    lane = Lane()
    lane.policy.rates[2] = Rates({"first": 10.0, "ended": 11.0, "replaced it": 12.0}, {"a": 11.0}, {})
    assert lane.state()["samples_per_second"] == {"2": 22.0}


def test_progress_is_read_from_the_cell_else_from_the_file(tmp_path: Path) -> None:
    cell = worker_cell.make(2)[1]
    measured, running = Meter(), RunningProcess(os.getpid(), str(tmp_path), "a", cell)
    assert measured.use(running, 1.0).progress == Progress("a", None, 1.0)
    (tmp_path / "stats.csv").write_text("epoch,loss\n1,3\n2,2\n")
    assert measured.use(running, 5.0).progress == Progress("a", 2.0, 5.0)
    assert measured.use(running, 6.0).progress == Progress("a", 2.0, 5.0)  # no row since
    cell.add_samples(64)
    assert measured.use(running, 7.0).progress == Progress("a", 64.0, 7.0)


def test_runs_share_a_cell_with_their_worker_across_a_fork() -> None:
    cell = worker_cell.make(3)[2]
    cell.others = 4
    if os.fork() == 0:
        worker_cell.use(cell)
        worker_cell.add_samples(10 + 100 * worker_cell.has_others() + 1000 * worker_cell.is_to_yield())
        os._exit(0)
    os.wait()
    assert (cell.samples, worker_cell.has_others()) == (110, False)
    cell.clear()
    assert (cell.samples, cell.others, cell.yields) == (0, 0, False)


def test_limits_of_cgroups_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = machine.files.read_text

    def read_text(path: str | Path, *arguments: Any) -> str | None:
        text = {"/proc/self/cgroup": "0::/job_7/step_0\n5:cpu,cpuacct:/slurm\n", "/sys/fs/cgroup/memory.max": "max\n",
                "/sys/fs/cgroup/job_7/memory.max": f"{3 << 20}\n", "/sys/fs/cgroup/job_7/step_0/memory.max": "max\n",
                "/sys/fs/cgroup/cpu/slurm/cpu.cfs_quota_us": "50000\n",
                "/sys/fs/cgroup/cpu/slurm/cpu.cfs_period_us": "100000\n"}.get(str(path))
        return text or (None if "cgroup" in str(path) else real(path, *arguments))

    monkeypatch.setattr(machine.files, "read_text", read_text)
    assert (machine.memory_limit(), machine.cpu_limit()) == (3 << 20, 0.5)
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert machine.memory_limit() == 2 << 20


def test_earlier_batch_gives_the_first_guess(tmp_path: Path) -> None:
    for name in ("26-11-20-a", "26-11-21-b"):
        (tmp_path / name / "submissions").mkdir(parents=True)
        (tmp_path / name / "submissions" / "t.jsonl").touch()
        (tmp_path / name / "job.yaml").touch()
    lane = Lane(None, Guess(4, 6))
    lane.policy.is_settled = True
    record.SlotsRecord(str(tmp_path / "26-11-20-a"), "t", "0", {"k", "other"}, 8.0, "H100").write([lane.state()])
    batch = str(tmp_path / "26-11-21-b")
    assert record.first_guess(batch, {"k"}, 8.0, "H100", 1e9) == Guess(4, 6, "26-11-20-a")
    assert record.first_guess(batch, {"k"}, 4.0, "H100", 1e9) is None  # another number of CPUs
    assert record.first_guess(batch, {"k", "new"}, 8.0, "H100", 1e9) is None
    assert record.first_guess(batch, {"k"}, 8.0, None, 1e9) is None


def test_lines_of_damaged_or_hostile_files_are_clean(tmp_path: Path) -> None:
    folder = tmp_path / "submissions"
    folder.mkdir()
    lane = Lane("0").state() | {"decisions": [{"time": 1.0, "slots": 2, "reason": "\x1b[2Jx"}, {"time": "y"}]}
    content = {"kinds": [], "cpus": 1, "lanes": [lane, {"slots": "x"}]}
    (folder / "t.0.slots.json").write_text(json.dumps(content))
    (folder / "t.1.slots.json").write_text("[")
    (folder / "t.2.slots.json").write_text('{"lanes": 5}')
    first, second = record.lines(str(tmp_path))
    assert first == "slots, worker 0, GPU 0: 1 at a time (still searching)"
    assert second.endswith("  2 at a time: x")


def test_lines_show_what_was_found_and_why(tmp_path: Path) -> None:
    (tmp_path / "submissions").mkdir()
    lane = Lane("1").state() | {"slots": 2, "best": 2, "is_settled": True, "memory": 3.0 * _GIB, "cpus": 0.5,
                                "gpu_busy": 81.4, "samples_per_second": {"1": 500.0, "2": 812.0},
                                "decisions": [{"time": float(number), "slots": number, "reason": f"reason {number}"}
                                              for number in range(1, 5)]}
    record.SlotsRecord(str(tmp_path), "t", "0", {"k"}, 8.0, None).write([lane])
    found, *reasons = record.lines(str(tmp_path))
    assert found == ("slots, worker 0, GPU 1: 2 at a time (settled), each run used 3 GB, 0.5 CPUs, GPU 81 % busy, "
                     "812 samples a second with 2")
    assert [line[10:] for line in reasons] == [f"  {number} at a time: reason {number}" for number in (2, 3, 4)]


def used(**resources: float) -> usage_history.RunUse:
    return usage_history.RunUse("k", 1.0, 60.0, **resources)


@pytest.mark.parametrize(("uses", "slots"), [
    ([used(cpu=0.5)], 8), ([used(cpu=0.5, gpu=20.0)], 2), ([used(cpu=0.5, memory=100.0)], 5),
    ([used(cpu=4.0)], None), ([used()], None)])
def test_resources_of_earlier_runs_give_half_of_what_would_fit(uses: list[usage_history.RunUse], slots: int | None
                                                               ) -> None:
    guess = record._estimate(uses, 8.0, 1000.0)
    assert (guess and guess.slots) == slots
