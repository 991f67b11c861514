"""Failures of a batch: grouped by the last line of the error, with a log to read, and the nodes to avoid in a retry."""
from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable

from src import logs, run_folder
from src.errors import one_line
from src.frozen import Frozen
from src.submission.status import retry_policy, states
from src.submission.status.observation import Run

_MIN_FAILURES = 3  # failed runs on a node on which none ended well, before the node is avoided


class FailureGroup(Frozen):
    """Runs in one state with similar errors. error: of the first of them; log: its newest log, or its folder."""

    state: str
    error: str
    runs: list[Run]
    log: str

    def line(self) -> str:
        """Return `3 failed: ValueError: no (results/x/000_x/training.log)`."""
        return f"{self.summary()} ({self.log})"

    def summary(self) -> str:
        """Return `3 failed: ValueError: no`."""
        error = f": {one_line(self.error[:200])}" if self.error else ""
        return f"{len(self.runs):,} {states.shown(self.state)}{error}"


def group_failures(runs: Iterable[Run]) -> list[FailureGroup]:
    """Group the runs that failed by state and normalized error; the largest group first."""
    normalized: dict[str, str] = {}
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.state.name in retry_policy.UNSUCCESSFUL:
            error = run.state.why
            if error not in normalized:
                normalized[error] = logs.normalize_error(error)
            groups.setdefault((run.state.name, normalized[error]), []).append(run)
    return [FailureGroup(state, members[0].state.why, members, newest_log(members[0]))
            for (state, _), members in sorted(groups.items(), key=lambda item: -len(item[1]))]


def requests_memory(options: Iterable[str]) -> bool:
    """Return whether sbatch options, as KEY=VALUE, request an amount of memory."""
    return any(re.match(r"mem(?:[-_]per[-_](?:cpu|gpu))?=", option) for option in options)


def newest_log(run: Run) -> str:
    """Return the newest log of a run; its folder if there is none."""
    return (log_paths(run) or [run.path])[-1]


def log_paths(run: Run) -> list[str]:
    """Return the paths of all logs of a run that are not empty, the one written last at the end.

    Before its start that is the output of its array or worker, and with --error the file of its errors.
    """
    paths = logs.log_paths(run.path)
    if not paths and run.state.slurm_job:
        array = run.state.slurm_job.partition(";")[0].partition("_")[0]
        paths = [os.path.join(os.path.dirname(run.path), run_folder.SUBMISSIONS, run_folder.slurm_log_name(array))]
    error_logs = glob.glob(run.error_log) if run.error_log else []
    paths += error_logs if len(error_logs) == 1 else []  # of several, others may be of other jobs
    return logs.newest_last(dict.fromkeys(paths))


def nodes_to_avoid(runs: Iterable[Run]) -> dict[str, str]:
    """Return the nodes that a retry should not use, with the reason.

    These are nodes that failed under a run, and nodes on which at least three runs failed and none ended well, while
    runs ended well on other nodes.
    """
    runs = list(runs)
    broken = _count_by_node(run for run in runs if run.state.name == states.NODE_FAILED)
    failures = _count_by_node(run for run in runs if run.state.name == states.FAILED)
    suspects = {node: number for node, number in failures.items() if number >= _MIN_FAILURES}
    if suspects:  # only then are the records of the runs that ended well read
        good = _count_by_node(run for run in runs if run.state.name in retry_policy.ENDED_WELL)
        suspects = {node: number for node, number in suspects.items() if node not in good} if good else {}
    return {**{node: f"{number} runs failed there, none ended well, and others ended well elsewhere"
               for node, number in suspects.items()},
            **dict.fromkeys(broken, "it failed")}


def _count_by_node(runs: Iterable[Run]) -> Counter[str]:
    return Counter(node for run in runs if (node := _node(run)))


def _node(run: Run) -> str | None:
    """The node of a run's last attempt, by its name in Slurm; None without an attempt, or outside Slurm."""
    attempt = run.attempt or (run.files.last_attempt() if run.files else None) or {}
    return (attempt.get("node") or attempt.get("host")) if attempt.get("slurm_job") else None
