"""Explain errors of sbatch: its message, the values that would be accepted, and the next command."""
from __future__ import annotations

import re
from collections.abc import Callable

from src.errors import SlurmError
from src.submission.slurm import client, sbatch_messages


def _listed(*command: str) -> Callable[[], str]:
    """A function that returns the distinct values that a Slurm command prints, separated by lines or commas."""
    def values() -> str:
        output = re.sub(r"\([^)]*\)", "", client.query(list(command)) or "")
        return ", ".join(sorted({value.strip() for value in output.replace(",", "\n").split("\n")} - {"", "(null)"}))
    return values


def _associations(column: str) -> Callable[[], str]:
    """A function that returns what this user's associations allow."""
    def values() -> str:
        return _listed("sacctmgr", "--noheader", "--parsable2", "show", "associations", "where",
                       f"user={client.user_name()}", f"format={column}")()
    return values


def _largest_nodes() -> str:
    """`8 CPUs with 64000 MB and gpu:2`: the nodes that no other node exceeds in every respect."""
    lines = (client.query(["sinfo", "--noheader", "--Node", "--format=%c|%m|%G"]) or "").splitlines()
    nodes = {(int(cpus), int(memory), re.sub(r"\([^)]*\)", "", gres)) for line in lines if line.count("|") == 2
             for cpus, memory, gres in [line.replace("+", "").split("|")] if cpus.isdecimal() and memory.isdecimal()}
    largest = [node for node in nodes if not any(
        other != node and other[0] >= node[0] and other[1] >= node[1] and other[2] == node[2] for other in nodes)]
    return ", ".join(f"{cpus} CPUs with {memory} MB{f' and {gres}' if gres else ''}"
                     for cpus, memory, gres in sorted(largest, reverse=True)[:5])


# Permanent errors, first match: a part of the message, the advice, and a function that returns the accepted values.
_PERMANENT: tuple[tuple[str, str, Callable[[], str] | None], ...] = (
    ("configuration source", "this machine has sbatch but belongs to no cluster (there is no slurm.conf): log in to "
     "one that does, or run here with --local", None),
    ("invalid partition", "choose a partition that exists", _listed("sinfo", "--noheader", "--format=%R")),
    ("invalid feature", "choose a feature that a node has", _listed("sinfo", "--noheader", "--format=%f")),
    ("invalid generic resource", "choose GPUs that a node has", _listed("sinfo", "--noheader", "--format=%G")),
    ("node configuration is not available", "request no more than one of these nodes has", _largest_nodes),
    ("memory specification", "request no more than one of these nodes has", _largest_nodes),
    ("accounting/qos policy", "request less (`sacctmgr show qos` lists the limits), or use another account or QOS",
     _associations("account,qos")),
    ("account", "choose one of your accounts", _associations("account")),
    ("qos", "choose a QOS that you may use", _associations("qos")),
    ("array specification", "remove `array` from the options of sbatch: --array makes arrays of runs",
     lambda: f"tasks below {client.max_array_size()}"),
    ("dos line breaks", "convert the script with `sed -i 's/\\r$//' SCRIPT`", None),
    ("does not look like a batch script", "begin the script with the line `#!/bin/bash`", None),
    ("time limit", "request less time, or a partition that allows it",
     _listed("sinfo", "--noheader", "--format=%R:%l")),
    ("unrecognized option", "`sbatch --help` lists its options", None),
    ("invalid --", "`man sbatch` describes the value's format", None),
)


def _cause(message: str) -> str:
    if sbatch_messages.matches(sbatch_messages.QUEUE_FULL, message):
        return "the queue of the whole cluster is full"
    if sbatch_messages.matches(sbatch_messages.PARTITION_CLOSED, message):
        return "the partition is closed at the moment (`sinfo` lists others)"
    if sbatch_messages.matches(sbatch_messages.NODES_AWAY, message):
        return "the nodes are not available at the moment (`sinfo` lists their states)"
    return "Slurm's controller does not answer, or is not ready"


def explain(error: client.SbatchError, where: str, hint: str) -> SlurmError:
    """Return the error to show to the user: sbatch's message, its kind, the accepted values, and the next command.

    where: what was submitted and what was not; hint: what to do after the cause is removed.
    """
    message = error.message if error.message.startswith("sbatch:") else f"sbatch: {error.message}"
    if error.kind == sbatch_messages.LIMIT:
        return SlurmError(message, where=where, hint="a limit of queued Slurm jobs is reached (`sacctmgr show assoc "
                          f"user=$USER`, `sacctmgr show qos` list it); --wait waits for room; or, later, {hint}")
    if error.kind == sbatch_messages.AMBIGUOUS:
        return SlurmError(message, where=where, hint="the answer was lost, so Slurm may have accepted the job; the "
                          f"queue is searched before it is sent again; later, {hint}")
    if error.kind == sbatch_messages.UNAVAILABLE:
        return SlurmError(message, where=where, hint=f"{_cause(error.message)}, so the job was not accepted; later, "
                          f"{hint}")
    if error.kind == sbatch_messages.UNKNOWN:
        return SlurmError(message, where=where, hint="this message of sbatch is unknown, and "
                          f"calling it again did not help; after removing the cause, {hint}")
    advice, accepted = next(((advice, accepted) for text, advice, accepted in _PERMANENT
                             if text in error.message.lower()), ("fix the script or the options", None))
    return SlurmError(message, where=where, allowed=(accepted and accepted()) or None,
                      hint=f"sbatch will never accept it as it is: {advice}; then {hint}")
