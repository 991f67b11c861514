"""Parsing of what Slurm prints about a cluster and a user, for clusters that differ and for versions of Slurm."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from src.submission.setup.site import (
    NodeType,
    Partition,
    Site,
    User,
    parse_nodes,
    parse_partitions,
    parse_preemption,
    parse_user,
    read_site,
)
from src.submission.slurm import client

# a university: typed GPUs, limits, one partition for another account, one that is down
UNIVERSITY_PARTITIONS = """\
PartitionName=cpu AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A \
DefaultTime=01:00:00 DisableRootJobs=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=7-00:00:00 MinNodes=0 LLN=NO \
MaxCPUsPerNode=UNLIMITED Nodes=c[001-120] PriorityTier=1 RootOnly=NO OverSubscribe=NO PreemptMode=OFF State=UP
PartitionName=gpu AllowGroups=ALL DenyAccounts=teaching AllowQos=ALL Default=NO MaxTime=2-00:00:00 Nodes=g[01-12] \
RootOnly=NO PreemptMode=OFF State=UP
PartitionName=gpu-guest AllowGroups=ALL AllowAccounts=ALL Default=NO MaxTime=12:00:00 Nodes=o[01-40] \
PreemptMode=REQUEUE State=UP
PartitionName=physics AllowGroups=ALL AllowAccounts=physics Default=NO MaxTime=UNLIMITED Nodes=p[1-9] PreemptMode=OFF \
State=UP
PartitionName=staff AllowGroups=staff AllowAccounts=ALL Default=NO MaxTime=UNLIMITED Nodes=s1 PreemptMode=OFF State=UP
PartitionName=old AllowGroups=ALL AllowAccounts=ALL Default=NO MaxTime=1:00:00 Nodes=x1 PreemptMode=OFF State=DOWN
"""
# The functions of sinfo that print these six fields are the same from 20.11 to 25.11, but for that of the memory: since
# 22.05 it prints the same form with 64 bits.
UNIVERSITY_NODES = """\
cpu|100|64|256000|(null)|icelake
cpu|20|128+|1024000+|(null)|genoa
gpu|8|64|512000|gpu:a100:4(S:0-1)|icelake
gpu|4|96|768000|gpu:h100:4(S:0-1),lustre:1|genoa
gpu-guest|40|48|384000|gpu:a100:2(S:0)|icelake
physics|9|64|256000|gpu:v100:8|
staff|1|4|8000|(null)|
"""


def university(accounts: tuple[str, ...] = ("ml", "teaching")) -> Site:
    user = User(accounts, groups=frozenset({"users"}))
    return Site(tuple(parse_partitions(UNIVERSITY_PARTITIONS, user)), tuple(parse_nodes(UNIVERSITY_NODES)), accounts)


def test_partitions_that_this_user_may_use() -> None:
    assert university().partitions == (
        Partition("cpu", True, 7 * 86_400, ""), Partition("gpu", False, 2 * 86_400, ""),
        Partition("gpu-guest", False, 43_200, "REQUEUE"))
    assert [partition.name for partition in university(("teaching",)).partitions] == ["cpu", "gpu-guest"]
    assert "physics" in [partition.name for partition in university(("physics",)).partitions]
    staff = User(groups=frozenset({"staff"}))  # without accounting no account is excluded
    assert len(parse_partitions(UNIVERSITY_PARTITIONS, staff)) == 5


def test_gpu_types_with_the_partition_that_has_most_of_them_first() -> None:
    site = university()
    assert site.gpus() == ["a100", "h100"]  # no V100: its partition is for another account
    assert [partition.name for partition in site.with_gpu("a100")] == ["gpu-guest", "gpu"]  # 80 and 32
    assert [partition.name for partition in site.with_gpu("h100")] == ["gpu"]
    assert [partition.name for partition in site.with_gpu(None)] == ["cpu", "gpu-guest", "gpu"]
    node, = site.nodes_of("gpu", "h100")
    assert (node.cpus_per_gpu, node.memory_per_gpu, node.by_feature) == (24, 192_000, False)


@pytest.mark.parametrize(("gres", "features", "gpu", "by_feature", "gpus"), [
    ("gpu:2", "geforce_rtx_2080", "geforce_rtx_2080", True, 2),
    ("gpu:2(S:0-1)", "icelake,a100_80gb", "a100_80gb", True, 2),
    ("gpu:8", "avx512", "", False, 8),
    ("gpu:nvidia_h100_80gb_hbm3:8(S:0-1)", "h100", "nvidia_h100_80gb_hbm3", False, 8),
    ("gpu:a100_1g.5gb:7(S:0)", "", "a100_1g.5gb", False, 7),
    ("gpu:(null):8(S:0-1)", "h100", "h100", True, 8),
    ("gpu:tesla:1(S:0),craynetwork:4", "", "tesla", False, 1),
    ("gpu:a100:4(S:0-3),lscratch:3200", "cpu64,e7543p,gpua100", "a100", False, 4),
    ("gpu:A800:8(S:16-31,48-63,80-95)", "location=local", "A800", False, 8),
    ("gpu:8(S:0-1)", "(null)", "", False, 8),
    ("(null)", "a100", None, False, 0), ("gpu:0", "a100", None, False, 0)])
def test_gres_and_features_name_a_gpu(gres: str, features: str, gpu: str | None, by_feature: bool,
                                      gpus: int) -> None:
    assert parse_nodes(f"main|3|16|64000|{gres}|{features}\n") == [
        NodeType("main", 3, 16, 64_000, gpus, gpu, by_feature)]


def test_several_gpu_types_in_one_node_and_lines_that_are_none() -> None:
    nodes = parse_nodes("slurm_load_partitions: warning\nmain|1|32|128000|gpu:a30:2,gpu:t4:4|\nmain|x|1|1|(null)|\n")
    assert [(node.gpu, node.gpus) for node in nodes] == [("a30", 2), ("t4", 4)]


def test_alike_nodes_are_counted_together() -> None:
    assert [node.nodes for node in parse_nodes("m|2|8|1000|(null)|x\nm|3|8|1000|(null)|y\n")] == [5]


def test_default_account_comes_first() -> None:
    lines = "teaching||normal|\nml||gpu,normal|\nteaching||normal|\n\n"
    assert parse_user(lines, "ml", {"users"}) == User(("ml", "teaching"), ("gpu", "normal"), "", frozenset({"users"}))
    assert parse_user("ml|long|long,normal|\n", "ml").default_qos == "long"
    assert parse_user("ml||normal|\n", "ml").default_qos == "normal"  # the only one
    assert parse_user("", "") == User()


def test_qos_that_a_partition_wants_is_named() -> None:
    text = "PartitionName=p AllowQos=gpu,long MaxTime=1:00:00 State=UP PreemptMode=OFF\n"
    for user, qos in [(User(), ""), (User(("ml", ), ("gpu", "normal")), "gpu"),
                      (User(qos=("long", ), default_qos="long"), "")]:
        assert [partition.qos for partition in parse_partitions(text, user)] == [qos]
    assert parse_partitions(text, User(("ml", ), ("normal", ), "normal")) == []


def test_only_jobs_that_a_higher_partition_can_preempt_are_preempted() -> None:
    text = "".join(f"PartitionName=p{tier} PriorityTier={tier} PreemptMode=REQUEUE State=UP\n" for tier in (1, 10))
    for preemption, modes in [("partition_prio", ["REQUEUE", ""]), ("qos", ["REQUEUE", "REQUEUE"]), ("none", ["", ""])]:
        config = f"PreemptMode             = REQUEUE\nPreemptType             = preempt/{preemption}\n"
        assert parse_preemption(config) == preemption
        assert [partition.preempt for partition in parse_partitions(text, User(), preemption)] == modes


def versions() -> dict[str, str]:
    """Two partitions by version of Slurm, as `scontrol --oneliner show partition` prints them.

    The names are made up. The lines come from the function of each version that prints them,
    slurm_sprint_partition_info of the last release, compiled on its own and called for the same two partitions.
    """
    text = (Path(__file__).parent / "partitions_of_versions.txt").read_text()
    return {version: lines for header, lines in re.findall(r"(?m)^# (.*)\n((?:Part.*\n)+)", text)
            for version in header.split()}


VERSIONS = versions()


def test_all_versions_from_20_11_on() -> None:
    assert list(VERSIONS) == ["20.11", "21.08", "22.05", "23.02", "23.11", "24.05", "24.11", "25.05", "25.11",
                              "after-25.11"]
    assert len(set(VERSIONS.values())) == 6, "some print the same"


@pytest.mark.parametrize("version", VERSIONS)
def test_partitions_of_versions_of_slurm(version: str) -> None:
    text = VERSIONS[version]
    assert parse_partitions(text, User(("ml", ), ("normal", "long"), "normal"), "qos") == [
        Partition("gpu", False, 2 * 86_400, "REQUEUE"), Partition("my cpus", True, None, "", "long")]
    without_accounting = parse_partitions(text, User())
    assert [(partition.name, partition.qos) for partition in without_accounting] == [("gpu", ""), ("my cpus", "")]
    assert parse_partitions(text, User(("teaching", ), ("normal", "long"), "normal")) == [], "denied, and not allowed"
    assert [partition.qos for partition in parse_partitions(text, User(("ml", ), ("debug", "long"), "debug"))] == [
        "long", "long"], "gpu denies the QOS debug"
    assert parse_partitions(text, User(("ml", ), ("debug", ), "debug")) == []


# the lines of partitions in the public documentation of clusters have such fields, here with other names
@pytest.mark.parametrize(("fields", "expected"), [
    ("AllowGroups=ALL DenyAccounts=none,old AllowQos=ALL Default=YES QoS=smallcpu MaxTime=6-00:00:00 NodeSets=a,b "
     "PreemptMode=OFF State=UP TRES=cpu=71808,mem=180600000M,node=561,billing=248175 TRESBillingWeights=cpu=1.0,mem=1G",
     Partition("p", True, 6 * 86_400, "")),
    ("AllowGroups=ALL AllowAccounts=ml DenyQos=class MaxTime=3-00:00:00 OverSubscribe=YES:4 PreemptMode=REQUEUE "
     "State=UP JobDefaults=DefCpuPerGPU=30 DefMemPerCPU=12000 MaxMemPerCPU=12000",
     Partition("p", False, 3 * 86_400, "REQUEUE")),
    ("AllowGroups=ALL AllowAccounts=ML AllowQos=L40 Default=YES MaxTime=UNLIMITED PreemptMode=GANG,SUSPEND State=UP",
     Partition("p", True, None, "GANG,SUSPEND", "l40")),
    ("AllowGroups=private_group AllowAccounts=ALL AllowQos=ALL State=UP", None),
    ("AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL State=INACTIVE", None)])
def test_fields_of_partitions_of_clusters(fields: str, expected: Partition | None) -> None:
    user = User(("ml", ), ("normal", "l40"), "normal", frozenset({"users"}))
    assert parse_partitions(f"PartitionName=p {fields}\n", user, "qos") == ([expected] if expected else [])


def test_associations_may_be_for_some_partitions_only() -> None:
    text = "PartitionName=a State=UP\nPartitionName=b State=UP\n"
    for associations, names in [("ml||normal|a\n", ["a"]), ("ml||normal|a\nml||normal|\n", ["a", "b"]),
                                ("ml||normal|a\nml||normal|b\n", ["a", "b"])]:
        assert [partition.name for partition in parse_partitions(text, parse_user(associations, "ml"))] == names


def test_queries_name_the_cluster_since_several_may_share_the_accounting(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def query(command: list[str]) -> str:
        commands.append(command)
        return {"config": "ClusterName             = north\n",
                "partition": "PartitionName=p State=UP\n"}.get(command[-1], "")
    monkeypatch.setattr(client, "query", query)
    site = read_site("ada")
    assert site
    assert [partition.name for partition in site.partitions] == ["p"]
    assert "clusters=north" in next(command for command in commands if "associations" in command)


def test_limits_are_described_as_slurm_writes_them() -> None:
    assert [partition.description() for partition in university().partitions] == [
        "limit 7-00:00:00", "limit 2-00:00:00", "limit 12:00:00, jobs may be preempted (requeue)"]
