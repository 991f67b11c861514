"""A batch that waits for another: what it asks of Slurm."""
from __future__ import annotations

from src.errors import BatchError, shell_command
from src.submission.status import retry_policy, states
from src.submission.status.observation import Observation
from src.submission.system.terminal import count

_WAITS = frozenset((states.PENDING, states.RUNNING))


def dependency(observation: Observation) -> dict[str, str]:
    """The sbatch options that hold jobs back until every run of a batch has ended well; none if all have.

    BatchError if a run failed, is not submitted, or runs where Slurm does not know when it has ended: locally, or in
    a worker, whose Slurm job may end well with runs left to its successor.
    """
    left = [run for run in observation.runs.values() if run.state.name not in retry_policy.ENDED_WELL]
    path = observation.path
    wrong = [run for run in left if run.state.name not in _WAITS]
    if wrong:
        retry = shell_command("python", "submit_multiple.py", "-r", path)
        raise BatchError(f"{count(len(wrong), 'run')} of this batch will not end by waiting ({wrong[0].name}: "
                         f"{wrong[0].state.name.replace('_', ' ')})", where=f"--after {path}",
                         hint=f"`{retry}` submits again what failed")
    tickets = observation.history.tickets
    if any(not run.state.slurm_job or run.name in tickets and tickets[run.name].shared for run in left):
        wait = shell_command("python", "experiments.py", "wait", path)
        raise BatchError("its runs are run by workers, for which Slurm cannot wait", where=f"--after {path}",
                         hint=f"`{wait} && python submit_multiple.py …` does")
    jobs = dict.fromkeys(run.state.slurm_job for run in left if run.state.slurm_job)
    return {"dependency": f"afterok:{':'.join(jobs)}", "kill-on-invalid-dep": "yes"} if jobs else {}
