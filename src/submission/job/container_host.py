"""The outside of a container: starts train.py in it, hands it the signals, and calls the commands of Slurm for it"""
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
from src.submission.job import container
from src.submission.spec.container_spec import Container
from src.submission.system import process
from src.submission.system.container_relay import FORWARDED_VARIABLES
from src.submission.system.process import RELAY_SOCKET
from src.submission.system.signals import Waker

# what may be called for the inside, and the variables that it may set for them
_COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel")
_HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_LOOK = 10.0  # seconds, at most, between looks at whether the container has ended
_LONGEST = 90  # bytes of a socket's path, of at most 107


def run_in_container(asked: Container, batch: str, words: Sequence[str], ticket: int | None = None) -> int:
    """Run train.py, with these words, in the container. Its exit code; UserError if it cannot be begun.

    batch: the folder of the batch; ticket: as it came with the Slurm job.
    """
    runtime = container.find_runtime()
    if runtime is None:
        raise UserError(f"neither {' nor '.join(container.RUNTIMES)} is on {os.uname().nodename}", where=asked.image,
                        hint="a submit script, or activate.sh, can put one on the PATH, as by `module load apptainer`")
    if not os.path.exists(asked.image):
        raise UserError(f"the image is not on {os.uname().nodename}", where=asked.image,
                        hint="nodes and login node must see it at the same path")
    program = os.path.abspath(sys.argv[0])
    with tempfile.TemporaryDirectory(prefix="gridiron-", dir=_short(tempfile.gettempdir())) as folder:
        told = {RELAY_SOCKET: os.path.join(folder, "slurm"),
                process.PARENT: json.dumps(process.identity_of(os.getppid()))}
        inside = {**container.inside_environment(asked, os.environ), **told}
        if ticket is not None:
            inside["GRIDIRON_TICKET"] = str(ticket)
        python = container.python_inside(asked)
        if python == sys.executable:
            inside["PREPEND_PATH"] = os.path.dirname(python)
        here = os.getcwd()
        mounted = [*container.mount_options(container.expand_on_node(asked), batch, program, inside, here),
                   container.mount_option(folder, folder)]
        command = container.exec_command(asked, runtime, mounted, container.may_use_gpus(os.environ),
                                    [python, program, *words], here)
        with _Outside(told[RELAY_SOCKET]) as outside:
            code = outside.run(command, container.runtime_environment(runtime, inside, os.environ))
    if code not in (0, 2) and not outside.heard_of and not outside.stopped:
        raise UserError(f"train.py did not begin in the container: {os.path.basename(runtime)} ended with exit code "
                        f"{code}, and its words are above", where=asked.image, hint=f"{python} must start there, and "
                        "find its packages; docs/containers.md tells which Python that is")
    return code


def _short(folder: str) -> str:
    return folder if len(os.fsencode(folder)) + len("/gridiron-xxxxxxxx/slurm") <= _LONGEST else "/tmp"


class _Outside:
    """One container, and those who ask from inside."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)  # in a folder that is ours alone
        self._listener.listen(64)
        self._child: subprocess.Popen[bytes] | None = None
        self._inside: int | None = None  # the process that takes signals, by its number here
        self._waiting: list[int] = []  # signals for it
        self.stopped = False  # a signal said so

    @property
    def heard_of(self) -> bool:
        """Whether a run, or a worker, began inside."""
        return self._inside is not None

    def __enter__(self) -> _Outside:
        self._before = {number: signal.signal(number, self._tell) for number in _HEARD}
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # whoever waits for the next to ask waits no more
        self._listener.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Start the container and wait for its end."""
        with Waker() as waker:
            try:
                self._child = subprocess.Popen(command, env=environment)
            except OSError as error:
                raise UserError(f"{command[0]}: {error.strerror}") from None
            self._hand_on()
            while (code := self._child.poll()) is None:
                waker.wait(_LOOK)
        return 128 - code if code < 0 else code

    def _tell(self, number: int, _frame: object) -> None:
        # as in launch: the terminal has told the inside of Ctrl-C itself, and the second would end it at once
        self._waiting.append(signal.SIGTERM if number == signal.SIGINT else number)
        self.stopped |= number != signal.SIGUSR1
        self._hand_on()

    def _hand_on(self) -> None:
        """Signals go straight to the process inside, once it listens, whatever the runtime does with its own. A stop
        before that ends the start, if the runtime hands it on, and else is told too when somebody listens; the warning
        that time is short waits, for it would end the start as well."""
        if self._inside is not None:
            # another thread may be at it too; or the process has ended
            with contextlib.suppress(IndexError, ProcessLookupError):
                while True:
                    os.kill(self._inside, self._waiting.pop(0))
        elif self._child is not None and signal.SIGTERM in self._waiting:
            self._child.send_signal(signal.SIGTERM)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as file:
            asked = json.loads(file.readline())
            if "command" in asked:
                answer = _call(asked)
            else:
                if self._inside is None:  # later ones are what it starts itself
                    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                    self._inside = struct.unpack("3i", credentials)[0]
                    self._hand_on()
                answer = {}
            connection.sendall(json.dumps(answer).encode() + b"\n")


def _call(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The exit status and words of one of Slurm's commands; `failed`: missing, or timeout."""
    command = list(map(str, asked["command"]))
    if not command or command[0] not in _COMMANDS:
        return {"failed": "missing"}
    environment = process.environment_outside_slurm() if command[0] == "sbatch" else dict(os.environ)
    environment |= {name: str(value) for name, value in asked["set"].items() if name in FORWARDED_VARIABLES}
    try:
        done = subprocess.run(command, input=asked["input"], capture_output=True, text=True, errors="replace",
                              env=environment, timeout=asked["timeout"], check=False)
    except OSError:
        return {"failed": "missing"}
    except subprocess.TimeoutExpired:
        return {"failed": "timeout"}
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
