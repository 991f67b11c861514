"""A real sshd on loopback, with host and user keys of its own: the way to a "cluster" that is this machine."""
from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SERVER = shutil.which("sshd") or "/usr/sbin/sshd"  # which must be called by its whole path

_SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/user_key.pub
AuthenticationMethods publickey
StrictModes no
UsePAM no
PermitRootLogin yes
MaxStartups 200
MaxSessions 100
PrintMotd no
"""
_CLIENT = """\
Host *
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
"""


@dataclass(frozen=True)
class Sshd:
    """A server that runs. `ssh -F CONFIG anything` reaches it by its keys; nothing of the user's own is read."""

    folder: Path
    port: int
    pid: int

    @property
    def config(self) -> Path:
        return self.folder / "config"

    def write_hosts(self, project: Path, there: Path, setup: tuple[str, ...] = (), name: str = "cluster") -> None:
        """A hosts.toml beside a project: its folder on the host `cluster` is `there`, its Python the one of the tests.
        """
        (project / "hosts.toml").write_text(f"""\
[{name}]
ssh = "cluster"
options = {_toml("-F", str(self.config))}
folder = {_toml(str(there))[1:-1]}
python = {_toml(sys.executable)[1:-1]}
setup = {_toml(*setup)}
""")

    def sessions(self) -> list[int]:
        """The server's processes for connections."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def cut(self) -> int:
        """End every connection at once, as a network does; how many there were."""
        found = self.sessions()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)


def _toml(*words: str) -> str:
    """An array of strings in TOML."""
    import json

    return json.dumps(list(words), ensure_ascii=False)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            return client.recv(4) == b"SSH-"
    except OSError:
        return False


def _write_keys_and_configuration(folder: Path, port: int) -> None:
    for name in ("host_key", "user_key", "other_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name], check=True)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    (folder / "config").write_text(_CLIENT.format(folder=folder, port=port, user=getpass.getuser()))
    text = _SERVER.format(folder=folder, port=port)
    # newer servers shut out for a while whose connections ended badly, as tests have them end
    (folder / "sshd_config").write_text(f"{text}PerSourcePenalties no\n")
    if subprocess.run([SERVER, "-t", "-f", folder / "sshd_config"], capture_output=True).returncode:
        (folder / "sshd_config").write_text(text)


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """Skips the test where there is no sshd; fails it instead if $GRIDIRON_REQUIRE_SLURM is 1."""
    missing = [name for name in (SERVER, "ssh", "ssh-keygen", "rsync") if not shutil.which(name)]
    if missing:
        reason = f"tests of a machine that is reached by ssh need {', '.join(missing)}"
        (pytest.fail if os.environ.get("GRIDIRON_REQUIRE_SLURM") == "1" else pytest.skip)(reason)
    folder, port = Path(tempfile.mkdtemp(prefix="gridiron-sshd-")), _free_port()
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)  # where the sockets of shared connections are
    server = None
    try:
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # the server insists, where nothing has made it
        _write_keys_and_configuration(folder, port)
        with open(folder / "log", "w") as log:
            # the kernel ends it, should the tests be killed themselves
            dies_with_us = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
            server = subprocess.Popen([*dies_with_us, SERVER, "-D", "-e", "-f", folder / "sshd_config"],
                                      stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 30
        while not _answers(port):
            assert server.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)
        yield Sshd(folder, port, server.pid)
    finally:
        if before is None:
            os.environ.pop("XDG_RUNTIME_DIR", None)
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
        if server:
            server.send_signal(signal.SIGSTOP)  # it takes no connection any more
            Sshd(folder, port, server.pid).cut()
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)
