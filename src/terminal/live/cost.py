"""The CPU- and GPU-hours that a batch has used so far: how long its Slurm jobs ran, times what they requested."""
from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from src import run_folder
from src.errors import UserError
from src.io import files
from src.submission.batch import journal
from src.submission.slurm import directives, submit
from src.submission.status import states
from src.submission.status.observation import Observation, Run
from src.submission.usage import costs

Span = tuple[float, float]  # from when to when, in unix seconds


class _Start(NamedTuple):
    """A start of a run. job: None outside Slurm; process: that has it, if it is not in a job."""

    run: Run
    ticket: int
    job: str | None
    process: str
    span: Span


class CostReader:
    """Reads the cost of a batch again and again; records of starts that have ended are read once."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, int, int], _Start] = {}
        self._requests: dict[tuple[str, int], tuple[int, int] | None] = {}

    def load(self, run: Run, now: float) -> None:
        """Read the records of a run's starts, so that `read` need not."""
        for _ in self._starts(run, now):
            pass

    def read(self, observation: Observation, now: float) -> str:
        """Return `1.2 GPU-hours, 4.8 CPU-hours so far`; for runs outside Slurm, `0.4 hours of runs so far`.

        Runs that share a job or a process at the same time, as those of a stack, count once. Empty if none has
        started, or if it is unknown what a job requested.
        """
        starts: dict[str, list[_Start]] = {}
        for run in observation.runs.values():
            for start in self._starts(run, now):
                starts.setdefault(start.job or start.process, []).append(start)
        cpu_hours = gpu_hours = local_hours = 0.0
        for group in starts.values():
            hours = total_seconds(start.span for start in group) / 3600
            if group[0].job is None:
                local_hours += hours
            elif request := self._request(observation, group[-1]):
                cpu_hours += hours * request[0]
                gpu_hours += hours * request[1]
            else:
                return ""
        parts = [f"{costs.format_hours(hours)} {unit}" for hours, unit in (
            (gpu_hours, "GPU-hours"), (cpu_hours, "CPU-hours"), (local_hours, "hours of runs")) if hours]
        return f"{', '.join(parts)} so far" if parts else ""

    def _starts(self, run: Run, now: float) -> Iterator[_Start]:
        """Yield the starts of a run, without those that left no record of their end."""
        if run.files is None:
            return
        for ticket, number in run.files.attempts:
            key = run.path, ticket, number
            if key not in self._ended:
                is_last = (ticket, number) == run.files.attempts[-1]
                record = run.attempt if is_last and run.attempt else run.files.attempt(ticket, number)
                is_running = is_last and run.state.name == states.RUNNING
                end = record.get("end") or (now if is_running else None)
                if not record.get("start") or end is None:
                    continue
                process = f"{record.get('host')} {record.get('who', {}).get('pid')}"
                start = _Start(run, ticket, record.get("slurm_job"), process, (record["start"], end))
                if is_running:
                    yield start
                    continue
                self._ended[key] = start
            yield self._ended[key]

    def _request(self, observation: Observation, start: _Start) -> tuple[int, int] | None:
        """The CPUs and GPUs of the Slurm job of a start; None if its script cannot be read."""
        key = start.run.path if _has_own_options(observation.path) else observation.path, start.ticket
        if key not in self._requests:
            plan = journal.plan_of(observation.history.all_plans(), start.run.name, start.ticket)
            self._requests[key] = _requested(plan, observation.path, start.run.path)
        return self._requests[key]


@functools.lru_cache(maxsize=1000)
def _has_own_options(batch: str) -> bool:
    """Whether grid points of a batch may have options of sbatch of their own."""
    text = files.read_text(os.path.join(batch, run_folder.JOB_SPEC)) or ""
    return "SBATCH" in text or "SCRIPT" in text


def _requested(plan: Mapping[str, Any], batch: str, run: str) -> tuple[int, int] | None:
    try:
        spec = run_folder.read_spec(os.path.join(run, run_folder.SPEC)) if _has_own_options(batch) else {}
        options = submit.SlurmOptions(submit.script_of_plan(plan, batch) or "", plan.get("sbatch") or {},
                                      plan.get("command_line") or {}, environment=plan.get("environment") or {})
        script, arguments = options.resolve(spec)
        return costs.cpus_and_gpus(directives.effective(options.text_of(script), arguments))
    except (UserError, OSError):
        return None


def total_seconds(spans: Iterable[Span]) -> float:
    """Return the length of the union of spans of time."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
