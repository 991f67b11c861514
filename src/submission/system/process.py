"""Identify processes, so that a dead one is recognised after a reboot or if its process id was reused."""
from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from src.errors import ON
from src.io import files, slurm_environment

_MAX_TITLE = 15  # bytes, of Linux
DETACHED_COMMAND = "GRIDIRON_ERRAND"  # variable of a detached command: its folder
# Variables in a container: the socket of the relay to the host, and the identity of the process that started the host
# process, because there the parent of this one is the container runtime.
RELAY_SOCKET, PARENT = "GRIDIRON_OUTSIDE", "GRIDIRON_STARTER"
_NOT_INHERITED = ("GRIDIRON_TICKET", DETACHED_COMMAND, ON)


def identity() -> dict[str, Any]:
    """Return the identity of this process: that of identity_of, with slurm_job, restart count and time."""
    return {**identity_of(os.getpid()), "slurm_job": slurm_environment.job_id(),
            "restart": slurm_environment.restart_count(), "time": time.time()}


def identity_of(pid: int) -> dict[str, Any]:
    """Return the identity of a process of this machine: host, boot_id, pid_space (the namespace of process ids), pid,
    pid_start (clock ticks since boot).
    """
    return {"host": os.uname().nodename, "boot_id": _boot_id(), "pid_space": _pid_namespace(), "pid": pid,
            "pid_start": _start_ticks(pid)}


def parent_pid() -> int:
    """Return the id of the process that started this one, or in a container the host process."""
    return int(json.loads(os.environ[PARENT])["pid"]) if PARENT in os.environ else os.getppid()


def watch_parent() -> Callable[[], bool]:
    """Return a function that returns whether the parent process is still alive, as far as can be seen."""
    if text := os.environ.get(PARENT):
        parent = json.loads(text)
        return lambda: is_alive(parent) is not False
    pid = os.getppid()
    return lambda: os.getppid() == pid


def started_by_torchrun() -> bool:
    """Return whether torchrun, or a launcher that sets the same variables, started this process. It overrides srun."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def rank() -> int:
    """Return the rank of this process among those that were started together; 0 for a single process."""
    return int(os.environ["RANK"]) if started_by_torchrun() else slurm_environment.rank()


def world_size() -> int:
    """Return how many processes were started together; 1 in a batch script, which srun did not start."""
    return int(os.environ["WORLD_SIZE"]) if started_by_torchrun() else slurm_environment.world_size()


def local_rank() -> int:
    """Return the rank of this process among those on this node."""
    return int(os.environ["LOCAL_RANK"]) if started_by_torchrun() else slurm_environment.local_rank()


def handles_signal(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal, which would end it otherwise. False without /proc."""
    mask = re.search(r"^SigCgt:\s*([0-9a-f]+)", files.read_text(f"/proc/{pid}/status") or "", re.MULTILINE)
    return mask is not None and bool(int(mask[1], 16) >> (number - 1) & 1)


def environment_outside_slurm() -> dict[str, str]:
    """Return this environment for a process that is to belong neither to this Slurm job nor to this run."""
    return {key: value for key, value in os.environ.items()
            if not slurm_environment.is_of_job(key) and not key.startswith(_NOT_INHERITED)}


def is_alive(identity: dict[str, Any]) -> bool | None:
    """Return whether a process is alive, given its identity; None if it cannot be seen from here.

    A machine is identified by its boot id and its namespace of process ids (a container has its own), so that a new
    host name does not hide a process. After a reboot, the host name shows that all of its processes are gone.
    """
    if not _is_pid(identity.get("pid")):
        return None
    boot = _boot_id()
    if identity.get("boot_id") != boot:
        return False if identity.get("host") == os.uname().nodename else None
    if identity.get("pid_space") != _pid_namespace() or not boot and identity.get("host") != os.uname().nodename:
        return None
    start = _start_ticks(identity["pid"])
    if start == 0 != identity.get("pid_start"):
        return None  # a process has that id, but /proc hides when it started
    return start is not None and start == identity.get("pid_start")


def _is_pid(pid: object) -> bool:
    """Return whether a value names one process: 0 and -1 name several, and 1 is none of ours."""
    return type(pid) is int and 1 < pid < 1 << 31


