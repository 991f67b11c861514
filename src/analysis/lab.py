"""Run JupyterLab on this machine's loopback interface with a token, and print the ssh tunnel command."""
from __future__ import annotations

import getpass
import os
import platform
import re
import secrets
import sys
from collections.abc import Sequence

from src import loopback
from src.errors import UserError, exits_on_user_error
from src.io import files

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
    """Print how to connect, then serve until stopped. arguments: of JupyterLab; none may open it to others."""
    if reserved := list(filter(_is_reserved, arguments)):
        raise UserError("JupyterLab listens on the loopback interface, with a token of its own",
                        where=" ".join(reserved),
                        hint="leave the option out, and connect through the ssh tunnel that is printed")
    port, token = loopback.free_port(), secrets.token_hex(loopback.TOKEN_BYTES)
    address = f"http://{loopback.ADDRESS}:{port}/lab/tree/{_NOTEBOOK}?token={token}"
    with loopback.address_file("jupyter", address) as path:
        print(loopback.connection_instructions("JupyterLab", port, path, getpass.getuser(), platform.node(),
                                               os.environ), flush=True)
        from jupyterlab.labapp import LabApp

        LabApp.launch_instance(server_options(arguments, port, token))  # within this process: `ps` shows no token


def _is_reserved(argument: str) -> bool:
    """Return whether an argument sets a reserved option, or has a form of which that cannot be excluded."""
    if not argument.startswith("-"):
        return False
    match = _OPTION.fullmatch(argument)
    name = match[1].rpartition(".")[2].replace("-", "_") if match else ""
    return any(reserved.startswith(name) for reserved in _RESERVED)


def server_options(arguments: Sequence[str], port: int, token: str) -> list[str]:
    """Return JupyterLab's options. They override the user's configuration files."""
    return [*arguments, "--no-browser", f"--ServerApp.ip={loopback.ADDRESS}", f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={os.getcwd()}"]


if __name__ == "__main__":
    files.limit_umask()
    sys.exit(main(sys.argv[1:]))
