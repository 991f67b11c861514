"""What sbatch rejects: malformed options, resources that no node has, and too many jobs."""
from __future__ import annotations

import os

from tests.fake_slurm import dependencies
from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.errors import MESSAGES, CommandExit
from tests.fake_slurm.formats import parse_indices, parse_memory, parse_time_limit
from tests.fake_slurm.jobs import ENDED


def checked_time_limit(options: dict[str, str]) -> str:
    """Return the time limit in seconds; empty for none."""
    try:
        return parse_time_limit(options.get("time", "unlimited"))
    except (ValueError, KeyError):
        raise CommandExit("sbatch: error: Invalid --time specification", 255) from None


def check_memory_format(options: dict[str, str]) -> None:
    for name in ("mem", "mem-per-cpu", "mem-per-gpu"):
        try:
            parse_memory(options.get(name, "0"))
        except ValueError:
            raise CommandExit(f"sbatch: error: Invalid --{name} specification", 255) from None


def checked_tasks(cluster: Cluster, options: dict[str, str]) -> list[int]:
    """Return the indices of an array's tasks; empty for a job that is not an array."""
    try:
        indices = parse_indices(options["array"].partition("%")[0]) if "array" in options else []
    except ValueError:
        raise CommandExit(MESSAGES["array_spec"]) from None
    if indices and not 0 <= indices[0] <= indices[-1] < int(cluster.settings["MaxArraySize"]):
        raise CommandExit(MESSAGES["array_spec"])
    return indices


def check_dependency(options: dict[str, str]) -> None:
    if not dependencies.is_valid(options.get("dependency", "")):
        raise CommandExit(MESSAGES["dependency"])


def check_resources(cluster: Cluster, options: dict[str, str], partition: str) -> None:
    """Check that the cluster has what is requested. Features and gres are compared by name alone."""
    nodes, settings = cluster.nodes(), cluster.settings
    if not set(partition.split(",")) <= {row[0] for row in cluster.partitions()}:
        raise CommandExit(MESSAGES["invalid_partition"].replace("nope", partition))
    available_features = {feature for node in nodes for feature in node[4].split(",")}
    if not _requested_features(options) <= {"", *available_features}:
        raise CommandExit(MESSAGES["invalid_feature"])
    available_gres = [gres for node in nodes for gres in node[3].split(",")]
    requested_gres = {gres.partition(":")[0] for gres in options.get("gres", "").split(",")}
    if not requested_gres <= {"", "none", *(gres.partition(":")[0] for gres in available_gres)}:
        raise CommandExit(MESSAGES["invalid_gres"])
    if parse_memory(options.get("mem", "0")) > max(int(node[2]) for node in nodes):
        raise CommandExit(MESSAGES["memory"])
    available_gpus = sum(int(gres.rpartition(":")[2]) for gres in available_gres if gres.startswith("gpu:"))
    if int(options.get("gpus", "0").rpartition(":")[2]) > available_gpus:
        raise CommandExit(MESSAGES["node_config"])
    if options.get("account", "") not in ("", *settings["Accounts"].split(",")):
        raise CommandExit(MESSAGES["invalid_account"])
    if options.get("qos", "") not in ("", *settings["QOS"].split(",")):
        raise CommandExit(MESSAGES["invalid_qos"])


def _requested_features(options: dict[str, str]) -> set[str]:
    """Return the names in --constraint, without its operators and counts."""
    constraint = options.get("constraint", "")
    for operator in "[]()&|*":
        constraint = constraint.replace(operator, ",")
    return {name for name in constraint.split(",") if not name.isdigit()}


def check_limits(cluster: Cluster, number: int) -> None:
    """Remove the new job again if there are now too many, so that concurrent submissions never exceed a limit."""
    for setting, error in (("MaxSubmitJobs", "assoc_limit"), ("MaxJobCount", "temporarily_unable")):
        limit = cluster.settings[setting]
        if not limit or (setting == "MaxJobCount" and number < int(limit)):  # saves counting all jobs in every call
            continue
        active = [job for job in cluster.jobs() if job["State"] not in ENDED and not job.get("Purged")]
        if len(active) > int(limit):
            os.unlink(f"{cluster.folder}/jobs/{number}")
            raise CommandExit(MESSAGES[error])