def terminate(identity: dict[str, Any], works_on: Callable[[int], bool]) -> bool:
    """Send TERM to a process if it is alive and `works_on` returns True for its id. Return whether that is so.

    The identity comes from a file, which another user may have written: `works_on` proves what the process does.
    """
    pid = identity.get("pid")
    if not isinstance(pid, int) or not _is_pid(pid):
        return False
    try:
        handle = os.pidfd_open(pid)  # it denotes this process even if the id is reused before the signal is sent
    except (AttributeError, OSError):  # not Linux, an old kernel, or the process has ended
        handle = None
    try:
        if not is_alive(identity) or not works_on(pid):
            return False
        if handle is None:
            os.kill(pid, signal.SIGTERM)
        else:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    except ProcessLookupError:
        pass
    finally:
        if handle is not None:
            os.close(handle)
    return True


def set_title(name: str) -> None:
    """Name this process in `ps -e`, `top` and `pgrep`, which show 15 characters; nothing where that is impossible."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "wb", buffering=0) as file:
        file.write(name.encode()[:_MAX_TITLE])


def works_on(pid: int, folder: str) -> bool:
    """Return whether a process is a Python program that names a path in a folder on its command line, or that has a
    file there open, or that started such a program.
    """
    return _works_on(pid, folder) or any(_works_on(child, folder) for child in _children(pid))


def _works_on(pid: int, folder: str) -> bool:
    top = os.path.join(os.path.realpath(folder), "")
    program, *arguments = _command_line(pid) or [""]
    if "python" not in os.path.basename(program):
        return False
    working_dir = _read_link(f"/proc/{pid}/cwd")
    paths = [os.path.join(working_dir, argument) for argument in arguments]
    with contextlib.suppress(OSError):  # not Linux, or not ours
        paths += [_read_link(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    return any(os.path.join(os.path.realpath(path), "").startswith(top) for path in paths if os.path.isabs(path))


def _read_link(path: str) -> str:
    """Return the target of a link; empty if it cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _command_line(pid: int) -> list[str]:
    """Return the program and the arguments of a process; empty if that cannot be seen."""
    text = files.read_text(f"/proc/{pid}/cmdline")
    if text is None:
        return _ps("-ww", "-o", "args=", "-p", str(pid)).split()
    return text.rstrip("\0").split("\0")


def _children(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started."""
    pairs = (line.split() for line in _ps("-A", "-o", "pid=,ppid=").splitlines())
    return [int(child) for child, parent in pairs if parent == str(pid)]


def _ps(*options: str) -> str:
    """Return the output of ps; empty if it fails."""
    import subprocess  # few commands need it

    try:
        return subprocess.run(["ps", *options], capture_output=True, text=True, errors="replace", check=False).stdout
    except OSError:
        return ""


def killed_by(number: int) -> str:
    """Return `killed by signal 9 (out of memory, or by hand)`, for any signal that ended a process."""
    reason = "out of memory, or by hand" if number == signal.SIGKILL else signal.strsignal(number) or "unknown"
    return f"killed by signal {number} ({reason})"


def describe(identity: dict[str, Any]) -> str:
    """Describe a process in messages: `Slurm job 12 on node3`, or `process 4711 on host`."""
    job = identity.get("slurm_job")
    name = f"Slurm job {job}" if job else f"process {identity.get('pid', '?')}"
    return f"{name} on {identity.get('host', 'an unknown host')}"


def _boot_id() -> str:
    return (files.read_text("/proc/sys/kernel/random/boot_id") or "").strip()


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_ticks(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot; 0 if /proc does not show it; None if it is dead."""
    stat = files.read_text(f"/proc/{pid}/stat")
    if stat is not None:
        state, *rest = stat.rpartition(")")[2].split()
        return None if state in "ZX" else int(rest[18])
    try:  # no /proc (macOS), or it hides the processes of other users
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 0


def exit_process(code: int) -> NoReturn:
    """End this process. One of several that were started together skips the clean-up of Python: a thread that releases
    a tensor during it would abort the process after all was done.
    """
    if world_size() == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
