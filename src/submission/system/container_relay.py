"""Client inside a container: run Slurm commands through the process outside it."""
from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from src.io import slurm_environment
from src.submission.system.process import RELAY_SOCKET

FORWARDED_VARIABLES = ("GRIDIRON_TICKET", slurm_environment.TIME_FORMAT)


def run(command: Sequence[str], environment: Mapping[str, str] | None, timeout: float | None,
         read: str) -> subprocess.CompletedProcess[str]:
    """Inside a container: what the outside says that the command did. FileNotFoundError if it is not there, or nobody
    is outside any more; subprocess.TimeoutExpired as from subprocess.run.
    """
    try:
        answer = _ask({"command": list(command), "input": read, "timeout": timeout,
                       "set": {name: environment[name] for name in FORWARDED_VARIABLES
                               if environment and name in environment}})
    except (OSError, ValueError):
        answer = {}
    if answer.get("failed") == "timeout":
        raise subprocess.TimeoutExpired(list(command), timeout or 0)
    if "code" not in answer:
        raise FileNotFoundError(command[0])
    return subprocess.CompletedProcess(list(command), answer["code"], answer["stdout"], answer["stderr"])


def register_for_signals() -> None:
    """Inside a container: from now on this process takes the signals, or one that told so before."""
    with contextlib.suppress(OSError, ValueError):
        _ask({})


def _ask(request: Mapping[str, Any]) -> dict[str, Any]:
    """Send a request to the outside and return the answer; empty if the connection was closed without one.

    No buffered writer: if a signal handler raises while one writes, closing it writes again. That fails if the outside
    has answered and closed the connection meanwhile, and the OSError would replace the handler's exception.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[RELAY_SOCKET])
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as reader:
            answer = reader.readline()
    return json.loads(answer) if answer else {}
