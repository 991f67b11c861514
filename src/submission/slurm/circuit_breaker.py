"""The circuit breaker: a batch whose first runs all fail alike is stopped before it wastes the rest."""
from __future__ import annotations

import os
import time

from src import logs, run_folder
from src.errors import BatchError, one_line, to_type
from src.io import files
from src.run_folder import RunFolder
from src.submission.slurm import client

_LOOK_AFTER = ("python", "experiments.py")
_PAUSE = 3.0  # seconds between looks
_LOOKED_AT = 200  # of the runs that were submitted: the first that end are among these


class CircuitBreaker:
    """Counts how runs of one submission end, until one ends otherwise than the first: then it never trips."""

    def __init__(self, batch: str, max_failures: int) -> None:
        """max_failures: that many failures alike, with nothing else, trip it; 0 never does."""
        self.batch, self.max_failures = batch, max_failures
        self._open: dict[str, tuple[int, str]] = {}  # runs that have not ended: ticket and Slurm job
        self._failed: list[str] = []
        self._error: str | None = None
        self._off = max_failures == 0
        self._next_look = time.monotonic() + _PAUSE

    def add(self, name: str, ticket: int, slurm_job: str = "") -> None:
        """A run to be looked at."""
        if not self._off and len(self._open) + len(self._failed) < _LOOKED_AT:
            self._open[name] = ticket, slurm_job

    def record_end(self, name: str) -> None:
        """A run has ended. BatchError if it trips the breaker."""
        if self._off:
            return
        try:
            attempt = RunFolder.read(os.path.join(self.batch, name)).last_attempt() or {}
        except FileNotFoundError:  # somebody deleted it
            return
        self._count(name, attempt.get("how") or "failed", str(attempt.get("error") or ""))

    def check(self) -> None:
        """At the runs, if it is time to. BatchError if they trip the breaker."""
        if self._off or not self._open or time.monotonic() < self._next_look:
            return
        dead = {}  # Slurm jobs that may have ended before Python began
        for name, (ticket, job) in list(self._open.items()):
            try:
                run = RunFolder.read(os.path.join(self.batch, name))
            except FileNotFoundError:
                continue
            attempt = run.last_attempt() or {}
            if attempt.get("ticket") == ticket and attempt.get("how"):
                del self._open[name]
                self._count(name, attempt["how"], str(attempt.get("error") or ""))
            elif ticket not in run.claims and (log := run_folder.slurm_log_name(job)) in run.names:
                dead[name] = job, run.file(log)
        if dead and (queue := client.squeue()).answered:
            for name, (job, log) in dead.items():
                if job not in queue.jobs and not RunFolder.read(os.path.join(self.batch, name)).claims:
                    del self._open[name]
                    self._count(name, "failed", (files.read_text(log) or "").strip().rpartition("\n")[2])
        self._next_look = time.monotonic() + _PAUSE

    def _count(self, name: str, how: str, error: str) -> None:
        if self._off:
            return
        alike = logs.normalize_error(f"{how}: {error}")
        no_failure = how in (*run_folder.ENDS, run_folder.REQUEUED, run_folder.PREEMPTED)
        self._off = no_failure or self._failed != [] and alike != self._error
        if self._off:
            return
        self._error = alike
        self._failed.append(name)
        if len(self._failed) >= self.max_failures:
            raise BatchError(
                f"the first {self.max_failures} runs that ended all failed alike: {one_line(error[:300]) or how}",
                where=self.batch, hint=f"`{to_type(*_LOOK_AFTER, 'logs', os.path.join(self.batch, self._failed[0]))}` "
                f"shows one of them, `{to_type(*_LOOK_AFTER, 'cancel', self.batch)}` cancels what is left; when it is "
                f"mended, `{to_type('python', 'submit_multiple.py', '-r', self.batch)}`, or the same with "
                "--max-failures 0 in spite of it")
