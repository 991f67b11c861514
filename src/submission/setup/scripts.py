"""The submit scripts that setup writes: the shipped ones with what this cluster has in their #SBATCH lines."""
from __future__ import annotations

import re
from typing import NamedTuple

from src.submission.setup.site import NodeType, Partition
from src.submission.slurm import directives

_CPU_LIMIT, _GPU_LIMIT = 3 * 3600, 12 * 3600  # seconds, as in the shipped scripts, which say why
_MAX_CPUS = 8  # per GPU, for loading data
_MEMORY, _MIN_MEMORY = 32_000, 2_000  # MB that a run gets where nodes have that much per GPU; and at least


class Script(NamedTuple):
    """A submit script. name: its file name; reasons: what was chosen, one line each."""

    name: str
    text: str
    reasons: tuple[str, ...]


def cpu_script(template: str, partition: Partition, account: str | None) -> Script:
    """Return the shipped CPU script for a partition."""
    limit = min(_CPU_LIMIT, partition.limit or _CPU_LIMIT)
    text = _replace(template, {"partition": partition.name, "time": directives.format_time(limit)})
    text = _describe_limit(_describe_partition(text, partition), limit < _CPU_LIMIT)
    return Script("submit_cpu.sh", _with_account(_with_qos(text, partition), account),
                  (f"partition {partition.name}: {partition.description()}",))


def gpu_script(template: str, partition: Partition, node: NodeType, account: str | None) -> Script:
    """Return the shipped GPU script for one GPU of a type.

    Its CPUs and memory are those that a node has per GPU, at most 8 CPUs and 32 GB.
    """
    limit = min(_GPU_LIMIT, partition.limit or _GPU_LIMIT)
    cpus = min(_MAX_CPUS, node.cpus_per_gpu)
    memory = max(_MIN_MEMORY, min(_MEMORY, node.memory_per_gpu * 9 // 10))
    gpu = node.gpu or "gpu"
    text = _replace(template, {
        "partition": partition.name, "time": directives.format_time(limit), "cpus-per-task": str(cpus),
        "mem": f"{memory // 1000}G", "gres": "gpu:1" if node.by_feature or not node.gpu else f"gpu:{node.gpu}:1"})
    text = re.sub(r"(?m)^#SBATCH --constraint=.*\n", f"#SBATCH --constraint={gpu}\n" if node.by_feature else "", text)
    name = script_name(gpu)
    text = re.sub(r"(?m)^# A run on one GPU.*$", f"# A run on one GPU: {gpu}.", text)
    text = re.sub(r"-s submit_\w+\.sh", f"-s {name}", text)
    text = re.sub(r"(?m)^# one GPU, on a node with.*$", "# one GPU" + (
        ", on a node with this feature (`sinfo -o '%N %G %f'` lists features)" if node.by_feature else
        " (`sinfo -o '%N %G'` lists them)"), text)
    text = re.sub(r"(?m)^# about four CPUs per GPU, for", "# for", text)
    text = _describe_limit(_describe_partition(text, partition), limit < _GPU_LIMIT)
    return Script(name, _with_account(_with_qos(text, partition), account), (
        f"partition {partition.name}: {partition.description()}",
        f"{cpus} CPUs and {memory // 1000} GB of the {node.cpus_per_gpu} CPUs and {node.memory_per_gpu // 1000} GB "
        "that nodes have per GPU"))


def without_memory(script: Script, message: str) -> Script:
    """Return a script without its --mem line, since Slurm refuses it. message: of sbatch."""
    text = re.sub(r"(?m)^# memory per node.*\n#SBATCH --mem=.*\n",
                  "# no --mem: this cluster refuses it\n", script.text)
    return script._replace(text=text, reasons=(*script.reasons, f"no --mem: {message}"))


def naming_account(script: Script, account: str, message: str) -> Script:
    """Return a script with an account, since Slurm requires one. message: of sbatch."""
    return script._replace(text=_with_account(script.text, account),
                           reasons=(*script.reasons, f"account {account}: {message}"))


def script_name(gpu: str) -> str:
    """Return the name of the script for a GPU type, such as submit_a100.sh."""
    return f"submit_{re.sub(r'[^a-z0-9]+', '_', gpu.lower()).strip('_') or 'gpu'}.sh"


def _replace(text: str, options: dict[str, str]) -> str:
    for name, value in options.items():
        text = re.sub(rf"(?m)^#SBATCH --{name}=.*$", f"#SBATCH --{name}={value}", text)
    return text


def _describe_partition(text: str, partition: Partition) -> str:
    """Replace the comment on the partition: whether its jobs are preempted."""
    comment = ("# this partition runs jobs on idle nodes and preempts them when their owners need the nodes"
               if partition.preempt else "# its jobs are not preempted")
    return re.sub(r"(?m)^# .*\n(#SBATCH --partition=)", lambda match: f"{comment}\n{match[1]}", text)


def _describe_limit(text: str, is_partition_limit: bool) -> str:
    """Replace the comment on the time limit, which explains the shipped one, if it is that of the partition."""
    comment = ("# days-hours:minutes:seconds, the limit of the partition. A run that takes longer saves its state and "
               "continues by\n# itself; a program of your own that cannot do that needs another partition\n")
    return re.sub(r"(?m)^# days-hours.*\n(?:# .*\n)*(?=#SBATCH --time=)", comment, text) if is_partition_limit else text


def _with_account(text: str, account: str | None) -> str:
    return text if account is None else _add_after_partition(text, f"account={account}")


def _with_qos(text: str, partition: Partition) -> str:
    return _add_after_partition(text, f"qos={partition.qos}") if partition.qos else text


def _add_after_partition(text: str, option: str) -> str:
    return re.sub(r"(?m)^(#SBATCH --partition=.*)$", lambda match: f"{match[1]}\n#SBATCH --{option}", text)
