"""`--slots auto` compared with the best `--slots K`: simulated runs on a stand-in for a GPU, and real runs on CPUs."""
from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import slots_real
from src.io import nvml
from src.monitoring import worker_cell
from src.submission.slots.lane import Capacity, Lane, RunUse
from src.submission.slots.meter import Meter, RunningProcess
from src.submission.slots.policy import Guess
from src.submission.slots.speeds import Progress

_GIB = 2.0**30
LATE = 200.0
_MOST = 24  # slots that are tried


class Profile(NamedTuple):
    """Runs as a GPU and a machine see them.

    speed: of each run, relative to one alone, by the number of runs at a time
    memory, gpu_memory: bytes of a run; those of the machine and of the GPU have the prefix total
    busy: percent of the GPU that one run keeps busy
    """

    name: str
    speed: Callable[[int], float]
    memory: float = 2 * _GIB
    gpu_memory: float = 3 * _GIB
    total_memory: float = 128 * _GIB
    total_gpu_memory: float = 80 * _GIB
    busy: float = 30.0
    cpus_per_run: float = 1.0
    cpus: float = 32.0
    runs: int = 64
    seconds: float = 600.0  # of a run alone, after its start
    start: float = 15.0  # seconds until a run makes progress
    saving: float = 3.0  # seconds until a run that yields has ended
    noise: float = 0.03  # of the rate, from second to second
    spread: float = 0.3  # the lengths and rates of runs differ by this factor, either way
    late_gpu_memory: float = 0.0  # bytes of a run from its LATE-th second on, if that is more


def saturating(capacity: float, overhead: float = 0.0) -> Callable[[int], float]:
    """Return the speed of runs that share a device on which `capacity` of them find room."""
    return lambda number: min(1.0, capacity / number) / (1 + overhead * max(0.0, number - capacity))


PROFILES = (
    Profile("memory-bound", saturating(9), gpu_memory=14 * _GIB, busy=11),
    Profile("compute-bound", lambda number: min(1.0, 1.02 / number), busy=97),
    Profile("idle", saturating(6.5, 0.03), busy=15),
)


class _Run:
    """A run in virtual time. left: samples to go; samples: of this start; age: seconds since the start."""

    def __init__(self, name: str, profile: Profile, chance: random.Random) -> None:
        self.name, self._profile, self._chance = name, profile, chance
        self.rate = 1000 * (1 + profile.spread) ** chance.uniform(-1, 1)
        self.left = profile.seconds * (1 + profile.spread) ** chance.uniform(-1, 1) * self.rate
        self.samples, self.age, self.cpu_seconds, self.yields_at = 0.0, 0.0, 0.0, math.inf

    def advance(self, seconds: float, number: int, noise: float) -> float:
        """Go on for some seconds among `number` runs. Return the seconds that this would take alone."""
        self.age += seconds
        self.cpu_seconds += seconds * self._profile.cpus_per_run * self._profile.speed(number)
        if self.age <= self._profile.start:
            return 0.0
        work = self._profile.speed(number) * seconds * (1 + self._chance.gauss(0, noise))
        self.samples, self.left = self.samples + work * self.rate, self.left - work * self.rate
        return work

    def until_next(self, number: int) -> float:
        """Return the seconds until the start is over, or the run ends."""
        return self._profile.start - self.age if self.age < self._profile.start else (
            max(self.left, 0) / self.rate / self._profile.speed(number))

    def stop(self) -> None:
        """Leave the worker; a later start goes on."""
        self.samples = self.age = self.cpu_seconds = 0.0
        self.yields_at = math.inf


class Result(NamedTuple):
    """seconds: of the batch; search: seconds lost until the first number was settled, compared with that number from
    the beginning; slots: the last number; faults: runs that were out of memory.
    """

    seconds: float
    search: float
    slots: int
    faults: int


def simulate_fixed(profile: Profile, slots: int, seed: int = 0) -> float:
    """Return the time of a batch with a fixed number of slots; inf if they do not fit."""
    if slots * profile.memory > profile.total_memory or slots * profile.gpu_memory > profile.total_gpu_memory:
        return math.inf
    queue, running, time = _make_runs(profile, seed), list[_Run](), 0.0
    while queue or running:
        while queue and len(running) < slots:
            running.append(queue.pop(0))
        seconds = min(run.until_next(len(running)) for run in running) + 1e-6
        for run in running:
            run.advance(seconds, len(running), 0.0)
        running = [run for run in running if run.left > 1e-6]
        time += seconds
    return time


