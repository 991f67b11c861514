"""Wait until the runs of batches have ended."""
from __future__ import annotations

import time
from collections.abc import Sequence

from src.errors import BatchError, shell_command
from src.submission.batch import journal
from src.submission.status import states
from src.submission.status.observation import Observation
from src.submission.status.observe import observe

# states that end by themselves; a stuck run does not
_WAITED_FOR = (states.SUBMITTED, states.PENDING, states.RUNNING, states.UNKNOWN)


def wait_for_batches(paths: Sequence[str], interval: float) -> list[Observation]:
    """Observe batches every `interval` seconds until no run can still end by itself. Return the last observations.

    BatchError for a copy of a batch, whose runs are on another machine.
    """
    for path in paths:
        reject_copy(path, "wait")
    while True:
        observations = observe(paths)
        if not any(run.state.name in _WAITED_FOR and not run.host
                   for observation in observations for run in observation.runs.values()):
            return observations
        time.sleep(interval)


def reject_copy(path: str, command: str) -> None:
    """BatchError if all of a batch was downloaded from another machine: only that machine knows what runs."""
    history = journal.read_history(path)
    if history.sync_markers and not history.plans:
        host = history.sync_markers[0].host
        remote_command = shell_command("python", "experiments.py", command, path, "--on", host)
        raise BatchError(f"this batch is a copy; its runs are on {host}", where=path,
                         hint=f"run `{remote_command}` instead")
