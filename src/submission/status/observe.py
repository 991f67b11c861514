"""The state of every run of some batches, from one squeue, at most one sacct, and one listing of each folder."""
from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from src import run_folder
from src.run_folder import RunFolder
from src.submission.batch import claims, journal
from src.submission.batch.journal import History, Ticket
from src.submission.batch.sync_markers import SyncMarker
from src.submission.slurm import client
from src.submission.slurm.client import Job, Queue
from src.submission.status import states
from src.submission.status.observation import Observation, Run
from src.submission.system import process


class _Evidence(NamedTuple):
    """What the file system says of one run, before Slurm is asked. highest: of the tickets that it has had."""

    name: str
    path: str
    folder: RunFolder | None
    ticket: Ticket | None
    highest: int
    claim: dict[str, Any]
    attempt: dict[str, Any] | None
    copy: SyncMarker | None


def observe(batches: Iterable[str]) -> list[Observation]:
    """Look at all runs of the batches. Slurm is asked only if some run that has not ended was given to it."""
    paths = list(batches)
    homes = [path for path in paths if os.path.isdir(os.path.join(path, run_folder.CANARY))]
    with _without_collector():
        found = _observe([*paths, *(os.path.join(path, run_folder.CANARY) for path in homes)])
    if not homes:
        return found
    from src.submission.status import canary_results  # few batches have them

    canaries = {path: item.runs for path, item in zip(homes, found[len(paths):], strict=True)}
    return [canary_results.with_canaries(item, canaries.get(item.path, {})) for item in found[:len(paths)]]


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    # hundreds of thousands of small objects, all of which stay: the collector would go through them in vain
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # else the collector's next turn goes through all of them
        if on:
            gc.enable()


def _observe(batches: Iterable[str]) -> list[Observation]:
    # folders before journals: of a run that joins a batch the plan comes first, and it would seem to have none else
    listed = [(path, _listed(path)) for path in batches]
    found = [(path, journal.read_history(path)) for path, _ in listed]
    evidence = [[_look(path, name, history) for name in _with_deleted(names, history)]
                for (_, names), (path, history) in zip(listed, found, strict=True)]
    open_runs = [item for items in evidence for item in items if _concerns_slurm(item)]
    queue = client.squeue() if open_runs else Queue()
    # A run that squeue shows needs no sacct.
    unseen = [item.ticket.time for item in open_runs if item.ticket and not _is_queued(item, queue)]
    accounting = client.sacct(min(unseen)) if unseen else {}
    alive = _AliveCache()
    now = time.time()

    def conclude(item: _Evidence, history: History) -> Run:
        run = _conclude(item, queue, accounting, alive, now)
        if run.state.name != states.LOST:
            return run
        # it may have ended well between the look at its folder and the one at its process or Slurm job
        again = _look(os.path.dirname(item.path), item.name, history)
        return _conclude(again, queue, accounting, alive, now)

    return [Observation(path, history, {item.name: conclude(item, history) for item in items}, queue.answered)
            for (path, history), items in zip(found, evidence, strict=True)]


def _listed(path: str) -> list[str]:
    """The runs that have a folder; a folder of plots that somebody put there is none."""
    return [name for name in run_folder.run_names(path)
            if name[0].isdigit() or run_folder.is_run_folder(os.path.join(path, name))]


def _with_deleted(names: list[str], history: History) -> list[str]:
    """And those whose folder was deleted."""
    present = frozenset(names)
    return names + [name for name in history.tickets if name not in present]


def _look(batch: str, name: str, history: History) -> _Evidence:
    path = f"{batch}/{name}"
    ticket = history.tickets.get(name)
    planned = ticket.number if ticket else 0
    copy = history.sync_marker_of(name)
    try:
        folder = RunFolder.read(path)
    except OSError:
        return _Evidence(name, path, None, ticket, planned, {}, None, copy)
    number = max(planned, folder.claims[-1]) if folder.claims else planned
    if folder.ended is not None:
        return _Evidence(name, path, folder, ticket, number, {}, None, copy)
    if number > planned:  # somebody ran train.py on it by hand
        who = folder.claim(number)
        job = who.get("slurm_job")
        if copy and process.is_alive(who) is not None:
            copy = None  # here, and not where the others are
        ticket = Ticket(number, who.get("time", 0.0), journal.SLURM if job else journal.LOCAL, who,
                        slurm_jobs=[job] if job else [])
    attempt = folder.last_attempt()
    return _Evidence(name, path, folder, ticket, number, claims.holder(folder, number, attempt), attempt, copy)


def _concerns_slurm(item: _Evidence) -> bool:
    if item.copy or item.folder is not None and item.folder.ended is not None:
        return False
    if item.claim:
        return bool(item.claim.get("slurm_job"))
    return item.ticket is not None and item.ticket.mode == journal.SLURM and (item.ticket.sent or bool(
        item.ticket.slurm_jobs))


def _is_queued(item: _Evidence, queue: Queue) -> bool:
    job = item.claim.get("slurm_job")
    jobs = [job] if job else item.ticket.slurm_jobs if item.ticket else []
    return any(job in queue.jobs for job in jobs)


class _AliveCache:
    """process.is_alive, asked once for each process: all runs of a submission name the same one."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], bool | None] = {}

    def __call__(self, who: dict[str, Any]) -> bool | None:
        key = (who.get("boot_id"), who.get("pid"), who.get("pid_start"))
        if key not in self._known:
            self._known[key] = process.is_alive(who)
        return self._known[key]


def _conclude(item: _Evidence, queue: Queue, accounting: dict[str, Job], alive: _AliveCache, now: float) -> Run:
    host = item.copy.host if item.copy else None
    if item.copy and (item.folder is None or item.folder.ended is None):
        return Run(item.name, item.path, item.folder, item.highest, item.attempt,
                   states.state_of_copy(item.copy, item.name, item.attempt), host=host)
    local = bool(item.claim) and not item.claim.get("slurm_job")
    claim_alive = alive(item.claim) if local else None  # of others, Slurm knows
    submitter_alive = alive(item.ticket.submitter) if item.ticket and item.ticket.submitter else None
    state = states.state_of(item.folder, item.ticket, queue, accounting, item.claim, claim_alive, submitter_alive,
                            item.attempt, now)
    queued = states.candidate_jobs(item.ticket, item.claim, queue) if (
        state.slurm_job and state.name in states.ALIVE) else ()
    return Run(item.name, item.path, item.folder, item.highest, item.attempt, state,
               tuple([job for job in queued if job in queue.jobs]), host)
