"""A lane: the runs of a worker that share one GPU, or its CPUs where there is none, and the policy for their number."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from src.submission.slots.policy import Decision, Guess, Policy, Reading
from src.submission.slots.room import Room
from src.submission.slots.speeds import Progress, Rates

_SETTLING = 3.0  # seconds of the start of a run, whose CPU time does not count, and seconds of a mean at least
_MAX_DECISIONS = 50  # that are kept


class RunUse(NamedTuple):
    """The use of a run. memory, gpu_memory: bytes now; cpu_seconds: since its start, waiting for a CPU included."""

    progress: Progress
    memory: float = 0.0
    cpu_seconds: float = 0.0
    gpu_memory: float | None = None


class Capacity(NamedTuple):
    """The resources that the runs of a lane may use. Bytes, cores, percent; None where one is unknown.

    gpu_used: of the GPU by its runs, if the driver does not count each of them; gpu_busy: of the time
    """

    memory: float | None = None
    cpus: float | None = None
    gpu_memory: float | None = None
    gpu_used: float | None = None
    gpu_busy: float | None = None


class _Peaks:
    """The peaks of a run."""

    def __init__(self, time: float, use: RunUse) -> None:
        self.start, self.setting = time, use.progress.setting
        self.memory, self.gpu_memory = 0.0, 0.0
        self.first_cpu: tuple[float, float] | None = None  # time and CPU seconds when its start was over
        self.cpus: float | None = None  # mean since then

    def add(self, time: float, use: RunUse) -> None:
        self.memory, self.gpu_memory = max(self.memory, use.memory), max(self.gpu_memory, use.gpu_memory or 0.0)
        if self.first_cpu is None:
            if time - self.start >= _SETTLING:
                self.first_cpu = time, use.cpu_seconds
        elif time - self.first_cpu[0] >= _SETTLING:
            self.cpus = (use.cpu_seconds - self.first_cpu[1]) / (time - self.first_cpu[0])


class Lane:
    """Turns what the runs of a lane use into readings of its policy, and keeps the decisions.

    gpu: as CUDA_VISIBLE_DEVICES takes it; None without one
    """

    def __init__(self, gpu: str | None = None, guess: Guess | None = None, most: int = 256) -> None:
        self.gpu, self.policy = gpu, Policy(guess, most)
        self.decisions: list[dict[str, Any]] = []
        self.room = Room()
        self.busy: list[float] = []  # percent of the GPU, in recent readings
        self._runs: dict[str, _Peaks] = {}
        # by setting: memory, GPU memory, and CPUs when the fewest others wanted them
        self._largest: dict[str, tuple[float, float, float | None]] = {}

    def read(self, time: float, uses: Mapping[str, RunUse], waiting: int, capacity: Capacity) -> Decision | None:
        """Take what the runs use now. Return a decision if the number of slots changes, or is settled."""
        for name, use in uses.items():
            peaks = self._runs.setdefault(name, _Peaks(time, use))
            peaks.add(time, use)
            memory, gpu_memory, cpus = self._largest.get(peaks.setting, (0.0, 0.0, None))
            self._largest[peaks.setting] = (max(memory, peaks.memory), max(gpu_memory, peaks.gpu_memory),
                                            min(filter(None, (cpus, peaks.cpus)), default=None))
        for name in self._runs.keys() - uses.keys():
            del self._runs[name]
        if capacity.gpu_busy is not None:
            self.busy = [*self.busy[-59:], capacity.gpu_busy]
        self.room = self._room(uses, capacity)
        progress = {name: use.progress for name, use in uses.items()}
        return self._keep(time, self.policy.observe(Reading(time, progress, waiting, self.room)))

    def out_of_memory(self, time: float, running: int, error: str) -> Decision | None:
        """Take the end of a run by a lack of memory while `running` others ran."""
        return self._keep(time, self.policy.reduce(running, f"out of memory with {running + 1} at a time: {error}"))

    def allowed(self) -> int:
        """Return how many runs may run now."""
        return self.policy.limit(self.room)

    def most(self) -> int:
        """Return how many runs fit at most, as far as is known, by which CPUs are divided."""
        return min(self.policy.cap, self.room.largest()[0] or self.policy.cap)

    def state(self, offset: float = 0.0) -> dict[str, Any]:
        """Return what is recorded of this lane in the batch. offset: of unix time from the times of readings."""
        rates: dict[int, Rates] = self.policy.rates
        memory, gpu_memory, cpus = (self.room.memory_per_run, self.room.gpu_memory_per_run, self.room.cpus_per_run)
        return {"gpu": self.gpu, "slots": self.policy.slots, "best": self.policy.best, "refused": self.policy.refused,
                "is_settled": self.policy.is_settled, "memory": memory and int(memory),
                "gpu_memory": gpu_memory and int(gpu_memory), "cpus": cpus and round(cpus, 3),
                "gpu_busy": round(sum(self.busy) / len(self.busy), 1) if self.busy else None,
                "samples_per_second": {str(number): round(number * rate.mean, 3)
                                       for number, rate in sorted(rates.items()) if rate.runs},
                "decisions": [{**entry, "time": round(entry["time"] + offset, 1)} for entry in self.decisions]}

    def _room(self, uses: Mapping[str, RunUse], capacity: Capacity) -> Room:
        """Return the room for runs like those that run; like all before, if none does."""
        settings = {use.progress.setting for use in uses.values()}
        largest = [values for setting, values in self._largest.items() if setting in settings or not settings]
        counted, used_gpu = sum(use.gpu_memory or 0.0 for use in uses.values()), capacity.gpu_used or 0.0
        gpu_memory = capacity.gpu_memory
        if counted and gpu_memory:  # the rest is used by others, who came later
            gpu_memory, used_gpu = gpu_memory - max(0.0, used_gpu - counted), counted
        cpus = [value for *_, value in largest if value is not None]
        gpu_per_run = max((gpu for _, gpu, _ in largest), default=0.0) or (used_gpu / len(uses) if uses else 0.0)
        return Room(capacity.memory, capacity.cpus, gpu_memory, sum(use.memory for use in uses.values()),
                    used_gpu, max((memory for memory, *_ in largest), default=0.0) or None, gpu_per_run or None,
                    sum(cpus) / len(cpus) if cpus else None)

    def _keep(self, time: float, decision: Decision | None) -> Decision | None:
        if decision:
            entry = {"time": time, "slots": decision.slots, "reason": decision.reason}
            self.decisions = [*self.decisions, entry][-_MAX_DECISIONS:]
        return decision
