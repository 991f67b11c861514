"""Client inside a container: run Slurm commands through the host process (`job/container_host.py`)."""
from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from src.submission.system.process import RELAY_SOCKET

FORWARDED_VARIABLES = ("GRIDIRON_TICKET",)  # that a caller may set for a Slurm command


def run(command: Sequence[str], environment: Mapping[str, str] | None, timeout: float | None,
        stdin: str) -> subprocess.CompletedProcess[str]:
    """Run a Slurm command on the host. FileNotFoundError if the host lacks the command or the host process has ended;
    subprocess.TimeoutExpired as from subprocess.run.

    environment: of the command; only FORWARDED_VARIABLES are passed on. timeout: seconds.
    """
    try:
        answer = _request({"command": list(command), "input": stdin, "timeout": timeout,
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
    """Register this process to receive the signals that the host process gets, unless another one has registered."""
    with contextlib.suppress(OSError, ValueError):
        _request({})


def _request(request: Mapping[str, Any]) -> dict[str, Any]:
    """Send a request to the host process and return the answer; empty if the connection was closed without one.

    No buffered writer: if a signal handler raises while one writes, closing it writes again. That fails if the host
    process has answered and closed the connection meanwhile, and the OSError would replace the handler's exception.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[RELAY_SOCKET])
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as reader:
            answer = reader.readline()
    return json.loads(answer) if answer else {}
