"""Cancel a run or a batch from the live screen, as `experiments.py cancel` does."""
from __future__ import annotations

import os

from src.errors import UserError, experiments_command
from src.submission.status import cancel
from src.submission.status.observe import observe


def cancel_now(batch: str, run: str | None) -> str:
    """Cancel a run by its path, or with None the batch, and wait a few seconds. Return a line about what happened."""
    batch = os.path.normpath(batch)
    batches, runs = ([], [os.path.normpath(run)]) if run else ([batch], [])
    try:
        observations = observe([batch])
        cancellation = cancel.select(observations, batches, runs, None)
        unverified = cancel.unverified(observations, batches, runs)
        if cancellation is None:
            if unverified:
                command = experiments_command("cancel", run or batch, "--by-id")
                return str(cancel.unverified_error(unverified, command))
            return "nothing is pending or running"
        gone, left_alone = cancel.cancel(cancellation)
        ending = [] if left_alone else cancel.wait_for_ends(cancellation)
    except UserError as error:
        return f"not cancelled: {'; '.join(filter(None, (error.what, error.hint)))}"
    except OSError as error:
        return f"not cancelled: {error}"
    return "; ".join(["; ".join(cancel.describe_end(cancellation.summary(), left_alone, ending)), *left_alone,
                      *([f"already ended or unknown to Slurm: {', '.join(gone)}"] if gone else [])])
