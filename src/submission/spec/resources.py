"""From job_details.resources to a submit script, in the form of those that come with the project."""
from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from src.errors import JobSpecError, nearest
from src.frozen import Frozen

# what Slurm's parser takes as one word of a directive, and what no shell interprets
_WORD = re.compile(r"[A-Za-z0-9_.,:;@%+=/*&|()\[\]-]+")
_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")
_MEM = re.compile(r"\d+[KMGT]?")
_GPUS = re.compile(r"[A-Za-z0-9_.-]+:\d+")
_ALLOWED = {
    "nodes": "a number from 1", "gpus": "a number of GPUs per node, or a type and a number, as a100:2",
    "cpus": "a number from 1, of each node", "cpus_per_gpu": "a number from 1", "mem": "memory per node, as 16G, or "
    "null where the cluster uses mem_per_cpu", "time": "minutes, or [days-]hours:minutes:seconds, as 1-12:00:00",
    "setup": "a list of shell lines, each without line breaks"}
_NAMES = ("partition", "constraint", "account", "qos")  # a name may be a number
_NEVER_NULL = ("nodes", "gpus", "cpus", "cpus_per_gpu")
# keys of Slurm and of other tools that resemble the wrong key or none; None: no key has this meaning
_SYNONYMS = {"cpu": "cpus", "cores": "cpus", "cpus_per_task": "cpus", "cpus-per-task": "cpus", "memory": "mem",
             "gres": "gpus", "gpus_per_node": "gpus", "gpus-per-node": "gpus", "walltime": "time", "timeout": "time",
             "timeout_min": "time", "queue": "partition", "num_nodes": "nodes", "feature": "constraint",
             "nodelist": None}


class Resources(Frozen):
    """Resources of one Slurm job. None leaves a value to the cluster, unless stated otherwise.

    gpus: per node, their number or type:number;
    cpus_per_gpu: CPUs per GPU; on nodes without GPUs, CPUs per node;
    mem: per node;
    setup: shell lines before Python; None: source activate.sh.
    """

    nodes: int = 1
    gpus: int | str = 0
    cpus_per_gpu: int = 2
    mem: int | str | None = "8G"
    time: int | str | None = None
    partition: str | None = None
    constraint: str | None = None
    account: str | None = None
    qos: str | None = None
    setup: list[str] | None = None

    @property
    def gpus_per_node(self) -> int:
        return int(str(self.gpus).rpartition(":")[2])

    @property
    def ranks(self) -> int:
        """Number of processes that train one run together: one per GPU, or one per node without GPUs."""
        return self.nodes * max(1, self.gpus_per_node)


KEYS = ("cpus", *Resources._fields)


def parse_resources(value: Any, where: str) -> Resources:
    """Parse job_details.resources. JobSpecError if a key or a value is invalid.

    `cpus`, the number of CPUs of each node, is converted to cpus_per_gpu.
    """
    if not isinstance(value, dict):
        raise JobSpecError("resources must be a mapping", where=where,
                           hint="for example {gpus: 1, cpus_per_gpu: 4, mem: 16G}")
    for key, item in value.items():
        if key not in KEYS:
            similar = _SYNONYMS[key] if key in _SYNONYMS else nearest(str(key), KEYS, cutoff=0.75)
            raise JobSpecError(f"unknown key '{key}'", where=where, allowed=KEYS, hint=f"did you mean '{similar}'?"
                               if similar else "job_details.sbatch accepts any option of sbatch")
        if item is None and key in _NEVER_NULL or item is not None and not _is_valid(key, item):
            raise JobSpecError(f"invalid {key} {item!r}", where=where, allowed=_ALLOWED.get(
                key, "a word of letters, digits and the signs that Slurm uses, without blanks"))
    settings: dict[str, Any] = {key: str(item) if key in _NAMES and item is not None else item
                                for key, item in value.items()}
    if "cpus" in settings:
        if "cpus_per_gpu" in settings:
            raise JobSpecError("cpus and cpus_per_gpu exclude each other", where=where, hint="keep one of them")
        cpus, gpus = settings.pop("cpus"), max(1, Resources(gpus=settings.get("gpus", 0)).gpus_per_node)
        if cpus % gpus:
            raise JobSpecError(f"{cpus} CPUs cannot be divided evenly among {gpus} GPUs", where=where,
                               allowed=f"a multiple of {gpus}", hint="or cpus_per_gpu")
        settings["cpus_per_gpu"] = cpus // gpus
    return Resources(**settings)


def _is_valid(key: str, value: Any) -> bool:
    if key == "setup":
        return isinstance(value, list) and all(isinstance(line, str) and line.isprintable() for line in value)
    if type(value) is int:
        return key in _NAMES or value >= (0 if key == "gpus" else 1)
    if key in _NAMES and isinstance(value, float):
        return True
    pattern = {"gpus": _GPUS, "mem": _MEM, "time": _TIME}.get(key, _WORD)
    return key not in ("nodes", "cpus", "cpus_per_gpu") and isinstance(value, str) and bool(pattern.fullmatch(value))


def submit_script(resources: Resources, name: str, one_process: bool = False) -> str:
    """Return the submit script for these resources. name: of the job spec, checked.

    one_process: workers and external programs, which divide the GPUs and CPUs of each node among themselves; otherwise
    srun starts one process per GPU.
    """
    tasks = 1 if one_process else max(1, resources.gpus_per_node)
    needs_srun = not one_process and resources.ranks > 1
    cpus = resources.cpus_per_gpu * max(1, resources.gpus_per_node) // tasks
    options: Mapping[str, Any] = {
        "nodes": resources.nodes, "ntasks-per-node" if resources.nodes * tasks > 1 else "ntasks": tasks,
        "partition": resources.partition, "account": resources.account, "qos": resources.qos,
        "cpus-per-task": cpus, "mem": resources.mem,
        "gres": f"gpu:{resources.gpus}" if resources.gpus else None, "constraint": resources.constraint,
        "time": resources.time}
    directives = [f"#SBATCH --{key}={value}" for key, value in options.items() if value is not None]
    setup = ["source ./activate.sh"] if resources.setup is None else resources.setup
    return "\n".join([
        "#!/usr/bin/env bash", f"# Generated from job_details.resources of {name}.", "", *directives,
        "# requeue the job after a preemption or a node failure, and append to its output file",
        "#SBATCH --requeue", "#SBATCH --open-mode=append",
        "# send USR1 three to four minutes before the time limit, so that the run can save its state;",
        "# submit_multiple.py requests a fifth of a limit below 15 minutes",
        "#SBATCH --signal=B:USR1@180", "", "set -euo pipefail", *setup,
        # srun needs the number of CPUs as an option; it ends all processes when one fails
        "# exec: a shell that stays alive does not pass signals on",
        f"exec {f'srun --kill-on-bad-exit=1 --cpus-per-task={cpus} ' if needs_srun else ''}python train.py" + ' "$@"',
        ""])
