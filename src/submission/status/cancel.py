"""Cancel what is pending or running: Slurm jobs by scancel, local runs and their workers by SIGTERM."""
from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from src.errors import BatchError, SlurmError, experiments_command, listed
from src.frozen import Frozen
from src.search import definition
from src.submission.batch import journal
from src.submission.batch.journal import LOCAL
from src.submission.slurm import client
from src.submission.status import retry_policy, states, wait
from src.submission.status.observation import Observation, Run
from src.submission.status.observe import observe
from src.submission.system import process
from src.submission.system.terminal import count

_NAMED = 10  # runs and Slurm jobs that a message lists
_PAUSES = (0.0, 1.0, 2.0, 4.0)  # seconds before each check whether cancelled runs have ended
_GRACE_SECONDS = 30.0  # for a local submission to stop its workers


class Cancellation(Frozen):
    """The runs and Slurm jobs that `cancel` ends.

    batches: the batches that are cancelled as a whole
    runs: the runs to cancel, of these batches and single ones
    canaries: the canaries of these batches to cancel
    workers: the Slurm jobs of these batches that choose trials of a search, whether or not they have one now
    """

    batches: list[Observation]
    runs: list[Run]
    canaries: list[Run]
    workers: Sequence[str] = ()

    @property
    def slurm_jobs(self) -> list[str]:
        """The ids of the Slurm jobs to cancel."""
        return sorted({job for run in (*self.runs, *self.canaries) for job in _jobs_of(run)})

    def summary(self) -> str:
        """Return for example `3 runs and 1 canary`."""
        canaries = f" and {len(self.canaries)} canar{'y' if len(self.canaries) == 1 else 'ies'}"
        workers = f" and {count(len(self.workers), 'worker')}" * bool(self.workers)
        return count(len(self.runs), "run") + canaries * bool(self.canaries) + workers


def select(observations: Iterable[Observation], batches: Collection[str], runs: Collection[str],
           state_names: Sequence[str] | None, by_id: bool = False) -> Cancellation | None:
    """Choose what to cancel; None if nothing of it is pending or running.

    observations: of the batches that were named and of those that hold the named runs
    batches, runs: normalized paths of the batches and run folders that were named
    state_names: cancel only runs in one of these states (None: all that are pending or running)
    by_id: also runs in the state unknown that have Slurm jobs in the journal
    BatchError if a Slurm job to cancel is a worker that has other runs too, or if a batch is a copy.
    """
    observations = list(observations)
    alive = [(observation, run) for observation in observations for run in observation.runs.values()
             if _is_alive(run, by_id)]
    whole = [] if state_names else [observation for observation in observations if observation.path in batches]

    def is_selected(observation: Observation, run: Run) -> bool:
        if state_names and run.state.name not in state_names:
            return False
        is_named = observation.path in batches or os.path.normpath(run.path) in runs
        return observation in whole or is_named and _can_be_ended(run)

    cancellation = Cancellation(
        whole, [run for observation, run in alive if is_selected(observation, run)],
        [canary for observation in whole for canary in observation.canaries.values()
         if _is_alive(canary, by_id)])
    searches = wait.search_workers(whole)
    _require_seen(searches, by_id)
    cancellation = cancellation._replace(workers=[job for workers in searches.values() for job in workers.slurm_jobs])
    if not cancellation.runs and not cancellation.canaries and not searches:
        for observation in observations:
            if any(run.host and run.state.name == states.UNKNOWN for run in observation.runs.values()):
                wait.reject_copy(observation.path, "cancel")
        return None
    _reject_shared_jobs(cancellation, [run for _, run in alive])
    return cancellation


def unverified(observations: Iterable[Observation], batches: Collection[str], runs: Collection[str]) -> list[Run]:
    """Return the named runs, and the canaries of the named batches, whose state is unknown."""
    selected = [run for observation in observations for run in observation.runs.values()
                if observation.path in batches or os.path.normpath(run.path) in runs]
    selected += [canary for observation in observations if observation.path in batches
                 for canary in observation.canaries.values()]
    return [run for run in selected if run.state.name == states.UNKNOWN and not run.host]


