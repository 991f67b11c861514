"""Partitions, node types, GPUs, accounts and QOS of a cluster and a user, as Slurm prints them. Parsing is pure."""
from __future__ import annotations

import grp
import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from src.submission.slurm import client, directives

# a feature of nodes that names a GPU, where Gres has no type: geforce_rtx_2080, a100_80gb, v100, mi250
_GPU_FEATURE = re.compile(r"(?i)(^|[_-])(geforce|tesla|quadro|rtx|gtx|titan|[abhlpvt]\d{1,3}|gh200|mi\d{2,3}|k\d{2})")
_GRES_GPU = re.compile(r"gpu(?::(?:([\w.-]+?)|\(null\)))?:(\d+)")
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
    """A partition that this user may use.

    limit: seconds, None without one; preempt: Slurm's mode, empty if jobs here are never preempted;
    qos: which a job must name to be accepted here, empty if the default one is
    """

    name: str
    is_default: bool
    limit: int | None
    preempt: str
    qos: str = ""

    def description(self) -> str:
        """Return `limit 7-00:00:00, jobs may be preempted (requeue)`."""
        limit = f"limit {directives.format_time(self.limit)}" if self.limit else "no time limit"
        preempt = f", jobs may be preempted ({self.preempt.lower()})" if self.preempt else ""
        return f"{limit}{preempt}{f', QOS {self.qos}' if self.qos else ''}"


class User(NamedTuple):
    """A user as Slurm's accounting describes them: nothing without accounting. groups: of this machine.

    accounts: the default one first; default_qos: of a job that names none, empty if it is not known;
    partitions: the only ones that the associations are for, None without such a limit
    """

    accounts: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    default_qos: str = ""
    groups: frozenset[str] = frozenset()
    partitions: frozenset[str] | None = None


class Site(NamedTuple):
    """A cluster as this user sees it."""

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
    """Query Slurm. None if its controller does not answer."""
    partitions = client.query(["scontrol", "--all", "--oneliner", "show", "partition"])
    configuration = client.query(["scontrol", "show", "config"]) or ""
    nodes = client.query(["sinfo", "--all", "--noheader", "--exact", "--format=%R|%D|%c|%m|%G|%f"])
    if partitions is None or nodes is None:
        return None
    cluster = re.search(r"(?m)^ClusterName\s*=\s*(\S+)", configuration)  # several may share the accounting
    associations = client.query(["sacctmgr", "--noheader", "--parsable2", "show", "associations", "where",
                                 f"user={user}", *([f"clusters={cluster[1]}"] if cluster else []),
                                 "format=account,defaultqos,qos,partition"]) or ""
    default = client.query(["sacctmgr", "--noheader", "--parsable2", "show", "user", user, "format=defaultaccount"])
    rights = parse_user(associations, (default or "").strip(), group_names())
    return Site(tuple(parse_partitions(partitions, rights, parse_preemption(configuration))),
                tuple(parse_nodes(nodes)), rights.accounts)


def group_names() -> frozenset[str]:
    """Return the names of this user's groups."""
    names = set()
    for number in os.getgroups():
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:  # a group without a name on this machine
            names.add(str(number))
    return frozenset(names)


def parse_user(associations: str, default: str, groups: Iterable[str] = ()) -> User:
    """Return the rights of a user. associations: lines `account|default QOS|QOS,…|partition`; default: the account."""
    lines = [line.strip().split("|") for line in associations.splitlines() if line.count("|") == 3]
    rows = sorted(lines, key=lambda row: row[0] != default)
    qos = tuple(dict.fromkeys(name for row in rows for name in row[2].split(",") if name))
    default_qos = next((row[1] for row in rows if row[1]), qos[0] if len(qos) == 1 else "")
    partitions = frozenset(row[3] for row in rows) if rows and all(row[3] for row in rows) else None
    return User(tuple(dict.fromkeys(row[0] for row in rows)), qos, default_qos, frozenset(groups), partitions)


def parse_preemption(text: str) -> str:
    """Return what decides about preemption, as `partition_prio`, of the output of `scontrol show config`."""
    match = re.search(r"(?m)^PreemptType\s*=\s*(?:preempt/)?(\S+)", text)
    return match[1] if match else ""


def parse_partitions(text: str, user: User, preemption: str = "") -> list[Partition]:
    """Return the partitions that are up, and whose lists of accounts, groups and QOS do not exclude this user.

    text: of `scontrol --oneliner show partition`; preemption: as `parse_preemption` returns it.
    """
    # a name may contain blanks: a value ends where the next key begins
    rows = [dict(re.findall(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)", line)) for line in text.splitlines()]
    highest = max((_tier(fields) for fields in rows), default=1)
    return [Partition(fields["PartitionName"], fields.get("Default") == "YES", _limit(fields.get("MaxTime", "")),
                      "" if preemption == "partition_prio" and _tier(fields) == highest else _preempt_mode(
                          fields, preemption), _required_qos(fields, user))
            for fields in rows if _is_usable(fields, user)]


def _is_usable(fields: Mapping[str, str], user: User) -> bool:
    if fields.get("State", "UP") != "UP" or "PartitionName" not in fields or fields.get("RootOnly") == "YES":
        return False
    if not _admits(fields.get("AllowGroups"), user.groups):
        return False
    if user.partitions is not None and fields["PartitionName"] not in user.partitions:
        return False
    return all(not names or any(_is_listed(fields, key, name) for name in names)
               for key, names in (("Accounts", user.accounts), ("Qos", user.qos)))


def _required_qos(fields: Mapping[str, str], user: User) -> str:
    """Return the first QOS of the user that the partition admits, if it is not known to admit the default one."""
    admitted = [name for name in user.qos if _is_listed(fields, "Qos", name)]
    admits_default = user.default_qos in admitted if user.default_qos else len(admitted) == len(user.qos)
    return "" if admits_default or not admitted else admitted[0]


def _is_listed(fields: Mapping[str, str], key: str, name: str) -> bool:
    """Return whether a partition admits an account or a QOS. Slurm prints a list of either allowed or denied ones."""
    allowed, denied = fields.get(f"Allow{key}"), fields.get(f"Deny{key}")
    return _admits(allowed and allowed.lower(), {"all", name.lower()}) and name.lower() not in _names(
        denied and denied.lower())


def _preempt_mode(fields: Mapping[str, str], preemption: str) -> str:
    mode = fields.get("PreemptMode", "OFF")
    return "" if preemption == "none" or mode.upper() in ("OFF", "N/A", "GANG", "WITHIN") else mode


def _tier(fields: Mapping[str, str]) -> int:
    return _number(fields.get("PriorityTier", "1"))


def _limit(text: str) -> int | None:
    return None if text in _NO_LIMIT else directives.parse_time(text)


def _admits(allowed: str | None, names: Iterable[str]) -> bool:
    return allowed in (None, "ALL") or not _names(allowed).isdisjoint(names)


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
