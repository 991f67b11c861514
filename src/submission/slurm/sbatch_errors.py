"""What sbatch's refusals mean: its own words, what there is instead, and what to type next."""
from __future__ import annotations

import re
from collections.abc import Callable

from src.errors import SlurmError
from src.submission.slurm import client


def _listed(*command: str) -> Callable[[], str]:
    """The distinct words that a Slurm command lists, a line or a comma apart."""
    def find() -> str:
        words = re.sub(r"\([^)]*\)", "", client.query(list(command)) or "").replace(",", "\n").split("\n")
        return ", ".join(sorted({word.strip() for word in words} - {"", "(null)"}))
    return find


def _mine(column: str) -> Callable[[], str]:
    """What this user's associations allow."""
    def find() -> str:
        user = (client.query(["id", "-un"]) or "").strip()
        return _listed("sacctmgr", "--noheader", "--parsable2", "show", "associations", "where", f"user={user}",
                       f"format={column}")()
    return find


def _largest_nodes() -> str:
    """`8 CPUs with 64000 MB and gpu:2`, of the nodes that no other exceeds in every respect."""
    lines = (client.query(["sinfo", "--noheader", "--Node", "--format=%c|%m|%G"]) or "").splitlines()
    nodes = {(int(cpus), int(memory), re.sub(r"\([^)]*\)", "", gres)) for line in lines if line.count("|") == 2
             for cpus, memory, gres in [line.replace("+", "").split("|")] if cpus.isdecimal() and memory.isdecimal()}
    best = [node for node in nodes if not any(
        other != node and other[0] >= node[0] and other[1] >= node[1] and other[2] == node[2] for other in nodes)]
    return ", ".join(f"{cpus} CPUs with {memory} MB{f' and {gres}' if gres else ''}"
                     for cpus, memory, gres in sorted(best, reverse=True)[:5])


def _array_size() -> str:
    return f"tasks below {client.max_array_size()}"


_PERMANENT: tuple[tuple[str, str, Callable[[], str] | None], ...] = (  # what sbatch says, advice, what there is
    ("configuration source", "this machine has sbatch and belongs to no cluster (it finds no slurm.conf); log in to "
     "one that does, or run here with --local", None),
    ("invalid partition", "choose a partition that exists", _listed("sinfo", "--noheader", "--format=%R")),
    ("invalid feature", "choose a feature that a node has", _listed("sinfo", "--noheader", "--format=%f")),
    ("invalid generic resource", "choose GPUs that a node has", _listed("sinfo", "--noheader", "--format=%G")),
    ("node configuration is not available", "ask for no more than one of these nodes has", _largest_nodes),
    ("memory specification", "ask for no more than one of these nodes has", _largest_nodes),
    ("accounting/qos policy", "ask for less (`sacctmgr show qos` has the bounds), or another account or QOS",
     _mine("account,qos")),
    ("account", "choose one of your accounts", _mine("account")),
    ("qos", "choose a QOS that you may use", _mine("qos")),
    ("array specification", "leave `array` out of sbatch's options: --array makes arrays of runs", _array_size),
    ("dos line breaks", "convert the script with `sed -i 's/\\r$//' SCRIPT`", None),
    ("does not look like a batch script", "begin the script with the line `#!/bin/bash`", None),
    ("time limit", "ask for less time, or a partition that allows it",
     _listed("sinfo", "--noheader", "--format=%R:%l")),
    ("unrecognized option", "`sbatch --help` has the names of its options", None),
    ("invalid --", "`man sbatch` tells how the value is written", None),
)


def explain(refusal: client.SbatchError, where: str, hint: str) -> SlurmError:
    """The user's error for a refusal: sbatch's exact words, their class, what there is, and the next command.

    where: what was and what was not submitted; hint: what to do when the cause is gone.
    """
    what = refusal.message if refusal.message.startswith("sbatch:") else f"sbatch: {refusal.message}"
    if refusal.kind == "limit":
        return SlurmError(what, where=where, hint="a limit of queued Slurm jobs is reached (`sacctmgr show assoc "
                          f"user=$USER`, `sacctmgr show qos` have it); --wait waits for room; else, later, {hint}")
    if refusal.kind == "ambiguous":
        return SlurmError(what, where=where, hint="the answer was lost, and Slurm may have the job all the same: the "
                          f"queue is looked through before it is sent again; later, {hint}")
    if refusal.kind == "away":
        full = any(text.lower() in refusal.message.lower() for text in client.QUEUE_FULL)
        who = "the queue of the whole cluster is full" if full else "Slurm's controller does not answer"
        return SlurmError(what, where=where, hint=f"{who}, and did not take this job; later, {hint}")
    for text, advice, there in _PERMANENT:
        if text in refusal.message.lower():
            return SlurmError(what, where=where, allowed=(there and there()) or None,
                              hint=f"it will never be taken as it is: {advice}; then {hint}")
    return SlurmError(what, where=where, hint=f"it will never be taken as it is: mend the script or the options; then "
                      f"{hint}")
