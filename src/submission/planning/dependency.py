"""Start the runs of a batch after those of another batch (--after), by a dependency of Slurm."""
from __future__ import annotations

from src.errors import BatchError, experiments_command, retry_command
from src.submission.status import retry_policy, states
from src.submission.status.observation import Observation
from src.submission.system.terminal import count

_CAN_BE_WAITED_FOR = frozenset((states.PENDING, states.RUNNING))


def dependency_options(observation: Observation) -> dict[str, str]:
    """Return the sbatch options that hold jobs back until every run of a batch has ended well; none if all have.

    BatchError if a run failed or is not submitted. BatchError, too, for runs without a Slurm job, and for those of
    workers: the Slurm job of a worker may end well and leave runs to its successor.
    """
    batch = observation.path
    open_runs = [run for run in observation.runs.values() if run.state.name not in retry_policy.CLOSED]
    not_waitable = [run for run in open_runs if run.state.name not in _CAN_BE_WAITED_FOR]
    if not_waitable:
        raise BatchError(f"{count(len(not_waitable), 'run')} of this batch cannot be waited for "
                         f"({not_waitable[0].name}: {states.shown(not_waitable[0].state.name)})",
                         where=f"--after {batch}",
                         hint=f"`{retry_command(batch)}` submits again what failed")
    tickets = observation.history.tickets
    if any(not run.state.slurm_job or run.name in tickets and tickets[run.name].shared for run in open_runs):
        raise BatchError("its runs have no Slurm jobs of their own, so that Slurm cannot wait for them",
                         where=f"--after {batch}",
                         hint=f"use `{experiments_command('wait', batch)} && python submit_multiple.py …`")
    jobs = dict.fromkeys(run.state.slurm_job.partition(";")[0] for run in open_runs if run.state.slurm_job)
    return {"dependency": f"afterok:{':'.join(jobs)}", "kill-on-invalid-dep": "yes"} if jobs else {}
