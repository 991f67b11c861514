"""Observe batches: the state of every run, from one squeue, at most one sacct, and one listing of each folder."""
from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from src import garbage_collection, run_folder
from src.run_folder import RunFolder
from src.submission.batch import claims, heartbeat, journal
from src.submission.batch.journal import History, Ticket
from src.submission.batch.sync_markers import SyncMarker
from src.submission.slurm import client, error_log
from src.submission.slurm.client import Accounting, Queue
from src.submission.status import retry_policy, states
from src.submission.status.observation import Observation, Run
from src.submission.status.states import Evidence, State
from src.submission.system import process


class _RunFiles(NamedTuple):
    """One run as its files show it.

    folder: None if it was deleted; number: of the newest ticket, including one taken by calling train.py directly;
    claim: identity of the process that holds the ticket; synced_from: marker of the machine that runs it, if it is not
    this one; problem: why its files cannot be read.
    """

    name: str
    path: str
    folder: RunFolder | None
    ticket: Ticket | None
    number: int
    claim: dict[str, Any]
    attempt: dict[str, Any] | None
    synced_from: SyncMarker | None
    problem: str = ""

    def may_be_queued(self) -> bool:
        """Return whether Slurm must be queried for the run."""
        if self.synced_from or self.folder is not None and self.folder.ended is not None or self.is_paused():
            return False
        if self.claim:
            return bool(self.claim.get("slurm_job"))
        return self.ticket is not None and self.ticket.mode == journal.SLURM and (
            self.ticket.sent or bool(self.ticket.slurm_jobs))

    def clusters(self) -> set[str]:
        """Return the clusters that the run's jobs may be on; "" for that of this machine."""
        jobs = self.ticket.slurm_jobs if self.ticket else []
        return {job.partition(";")[2] for job in jobs} or (self.ticket and self.ticket.clusters) or {""}

    def is_queued(self, queue: Queue) -> bool:
        """Return whether squeue lists a known job of the run."""
        job = self.claim.get("slurm_job")
        jobs = [job] if job else self.ticket.slurm_jobs if self.ticket else []
        return any(map(queue.find, jobs))

    def progress(self) -> tuple[Any, ...]:
        """Return what changes when the run is submitted, starts or ends."""
        attempt = self.attempt or {}
        return (self.number, len(self.ticket.slurm_jobs) if self.ticket else 0, attempt.get("ticket"),
                attempt.get("number"), attempt.get("how"))

    def is_paused(self) -> bool:
        """Return whether the last attempt under the newest ticket has paused at a rung of its search."""
        attempt = self.attempt or {}
        return attempt.get("ticket") == self.number and attempt.get("how") == run_folder.PAUSED

    def is_started(self) -> bool:
        """Return whether an attempt under the newest ticket has not recorded its end."""
        attempt = self.attempt or {}
        return attempt.get("ticket") == self.number and not attempt.get("how")


class SlurmView:
    """The answers of squeue and sacct to the last query, from which several observations can be made.

    is_due: whether the next observation queries Slurm; was_queried: whether the last one did, or needed no query;
    is_outdated: whether files have changed since the query in a way that only Slurm can explain.
    """

    def __init__(self) -> None:
        self.is_due, self.was_queried, self.is_outdated = True, False, False
        self.queue, self.accounting = Queue(), Accounting()
        self._progress: dict[str, tuple[Any, ...]] = {}  # of each run, at the query

    def update(self, open_runs: list[_RunFiles]) -> None:
        """Query Slurm about the runs that it may have, if that is due."""
        self.is_outdated = False
        self.was_queried = self.is_due or not open_runs
        if not open_runs:
            self.queue, self.accounting, self._progress = Queue(), Accounting(), {}
        elif self.is_due:
            clusters = {cluster for files in open_runs for cluster in files.clusters()}
            self.queue = client.squeue(clusters)
            # a run that squeue lists does not need sacct
            times = [files.ticket.time for files in open_runs if files.ticket and not files.is_queued(self.queue)]
            self.accounting = client.sacct(min(times), clusters) if times else Accounting()
            self._progress = {files.path: files.progress() for files in open_runs}

    def revise(self, files: _RunFiles, state: State) -> State:
        """Return the state of a run in view of what its files show since the query: a run that has started is running.

        Only Slurm shows how a run has ended that has stopped or is lost.
        """
        if state.name not in (*retry_policy.ALIVE, states.UNKNOWN, states.LOST) or not files.may_be_queued():
            return state
        if self._progress.get(files.path) == files.progress():
            self.is_outdated |= state.name == states.LOST
        elif files.is_started():
            return State(states.RUNNING, "", files.claim.get("slurm_job"))
        else:
            self.is_outdated = True
        return state


