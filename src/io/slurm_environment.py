"""Environment variables of Slurm: the only module that names them.

It is in `src/io` because training and the machine's facts read them too, not only the submission.
"""
from __future__ import annotations

import os
from collections.abc import Mapping

_PREFIX = "SLURM_"
# These locate the cluster and authenticate to it; every other SLURM_* variable describes the Slurm job that this
# process is part of.
_CLUSTERS = "SLURM_CLUSTERS"
_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", _CLUSTERS, "SLURM_JWT", "SLURM_SACK_KEY", "SLURM_SACK_JWKS")
_STEP_TASKS = "SLURM_STEP_NUM_TASKS"
# Defaults of options of Slurm's commands, for example SQUEUE_PARTITION: a filter would hide jobs.
_OPTION_PREFIXES = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SACCTMGR_")
# Variables of sbatch that override the lines of a script: SBATCH_QOS is --qos. Values of flags are ignored by sbatch.
_SBATCH_PREFIX = "SBATCH_"
_SBATCH_FLAGS = ("IGNORE_PBS", "NO_REQUEUE", "OVERCOMMIT", "REQUEUE", "SPREAD_JOB", "USE_MIN_NODES")
_SBATCH_VALUES = ("ACCOUNT", "ACCTG_FREQ", "BATCH", "CLUSTERS", "CONSTRAINT", "CONTAINER", "CORE_SPEC", "CPUS_PER_GPU",
                  "DELAY_BOOT", "DISTRIBUTION", "ERROR", "EXCLUSIVE", "EXPORT", "GET_USER_ENV", "GPU_BIND", "GPU_FREQ",
                  "GPUS", "GPUS_PER_NODE", "GPUS_PER_TASK", "GRES", "GRES_FLAGS", "HINT", "INPUT", "MEM_BIND",
                  "MEM_PER_CPU", "MEM_PER_GPU", "NETWORK", "NO_KILL", "OPEN_MODE", "PARTITION", "POWER", "PROFILE",
                  "QOS", "RESERVATION", "SIGNAL", "THREAD_SPEC", "TRES_BIND", "TRES_PER_TASK", "WCKEY")
_SBATCH_RENAMED = {"MEM_PER_NODE": "mem", "REQ_SWITCH": "switches", "TIMELIMIT": "time"}
_SBATCH_OPTIONS = {**{name: name.lower().replace("_", "-") for name in (*_SBATCH_FLAGS, *_SBATCH_VALUES)},
                   **_SBATCH_RENAMED}
_SBATCH_DROPPED = ("ARRAY_INX", "COMMENT", "JOB_NAME", "OUTPUT", "WAIT")  # the submission sets these options itself
_FORMATS = {"SLURM_TIME_FORMAT": "%s",  # unix seconds
            "SLURM_BITSTR_LEN": "0",  # the indices of an array in full
            "TZ": "UTC0"}  # for times given or printed as dates: in UTC, no hour occurs twice


def job_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the id of this Slurm job: 123, or 123_4 for an array task; None outside Slurm."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else raw_job_id(environment)


def raw_job_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the number of this Slurm job, also of an array task, which has one of its own; None outside Slurm."""
    return environment.get("SLURM_JOB_ID")


def array_task(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the index of this array task; None if this is not one."""
    return _number(environment, "SLURM_ARRAY_TASK_ID")


def restart_count() -> int:
    """Return how many times Slurm has requeued this job and started it again."""
    return _number(os.environ, "SLURM_RESTART_COUNT") or 0


def end_time() -> float | None:
    """Return when the time limit ends this job, in unix seconds; set by Slurm 23.02 and newer."""
    return _number(os.environ, "SLURM_JOB_END_TIME")


def step_id() -> str | None:
    """Return the id of this job step; None in a batch script."""
    return os.environ.get("SLURM_STEP_ID")


def rank() -> int:
    """Return the rank of this process within its job step."""
    return _number(os.environ, "SLURM_PROCID") or 0


def world_size() -> int:
    """Return the number of processes of this job step; 1 in a batch script, which srun did not start."""
    return int(os.environ.get(_STEP_TASKS, "1"))


