"""How many Slurm jobs may be queued at a time: as asked for, as the cluster says, and waiting until there is room."""
from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from src import run_folder
from src.errors import SlurmError
from src.submission.batch import journal
from src.submission.slurm import client

PAUSES = (2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # seconds between looks at a queue that is full; the last goes on


class QueueFull(Exception):
    """There is no room for another Slurm job, and nobody wants to wait."""


class QueueLimiter:
    """Lets Slurm jobs of a batch through while fewer than `most` of them are pending or running.

    most: None for no bound of our own; wait: for room, instead of raising Full.
    """

    def __init__(self, batch: str, max_queued: int | None, should_wait: bool) -> None:
        self.batch, self.max_queued, self.should_wait = batch, max_queued, should_wait
        self._left = 0  # that may be submitted before the next look
        self._full = 0  # looks in a row that found no room

    def acquire(self, jobs: int) -> bool:
        """Whether so many Slurm jobs may be submitted; if not, after a pause. Full if nobody wants to wait."""
        if self.max_queued is None or self._left >= jobs:
            return True
        queued = count_queued(self.batch, client.squeue())
        self._left = 0 if queued is None else self.max_queued - queued
        if self._left >= jobs:
            return True
        if not self.should_wait and queued is None:
            raise SlurmError("squeue does not answer, and --max-queued needs it", where=self.batch,
                             hint="give the same command again later, or --wait too")
        if not self.should_wait:
            raise QueueFull
        self.back_off()
        return False

    def submitted(self, jobs: int) -> None:
        """So many were submitted."""
        self._left -= jobs
        self._full = 0

    def back_off(self) -> None:
        """Wait before the next look, longer each time until there is room."""
        time.sleep(PAUSES[min(self._full, len(PAUSES) - 1)])
        self._full += 1


def count_queued(batch: str, queue: client.Queue) -> int | None:
    """How many of the batch's Slurm jobs, array tasks apart, are pending or running; None if squeue did not answer."""
    if not queue.answered:
        return None
    tokens = {name.removesuffix(".jsonl") for path in (batch, os.path.join(batch, run_folder.CANARY))
              for name in _listing(os.path.join(path, run_folder.SUBMISSIONS))}
    return sum(job.comment.startswith(journal.COMMENT_PREFIX)
               and job.comment.removeprefix(journal.COMMENT_PREFIX).rpartition("-")[0] in tokens
               for job in queue.jobs.values())


def _listing(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


@dataclass(frozen=True)
class Limit:
    """A bound on queued Slurm jobs, whose it is, and how many of this user's count towards it now."""

    maximum: int
    owner: str
    in_use: int

    def line(self, wanted: int) -> str:
        """`your account's limit: 100 queued, 12 in use; 88 of 108 can be queued now; …`."""
        room = max(0, self.maximum - self.in_use)
        return (f"{self.owner} limit: {self.maximum:,} queued, {self.in_use:,} in use; {min(room, wanted):,} of "
                f"{wanted:,} can be queued now; --wait goes on by itself, --workers N shares the runs among few jobs")


def tightest(asked: Mapping[str, str], wanted: int) -> Limit | None:
    """The cluster's limit that leaves least room, if `wanted` more Slurm jobs would reach it.

    asked: the options of the jobs, by long name. None also where Slurm does not say.
    """
    settings = client.query(["scontrol", "show", "config"]) or ""
    enforced = re.search(r"^AccountingStorageEnforce\s*=\s*(.*)", settings, re.MULTILINE)
    mine = [tuple(line.split("|")) for line in (client.query(
        ["squeue", "--me", "--noheader", "--array", "--format=%a|%q"]) or "").splitlines()]
    found = []
    if jobs := re.search(r"^MaxJobCount\s*=\s*(\d+)", settings, re.MULTILINE):
        found.append(Limit(int(jobs[1]), "the cluster's", len(mine)))
    if enforced and any(word in enforced[1] for word in ("limits", "safe", "all")):
        found += _of_accounts(asked, mine)
    binding = [limit for limit in found if limit.in_use + wanted > limit.maximum]
    return min(binding, key=lambda limit: limit.maximum - limit.in_use, default=None)


def _of_accounts(asked: Mapping[str, str], mine: Iterable[tuple[str, ...]]) -> list[Limit]:
    """What associations and the QOS allow this user."""
    mine = list(mine)
    user = client.query(["id", "-un"]) or ""
    found, quality = [], asked.get("qos", "")
    rows = _table(["associations", "where", f"user={user.strip()}"],
                  "account", "partition", "defaultqos", "maxsubmitjobs", "grpsubmitjobs")
    chosen = asked.get("account")
    if not chosen and len({row[0] for row in rows}) > 1:
        chosen = next((row[0] for row in _table(["user", user.strip()], "defaultaccount")), None)
    for account, partition, default, *bounds in rows:
        if account == (chosen or account) and partition in ("", asked.get("partition")):
            quality = quality or default
            used = sum(row[0] == account for row in mine)
            found += [Limit(int(bound), f"your account's ({account})", used) for bound in bounds if bound.isdecimal()]
    names = {quality or "normal"}
    if asked.get("partition"):
        shown = client.query(["scontrol", "show", "partition", asked["partition"]]) or ""
        names |= {name for name in re.findall(r"\bQoS=(\S+)", shown) if name != "N/A"}
    for name, *bounds in _table(["qos"], "name", "maxsubmitjobsperuser", "maxsubmitjobsperaccount", "grpsubmitjobs"):
        if name in names:
            used = sum(row[-1] == name for row in mine) if name == quality else len(mine)
            found += [Limit(int(bound), f"the QOS's ({name})", used) for bound in bounds if bound.isdecimal()]
    return found


def _table(what: list[str], *columns: str) -> list[list[str]]:
    """Rows of `sacctmgr show`; none if it does not answer."""
    output = client.query(["sacctmgr", "--noheader", "--parsable2", "show", *what, f"format={','.join(columns)}"]) or ""
    return [cells for line in output.splitlines() if len(cells := line.split("|")) == len(columns)]