class _Processes:
    """Checks whether processes are alive: each once, as all runs of a submission name the same ones."""

    def __init__(self) -> None:
        self._alive: dict[tuple[Any, ...], bool | None] = {}

    def is_alive(self, identity: dict[str, Any]) -> bool | None:
        """Return whether the process is alive; None if that cannot be determined on this machine."""
        key = (identity.get("boot_id"), identity.get("pid"), identity.get("pid_start"))
        if key not in self._alive:
            self._alive[key] = process.is_alive(identity)
        return self._alive[key]


class _Answers(NamedTuple):
    """The evidence outside the files of a run: squeue, sacct, processes, and the time of the observation.

    batch_clocks: the time on the file system of each batch, as far as it was needed;
    taken: the runs that have not recorded an end, by the Slurm job that claimed them;
    worker_ages: the seconds since a sign of life of the runs of a Slurm job, as far as they were needed.
    """

    slurm: SlurmView
    processes: _Processes
    now: float
    batch_clocks: dict[str, float]
    taken: Mapping[str, list[_RunFiles]]
    worker_ages: dict[str, float]

    def heartbeat_age(self, files: _RunFiles) -> float:
        """Return the seconds since a sign of life: in the run's files, of its last attempt; of a run that waits for
        workers, in those of the runs that these have taken.
        """
        if not files.ticket or not files.ticket.shared or files.claim:
            return self._age(files)
        jobs = [job.partition(";")[0] for job in files.ticket.slurm_jobs]
        for job in jobs:
            if job not in self.worker_ages:
                self.worker_ages[job] = min(map(self._age, self.taken.get(job, ())), default=math.inf)
        return min((self.worker_ages[job] for job in jobs), default=math.inf)

    def _age(self, files: _RunFiles) -> float:
        if files.folder is None or files.attempt is None or files.attempt.get("how"):
            return math.inf
        batch = os.path.dirname(files.path)
        if batch not in self.batch_clocks:
            self.batch_clocks[batch] = heartbeat.file_system_time(batch)
        return heartbeat.age(files.folder, files.attempt, self.batch_clocks[batch])


def observe(batches: Iterable[str], slurm: SlurmView | None = None, read_only: bool = False) -> list[Observation]:
    """Observe all runs of the batches. Slurm is queried only if a run that has not ended was submitted to it.

    slurm: earlier answers, to use again as long as no query is due.
    read_only: take the time from this machine; otherwise a temporary file may be made to read the file system's clock.
    """
    paths = list(batches)
    with_canaries = [path for path in paths if os.path.isdir(os.path.join(path, run_folder.CANARY))]
    with garbage_collection.paused(freeze=True):
        observations = _observe([*paths, *(os.path.join(path, run_folder.CANARY) for path in with_canaries)],
                                slurm or SlurmView(), read_only)
    if not with_canaries:
        return observations
    from src.submission.status import canary_results  # few batches have canaries

    canaries = {path: item.runs for path, item in zip(with_canaries, observations[len(paths):], strict=True)}
    return [canary_results.with_canaries(item, canaries.get(item.path, {})) for item in observations[:len(paths)]]


def _observe(batches: Sequence[str], slurm: SlurmView, read_only: bool) -> list[Observation]:
    # Read the names of folders before the journals: the plan of a new run is written before its folder, so that every
    # run found has its ticket.
    names = [(path, _run_names(path)) for path in batches]
    batch_files = []
    for path, run_names in names:
        history = journal.read_history(path)
        batch_files.append((path, history, [_read(path, name, history) for name in _with_deleted(run_names, history)]))
    slurm.update([files for _, _, runs in batch_files for files in runs if files.may_be_queued()])
    taken: dict[str, list[_RunFiles]] = {}
    for files in (files for _, _, runs in batch_files for files in runs if files.is_started()):
        taken.setdefault(files.claim.get("slurm_job") or "", []).append(files)
    now = time.time()
    answers = _Answers(slurm, _Processes(), now, dict.fromkeys(batches, now) if read_only else {}, taken, {})

    def conclude(files: _RunFiles, history: History) -> Run:
        run = _conclude(files, answers)
        if run.state.name != states.LOST:
            return run
        # it may have ended well after its folder was read and before its process or Slurm job was checked
        return _conclude(_read(os.path.dirname(files.path), files.name, history), answers)

    return [Observation(path, history, _with_error_logs(
        {files.name: conclude(files, history) for files in runs}, history), slurm.queue.answered)
        for path, history, runs in batch_files]