def unverified_error(runs: Sequence[Run], again: str) -> SlurmError:
    """Return the error that names the runs that could not be checked. again: the command that cancels by id."""
    jobs = list(dict.fromkeys(job for run in runs for job in run.unseen_jobs))
    hint = "run the same command again later"
    if jobs:
        hint += f", or `{again}` to cancel {_slurm_jobs(jobs)} by the ids in the journal"
    return SlurmError(f"it is unknown whether {count(len(runs), 'run')} still wait{'s' * (len(runs) == 1)} or "
                      f"run{'s' * (len(runs) == 1)} ({runs[0].state.why}): "
                      f"{listed([run.name for run in runs], _NAMED)}",
                      where=os.path.dirname(runs[0].path), hint=hint)


def _require_seen(searches: Mapping[str, wait.Workers], by_id: bool) -> None:
    """SlurmError if squeue did not list the workers of a search, unless they are cancelled by id."""
    for batch, workers in searches.items():
        if not workers.are_seen and not by_id:
            by_journal = experiments_command("cancel", batch, "--by-id")
            raise SlurmError("it is unknown whether workers of this search still wait or run (squeue did not answer); "
                             "nothing was cancelled", where=batch, hint=f"run the same command again later, or "
                             f"`{by_journal}` to cancel {_slurm_jobs(workers.slurm_jobs)} by the ids in the journal")


def _slurm_jobs(jobs: Sequence[str]) -> str:
    """Return `Slurm jobs 2, 3`, and how many there are beyond."""
    return f"Slurm job{'s' * (len(jobs) > 1)} {listed(jobs, _NAMED)}"


def _is_alive(run: Run, by_id: bool) -> bool:
    return run.state.name in retry_policy.ALIVE or by_id and bool(run.unseen_jobs)


def _jobs_of(run: Run) -> tuple[str, ...]:
    return run.slurm_jobs + run.unseen_jobs


def _can_be_ended(run: Run) -> bool:
    """Return whether a single run has a Slurm job or a process; a run that waits for a local worker has neither."""
    return bool(_jobs_of(run)) or process.is_alive(_process_of(run)) is True


def _process_of(run: Run) -> dict[str, Any]:
    return (run.attempt or {}).get("who", {})


def _reject_shared_jobs(cancellation: Cancellation, alive: Iterable[Run]) -> None:
    """Raise BatchError if a Slurm job, or the process of a stack, to cancel also has runs that are to be kept."""
    jobs = set(cancellation.slurm_jobs)
    processes = {_process_key(_process_of(run)) for run in cancellation.runs if _process_of(run)}
    kept = [run for run in alive if run not in cancellation.runs]
    in_jobs = [run for run in kept if jobs & set(_jobs_of(run))]
    if others := in_jobs or [run for run in kept if _process_key(_process_of(run)) in processes]:
        holder = "Slurm job of this run is a worker" if in_jobs else "process of this run trains a stack"
        whole_batch = experiments_command("cancel", os.path.dirname(others[0].path))
        raise BatchError(f"the {holder} that has {count(len(others), 'other run')} too",
                         where=cancellation.runs[0].path, hint=f"`{whole_batch}` cancels all of them")


def wait_for_ends(cancellation: Cancellation) -> list[Run]:
    """Wait a few seconds for cancelled runs to end. Return those that have not, as they are then."""
    paths = {os.path.normpath(run.path) for run in (*cancellation.runs, *cancellation.canaries)}
    batches = dict.fromkeys([*(observation.path for observation in cancellation.batches),
                             *(os.path.dirname(run.path) for run in cancellation.runs)])
    ending: list[Run] = []
    for pause in _PAUSES:
        time.sleep(pause)
        ending = [run for observation in observe(batches)
                  for run in (*observation.runs.values(), *observation.canaries.values())
                  if os.path.normpath(run.path) in paths and run.state.name in retry_policy.ALIVE]
        if not ending:
            break
    return ending


def describe_end(summary: str, left_alone: Sequence[str], ending: Sequence[Run]) -> list[str]:
    """Return the lines about what was cancelled, and what has not ended yet."""
    if left_alone:
        return ["cancelled, with these exceptions:"]
    if not ending:
        return [f"cancelled {summary}"]
    return [f"cancellation of {summary} requested; still ending: {listed([run.name for run in ending], _NAMED)}"]


class Outcome(NamedTuple):
    """The Slurm jobs and processes that `cancel` did not end.

    gone: ids of Slurm jobs that had ended already;
    left_alone: sentences about Slurm jobs and processes that the files of a batch name, but that are not of the batch
    """

    gone: list[str]
    left_alone: list[str]


