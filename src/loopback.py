"""Servers on the loopback interface: a free port, a private file with the address, and the ssh tunnel to it."""
from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator, Mapping

from src.errors import UserError
from src.io import private, slurm_environment

ADDRESS = "127.0.0.1"
TOKEN_BYTES = 24


@contextlib.contextmanager
def address_file(program: str, address: str) -> Iterator[str]:
    """Write the address, with its token, to a file that only this user can read, and yield its path; remove it after.

    The output of a Slurm job may be readable by others.
    """
    try:
        path = os.path.join(private.state_folder(), f"{program}-{secrets.token_hex(4)}.url")
        private.write_secret(path, f"{address}\n")
    except OSError as error:
        raise UserError(f"no private folder for the address, which contains the token: {error.strerror}",
                        where=error.filename, hint="set XDG_STATE_HOME to a folder of yours") from None
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def tunnel(port: int, user: str, node: str, environment: Mapping[str, str]) -> list[str]:
    """Return the words of the ssh command that connects a port of the user's machine to the same port of this node.

    environment: Slurm's variables, if this is a Slurm job.
    """
    login = login_node(node, environment)
    return ["ssh", "-N", *(["-J", f"{user}@{login}"] if login else []), "-L", f"{port}:{ADDRESS}:{port}",
            f"{user}@{node}"]


def login_node(node: str, environment: Mapping[str, str]) -> str | None:
    """Return the machine through which this node is reached; None outside of Slurm jobs."""
    login = slurm_environment.submit_host(environment)
    return login if login and login != node else None


def connection_instructions(title: str, port: int, path: str, user: str, node: str, environment: Mapping[str, str]
                            ) -> str:
    """Return what to type on the user's machine. title: of the server; path: of the file with the address."""
    job, login = slurm_environment.raw_job_id(environment), login_node(node, environment)
    lines = [f"{title} on {node}, ready in a few seconds. Keep this running on your own machine:",
             f"  {' '.join(tunnel(port, user, node, environment))}"]
    if login:
        lines.append(f"  ({login} is the login node: use the name by which you reach it from there)")
    lines += ["then open the address in this file, which only you can read:", f"  {path}"]
    lines.append(f"It stops at its time limit, or with: scancel {job}" if job else "It stops with Ctrl-C.")
    return "\n".join(lines)


def free_port() -> int:
    """Return a free port. If another process takes it first, the server reports that and exits."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port: int = probe.getsockname()[1]
        return port
