"""Run JupyterLab on this machine's loopback interface with a token, and print the ssh tunnel command."""
from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence

from src.errors import UserError, exits_on_user_error
from src.io import files, private, slurm_environment

_LOOPBACK = "127.0.0.1"
_NOTEBOOK = "notebooks/view_results.ipynb"
# Names of options, without their class, that could make the server accessible to others, or that read a file with such
# options. Jupyter also accepts the beginning of some names.
_RESERVED = ("ip", "port", "port_retries", "sock", "sock_mode", "token", "password", "password_required",
             "hashed_password", "allow_password_change", "identity_provider_class", "authorizer_class",
             "login_handler_class", "logout_handler_class", "allow_unauthenticated_access", "allow_remote_access",
             "allow_origin", "allow_origin_pat", "allow_credentials", "local_hostnames", "disable_check_xsrf",
             "tornado_settings", "cookie_secret", "cookie_secret_file", "root_dir", "notebook_dir", "config",
             "config_file", "config_file_name", "config_file_paths")
_OPTION = re.compile(r"-+([\w.-]+)(=.*)?", re.DOTALL)


@exits_on_user_error
def main(arguments: Sequence[str]) -> None:
    """Print how to connect, then serve until stopped. arguments: of JupyterLab; none may make it accessible to others.
    """
    if reserved := list(filter(_is_reserved, arguments)):
        raise UserError("JupyterLab listens on the loopback interface, with a token of its own",
                        where=" ".join(reserved),
                        hint="leave the option out, and connect through the ssh tunnel that is printed")
    port, token = _free_port(), secrets.token_hex(24)
    with _address_file(f"http://{_LOOPBACK}:{port}/lab/tree/{_NOTEBOOK}?token={token}") as path:
        print(connection_instructions(port, path, getpass.getuser(), platform.node(), os.environ), flush=True)
        from jupyterlab.labapp import LabApp

        LabApp.launch_instance(server_options(arguments, port, token))  # within this process: `ps` shows no token


def _is_reserved(argument: str) -> bool:
    """Return whether an argument sets a reserved option, or has a form of which that cannot be excluded."""
    if not argument.startswith("-"):
        return False
    match = _OPTION.fullmatch(argument)
    name = match[1].rpartition(".")[2].replace("-", "_") if match else ""
    return any(reserved.startswith(name) for reserved in _RESERVED)


@contextlib.contextmanager
def _address_file(address: str) -> Iterator[str]:
    """Write the address, with its token, to a file that only this user can read, and yield its path; remove it after.

    The output of a Slurm job may be readable by others.
    """
    try:
        path = os.path.join(private.state_folder(), f"jupyter-{secrets.token_hex(4)}.url")
        private.write_secret(path, f"{address}\n")
    except OSError as error:
        raise UserError(f"no private folder for the address, which contains the token: {error.strerror}",
                        where=error.filename, hint="set XDG_STATE_HOME to a folder of yours") from None
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def server_options(arguments: Sequence[str], port: int, token: str) -> list[str]:
    """Return JupyterLab's options. They override the user's configuration files."""
    return [*arguments, "--no-browser", f"--ServerApp.ip={_LOOPBACK}", f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={os.getcwd()}"]


def connection_instructions(port: int, path: str, user: str, node: str, environment: Mapping[str, str]) -> str:
    """Return what to type on the user's machine. path: of the file with the address.

    environment: Slurm's variables, if this is a Slurm job.
    """
    job, login = slurm_environment.raw_job_id(environment), slurm_environment.submit_host(environment)
    jump = f"-J {user}@{login} " if login and login != node else ""
    lines = [f"JupyterLab on {node}, ready in a few seconds. Keep this running on your own machine:",
             f"  ssh -N {jump}-L {port}:{_LOOPBACK}:{port} {user}@{node}"]
    if jump:
        lines.append(f"  ({login} is the login node: use the name by which you reach it from there)")
    lines += ["then open the address in this file, which only you can read:", f"  {path}"]
    lines.append(f"It stops at its time limit, or with: scancel {job}" if job else "It stops with Ctrl-C.")
    return "\n".join(lines)


def _free_port() -> int:
    """Return a free port. If another process takes it first, the server reports that and exits."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    files.limit_umask()
    sys.exit(main(sys.argv[1:]))
