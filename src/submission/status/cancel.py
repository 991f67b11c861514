"""Cancel what is pending or running: Slurm jobs by scancel, local runs and their workers by SIGTERM."""
from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from src.errors import BatchError, shell_command
from src.submission.batch.journal import LOCAL
from src.submission.slurm import client
from src.submission.status import retry_policy, states
from src.submission.status.observation import Observation, Run
from src.submission.status.wait import reject_copy
from src.submission.system import process
from src.submission.system.terminal import count

_GRACE_SECONDS = 30.0  # for a local submission to stop its workers


@dataclass(frozen=True)
class Cancellation:
    """What `cancel` ends.

    batches: the batches that are cancelled as a whole
    runs: the runs to cancel, of these batches and single ones
    canaries: the canaries of these batches to cancel
    """

    batches: list[Observation]
    runs: list[Run]
    canaries: list[Run]

    @property
    def slurm_jobs(self) -> list[str]:
        """The ids of the Slurm jobs to cancel."""
        return sorted({job for run in (*self.runs, *self.canaries) for job in run.slurm_jobs})

    def summary(self) -> str:
        """Return for example `3 runs and 1 canary`."""
        canaries = f" and {len(self.canaries)} canar{'y' if len(self.canaries) == 1 else 'ies'}"
        return count(len(self.runs), "run") + canaries * bool(self.canaries)


def select(observations: Iterable[Observation], batches: Collection[str], runs: Collection[str],
           state_names: Sequence[str] | None) -> Cancellation | None:
    """Choose what to cancel; None if nothing of it is pending or running.

    observations: of the batches that were named and of those that hold the named runs
    batches, runs: normalised paths of the batches and run folders that were named
    state_names: cancel only runs in one of these states (None: all that are pending or running)
    BatchError if a Slurm job to cancel is a worker that has other runs too, or if a batch is a copy.
    """
    observations = list(observations)
    alive = [(observation, run) for observation in observations for run in observation.runs.values()
             if run.state.name in retry_policy.ALIVE]
    whole = [] if state_names else [observation for observation in observations if observation.path in batches]

    def is_selected(observation: Observation, run: Run) -> bool:
        if run.state.name not in (state_names or retry_policy.ALIVE):
            return False
        is_named = observation.path in batches or os.path.normpath(run.path) in runs
        return observation in whole or is_named and _can_be_ended(run)

    cancellation = Cancellation(
        whole, [run for observation, run in alive if is_selected(observation, run)],
        [canary for observation in whole for canary in observation.canaries.values()
         if canary.state.name in retry_policy.ALIVE])
    if not cancellation.runs and not cancellation.canaries:
        for observation in observations:
            if any(run.host and run.state.name == states.UNKNOWN for run in observation.runs.values()):
                reject_copy(observation.path, "cancel")
        return None
    _reject_shared_jobs(cancellation, [run for _, run in alive])
    return cancellation


def _can_be_ended(run: Run) -> bool:
    """Whether a single run has a Slurm job or a process; a run that waits for a local worker has neither."""
    return bool(run.slurm_jobs) or process.is_alive(_process_of(run)) is True


def _process_of(run: Run) -> dict[str, Any]:
    return (run.attempt or {}).get("who", {})


def _reject_shared_jobs(cancellation: Cancellation, alive: Iterable[Run]) -> None:
    """BatchError if a Slurm job to cancel also has runs that are to be kept."""
    jobs = set(cancellation.slurm_jobs)
    others = [run for run in alive if run not in cancellation.runs and jobs & set(run.slurm_jobs)]
    if others:
        whole_batch = shell_command("python", "experiments.py", "cancel", os.path.dirname(others[0].path))
        raise BatchError(f"the Slurm job of this run is a worker that has {count(len(others), 'other run')} too",
                         where=cancellation.runs[0].path, hint=f"`{whole_batch}` cancels all of them")


def cancel(cancellation: Cancellation) -> None:
    """Cancel the Slurm jobs, stop the local workers of whole batches, and terminate what else runs on this machine."""
    if cancellation.slurm_jobs:
        client.scancel(cancellation.slurm_jobs)
    for observation in cancellation.batches:
        _stop_local_workers(observation)
    for run in (*cancellation.runs, *cancellation.canaries):
        if not run.slurm_jobs and process.is_alive(_process_of(run)):
            os.kill(_process_of(run)["pid"], signal.SIGTERM)


def _stop_local_workers(observation: Observation) -> None:
    """Have the local submissions of a batch stop their workers, and wait until they have ended, 30 seconds at most."""
    submitters = {ticket.submitter["pid"]: ticket.submitter for ticket in observation.history.tickets.values()
                  if ticket.mode == LOCAL and process.is_alive(ticket.submitter)}
    for pid in submitters:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    while any(map(process.is_alive, submitters.values())) and time.monotonic() < deadline:
        time.sleep(0.05)
