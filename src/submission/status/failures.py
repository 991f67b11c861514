"""What went wrong, told shortly: failures by their last line with a log to read, and nodes that are better avoided."""
from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from src import logs
from src.errors import one_line
from src.submission.status import states
from src.submission.status.observation import Run

UNSUCCESSFUL = frozenset((*states.RETRIED - {states.NEW}, states.STUCK))  # states that say that something went wrong
_SUSPECT = 3  # failed attempts on a node, and none that ended there, before it is avoided


@dataclass(frozen=True)
class FailureGroup:
    """Runs in one state with like last lines. error: the line of the first of them; log: a file to read, or a run."""

    state: str
    error: str
    runs: list[Run]
    log: str

    def line(self) -> str:
        """`3 failed: ValueError: no (results/x/000_x/training.log)`."""
        error = f": {one_line(self.error[:200])}" if self.error else ""
        return f"{len(self.runs):,} {self.state.replace('_', ' ')}{error} ({self.log})"


def group_failures(runs: Iterable[Run]) -> list[FailureGroup]:
    """The runs that went wrong, by state and normalised last line; the largest group first."""
    normalised: dict[str, str] = {}
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.state.name in UNSUCCESSFUL:
            why = run.state.why
            if why not in normalised:
                normalised[why] = logs.normalize_error(why)
            groups.setdefault((run.state.name, normalised[why]), []).append(run)
    return [FailureGroup(state, members[0].state.why, members, newest_log(members[0])) for (state, _), members
            in sorted(groups.items(), key=lambda item: -len(item[1]))]


def requests_memory(options: Iterable[str]) -> bool:
    """Whether sbatch options, as KEY=VALUE, say how much memory a Slurm job gets."""
    return any(re.match(r"mem(?:[-_]per[-_](?:cpu|gpu))?=", option) for option in options)


def newest_log(run: Run) -> str:
    """The newest log of a run; its folder if there is none."""
    return (logs.log_paths(run.path) or [run.path])[-1]


def nodes_to_avoid(runs: Iterable[Run]) -> dict[str, str]:
    """The nodes that a retry should not use, and why.

    A node that failed under a run; and one on which three runs or more failed and none ended, while runs ended on
    others.
    """
    runs = list(runs)
    down: dict[str, int] = {}
    failed: dict[str, int] = {}
    for run in runs:
        if run.state.name in (states.NODE_FAILED, states.FAILED) and (node := _node(run)):
            counted = down if run.state.name == states.NODE_FAILED else failed
            counted[node] = counted.get(node, 0) + 1
    suspects = {node: number for node, number in failed.items() if number >= _SUSPECT}
    if suspects:  # only then are the records of the runs that ended worth their reading
        fine = {node for run in runs if run.state.name in states.ENDED_WELL and (node := _node(run))}
        suspects = {node: number for node, number in suspects.items() if node not in fine} if fine else {}
    return {**{node: f"{number} attempts failed there, none ended, and others ended elsewhere"
               for node, number in suspects.items()},
            **dict.fromkeys(down, "it failed")}


def _node(run: Run) -> str | None:
    """The node, as Slurm calls it, of a run's last attempt; None without one, or outside Slurm."""
    attempt = run.attempt or (run.folder.last_attempt() if run.folder else None) or {}
    return (attempt.get("node") or attempt.get("host")) if attempt.get("slurm_job") else None
