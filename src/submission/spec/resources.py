"""From job_details.resources to a submit script, of the same form as those that come with the project."""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from src.errors import JobSpecError, nearest

# what Slurm's own parser takes as one word of a directive; nothing of it means anything to a shell before its quotes
_WORD = re.compile(r"[A-Za-z0-9_.,:;@%+=/*&|()\[\]-]+")
_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")
_MEM = re.compile(r"\d+[KMGT]?")
_GPUS = re.compile(r"[A-Za-z0-9_.-]+:\d+")
_ALLOWED = {
    "nodes": "a number from 1 on", "gpus": "a number of GPUs on each node, or a kind and a number, as a100:2",
    "cpus_per_gpu": "a number from 1 on", "mem": "memory on each node, as 16G, or null where the site wants "
    "mem_per_cpu", "time": "minutes, or [days-]hours:minutes:seconds, as 1-12:00:00", "setup": "a list of shell lines, "
    "each on a line of its own"}


@dataclass(frozen=True)
class Resources:
    """What one Slurm job gets.

    gpus: on each node, their number, or kind:number; cpus_per_gpu: without a GPU, those of each node; mem: on each
    node, None leaves it out; setup: shell lines that come before Python, None for those of activate.sh. Other values
    of None are left to the cluster.
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
        """The processes that train one run together: one for each GPU, or for each node without one."""
        return self.nodes * max(1, self.gpus_per_node)


def parse_resources(value: Any, where: str) -> Resources:
    """The resources in a job spec. JobSpecError, at `where`, if a key or a value is wrong."""
    known = [field.name for field in fields(Resources)]
    if not isinstance(value, dict):
        raise JobSpecError("resources is a mapping", where=where, hint="as {gpus: 1, cpus_per_gpu: 4, mem: 16G}")
    for key, item in value.items():
        if key not in known:
            meant = nearest(str(key), known)
            raise JobSpecError(f"unknown key '{key}'", where=where, allowed=None if meant else known,
                               hint=f"did you mean '{meant}'?" if meant else "job_details.sbatch takes any option")
        if item is not None and not _fits(key, item) or item is None and key in ("nodes", "gpus", "cpus_per_gpu"):
            raise JobSpecError(f"{key} is {item!r}", where=where, allowed=_ALLOWED.get(
                key, "a word of letters, digits and the signs that Slurm uses, without blanks"))
    return Resources(**value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fits(key: str, value: Any) -> bool:
    if key == "setup":
        return isinstance(value, list) and all(isinstance(line, str) and line.isprintable() for line in value)
    if _is_whole(value):
        return value >= (0 if key == "gpus" else 1) and key in _ALLOWED
    pattern = {"gpus": _GPUS, "mem": _MEM, "time": _TIME}.get(key, _WORD)
    return key not in ("nodes", "cpus_per_gpu") and isinstance(value, str) and bool(pattern.fullmatch(value))


def submit_script(resources: Resources, name: str, one_process: bool = False) -> str:
    """The submit script for these resources. name: of the job spec, which is safe.

    one_process: what is started divides each node's GPUs and CPUs itself, as workers and foreign programs do; otherwise
    srun starts a process for each GPU.
    """
    tasks = 1 if one_process else max(1, resources.gpus_per_node)
    together = not one_process and resources.ranks > 1
    cpus = resources.cpus_per_gpu * max(1, resources.gpus_per_node) // tasks
    asked: Mapping[str, Any] = {
        "nodes": resources.nodes, "ntasks-per-node" if resources.nodes * tasks > 1 else "ntasks": tasks,
        "partition": resources.partition, "account": resources.account, "qos": resources.qos,
        "cpus-per-task": cpus, "mem": resources.mem,
        "gres": f"gpu:{resources.gpus}" if resources.gpus else None, "constraint": resources.constraint,
        "time": resources.time}
    directives = [f"#SBATCH --{key}={value}" for key, value in asked.items() if value is not None]
    setup = ["source ./activate.sh"] if resources.setup is None else resources.setup
    return "\n".join([
        "#!/usr/bin/env bash", f"# Generated from job_details.resources of {name}.", "", *directives,
        "# requeue the job after a preemption or a node failure, and append to its output file",
        "#SBATCH --requeue", "#SBATCH --open-mode=append",
        "# send USR1 three to four minutes before the time limit, so that the run can save its state",
        "#SBATCH --signal=B:USR1@180", "", "set -euo pipefail", *setup,
        # srun needs the number of CPUs as an option; it ends all processes when one fails
        "# exec: a shell that stays alive does not pass signals on",
        f"exec {f'srun --kill-on-bad-exit=1 --cpus-per-task={cpus} ' if together else ''}python train.py" + ' "$@"',
        ""])
