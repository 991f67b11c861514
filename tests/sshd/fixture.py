"""The fixture `sshd`: a real sshd on loopback with its own keys, for tests of remote clusters."""
from __future__ import annotations

import contextlib
import getpass
import json
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

SERVER = shutil.which("sshd") or "/usr/sbin/sshd"  # sshd requires that it is started by its absolute path

_SERVER_CONFIG = """\
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
_CLIENT_CONFIG = """\
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
    """A running server. `ssh -F CONFIG ANY_NAME` connects to it; the user's own configuration is not read."""

    folder: Path
    port: int
    pid: int

    @property
    def config(self) -> Path:
        return self.folder / "config"

    def write_hosts(self, project: Path, remote_dir: Path, setup: tuple[str, ...] = (), name: str = "cluster") -> None:
        """Write a hosts.toml into a project, with a host on this server that runs the Python of the tests."""
        (project / "hosts.toml").write_text(f"""\
[{name}]
ssh = "cluster"
options = {_toml_array("-F", str(self.config))}
folder = {json.dumps(str(remote_dir), ensure_ascii=False)}
python = {json.dumps(sys.executable, ensure_ascii=False)}
setup = {_toml_array(*setup)}
""")

    def sessions(self) -> list[int]:
        """Return the ids of the server's processes, one per connection."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def drop_connections(self) -> int:
        """Kill all connections at once, as a network failure does. Returns how many there were."""
        pids = self.sessions()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)


def _toml_array(*strings: str) -> str:
    return json.dumps(list(strings), ensure_ascii=False)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _accepts_connections(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            return client.recv(4) == b"SSH-"
    except OSError:
        return False


def _write_keys_and_configuration(folder: Path, port: int) -> None:
    for name in ("host_key", "user_key", "other_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name], check=True)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    (folder / "config").write_text(_CLIENT_CONFIG.format(folder=folder, port=port, user=getpass.getuser()))
    text = _SERVER_CONFIG.format(folder=folder, port=port)
    # newer servers reject clients for a while after failed connections, which are part of the tests; older ones do not
    # have the option
    (folder / "sshd_config").write_text(f"{text}PerSourcePenalties no\n")
    if subprocess.run([SERVER, "-t", "-f", folder / "sshd_config"], capture_output=True).returncode:
        (folder / "sshd_config").write_text(text)


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """A running sshd. Without sshd, ssh or rsync tests are skipped, or fail if $GRIDIRON_REQUIRE_SLURM is 1."""
    missing = [name for name in (SERVER, "ssh", "ssh-keygen", "rsync") if not shutil.which(name)]
    if missing:
        reason = f"tests over ssh need {', '.join(missing)}"
        (pytest.fail if os.environ.get("GRIDIRON_REQUIRE_SLURM") == "1" else pytest.skip)(reason)
    folder, port = Path(tempfile.mkdtemp(prefix="gridiron-sshd-")), _free_port()
    previous = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)  # for the sockets of shared connections
    server = None
    try:
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd requires it; nothing may have created it
        _write_keys_and_configuration(folder, port)
        with open(folder / "log", "w") as log:
            # let the kernel kill it if the tests are killed
            wrapper = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
            server = subprocess.Popen([*wrapper, SERVER, "-D", "-e", "-f", folder / "sshd_config"],
                                      stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 300
        while not _accepts_connections(port):
            assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield Sshd(folder, port, server.pid)
    finally:
        if previous is None:
            os.environ.pop("XDG_RUNTIME_DIR", None)
        else:
            os.environ["XDG_RUNTIME_DIR"] = previous
        if server:
            server.send_signal(signal.SIGSTOP)  # it accepts no further connections
            Sshd(folder, port, server.pid).drop_connections()
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)
