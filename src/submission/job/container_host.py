"""Host side of a container: start train.py inside, forward signals to it, and run Slurm commands for it.

The client inside is `system/container_relay.py`.
"""
from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from src.errors import UserError
from src.io import packed_copy, slurm_environment
from src.submission.job import container, container_calls
from src.submission.spec.container_spec import Container
from src.submission.system import process
from src.submission.system.process import RELAY_SOCKET
from src.submission.system.signals import Waker

_FORWARDED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_POLL_INTERVAL = 10.0  # seconds, at most, between checks whether the container has ended
_MAX_REQUEST = 1 << 16  # bytes
_MAX_SOCKET_PATH = 90  # bytes; the system allows 107


def run_in_container(requested: Container, batch: str, arguments: Sequence[str], ticket: int | None = None,
                     successor: Sequence[str] | None = None) -> int:
    """Run train.py with these arguments in a container. Return its exit code; UserError if it cannot be started.

    batch: the folder of the batch. ticket: that the Slurm job was submitted with.
    successor: the command of sbatch that a run inside may request, if any.
    """
    runtime = container.find_runtime()
    if runtime is None:
        raise UserError(f"neither {' nor '.join(container.RUNTIMES)} is on {os.uname().nodename}",
                        where=requested.image,
                        hint="a submit script, or activate.sh, can put one on the PATH, as by `module load apptainer`")
    if not os.path.exists(requested.image):
        raise UserError(f"the image is not on {os.uname().nodename}", where=requested.image,
                        hint="nodes and login node must see it at the same path")
    program = os.path.abspath(sys.argv[0])
    with tempfile.TemporaryDirectory(prefix="gridiron-", dir=_socket_parent(tempfile.gettempdir())) as folder:
        relay = {RELAY_SOCKET: os.path.join(folder, "slurm"),
                 process.PARENT: json.dumps(process.identity_of(os.getppid()))}
        inside = {**container.inside_environment(requested, os.environ), **relay}
        if ticket is not None:
            inside["GRIDIRON_TICKET"] = str(ticket)
        python = container.python_inside(requested)
        if python == packed_copy.environment()[2]:
            inside["PREPEND_PATH"] = os.path.dirname(python)
        working_dir = os.getcwd()
        mounts = [*container.mount_options(container.expand_on_node(requested), batch, program, inside, working_dir),
                  container.mount_option(folder, folder)]
        command = container.exec_command(requested, runtime, mounts, container.may_use_gpus(os.environ),
                                         [python, program, *arguments], working_dir)
        with _ContainerHost(relay[RELAY_SOCKET], successor) as host:
            code = host.run(command, container.runtime_environment(runtime, inside, os.environ))
    if code not in (0, 2) and not host.has_client and not host.is_stopped:
        raise UserError(f"train.py did not start in the container: {os.path.basename(runtime)} ended with exit code "
                        f"{code}; its output is above", where=requested.image, hint=f"{python} must start there, and "
                        "find its packages; docs/containers.md explains which Python that is")
    return code


def _socket_parent(folder: str) -> str:
    """Return the folder if a socket's path in it is short enough, /tmp otherwise."""
    path_length = len(os.fsencode(folder)) + len("/gridiron-xxxxxxxx/slurm")
    return folder if path_length <= _MAX_SOCKET_PATH else "/tmp"


class _ContainerHost:
    """Context manager that runs one container and answers requests from inside it."""

    def __init__(self, socket_path: str, successor: Sequence[str] | None = None) -> None:
        self._successor = successor
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(socket_path)  # in a folder that no other user can open
        self._listener.listen(64)
        self._child: subprocess.Popen[bytes] | None = None
        self._client: int | None = None  # the process inside that takes signals, by its id on the host
        self._pending: list[int] = []  # signals for it
        self.is_stopped = False  # a signal requested a stop

    @property
    def has_client(self) -> bool:
        """Whether a run, or a worker, has started inside."""
        return self._client is not None

    def __enter__(self) -> _ContainerHost:
        self._handlers = {number: signal.signal(number, self._on_signal) for number in _FORWARDED_SIGNALS}
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the thread that waits for connections
        self._listener.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Start the container, wait for its end, and return the exit code."""
        with Waker() as waker:
            try:
                self._child = subprocess.Popen(command, env=environment)
            except OSError as error:
                raise UserError(f"{command[0]}: {error.strerror}") from None
            self._forward_signals()
            while (code := self._child.poll()) is None:
                waker.wait(_POLL_INTERVAL)
        return 128 - code if code < 0 else code

    def _on_signal(self, number: int, _frame: object) -> None:
        # The terminal sends Ctrl-C to the container as well, and a second one would end the run at once: forward TERM.
        self._pending.append(signal.SIGTERM if number == signal.SIGINT else number)
        self.is_stopped |= number != signal.SIGUSR1
        self._forward_signals()

    def _forward_signals(self) -> None:
        """Send pending signals to the process inside, once it has registered, whatever the runtime does with its own.

        Until then keep all signals, and send a stop to the runtime too, which may still be starting the container. The
        warning that the time limit is near is not sent to the runtime, because it would end the start.
        """
        if self._client is not None:
            # another thread may forward the same signals; or the process has ended
            with contextlib.suppress(IndexError, ProcessLookupError):
                while True:
                    os.kill(self._client, self._pending.pop(0))
        elif self._child is not None and signal.SIGTERM in self._pending:
            self._child.send_signal(signal.SIGTERM)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        """Answer one request: run a Slurm command, or register the client for signals."""
        with contextlib.suppress(OSError, ValueError, RecursionError), connection, connection.makefile("rb") as file:
            request = json.loads(file.readline(_MAX_REQUEST))
            if request:
                answer = _run_slurm_command(request, self._successor)
            else:
                if self._client is None:  # later requests come from processes that the client started
                    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                    self._client = struct.unpack("3i", credentials)[0]
                    self._forward_signals()
                answer = {}
            connection.sendall(json.dumps(answer).encode() + b"\n")


def _run_slurm_command(request: Any, successor: Sequence[str] | None) -> dict[str, Any]:
    """Run one of Slurm's commands. Return its exit status and output, or {failed: missing} or {failed: timeout}."""
    parsed = container_calls.parse_request(request)
    if parsed is None or not container_calls.is_allowed(parsed[0], slurm_environment.job_id(), successor):
        return {"code": 1, "stdout": "", "stderr": container_calls.REFUSED}
    command, variables, timeout = parsed
    environment = (slurm_environment.without_sbatch_defaults(process.environment_outside_slurm())
                   if command[0] == "sbatch" else slurm_environment.for_local_cluster())
    environment |= variables
    try:
        done = subprocess.run(command, input="", capture_output=True, text=True, errors="replace", env=environment,
                              timeout=timeout, check=False)
    except OSError:
        return {"failed": "missing"}
    except subprocess.TimeoutExpired:
        return {"failed": "timeout"}
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
