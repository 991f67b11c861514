"""What Slurm says of a cluster and of this user: partitions, node types, GPUs and accounts. Parsing is pure."""
from __future__ import annotations

import grp
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from src.submission.slurm import client, directives

# a feature of nodes that names a GPU, where Gres has no type: geforce_rtx_2080, a100_80gb, v100, mi250
_GPU_FEATURE = re.compile(r"(?i)(^|[_-])(geforce|tesla|quadro|rtx|gtx|titan|[abhlpvt]\d{1,3}|gh200|mi\d{2,3}|k\d{2})")
_GRES_GPU = re.compile(r"gpu(?::([\w.-]+?))?:(\d+)")
_NO_LIMIT = ("infinite", "UNLIMITED", "n/a", "NONE", "")


class NodeType(NamedTuple):
    """Nodes of a partition that are alike.

    gpu: type of their GPUs as Gres or a feature names it, "" if unnamed, None without GPUs
    by_feature: whether that name is a feature, so that --constraint chooses it
    """

    partition: str
    nodes: int
    cpus: int
    memory: int  # MB
    gpus: int
    gpu: str | None
    by_feature: bool

    @property
    def cpus_per_gpu(self) -> int:
        return max(1, self.cpus // max(1, self.gpus))

    @property
    def memory_per_gpu(self) -> int:
        """MB that a job with one of the GPUs may take without leaving another GPU without memory."""
        return self.memory // max(1, self.gpus)


class Partition(NamedTuple):
    """A partition that this user may use. limit: seconds, None without one; preempt: Slurm's mode, empty if it never
    preempts jobs here.
    """

    name: str
    is_default: bool
    limit: int | None
    preempt: str

    def description(self) -> str:
        """Return `limit 7-00:00:00, jobs may be preempted (requeue)`."""
        limit = f"limit {directives.format_time(self.limit)}" if self.limit else "no time limit"
        return f"{limit}, jobs may be preempted ({self.preempt.lower()})" if self.preempt else limit


class Site(NamedTuple):
    """A cluster as this user sees it.

    accounts: of this user, the default one first; empty without accounting
    """

    partitions: tuple[Partition, ...]
    nodes: tuple[NodeType, ...]
    accounts: tuple[str, ...]

    def with_gpu(self, gpu: str | None) -> list[Partition]:
        """Return the partitions with nodes that have this GPU (None: nodes of any kind), the most useful one first.

        For a GPU that is the one with most of them; for CPUs the default partition, then the one with most nodes.
        """
        def size(partition: Partition) -> tuple[bool, int]:
            return gpu is None and partition.is_default, sum(
                node.nodes * (node.gpus if gpu is not None else 1) for node in self.nodes_of(partition.name, gpu))

        return sorted((partition for partition in self.partitions if self.nodes_of(partition.name, gpu)), key=size,
                      reverse=True)

    def nodes_of(self, partition: str, gpu: str | None) -> list[NodeType]:
        """Return the node types of a partition that have this GPU; None: all."""
        return [node for node in self.nodes if node.partition == partition and gpu in (None, node.gpu)]

    def gpus(self) -> list[str]:
        """Return the GPU types in partitions that this user may use."""
        usable = {partition.name for partition in self.partitions}
        return sorted({node.gpu for node in self.nodes if node.gpu is not None and node.partition in usable})


def read_site(user: str) -> Site | None:
    """Ask Slurm. None if its controller does not answer."""
    partitions = client.query(["scontrol", "--all", "--oneliner", "show", "partition"])
    nodes = client.query(["sinfo", "--all", "--noheader", "--exact", "--format=%R|%D|%c|%m|%G|%f"])
    if partitions is None or nodes is None:
        return None
    associations = client.query(["sacctmgr", "--noheader", "--parsable2", "show", "associations", "where",
                                 f"user={user}", "format=account"]) or ""
    default = client.query(["sacctmgr", "--noheader", "--parsable2", "show", "user", user, "format=defaultaccount"])
    accounts = parse_accounts(associations, (default or "").strip())
    return Site(tuple(parse_partitions(partitions, accounts, group_names())), tuple(parse_nodes(nodes)), accounts)


def group_names() -> set[str]:
    """Return the names of this user's groups."""
    names = set()
    for number in os.getgroups():
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:  # a group without a name on this machine
            names.add(str(number))
    return names


def parse_accounts(lines: str, default: str) -> tuple[str, ...]:
    """Return the accounts of the lines of sacctmgr, the default one first."""
    accounts = dict.fromkeys(line.strip() for line in lines.splitlines() if line.strip())
    return tuple(sorted(accounts, key=lambda account: account != default))


def parse_partitions(text: str, accounts: Sequence[str], groups: Iterable[str]) -> list[Partition]:
    """Return the partitions that are up, and whose lists of accounts and groups do not exclude this user.

    text: of `scontrol --oneliner show partition`.
    """
    groups = set(groups)
    partitions = []
    for line in text.splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if fields.get("State", "UP") != "UP" or "PartitionName" not in fields or fields.get("RootOnly") == "YES":
            continue
        if not _admits(fields.get("AllowGroups"), groups) or accounts and not _admits(
                fields.get("AllowAccounts"), set(accounts)) or accounts and set(accounts) <= _names(
                fields.get("DenyAccounts")):
            continue
        mode = fields.get("PreemptMode", "OFF")
        limit = fields.get("MaxTime", "")
        partitions.append(Partition(
            fields["PartitionName"], fields.get("Default") == "YES",
            None if limit in _NO_LIMIT else directives.parse_time(limit),
            "" if mode.upper() in ("OFF", "N/A", "GANG", "WITHIN") else mode))
    return partitions


def _admits(allowed: str | None, names: set[str]) -> bool:
    return allowed in (None, "ALL") or bool(_names(allowed) & names)


def _names(text: str | None) -> set[str]:
    return set() if text in (None, "(null)", "NONE") else set(text.split(","))


def parse_nodes(text: str) -> list[NodeType]:
    """Return the node types of the lines of `sinfo --format=%R|%D|%c|%m|%G|%f`, alike ones of a partition together."""
    types: dict[tuple[object, ...], NodeType] = {}
    for line in text.splitlines():
        if line.count("|") != 5:
            continue
        partition, number, cpus, memory, gres, features = (cell.strip() for cell in line.split("|"))
        if not number.isdecimal():
            continue
        kinds = _GRES_GPU.findall(gres) or [("", "0")]
        for kind, gpus in kinds:
            named = kind or next(filter(_GPU_FEATURE.search, features.split(",")), "")
            node = NodeType(partition, int(number), _number(cpus), _number(memory), int(gpus),
                            named if int(gpus) else None, bool(int(gpus)) and not kind and bool(named))
            key = node._replace(nodes=0)
            types[key] = node._replace(nodes=node.nodes + (types[key].nodes if key in types else 0))
    return list(types.values())


def _number(text: str) -> int:
    """Parse a count of sinfo, which ends in + if it is the least of several."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 1