def _with_error_logs(runs: dict[str, Run], history: History) -> dict[str, Run]:
    """Add the files that submit scripts name by --error; most name none."""
    for plan in history.recorded_plans:
        if pattern := error_log.pattern_of_plan(plan):
            for name, ticket in plan["tickets"].items():
                run, planned = runs.get(name), history.tickets.get(name)
                job = run and (run.state.slurm_job or (run.attempt or {}).get("slurm_job")) or (
                    planned.slurm_jobs[-1] if planned and planned.slurm_jobs else None)
                if run and job and run.ticket == ticket:
                    runs[name] = _with_error_log(run, error_log.expand(pattern, job))
    return runs


def _with_error_log(run: Run, path: str) -> Run:
    state = run.state
    output = state.why.removeprefix(states.OUTPUT_NOT_OPENED)
    if output != state.why:
        state = state._replace(why=f"{states.OUTPUT_NOT_OPENED}{path} or {output}")
    return run._replace(state=state, error_log=path)


def _run_names(path: str) -> list[str]:
    """The runs that have a folder; other folders, for example of plots, are left out."""
    return [name for name in run_folder.run_names(path)
            if name[0].isdigit() or run_folder.is_run_folder(os.path.join(path, name))]


def _with_deleted(names: list[str], history: History) -> list[str]:
    """Append the runs whose folder was deleted."""
    present = frozenset(names)
    return names + [name for name in history.tickets if name not in present]


def _read(batch: str, name: str, history: History) -> _RunFiles:
    path = f"{batch}/{name}"
    ticket = history.tickets.get(name)
    planned = ticket.number if ticket else 0
    synced_from = history.sync_marker_of(name)
    try:
        folder = RunFolder.read(path)
    except FileNotFoundError:
        return _RunFiles(name, path, None, ticket, planned, {}, None, synced_from)
    except OSError as error:
        problem = f"{os.path.basename(error.filename or path)} cannot be read: {error.strerror}"
        return _RunFiles(name, path, None, ticket, planned, {}, None, synced_from, problem)
    number = max(planned, folder.claims[-1]) if folder.claims else planned
    if folder.ended is not None:
        return _RunFiles(name, path, folder, ticket, number, {}, None, synced_from)
    if number > planned:  # train.py was called by hand
        identity = folder.claim(number)
        job = identity.get("slurm_job")
        if synced_from and process.is_alive(identity) is not None:
            synced_from = None  # it was called on this machine
        ticket = Ticket(number, identity.get("time", 0.0), journal.SLURM if job else journal.LOCAL, identity,
                        slurm_jobs=[job] if job else [])
    attempt = folder.last_attempt()
    return _RunFiles(name, path, folder, ticket, number, claims.holder(folder, number, attempt), attempt, synced_from)


def _conclude(files: _RunFiles, answers: _Answers) -> Run:
    """Determine the state of a run."""
    host = files.synced_from.host if files.synced_from else None
    if files.problem:
        return Run(files.name, files.path, None, files.number, None, State(states.UNKNOWN, files.problem), host=host)
    if files.synced_from and (files.folder is None or files.folder.ended is None):
        state = _state_elsewhere(files.synced_from, files.name, files.attempt)
        return Run(files.name, files.path, files.folder, files.number, files.attempt, state, host=host)
    is_local = bool(files.claim) and not files.claim.get("slurm_job")
    submitter = files.ticket.submitter if files.ticket else {}
    evidence = Evidence(
        files.folder, files.ticket, answers.slurm.queue, answers.slurm.accounting, files.claim,
        answers.processes.is_alive(files.claim) if is_local else None,
        answers.processes.is_alive(submitter) if submitter else None, files.attempt, answers.now,
        partial(answers.heartbeat_age, files))
    state = states.state_of(evidence)
    if not answers.slurm.was_queried:
        state = answers.slurm.revise(files, state)
    queued = evidence.jobs if state.slurm_job and state.name in retry_policy.ALIVE else ()
    return Run(files.name, files.path, files.folder, files.number, files.attempt, state,
               tuple([job for job in queued if answers.slurm.queue.find(job)]), host,
               tuple(evidence.jobs) if state.name == states.UNKNOWN else ())


def _state_elsewhere(marker: SyncMarker, name: str, attempt: Mapping[str, Any] | None) -> State:
    """The state of a run of another machine that had not ended well when it was synced.

    Neither Slurm nor the processes of this machine show it. If it may be alive there, it is unknown, and never started
    here.
    """
    state, why = marker.states.get(name, ("", ""))
    if state in retry_policy.RETRIED - {states.NEW} | {states.DELETED}:
        return State(state, why)
    if not state and states.recorded_end(attempt or {}) == states.FAILED:
        return State(states.FAILED, str((attempt or {}).get("error") or ""))
    return State(states.UNKNOWN, f"{states.shown(state) or 'perhaps running'} on {marker.host}, as of {marker.when()}")
