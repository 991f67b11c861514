"""Results of canaries: the runs that were held back because of them, and their lines in the status."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from src.errors import one_line
from src.submission.batch.journal import History
from src.submission.status import failures, states
from src.submission.status.observation import Observation, Run
from src.submission.status.retry_policy import CANARY_FAILED

_WIDTH = 80  # characters of an error in a reason, which the path of a log follows
_NEVER_STARTED = (states.NEW, states.CANCELLED, states.LOST, states.STUCK)  # states that a held-back run may have


def explain_failure(canary: Run) -> str:
    """Return `its canary failed: ValueError: no; see results/x/canary/y/training.log`."""
    error = one_line(canary.state.why)
    error = error if len(error) <= _WIDTH else f"{error[:_WIDTH - 1]}…"
    return f"its canary {_verb(canary.state.name)}{f': {error}' if error else ''}; see {failures.newest_log(canary)}"


def _verb(state: str) -> str:
    if state == states.FAILED:
        return "failed"
    is_participle = state in (states.CANCELLED, states.PREEMPTED, states.LOST)
    return f"was {state}" if is_participle else f"ended: {states.shown(state)}"


def canary_by_run(history: History) -> dict[str, str]:
    """Return the canary that each run waits for, or waited for, under its newest ticket."""
    canary_of: dict[str, str] = {}
    for plan in history.all_plans():
        if "canary" not in plan:  # the plan of a worker's successor
            continue
        names = list(plan["tickets"])
        planned = {names[position]: canary for canary, positions in plan.get("canaries", {}).items()
                   for position in positions}
        for name in names:
            ticket = history.tickets.get(name)
            if ticket and ticket.number == plan["tickets"][name]:
                canary_of.pop(name, None)
                if name in planned:
                    canary_of[name] = planned[name]
    return canary_of


def with_canaries(observation: Observation, canaries: Mapping[str, Run]) -> Observation:
    """Add a batch's canaries. Give each run that a failed canary held back the canary's error as its reason.

    Slurm has cancelled such a run, or keeps it in the queue, or no worker has started it.
    """
    runs = dict(observation.runs)
    reasons = {name: explain_failure(canary) for name, canary in canaries.items() if canary.state.name in CANARY_FAILED}
    for name, canary in (canary_by_run(observation.history) if reasons else {}).items():
        run = runs.get(name)
        if run and canary in reasons and _never_started(run, observation.queue_answered):
            state = states.STUCK if run.state.name == states.STUCK else states.CANCELLED
            runs[name] = run._replace(state=run.state._replace(name=state, why=reasons[canary]))
    return observation._replace(runs=runs, canaries=dict(canaries))


def _never_started(run: Run, queue_answered: bool) -> bool:
    if run.files is None or run.ticket in run.files.claims:
        return False
    return run.state.name in _NEVER_STARTED or run.state.name == states.UNKNOWN and queue_answered


def status_lines(canaries: Iterable[Run]) -> list[str]:
    """Return `canaries   1 done, 1 failed`, and a line for each group of failures; empty without canaries."""
    runs = list(canaries)
    if not runs:
        return []
    counts = Counter(run.state.name for run in runs)
    summary = ", ".join(f"{counts[name]} {states.shown(name)}" for name in states.ALL if counts[name])
    return [f"canaries   {summary}", *(f"  {group.line()}" for group in failures.group_failures(runs))]
