"""The thread that reads batches for the live screen, so that keys are answered at once however slow the files are.

Files are read every few seconds and Slurm is queried as by wait.Poller. Results of runs are read when they are to be
shown, or when all runs are to be sorted by them. The records of all starts, from which the cost is computed, are read
after the first screen.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from src import metrics
from src.frozen import Frozen
from src.metrics import Metric
from src.submission.status import states, status, throughput, wait
from src.submission.status.observation import Observation, Run
from src.submission.status.observe import SlurmView
from src.submission.status.status import StatusRow
from src.submission.status.throughput import Throughput
from src.submission.system.terminal import table
from src.terminal import run_names
from src.terminal.cells import clean
from src.terminal.live.cost import CostReader
from src.terminal.run_names import RunNames

_MAX_SHARE = 0.05  # of the time, that reading the files takes
_CHUNK = 50  # rows that are read before the screen shows them
_COST_CHUNK = 200  # runs whose starts are read before rows that are wanted meanwhile


class Batch(Frozen):
    """A batch at one moment.

    cost: empty until it is read; search: lines about its search; stopped: the runs that it has stopped.
    """

    observation: Observation
    names: RunNames
    metric: Metric | None
    counts: dict[str, int]
    speed: Throughput
    cost: str
    starts: dict[str, float]
    search: list[str]
    stopped: frozenset[str]


class Snapshot(Frozen):
    """All batches at one moment. slurm_time: when Slurm answered last; None if no run needs that, or it does not."""

    batches: list[Batch]
    time: float
    slurm_time: float | None
    is_over: bool


class Details(Frozen):
    """The results of a run: its row, what is remarked on it, and small curves by metric."""

    row: StatusRow
    remark: str
    curves: dict[str, str]


class _Stop(Exception):
    """The screen is closed."""


class Reader(threading.Thread):
    """Reads batches until `stop`. Other threads may read `snapshot`, `details` (by the path of a run) and `error`.

    changes: how many times `details` has changed.
    """

    def __init__(self, read: Callable[[SlurmView], list[Observation]], every: float, interval: float | None,
                 wake: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._read, self._every, self._interval, self._wake = read, every, interval, wake
        self.snapshot: Snapshot | None = None
        self.error: BaseException | None = None
        self.details: dict[str, Details] = {}
        self.changes = 0
        self._versions: dict[str, tuple[object, ...]] = {}
        self._wanted: list[tuple[Batch, Run]] = []
        self._costs: dict[str, CostReader] = {}
        self._without_cost: list[tuple[str, Run]] | None = None  # runs whose starts are to be read, by batch
        self._changed = threading.Condition()
        self._is_stopped = self._is_refresh_due = False
        self._slurm_time: float | None = None

    def want(self, batch: Batch, runs: Iterable[Run]) -> None:
        """Request the results of runs that are not read yet, or have changed since."""
        wanted = [(batch, run) for run in runs if self._versions.get(run.path) != self._version(run)]
        if wanted:
            with self._changed:
                self._wanted = wanted
                self._changed.notify()

    def refresh(self) -> None:
        """Read the files now, and query Slurm."""
        with self._changed:
            self._is_refresh_due = True
            self._changed.notify()

    def stop(self) -> None:
        """Let the thread end soon."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()

    def run(self) -> None:
        """Read again and again; an error ends it and is left in `error`."""
        try:
            while True:
                for observations, slurm in wait.watch(self._read_files, self._every, self._interval, self._pause):
                    self._publish(observations, slurm, is_over=False)
                self._publish(observations, slurm, is_over=True)
                self._pause(float("inf"))
        except _Stop:
            pass
        except BaseException as error:
            self.error = error
            self._wake()

    def _read_files(self, slurm: SlurmView) -> list[Observation]:
        self._read_start = time.monotonic()
        self._is_refresh_due, is_refresh = False, self._is_refresh_due
        slurm.is_due |= is_refresh
        return self._read(slurm)

    def _publish(self, observations: Sequence[Observation], slurm: SlurmView, is_over: bool) -> None:
        now = time.time()
        if slurm.was_queried:
            self._slurm_time = now if slurm.queue.answered else None
        starts = slurm.queue.expected_starts()
        previous = {batch.observation.path: batch for batch in self.snapshot.batches} if self.snapshot else {}
        self.snapshot = Snapshot([self._batch(observation, previous.get(observation.path), starts, now)
                                  for observation in observations], now, self._slurm_time, is_over)
        if self._without_cost is None:
            self._without_cost = [(observation.path, run) for observation in observations
                                  for run in observation.runs.values()]
        self._wake()

    def _batch(self, observation: Observation, previous: Batch | None, starts: dict[str, float], now: float) -> Batch:
        is_same = previous is not None and previous.observation.runs.keys() == observation.runs.keys()
        names = previous.names if previous and is_same else run_names.read(observation)
        search = status.summarize_search(observation.path)
        lines = [search.headline(), *table(search.rows(), "  ")] if search else []
        cost = "" if self._without_cost is None or self._without_cost else self._cost(observation, now)
        return Batch(observation, names, metrics.read_from_batch(observation.path), status.counts(observation),
                     throughput.throughput(observation, now), cost, starts,
                     list(map(clean, lines)), frozenset(search.stopped if search else ()))

    def _cost(self, observation: Observation, now: float) -> str:
        return self._costs.setdefault(observation.path, CostReader()).read(observation, now)

    def _read_costs(self) -> None:
        """Read the starts of some runs; after those of the last ones, show the cost."""
        assert self._without_cost is not None
        assert self.snapshot is not None
        now = time.time()
        for path, run in self._without_cost[:_COST_CHUNK]:
            self._costs.setdefault(path, CostReader()).load(run, now)
        del self._without_cost[:_COST_CHUNK]
        if not self._without_cost:
            self.snapshot = self.snapshot._replace(batches=[
                batch._replace(cost=self._cost(batch.observation, now)) for batch in self.snapshot.batches])
            self._wake()

    def _pause(self, seconds: float) -> None:
        """Read wanted results, then what else is not read yet, for some seconds; longer if the files took long to read.
        """
        took = time.monotonic() - self._read_start
        deadline = time.monotonic() + max(seconds, took / _MAX_SHARE - took)
        while True:
            with self._changed:
                if self._is_stopped:
                    raise _Stop
                if self._is_refresh_due or (left := deadline - time.monotonic()) <= 0:
                    return
                if not self._wanted and not self._without_cost:
                    self._changed.wait(min(left, 3600.0))
                    continue
                chunk, self._wanted = self._wanted[:_CHUNK], self._wanted[_CHUNK:]
            if chunk:
                self._read_details(chunk)
            else:
                self._read_costs()

    def _read_details(self, wanted: Sequence[tuple[Batch, Run]]) -> None:
        for batch, run in wanted:
            version = self._version(run)
            row, curves = status.read_row(run, metric=batch.metric)
            start = batch.starts.get(row.slurm_job or "")
            self.details[run.path] = Details(row, clean(status.remark(row, start, run.name in batch.stopped)), curves)
            self._versions[run.path] = version
        self.changes += 1
        self._wake()

    def _version(self, run: Run) -> tuple[object, ...]:
        """Return a key that changes when a run's results may have changed; for a running one with each reading."""
        reading = self.snapshot.time if self.snapshot and run.state.name == states.RUNNING else 0.0
        return run.state, run.ticket, len(run.files.attempts) if run.files else None, reading
