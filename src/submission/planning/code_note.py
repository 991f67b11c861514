"""The line of a plan about code that has changed since runs of the batch were done: their results would be mixed."""
from __future__ import annotations

from typing import TYPE_CHECKING

from src import run_folder
from src.errors import listed
from src.submission.status import retry_policy
from src.submission.system.terminal import count

if TYPE_CHECKING:
    from src.submission.status.observation import Observation


def code_lines(project: str, observation: Observation) -> list[str]:
    """Return `code       differs from that of the 10 done runs: mine.py`; empty if it is that of the runs that ended
    well, or if there are none.
    """
    done = [run.path for run in observation.runs.values() if run.state.name in retry_policy.ENDED_WELL
            and run.files and run.files.names & {run_folder.FACTS, run_folder.CONFIG}]
    if not done:
        return []
    from src.code import code_versions  # few submissions add runs to such a batch

    names, number = code_versions.differences_from(project, observation.path, done)
    if not names:
        return []
    of_all = f"the {count(number, 'done run')}" if number == len(done) else f"{number} of {len(done)} done runs"
    return [f"code       differs from that of {of_all}: {listed(names, 3)}"]
