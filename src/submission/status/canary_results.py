"""What the end of a canary means: why runs that waited for it never began, and how status tells of canaries."""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace

from src import run_folder
from src.errors import one_line
from src.submission.batch import claims
from src.submission.batch.journal import History
from src.submission.status import failures, states
from src.submission.status.observation import Observation, Run

# a canary in one of these has ended otherwise than well: the runs that wait for it do not run
UNSUCCESSFUL = failures.UNSUCCESSFUL - {states.STUCK}
_WIDTH = 80  # of an error in a reason: a log comes after it
_NEVER_BEGAN = (states.NEW, states.CANCELLED, states.LOST, states.STUCK)


def canary_folder(batch: str) -> str:
    """The folder of a batch's canaries: run folders and journals, as in a batch."""
    return os.path.join(batch, run_folder.CANARY)


def explain_failure(first: Run) -> str:
    """`its canary failed: ValueError: no; see results/x/canary/y/training.log`."""
    line = one_line(first.state.why)
    line = line if len(line) <= _WIDTH else f"{line[:_WIDTH - 1]}…"
    return f"its canary {_told(first.state.name)}{f': {line}' if line else ''}; see {failures.newest_log(first)}"


def _told(state: str) -> str:
    words = state.replace("_", " ")
    return f"was {words}" if state in (states.CANCELLED, states.PREEMPTED, states.LOST) else \
        "failed" if state == states.FAILED else f"ended: {words}"


def canary_by_run(history: History) -> dict[str, str]:
    """The canary that each run waits for, or waited for, under its newest ticket."""
    found: dict[str, str] = {}
    for plan in history.all_plans():
        names = list(plan["tickets"])
        ours = {names[position]: first for first, positions in plan.get("canaries", {}).items()
                for position in positions}
        for name in names if "canary" in plan else ():  # not of a worker's successor
            ticket = history.tickets.get(name)
            if ticket and ticket.number == plan["tickets"][name]:
                found.pop(name, None)
                if name in ours:
                    found[name] = ours[name]
    return found


def with_canaries(observation: Observation, canaries: Mapping[str, Run]) -> Observation:
    """The batch with its canaries, and why runs whose canary ended badly never began: Slurm has cancelled them, or it
    was left to nobody to start them."""
    runs = dict(observation.runs)
    bad = {name: explain_failure(first) for name, first in canaries.items() if first.state.name in UNSUCCESSFUL}
    for name, first in (canary_by_run(observation.history) if bad else {}).items():
        run = runs.get(name)
        if run and first in bad and _never_began(run, observation.queue_answered):
            stuck = run.state.name == states.STUCK
            runs[name] = run._replace(state=run.state._replace(name=states.STUCK if stuck else states.CANCELLED,
                                                              why=bad[first]))
    return replace(observation, runs=runs, canaries=dict(canaries))


def _never_began(run: Run, queue_answered: bool) -> bool:
    if run.folder is None or claims.is_claimed(run.folder, run.ticket):
        return False
    return run.state.name in _NEVER_BEGAN or run.state.name == states.UNKNOWN and queue_answered


def status_lines(canaries: Iterable[Run]) -> list[str]:
    """`canaries   1 done, 1 failed`, and a line for each group of those that went wrong."""
    runs = list(canaries)
    if not runs:
        return []
    numbers = {name: sum(run.state.name == name for run in runs) for name in states.ALL}
    told = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in numbers.items() if number)
    return [f"canaries   {told}", *(f"  {group.line()}" for group in failures.group_failures(runs))]