def simulate(profile: Profile, seed: int = 0, guess: Guess | None = None) -> Result:
    """Run a batch in virtual time with the policy."""
    queue, running = _make_runs(profile, seed), list[_Run]()
    lane, gpu = Lane("0", guess), NvmlStandIn(profile, running)
    time = work = search = 0.0
    faults, is_searching = 0, True
    while queue or running:
        while queue and len(running) < lane.allowed():
            running.append(queue.pop(0))
        done = sum([run.advance(1.0, len(running), profile.noise) for run in running])
        time, work = time + 1, work + done * is_searching
        for run in [run for run in running if run.left <= 0 or time >= run.yields_at]:
            running.remove(run)
            if run.left <= 0:
                lane.policy.end("a", time - run.age, time)
            else:
                _put_back(run, queue)
        if gpu.is_full() or len(running) * profile.memory > profile.total_memory:
            faults += 1
            _put_back(running.pop(), queue)
            lane.out_of_memory(time, len(running), "CUDA out of memory")
        decision = lane.read(time, gpu.uses(time), len(queue), gpu.capacity())
        if decision and decision.yields:
            for run in running[decision.slots:]:
                run.yields_at = min(run.yields_at, time + profile.saving)
        if is_searching and lane.policy.is_settled:
            best, is_searching = lane.policy.best, False
            search = time - work / (best * profile.speed(best))
    return Result(time, search, lane.policy.slots, faults)


def _make_runs(profile: Profile, seed: int) -> list[_Run]:
    chance = random.Random(seed)
    return [_Run(f"{number:03d}", profile, chance) for number in range(profile.runs)]


def _put_back(run: _Run, queue: list[_Run]) -> None:
    run.stop()
    queue.insert(0, run)


class NvmlStandIn:
    """Stands for the driver: one GPU, whose use follows from the runs of a simulation."""

    def __init__(self, profile: Profile, running: list[_Run]) -> None:
        self._profile, self._running = profile, running
        self.nvml: Any = types.SimpleNamespace(
            nvmlDeviceGetUtilizationRates=lambda _: types.SimpleNamespace(gpu=min(100.0, profile.busy * len(running))),
            nvmlDeviceGetComputeRunningProcesses=lambda _: [
                types.SimpleNamespace(pid=number, usedGpuMemory=self._memory(run))
                for number, run in enumerate(running)])

    def is_full(self) -> bool:
        """Return whether the runs need more memory than the GPU has."""
        return sum(map(self._memory, self._running)) > self._profile.total_gpu_memory

    def _memory(self, run: _Run) -> float:
        return max(self._profile.gpu_memory, self._profile.late_gpu_memory * (run.age >= LATE))

    def uses(self, time: float) -> dict[str, RunUse]:
        """Return what each run uses."""
        return {run.name: RunUse(Progress(f"{run.rate}", run.samples, time), self._profile.memory, run.cpu_seconds,
                                 nvml.memory_of(self.nvml, 0, [number]))
                for number, run in enumerate(self._running)}

    def capacity(self) -> Capacity:
        """Return what the lane may use."""
        return Capacity(self._profile.total_memory, self._profile.cpus, self._profile.total_gpu_memory,
                        gpu_busy=nvml.busy(self.nvml, 0))


def best_static(profile: Profile, seed: int = 0) -> tuple[int, float]:
    """Return the best number of slots, and the seconds of the batch with it, by trying all."""
    times = {slots: simulate_fixed(profile, slots, seed) for slots in range(1, _MOST + 1)}
    best = min(times, key=lambda slots: times[slots])
    return best, times[best]


def measuring_cost() -> float:
    """Return the percent of a core that the readings of 20 runs with two loaders each take, one reading a second."""
    program = "import os, time; os.fork(); os.fork(); time.sleep(60)"
    processes = [subprocess.Popen([sys.executable, "-c", program], start_new_session=True) for _ in range(20)]
    try:
        time.sleep(3)
        meter, cells = Meter(), worker_cell.make(20)
        running = [RunningProcess(process.pid, "/nowhere", "a", cell)
                   for process, cell in zip(processes, cells, strict=True)]
        lane = Lane()
        begin, readings = 0.0, 50
        for reading in range(readings + 1):
            if reading == 1:  # the first one reads the page tables
                begin = time.process_time()
            uses = {str(process.pid): meter.use(process, reading) for process in running}
            lane.read(reading, uses, 5, meter.capacity(sum(use.memory for use in uses.values())))
        return 100 * (time.process_time() - begin) / readings
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measure() -> list[tuple[str, float, float | None]]:
    """Return (label, value, limit)."""
    rows: list[tuple[str, float, float | None]] = []
    for profile in PROFILES:
        slots, seconds = best_static(profile)
        auto = simulate(profile)
        rows += [(f"{profile.name} runs: `--slots auto` ({auto.slots} at last) / the best of 1 to {_MOST} ({slots}), "
                  f"simulated time of {profile.runs} runs", auto.seconds / seconds, 1 / 0.95),
                 (f"{profile.name} runs: time lost by the search / that of the batch", auto.search / auto.seconds,
                  0.03)]
    rows.append(("readings of 20 runs of four processes each, once a second, in % of one core", measuring_cost(), 1.0))
    return rows + slots_real.measure()
