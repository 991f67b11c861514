"""Run JupyterLab on this machine's loopback interface with a token, and print the ssh tunnel command."""
from __future__ import annotations

import getpass
import os
import platform
import re
import secrets
import socket
import stat
import sys
from collections.abc import Mapping, Sequence

from src.errors import UserError, exits_on_user_error
from src.io import slurm_environment

_LOOPBACK = "127.0.0.1"
_NOTEBOOK = "notebooks/view_results.ipynb"
_RESERVED_OPTIONS = re.compile(
    r"--?(\w+\.)?(ip|port|port_retries|sock|token|password|hashed_password|identity_provider_class|"
    r"allow_unauthenticated_access|root_dir)(=.*)?")


@exits_on_user_error
def main(arguments: Sequence[str]) -> None:
    """Print how to connect, then serve until stopped. arguments: of JupyterLab; none may make it accessible to others.
    """
    if reserved := [argument for argument in arguments if _RESERVED_OPTIONS.fullmatch(argument)]:
        raise UserError("JupyterLab listens on the loopback interface, with a token of its own",
                        where=" ".join(reserved),
                        hint="leave the option out, and connect through the ssh tunnel that is printed")
    if stat.S_ISREG(os.fstat(1).st_mode):
        os.fchmod(1, 0o600)  # the output contains the token
    port, token = _free_port(), secrets.token_hex(24)
    print(connection_instructions(port, token, getpass.getuser(), platform.node(), os.environ), flush=True)
    from jupyterlab.labapp import LabApp

    LabApp.launch_instance(server_options(arguments, port, token))  # within this process: `ps` shows no token


def server_options(arguments: Sequence[str], port: int, token: str) -> list[str]:
    """Return JupyterLab's options. They override the user's configuration files."""
    return [*arguments, "--no-browser", f"--ServerApp.ip={_LOOPBACK}", f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={os.getcwd()}"]


def connection_instructions(port: int, token: str, user: str, node: str, environment: Mapping[str, str]) -> str:
    """Return what to type on the user's machine. environment: Slurm's variables, if this is a Slurm job."""
    job, login = slurm_environment.raw_job_id(environment), slurm_environment.submit_host(environment)
    jump = f"-J {user}@{login} " if login and login != node else ""
    lines = [f"JupyterLab on {node}, ready in a few seconds. Keep this running on your own machine:",
             f"  ssh -N {jump}-L {port}:{_LOOPBACK}:{port} {user}@{node}"]
    if jump:
        lines.append(f"  ({login} is the login node: use the name by which you reach it from there)")
    lines += ["then open this address, which is secret:",
              f"  http://{_LOOPBACK}:{port}/lab/tree/{_NOTEBOOK}?token={token}"]
    lines.append(f"It stops at its time limit, or with: scancel {job}" if job else "It stops with Ctrl-C.")
    return "\n".join(lines)


def _free_port() -> int:
    """Return a free port. If another process takes it first, the server reports that and exits."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