def single_process_setting() -> str:
    """Return what to write before a command so that it does not wait for the other processes of its job step; empty if
    it is the only one.
    """
    return f"{_STEP_TASKS}=1" if world_size() > 1 else ""


def local_rank() -> int:
    """Return the rank of this process among those of its job step on the same node."""
    return _number(os.environ, "SLURM_LOCALID") or 0


def cpus_per_task(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the CPUs that each task of this job was given; None if the job did not request a number."""
    return _number(environment, "SLURM_CPUS_PER_TASK")


def memory_per_node() -> int | None:
    """Return the memory that this job was given on each node, in bytes; None if it is not limited."""
    per_cpu, cpus = _number(os.environ, "SLURM_MEM_PER_CPU"), _number(os.environ, "SLURM_CPUS_ON_NODE")
    mebibytes = _number(os.environ, "SLURM_MEM_PER_NODE") or (per_cpu or 0) * (cpus or 0)
    return mebibytes * 2**20 if mebibytes else None


def gpus(environment: Mapping[str, str] = os.environ) -> tuple[str | None, ...]:
    """Return the GPUs that Slurm gave to this job and to this job step, as it writes them; None where it does not."""
    return environment.get("SLURM_JOB_GPUS"), environment.get("SLURM_STEP_GPUS")


def submit_host(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the host that this job was submitted from; None outside Slurm."""
    return environment.get("SLURM_SUBMIT_HOST")


def node_name() -> str | None:
    """Return this node as Slurm calls it, which may differ from its host name; None outside Slurm."""
    return os.environ.get("SLURMD_NODENAME")


def partition_account_and_qos() -> dict[str, str]:
    """Return where this job runs, as sbatch options by name; an empty value where Slurm sets none."""
    return {name: os.environ.get(f"SLURM_JOB_{name.upper()}", "") for name in ("partition", "account", "qos")}


def is_of_job(variable: str) -> bool:
    """Return whether a variable describes the Slurm job that this process is part of."""
    return variable.startswith(_PREFIX) and variable not in _CLUSTER


def for_queries(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for squeue, sacct, scontrol, scancel and sinfo: without the user's defaults for their
    options, and with output that can be parsed.
    """
    return {**{name: value for name, value in environment.items() if not name.startswith(_OPTION_PREFIXES)}, **_FORMATS}


def for_local_cluster() -> dict[str, str]:
    """Return the environment for queries about jobs of the cluster in slurm.conf, whatever SLURM_CLUSTERS is."""
    return {name: value for name, value in for_queries().items() if name != _CLUSTERS}


def shell_for_local_cluster() -> str:
    """Return a line of sh that makes the environment of later commands that of for_local_cluster, but for formats."""
    names = "|".join(_OPTION_PREFIXES)
    return f"unset $(env | sed -nE 's/^(({names})[A-Z0-9_]*)=.*/\\1/p') {_CLUSTERS}"


def sbatch_defaults(environment: Mapping[str, str] = os.environ) -> dict[str, str | bool]:
    """Return the options that sbatch would take from its environment, by long name: {"partition": "owner"}."""
    clusters = environment.get(_CLUSTERS)
    options: dict[str, str | bool] = {"clusters": clusters} if clusters else {}
    return options | {option: True if name in _SBATCH_FLAGS or not environment[_SBATCH_PREFIX + name] else
                      environment[_SBATCH_PREFIX + name]
                      for name, option in _SBATCH_OPTIONS.items() if _SBATCH_PREFIX + name in environment}


def sbatch_variable(option: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the variable that sbatch reads for an option: SBATCH_TIMELIMIT for time."""
    variable = _SBATCH_PREFIX + next(name for name, other in _SBATCH_OPTIONS.items() if other == option)
    return _CLUSTERS if option == "clusters" and variable not in environment and _CLUSTERS in environment else variable


def without_sbatch_defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which only the command line overrides a script."""
    dropped = {_CLUSTERS, *(_SBATCH_PREFIX + name for name in (*_SBATCH_OPTIONS, *_SBATCH_DROPPED))}
    return {name: value for name, value in environment.items() if name not in dropped}


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else None
