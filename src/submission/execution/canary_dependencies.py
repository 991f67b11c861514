"""Submit canaries, and fill in their Slurm jobs as dependencies when sbatch is called for the runs."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from src import run_folder
from src.submission.batch import claims
from src.submission.batch.journal import Journal
from src.submission.planning.canary import JOB_PLACEHOLDER, Canaries, canary_submission, canary_token
from src.submission.slurm.circuit_breaker import CircuitBreaker
from src.submission.slurm.submit import SbatchCall, SlurmOptions, submit_all
from src.submission.status import states

if TYPE_CHECKING:
    from src.submission.slurm.queue_limits import QueueLimiter

_PLACEHOLDER = re.compile(rf":{JOB_PLACEHOLDER}([\w.+-]+)")
_OPTION = "--dependency="


class CanaryDependencies:
    """The Slurm jobs of canaries, for calls of sbatch that may come hours after the canaries were submitted.

    jobs: Slurm job ids by canary; several jobs are joined by colons
    submitted: the Slurm jobs that this process submitted
    held_back: labels of the calls that were left out since all of their canaries failed
    """

    def __init__(self, canaries: Canaries) -> None:
        self.canaries = canaries
        self.jobs = dict(canaries.slurm_jobs)
        self.submitted: list[str] = []
        self.held_back: list[str] = []
        self._passed: dict[str, bool] = {}  # of canaries that have ended: whether they ended well

    def submit(self, slurm: SlurmOptions, token: str, program_folder: str, retry: str, limiter: QueueLimiter) -> None:
        """Submit the canaries. SlurmError, QueueFull and KeyboardInterrupt as from submit_all."""
        submission = canary_submission(self.canaries, slurm, token, program_folder)
        if not submission.calls:
            return
        folder = self.canaries.folder
        journal = Journal(folder, canary_token(token))
        try:
            jobs = submit_all(submission, journal, retry, limiter, CircuitBreaker(folder, 0))
            for name, job in zip(submission.tickets, jobs, strict=True):
                self.jobs[name] = job
                self.submitted.append(job)
        finally:
            journal.record_end()

    def resolve_command(self, call: SbatchCall) -> list[str] | None:
        """Return the command of a call with Slurm jobs as dependencies; None if none of its runs may run any more.

        Slurm may have forgotten a job that has ended, so an ended canary is recognised by its own files and left out.
        """
        names = {name for argument in _dependency_arguments(call.command) for name in _PLACEHOLDER.findall(argument)}
        ended = {name: passed for name in names if (passed := self._has_passed(name)) is not None}
        if names and len(ended) == len(names) and not any(ended.values()):
            self.held_back.append(call.label)
            return None
        return fill_in_jobs(call.command, {name: job for name, job in self.jobs.items() if name not in ended})

    def _has_passed(self, name: str) -> bool | None:
        """Return whether a canary has ended well; None if it has not ended, or if Slurm may start it again."""
        if name not in self._passed:
            try:
                run = run_folder.RunFolder.read(os.path.join(self.canaries.folder, name))
            except FileNotFoundError:
                return None
            has_failed = claims.how_ended(run, self.canaries.tickets.get(name)) == states.FAILED
            if run.ended is None and not has_failed:
                return None
            self._passed[name] = run.ended is not None
        return self._passed[name]


def _dependency_arguments(command: Iterable[str]) -> list[str]:
    return [argument for argument in command if argument.startswith(_OPTION)]


def fill_in_jobs(command: list[str], jobs: Mapping[str, str]) -> list[str]:
    """Return a command of sbatch with the Slurm jobs of its canaries; canaries without a job are not waited for."""
    if not _dependency_arguments(command):
        return command
    filled = []
    # a dependency cannot name a cluster
    local_ids = {name: re.sub(";[^:]*", "", job) for name, job in jobs.items()}
    for argument in command:
        if argument.startswith(_OPTION):
            parts = [_PLACEHOLDER.sub(lambda match: f":{local_ids[match[1]]}" if match[1] in local_ids else "", part)
                     for part in argument.removeprefix(_OPTION).split(",")]
            parts = [part for part in parts if part not in ("afterok", "afterany")]
            if parts:
                filled.append(f"{_OPTION}{','.join(parts)}")
        else:
            filled.append(argument)
    return filled


def without_canaries(calls: Iterable[SbatchCall]) -> list[SbatchCall]:
    """Return the calls without dependencies on canaries, for `sbatch --test-only`: the canaries have no jobs yet."""
    return [call._replace(command=[argument for argument in fill_in_jobs(call.command, {})
                                   if argument != "--kill-on-invalid-dep=yes"]) for call in calls]
