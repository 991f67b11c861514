"""The retry policy: what each state means for a run, and whether `submit_multiple.py -r` submits it."""
from __future__ import annotations

from typing import NamedTuple

from src.submission.status import states

NO, YES, WITH_MORE_MEMORY = "no", "yes", "yes, with more memory or `--local`"


class Policy(NamedTuple):
    """The meaning of a state for a run.

    retry: whether `-r` submits it: NO, YES, or, if it requests memory or runs without Slurm, WITH_MORE_MEMORY;
    meaning: for the pages of the documentation;
    is_failure: whether it is listed among the failures;
    fails_canary: whether the runs that wait for a canary in this state are held back;
    restarts_canary: whether a canary in this state is submitted again by any submission, not only by `-r`.
    """

    retry: str
    meaning: str
    is_failure: bool = False
    fails_canary: bool = False
    restarts_canary: bool = False


def _failure(meaning: str, retry: str = YES) -> Policy:
    return Policy(retry, meaning, is_failure=True, fails_canary=True)


POLICIES: dict[str, Policy] = {
    states.NEW: Policy(YES, "not started, and no job or worker will start it", restarts_canary=True),
    states.SUBMITTED: Policy(NO, "its submission is under way: sbatch is called, or waits for room in the queue"),
    states.PENDING: Policy(NO, "waits in the queue, or for a worker"),
    states.RUNNING: Policy(NO, "runs"),
    states.STUCK: Policy(NO, "Slurm will not start it as it is: an administrator holds it, it exceeds a limit on one "
                         "job, or it requests what does not exist; the reason is shown", is_failure=True),
    states.DONE: Policy(NO, "trained to the end"),
    states.EARLY_STOPPED: Policy(NO, "stopped early by its own rule"),
    states.DIVERGED: Policy(NO, "stopped because its loss diverged"),
    states.PAUSED: Policy(NO, "a trial of a [search](search.md) that waits at a rung; its search may continue it"),
    states.FAILED: _failure("crashed, or has an error in its config; the last line of the error is shown"),
    states.TIMEOUT: _failure("reached the time limit"),
    states.OUT_OF_MEMORY: _failure("was killed for its memory use", WITH_MORE_MEMORY),
    states.PREEMPTED: _failure("was preempted, and Slurm did not requeue it"),
    states.NODE_FAILED: _failure("its node failed"),
    states.CANCELLED: _failure("was cancelled, or a dependency failed: another batch or "
                               "[its canary](submission.md#canaries)"),
    states.LOST: _failure("its process died without recording an exit status, or its job is in neither squeue nor "
                          "sacct and its heartbeat is old")._replace(restarts_canary=True),
    states.UNKNOWN: Policy(NO, "squeue or sacct did not answer, its heartbeat is fresh, it is on another machine or "
                           "was [synced from one](results.md#sync-results-from-a-cluster), or it is too early to "
                           "decide; `--force` submits it"),
    states.DELETED: Policy(NO, "its folder was deleted, by `experiments.py delete` or by hand; the command that made "
                           "the batch creates it again", restarts_canary=True),
}

# states in which nothing is left to do for a run
CLOSED = frozenset(state for state, policy in POLICIES.items() if policy.retry == NO) - {*states.MAYBE_ALIVE}
ENDED_WELL = CLOSED - {states.DELETED}
ALIVE, MAYBE_ALIVE = frozenset(states.ALIVE), frozenset(states.MAYBE_ALIVE)
RETRIED = frozenset(state for state, policy in POLICIES.items() if policy.retry != NO)
NEEDS_MORE_MEMORY = frozenset(state for state, policy in POLICIES.items() if policy.retry == WITH_MORE_MEMORY)
UNSUCCESSFUL = frozenset(state for state, policy in POLICIES.items() if policy.is_failure)
CANARY_FAILED = frozenset(state for state, policy in POLICIES.items() if policy.fails_canary)
CANARY_RESTARTED = frozenset(state for state, policy in POLICIES.items() if policy.restarts_canary)


def as_markdown() -> str:
    """Return the table of states for docs/guarantees.md."""
    rows = [f"| {states.shown(state)} | {policy.meaning} | {policy.retry} |" for state, policy in POLICIES.items()]
    return "\n".join(["| state | meaning | `-r` submits it |", "|---|---|---|", *rows])
