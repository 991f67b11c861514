"""JupyterLab on the loopback of this machine, behind a token, and the ssh line that leads there from one's own"""
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
_OURS = re.compile(r"--?(\w+\.)?(ip|port|port_retries|sock|token|password|hashed_password|identity_provider_class|"
                   r"allow_unauthenticated_access|root_dir)(=.*)?")


@exits_on_user_error
def main(arguments: Sequence[str]) -> None:
    """Say how to reach it, then serve until it is stopped. arguments: more of JupyterLab's own, none of which may open
    it to others."""
    if opening := [word for word in arguments if _OURS.fullmatch(word)]:
        raise UserError("JupyterLab stays on the loopback, behind a token of its own", where=" ".join(opening),
                        hint="leave it out, and reach it through the ssh tunnel that is going to stand here")
    if stat.S_ISREG(os.fstat(1).st_mode):
        os.fchmod(1, 0o600)  # the token that protects from others on this node is going to stand there
    port, token = _free_port(), secrets.token_hex(24)
    print(connection_instructions(port, token, getpass.getuser(), platform.node(), os.environ), flush=True)
    from jupyterlab.labapp import LabApp

    LabApp.launch_instance(server_options(arguments, port, token))  # within this process: `ps` shows no token


def server_options(arguments: Sequence[str], port: int, token: str) -> list[str]:
    """JupyterLab's options. They hold, whatever stands in somebody's configuration."""
    return [*arguments, "--no-browser", f"--ServerApp.ip={_LOOPBACK}", f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={os.getcwd()}"]


def connection_instructions(port: int, token: str, user: str, node: str, environment: Mapping[str, str]) -> str:
    """What to type on one's own machine. environment: Slurm's, if this is a Slurm job."""
    job, login = slurm_environment.raw_job_id(environment), slurm_environment.submit_host(environment)
    through = f"-J {user}@{login} " if login and login != node else ""
    lines = [f"JupyterLab on {node}, in some seconds. On your own machine, leave this running:",
             f"  ssh -N {through}-L {port}:{_LOOPBACK}:{port} {user}@{node}"]
    if through:
        lines.append(f"  ({login} is the login node: write it as you reach it from there)")
    lines += ["then open, and give to nobody:", f"  http://{_LOOPBACK}:{port}/lab/tree/{_NOTEBOOK}?token={token}"]
    return "\n".join([*lines, f"It ends with its time limit, or by: scancel {job}" if job else "It ends by Ctrl-C."])


def _free_port() -> int:
    """A port that nobody uses just now; if somebody takes it first, the server says so and ends."""
    with socket.socket() as found:
        found.bind((_LOOPBACK, 0))
        port: int = found.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
