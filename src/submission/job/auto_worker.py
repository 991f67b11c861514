"""A worker that finds out how many runs at a time are the fastest (`--slots auto`): start, measure and pause them."""
from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from src import run_folder
from src.errors import UserError
from src.io import machine, slurm_environment, yaml_io
from src.monitoring import worker_cell
from src.run_folder import RunFolder
from src.submission.batch import claims
from src.submission.batch.task_files import token_of
from src.submission.batch.usage_history import kind_of
from src.submission.job import external_program
from src.submission.job.worker import Worker
from src.submission.job.worker_child import Child, Unit, gpu_share, local_number
from src.submission.slots import record
from src.submission.slots.lane import Lane
from src.submission.slots.meter import Gpu, Meter, RunningProcess, find_gpus, gpu_names
from src.submission.slots.policy import Decision
from src.submission.system import process

MOST = 256  # runs at a time
_INTERVAL, _SETTLED_INTERVAL = 1.0, 5.0  # seconds between readings while a number is searched, and afterwards
_MAX_FAULTS = 3  # times that a run is put back after it was out of memory
_GPU_RUNS = 4  # runs on a GPU compute on the CPUs now and then: more of them may share these
_MAX_SPECS = 200  # that are read for the first guess


@dataclass
class AutoWorker(Worker):
    """Starts as many runs at a time as the policy of each lane allows, and has surplus runs save themselves."""

    cells: list[worker_cell.Cell] = field(default_factory=lambda: worker_cell.make(MOST))
    settings: dict[str, str] = field(default_factory=dict)  # by run
    faults: dict[str, int] = field(default_factory=dict)  # by run: how often it was out of memory beside others
    surplus: dict[int, int] = field(default_factory=dict)  # by lane: the number of runs beyond which they are to yield
    next_reading: float = 0.0

    def __post_init__(self) -> None:
        self.poll_interval, names = _INTERVAL, self._own_gpus()
        self.gpus: Mapping[str, Gpu] = find_gpus(names)
        cpus = machine.cpu_limit() / self.tasks.workers
        kinds = {kind_of(spec) for spec in itertools.islice(self.specs(), _MAX_SPECS)}
        model = next((gpu.model for gpu in self.gpus.values()), None)
        guess = record.first_guess(self.tasks.batch, kinds, cpus, model, machine.memory_limit() / self.tasks.workers)
        self.lanes = [Lane(name, guess, MOST // len(names)) for name in names] or [Lane(None, guess, MOST)]
        self.meter = Meter(len(self.lanes), self.tasks.workers)
        self.record = record.SlotsRecord(self.tasks.batch, token_of(self.path), slurm_environment.job_id() or str(
            local_number()), kinds, cpus, model)
        self._print(f"{guess.slots} at a time at first: {guess.source}" if guess else "1 at a time at first")

    def _own_gpus(self) -> list[str]:
        """Return the GPUs of this worker; none if its runs use the CPU."""
        if all(spec.get("device") == "cpu" for spec in itertools.islice(self.specs(), _MAX_SPECS)):
            return []
        return gpu_share(self.tasks.gpus or gpu_names(), local_number(), self.tasks.workers)

    def _print(self, line: str) -> None:
        print(f"slots: {line}", file=sys.stderr, flush=True)

    def lane_of(self, slot: int) -> Lane:
        return self.lanes[slot % len(self.lanes)]

    def children_of(self, lane: Lane) -> dict[int, Child]:
        """Return the processes of a lane, the oldest first."""
        return {pid: child for pid, child in self.children.items() if self.lane_of(child.slot) is lane}

    def _free_slot(self) -> int | None:
        """Return a slot of the lane with the fewest runs that allows another one."""
        used = {child.slot for child in self.children.values()}
        free = [(len(children), index) for index, lane in enumerate(self.lanes)
                if len(children := self.children_of(lane)) < lane.allowed()]
        if not free:
            return None
        return next((slot for slot in range(min(free)[1], len(self.cells), len(self.lanes)) if slot not in used), None)

    def _start(self, unit: Unit, slot: int) -> bool:
        self.cells[slot].clear()
        return super()._start(unit, slot)

    def _prepare_child(self, name: str, slot: int) -> None:
        super()._prepare_child(name, slot)
        worker_cell.use(self.cells[slot])

    def _threads(self, name: str, slot: int) -> int:
        """Return the CPUs of a run, by how many fit; as in its earlier start, if it continues that exactly."""
        with contextlib.suppress(UserError, OSError, KeyError, TypeError, ValueError):
            path = os.path.join(self.tasks.run_path(name), run_folder.CONFIG)
            return int(yaml_io.load_file(path)["facts"]["threads"])
        # a share does not depend on how many run at the moment, so that rates can be compared
        lane, runs = self.lane_of(slot), len(self.tasks.tickets) / self.tasks.workers / len(self.lanes)
        most = min(lane.most(), runs, self.meter.cpus if lane.gpu is None else _GPU_RUNS)
        return max(1, int(self.meter.cpus / max(1, most)))

    def _gpus(self, slot: int) -> list[str]:
        gpu = self.lane_of(slot).gpu
        return [] if gpu is None else [gpu]

    def end_unpromising(self) -> None:
        """Measure the runs, and act on the decisions of the policies."""
        now = time.monotonic()
        for child in self.children.values():
            may_yield = self.faults.get(child.unit.names[0], 0) < _MAX_FAULTS
            self.cells[child.slot].others = len(self.children) - 1 if may_yield else 0
        if now < self.next_reading:
            return
        is_settled = all(lane.policy.is_settled for lane in self.lanes)
        self.next_reading = now + (_SETTLED_INTERVAL if is_settled else _INTERVAL)
        uses = {pid: self.meter.use(self._process(pid, child), now, self._gpu_of(self.lane_of(child.slot)))
                for pid, child in self.children.items()}
        used = sum(use.memory for use in uses.values())
        for number, lane in enumerate(self.lanes):
            of_lane = {child.unit.names[0]: uses[pid] for pid, child in self.children_of(lane).items()}
            decision = lane.read(now, of_lane, len(self.queue), self.meter.capacity(used, self._gpu_of(lane)))
            self._act(number, decision)
            self._pause_surplus(number)

    def _process(self, pid: int, child: Child) -> RunningProcess:
        name = child.unit.names[0]
        if name not in self.settings:
            try:
                self.settings[name] = kind_of(run_folder.read_spec(self.tasks.spec_path(name)))
            except UserError:
                self.settings[name] = ""  # the run reports it
        return RunningProcess(pid, self.tasks.run_path(name), self.settings[name], self.cells[child.slot])

    def _gpu_of(self, lane: Lane) -> Gpu | None:
        return None if lane.gpu is None else self.gpus.get(lane.gpu)

    def _act(self, number: int, decision: Decision | None) -> None:
        """Print and record a decision of a lane."""
        if decision is None:
            return
        where = f"GPU {self.lanes[number].gpu}: " if len(self.lanes) > 1 else ""
        self._print(f"{where}{decision.slots} at a time: {decision.reason}")
        self.surplus[number] = decision.slots if decision.yields else MOST
        offset = time.time() - time.monotonic()
        with contextlib.suppress(OSError):  # a full disk: the log has the decisions
            self.record.write([lane.state(offset) for lane in self.lanes])

    def _pause_surplus(self, number: int) -> None:
        """Ask the youngest runs of a lane to save themselves if they are too many. One that cannot runs to its end."""
        for pid, child in list(self.children_of(self.lanes[number]).items())[self.surplus.get(number, MOST):]:
            if not self.cells[child.slot].yields and process.handles_signal(pid, signal.SIGUSR1):
                self.cells[child.slot].yields = True
                os.kill(pid, signal.SIGUSR1)

    def takes_back(self, child: Child, code: int) -> bool:
        """Put a run back into the queue that has saved itself for others, or was out of memory beside them."""
        name, cell, now = child.unit.names[0], self.cells[child.slot], time.monotonic()
        self.meter.forget(self.tasks.run_path(name))
        lane = self.lane_of(child.slot)
        if code == 0:
            lane.policy.end(self.settings.get(name, ""), child.start, now)
        if self.stop_count or self.starts_no_more:
            return False
        is_killed = code == -signal.SIGKILL and cell.others > 0 and claims.record_kill(
            self.tasks.run_path(name), self.tasks.tickets[name], process.killed_by(-code), is_yield=True)
        attempt = RunFolder.read(self.tasks.run_path(name)).last_attempt() or {}
        if not is_killed and not (code == external_program.SAVED and attempt.get(claims.YIELDED)):
            return False
        if is_killed or not cell.yields:
            self._note_fault(name, lane, now, attempt)
        self._print(f"{name} resumes later")
        self.queue.appendleft(Unit([name]))
        return True

    def _note_fault(self, name: str, lane: Lane, now: float, attempt: Mapping[str, Any]) -> None:
        """Lower the number of a lane, one of whose runs was out of memory; of the largest lane, if it was alone."""
        self.faults[name] = self.faults.get(name, 0) + 1
        if not self.children_of(lane):
            lane = max(self.lanes, key=lambda lane: len(self.children_of(lane)))
        self._act(self.lanes.index(lane), lane.out_of_memory(now, len(self.children_of(lane)),
                                                             f"{name}: {attempt.get('error')}"))