def cancel(cancellation: Cancellation) -> Outcome:
    """Cancel the Slurm jobs, stop the local workers of whole batches, and terminate what else runs on this machine.

    The files of a batch may have been written by another user, so only jobs and processes that are provably of the
    batch are ended.
    """
    jobs, gone, left_alone = _verify_jobs((*cancellation.runs, *cancellation.canaries))
    jobs = sorted({*jobs, *cancellation.workers})
    gone += client.scancel(jobs) if jobs else []
    for observation in cancellation.batches:
        left_alone += _stop_local_workers(observation)
    for identity, folders in _processes(run for run in (*cancellation.runs, *cancellation.canaries)
                                        if not _jobs_of(run)):
        if process.is_alive(identity) and not process.terminate(identity, partial(_works_on_any, folders=folders)):
            left_alone.append(_left_alone(identity, folders[0]))
    return Outcome(gone, left_alone)


def _processes(runs: Iterable[Run]) -> list[tuple[dict[str, Any], list[str]]]:
    """Return the processes that execute runs, each with the folders of its runs: a stack has several."""
    processes: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for run in runs:
        identity = _process_of(run)
        processes.setdefault(_process_key(identity), (identity, []))[1].append(run.path)
    return list(processes.values())


def _process_key(identity: Mapping[str, Any]) -> str:
    return repr([identity.get(key) for key in ("host", "boot_id", "pid_space", "pid", "pid_start")])


def _works_on_any(pid: int, folders: Iterable[str]) -> bool:
    return any(process.works_on(pid, folder) for folder in folders)


def _left_alone(identity: Mapping[str, Any], folder: str) -> str:
    return (f"process {identity['pid']} was left alone, as neither its command line nor its open files are in {folder} "
            f"(`ps -fp {identity['pid']}` shows it)")


def _verify_jobs(runs: Sequence[Run]) -> tuple[list[str], list[str], list[str]]:
    """Return the Slurm jobs that this user submitted for their batch, by their comment; those that have ended; and a
    sentence about each other one.

    A job whose comment Slurm does not show is verified by its id, in a journal of this user.
    """
    jobs = {job: run for run in runs for job in _jobs_of(run)}
    if not jobs:
        return [], [], []
    queue = client.squeue({job.partition(";")[2] for job in jobs})
    submissions = {batch: journal.own_submissions(batch)
                   for batch in {os.path.dirname(run.path) for run in jobs.values()}}
    verified, gone, left_alone = [], [], []
    for job, run in sorted(jobs.items()):
        own = submissions[os.path.dirname(run.path)]
        row = queue.find(job)
        comment = row.comment if row else client.show_job(job).get("Comment")
        token, _, unit = (comment or "").removeprefix(journal.COMMENT_PREFIX).rpartition("-")
        if comment is None and job in run.unseen_jobs:
            is_own = any(client.array_of(job) in ids for ids in own.values())
        elif comment is None and queue.answered:
            gone.append(job)
            continue
        else:
            is_own = token in own and unit.isdecimal()
        if is_own:
            verified.append(job)
        else:
            left_alone.append(f"Slurm job {job} was left alone, as its comment is not of a submission of {run.path} by "
                              f"you (`scontrol show job {job}` shows it)")
    return verified, gone, left_alone


def _stop_local_workers(observation: Observation) -> list[str]:
    """Have the local submissions of a batch stop their workers, and wait until they have ended, 30 seconds at most.

    Return a sentence about each process that is not provably one of them.
    """
    open_submitters = [ticket.submitter for ticket in observation.history.tickets.values() if ticket.mode == LOCAL]
    if definition.is_search(observation.path):  # whose workers may have no run yet
        open_submitters += observation.history.open_submitters
    submitters = {submitter["pid"]: submitter for submitter in open_submitters if process.is_alive(submitter)}
    works_on = partial(process.works_on, folder=observation.path)
    stopped = [identity for identity in submitters.values() if process.terminate(identity, works_on)]
    deadline = time.monotonic() + _GRACE_SECONDS
    while any(map(process.is_alive, stopped)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [_left_alone(identity, observation.path) for identity in submitters.values()
            if identity not in stopped and process.is_alive(identity)]
