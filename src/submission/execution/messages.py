"""Reports of a submission while it is executed: commands to type next, and messages to the user's addresses."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from src.errors import BatchError
from src.submission.planning.submission_plan import SubmissionPlan
from src.submission.status.notify import Notifier
from src.submission.system import terminal


def next_steps(*steps: tuple[str, str]) -> str:
    """Return pairs of a command and what it does as aligned lines."""
    return "\n".join(terminal.table(steps, indent="  "))


def submission_document(plan: SubmissionPlan, exit_code: int) -> dict[str, Any]:
    """Return what a submission did, as submit_multiple.py prints it with --json."""
    from src.submission.status import status  # loaded only if it is asked for
    from src.submission.status.observe import observe

    observation, = observe([plan.batch])
    runs = [observation.runs[name] for name in plan.to_submit if name in observation.runs]
    return {"batch": plan.batch, "exit_code": exit_code, "runs": [
        {"name": row.run, "folder": run.path, "state": row.state, "slurm_job": row.slurm_job}
        for run, row in zip(runs, status.rows(runs), strict=True)]}


@contextlib.contextmanager
def failure_sent(notifier: Notifier) -> Iterator[None]:
    """Send a message if a BatchError stops the submission."""
    try:
        yield
    except BatchError as error:
        notifier.send("failed", error.what)
        raise
