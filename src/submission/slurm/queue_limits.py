"""Limits on queued Slurm jobs: --max-queued, the cluster's own, and waiting until there is room."""
from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence

from src import run_folder
from src.errors import SlurmError
from src.frozen import Frozen
from src.io import files
from src.submission.batch import journal
from src.submission.slurm import client

# seconds between queries of Slurm while the queue is full, as sites request; the last one repeats
PAUSES = (*[30.0] * 20, 60.0)


class QueueFull(Exception):
    """There is no room for another Slurm job, and the user does not want to wait."""


class QueueLimiter:
    """Delays the submission of Slurm jobs while `max_queued` jobs of the batch are pending or running.

    max_queued: None for no limit; should_wait: wait for room instead of raising QueueFull.
    """

    def __init__(self, batch: str, max_queued: int | None, should_wait: bool) -> None:
        self.batch, self.max_queued, self.should_wait = batch, max_queued, should_wait
        self._free = 0  # jobs that may be submitted before the next query
        self._attempts = 0  # queries in a row that found no room

    def acquire(self, jobs: int) -> bool:
        """Return whether this many jobs may be submitted; if not, after a pause. QueueFull without should_wait."""
        if self.max_queued is None or self._free >= jobs:
            return True
        clusters = {cluster for ticket in journal.read_history(self.batch).tickets.values()
                    for cluster in ticket.clusters}
        queued = count_queued(self.batch, client.squeue(clusters or None))
        self._free = 0 if queued is None else self.max_queued - queued
        if self._free >= jobs:
            return True
        if not self.should_wait and queued is None:
            raise SlurmError("squeue does not answer, and --max-queued needs it", where=self.batch,
                             hint="run the same command again later, or with --wait")
        if not self.should_wait:
            raise QueueFull
        self.back_off()
        return False

    def submitted(self, jobs: int) -> None:
        """Record that this many jobs were submitted."""
        self._free -= jobs
        self._attempts = 0

    def back_off(self) -> None:
        """Sleep before the next query, longer each time until jobs are submitted."""
        time.sleep(PAUSES[min(self._attempts, len(PAUSES) - 1)])
        self._attempts += 1


def count_queued(batch: str, queue: client.Queue) -> int | None:
    """Return how many Slurm jobs of the batch are queued, array tasks separately; None if squeue did not answer."""
    if not queue.answered:
        return None
    tokens = {name.removesuffix(".jsonl") for folder in (batch, os.path.join(batch, run_folder.CANARY))
              for name in files.list_folder(os.path.join(folder, run_folder.SUBMISSIONS))}
    return sum(job.comment.startswith(journal.COMMENT_PREFIX)
               and job.comment.removeprefix(journal.COMMENT_PREFIX).rpartition("-")[0] in tokens
               for job in queue.jobs.values())


class Limit(Frozen):
    """A limit on queued Slurm jobs.

    owner: whose limit it is, as "your account's"; in_use: this user's jobs that count towards it now.
    """

    maximum: int
    owner: str
    in_use: int

    def line(self, requested: int) -> str:
        """Return `your account's limit: 100 queued, 12 in use; 88 of 108 can be queued now; …`."""
        room = max(0, self.maximum - self.in_use)
        return (f"{self.owner} limit: {self.maximum:,} queued, {self.in_use:,} in use; {min(room, requested):,} of "
                f"{requested:,} can be queued now; --wait submits the rest as soon as there is room, --workers N "
                "shares the runs among few jobs")


def tightest(options: Mapping[str, str], jobs: int) -> Limit | None:
    """Return the cluster's limit that leaves the least room, if this many more Slurm jobs would exceed it.

    options: of the jobs, by long name. None also if Slurm does not report its limits.
    """
    settings = client.query(["scontrol", "show", "config"]) or ""
    enforced = re.search(r"^AccountingStorageEnforce\s*=\s*(.*)", settings, re.MULTILINE)
    queued = [tuple(line.split("|")) for line in (client.own_jobs("--format=%a|%q") or "").splitlines()]
    limits = []
    if max_jobs := re.search(r"^MaxJobCount\s*=\s*(\d+)", settings, re.MULTILINE):
        limits.append(Limit(int(max_jobs[1]), "the cluster's", len(queued)))
    if enforced and any(word in enforced[1] for word in ("limits", "safe", "all")):
        account_limits, qos = _account_limits(options, queued)
        limits += account_limits + _qos_limits(options, qos, queued)
    exceeded = [limit for limit in limits if limit.in_use + jobs > limit.maximum]
    return min(exceeded, key=lambda limit: limit.maximum - limit.in_use, default=None)


def _account_limits(options: Mapping[str, str], queued: Sequence[Sequence[str]]) -> tuple[list[Limit], str]:
    """The limits of this user's associations that apply to the jobs, and the QOS of the jobs, empty if unknown.

    queued: account and QOS of each job in the queue.
    """
    user = client.user_name()
    rows = _sacctmgr_rows(["associations", "where", f"user={user}"],
                          "account", "partition", "defaultqos", "maxsubmitjobs", "grpsubmitjobs")
    account = options.get("account")
    if not account and len({row[0] for row in rows}) > 1:
        account = next((row[0] for row in _sacctmgr_rows(["user", user], "defaultaccount")), None)
    limits, qos = [], options.get("qos", "")
    for row_account, partition, default_qos, *maxima in rows:
        if row_account == (account or row_account) and partition in ("", options.get("partition")):
            qos = qos or default_qos
            in_use = sum(job[0] == row_account for job in queued)
            limits += [Limit(int(maximum), f"your account's ({row_account})", in_use)
                       for maximum in maxima if maximum.isdecimal()]
    return limits, qos


def _qos_limits(options: Mapping[str, str], qos: str, queued: Sequence[Sequence[str]]) -> list[Limit]:
    """The limits of the jobs' QOS and of their partition's QOS."""
    names = {qos or "normal"}
    if partition := options.get("partition"):
        settings = client.query(["scontrol", "show", "partition", partition]) or ""
        names |= {name for name in re.findall(r"\bQoS=(\S+)", settings) if name != "N/A"}
    return [Limit(int(maximum), f"the QOS's ({name})",
                  sum(job[-1] == name for job in queued) if name == qos else len(queued))
            for name, *maxima in _sacctmgr_rows(
                ["qos"], "name", "maxsubmitjobsperuser", "maxsubmitjobsperaccount", "grpsubmitjobs")
            if name in names for maximum in maxima if maximum.isdecimal()]


def _sacctmgr_rows(entity: list[str], *columns: str) -> list[list[str]]:
    """Rows of `sacctmgr show`; empty if it does not answer."""
    output = client.query(["sacctmgr", "--noheader", "--parsable2", "show", *entity,
                           f"format={','.join(columns)}"]) or ""
    return [cells for line in output.splitlines() if len(cells := line.split("|")) == len(columns)]
