"""The Slurm commands that a container may have the host run: those that a run needs, with the arguments that it needs.

A container can write to the batch and the project, so this limits accidents and scripts inside, not an attacker.
"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from src.submission.batch.journal import COMMENT_PREFIX

REFUSED = "permission denied: the host does not run this command for a container"
_NAME = r"[\w.,:;+-]+"
# Arguments of the queries of `slurm/client.py`
_QUERIES = {
    "squeue": rf"--(all|noheader|array|me|start|user=\d+|(clusters|jobs)={_NAME}|format=[%\w|.]+)",
    "sacct": rf"--(allocations|noheader|parsable2|endtime=now|units=K|(clusters|starttime|state|format)={_NAME})"}
_COMMENT = rf"--comment={COMMENT_PREFIX}[\w.-]{{1,100}}"
_MAX_SECONDS = 600


def is_allowed(command: Sequence[str], job: str | None, successor: Sequence[str] | None) -> bool:
    """Return whether a command is one that a run needs.

    job: the Slurm job of the host process, which may be requeued.
    successor: the command of sbatch that continues this run or worker, known before the container started; only its
    comment may differ.
    """
    name, *arguments = command
    if name in _QUERIES:
        return all(re.fullmatch(_QUERIES[name], argument) for argument in arguments)
    if name == "scontrol":
        *words, last = arguments or [""]
        return words == ["show"] and last == "config" or words == ["requeue"] and last == job or words == [
            "--all", "--oneliner", "show", "job"] and re.fullmatch(_NAME, last) is not None
    return name == "sbatch" and successor is not None and len(command) == len(successor) and all(
        given == expected or expected.startswith("--comment=") and re.fullmatch(_COMMENT, given)
        for given, expected in zip(command, successor, strict=True))


def parse_request(request: Any) -> tuple[list[str], Mapping[str, str], float | None] | None:
    """Return the command, the variables to set and the timeout of a request; None if it has another form."""
    if not isinstance(request, dict):
        return None
    command, variables, timeout = request.get("command"), request.get("set"), request.get("timeout")
    if not (isinstance(command, list) and command and all(isinstance(word, str) for word in command)):
        return None
    if not isinstance(variables, dict) or not all(
            name == "GRIDIRON_TICKET" and isinstance(value, str) and re.fullmatch(r"\d{1,9}", value)
            for name, value in variables.items()):
        return None
    if request.get("input") or not (timeout is None or type(timeout) in (int, float) and 0 < timeout <= _MAX_SECONDS):
        return None
    return command, variables, timeout
