"""The circuit breaker: stop a batch whose first runs all fail alike before it wastes the rest."""
from __future__ import annotations

import os
import time
from collections.abc import Mapping

from src import logs, run_folder
from src.errors import BatchError, experiments_command, one_line, retry_command
from src.run_folder import RunFolder
from src.submission.batch import claims
from src.submission.slurm import client

_PAUSE = 3.0  # seconds between checks of the runs' files
_SLURM_PAUSE = 30.0  # seconds between queries of Slurm, which tell which jobs ended before Python started
_MAX_WATCHED = 200  # runs, of those that were submitted first: the first to end are among them


class CircuitBreaker:
    """Counts equal failures of the first runs of a submission. Once a run ends in another way, it never trips."""

    def __init__(self, batch: str, max_failures: int) -> None:
        """max_failures: number of equal failures, before any other end, that trip the breaker; 0 disables it."""
        self.batch, self.max_failures = batch, max_failures
        self._open: dict[str, tuple[int, str]] = {}  # ticket and Slurm job of runs that have not ended
        self._failed: list[str] = []
        self._error: str | None = None
        self._disabled = max_failures == 0
        self._next_check = time.monotonic() + _PAUSE
        self._next_query = self._next_check

    def add(self, name: str, ticket: int, slurm_job: str = "") -> None:
        """Watch a run that was submitted."""
        if not self._disabled and len(self._open) + len(self._failed) < _MAX_WATCHED:
            self._open[name] = ticket, slurm_job

    def record_end(self, name: str) -> None:
        """Count a run that has ended. BatchError if it trips the breaker."""
        if self._disabled:
            return
        try:
            attempt = RunFolder.read(os.path.join(self.batch, name)).last_attempt() or {}
        except FileNotFoundError:  # the user deleted it
            return
        self._count(name, attempt.get("how") or "failed", str(attempt.get("error") or ""))

    def check(self) -> None:
        """Check the watched runs, unless the last check is recent. BatchError if they trip the breaker."""
        if self._disabled or not self._open or time.monotonic() < self._next_check:
            return
        suspects = {}  # their Slurm jobs may have ended before Python started
        for name, (ticket, job) in list(self._open.items()):
            try:
                run = RunFolder.read(os.path.join(self.batch, name))
            except FileNotFoundError:
                continue
            if how := claims.how_ended(run, ticket):
                del self._open[name]
                self._count(name, how, str((run.last_attempt() or {}).get("error") or ""))
            elif ticket not in run.claims and (log := run_folder.slurm_log_name(job)) in run.names:
                suspects[name] = job, run.file(log)
        if suspects and time.monotonic() >= self._next_query:
            self._check_jobs(suspects)
            self._next_query = time.monotonic() + _SLURM_PAUSE
        self._next_check = time.monotonic() + _PAUSE

    def _check_jobs(self, suspects: Mapping[str, tuple[str, str]]) -> None:
        """Count the runs whose Slurm jobs have ended before Python started. suspects: job and log of runs by name."""
        queue = client.squeue({job.partition(";")[2] for job, _ in suspects.values()})
        for name, (job, log) in suspects.items() if queue.answered else ():
            if not queue.find(job) and not RunFolder.read(os.path.join(self.batch, name)).claims:
                del self._open[name]
                self._count(name, "failed", logs.last_error(logs.tail(log, 200)))

    def _count(self, name: str, how: str, error: str) -> None:
        if self._disabled:
            return
        normalized = logs.normalize_error(f"{how}: {error}")
        is_failure = how not in (*run_folder.ENDS, run_folder.PAUSED, run_folder.REQUEUED, run_folder.PREEMPTED)
        self._disabled = not is_failure or self._failed != [] and normalized != self._error
        if self._disabled:
            return
        self._error = normalized
        self._failed.append(name)
        if len(self._failed) >= self.max_failures:
            failed = os.path.join(self.batch, self._failed[0])
            raise BatchError(
                f"the first {self.max_failures} runs that ended all failed alike: {one_line(error[:300]) or how}",
                where=self.batch, hint=f"`{experiments_command('logs', failed)}` shows one of them, "
                f"`{experiments_command('cancel', self.batch)}` cancels the rest; after fixing the cause, "
                f"`{retry_command(self.batch)}`; to continue anyway, the same command with --max-failures 0")
