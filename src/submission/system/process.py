"""Telling a living process from a dead one, also after a reboot and when its number was given to another."""
from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from src.errors import ON
from src.io import files, slurm_environment

DETACHED_COMMAND = "GRIDIRON_ERRAND"  # the folder of the errand, set in a command that was given on another machine
_NOT_OUTSIDE = ("GRIDIRON_TICKET", DETACHED_COMMAND, ON)


# In a container: where its outside listens, and who started that, as `described` (the parent is the runtime, there).
RELAY_SOCKET, PARENT = "GRIDIRON_OUTSIDE", "GRIDIRON_STARTER"


def identity() -> dict[str, Any]:
    """This process, `described`, with slurm_job, restart and time (unix seconds)."""
    return {**identity_of(os.getpid()), "slurm_job": slurm_environment.job_id(),
            "restart": slurm_environment.restart_count(), "time": time.time()}


def identity_of(pid: int) -> dict[str, Any]:
    """A process of this machine: host, boot_id, pid_space, pid, pid_start (clock ticks since boot)."""
    return {"host": os.uname().nodename, "boot_id": _boot_id(), "pid_space": _pid_space(), "pid": pid,
            "pid_start": _start(pid)}


def parent_pid() -> int:
    """The number of the process that started this one."""
    return int(json.loads(os.environ[PARENT])["pid"]) if PARENT in os.environ else os.getppid()


def watch_parent() -> Callable[[], bool]:
    """What tells, from now on, whether the process that started this one still lives, as far as can be seen."""
    if told := os.environ.get(PARENT):
        who = json.loads(told)
        return lambda: is_alive(who) is not False
    parent = os.getppid()
    return lambda: os.getppid() == parent


def started_by_torchrun() -> bool:
    """Whether torchrun started this process, or another that tells places as it does: that is closer than srun."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def rank() -> int:
    """The number of this process among those that were started together for a run; 0 for one that is alone."""
    return int(os.environ["RANK"]) if started_by_torchrun() else slurm_environment.rank()


def world_size() -> int:
    """How many processes were started together with this one; 1 in a batch script, which srun did not start."""
    return int(os.environ["WORLD_SIZE"]) if started_by_torchrun() else slurm_environment.world_size()


def local_rank() -> int:
    """The number of this process among those of them on this node."""
    return int(os.environ["LOCAL_RANK"]) if started_by_torchrun() else slurm_environment.local_rank()


def handles_signal(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, which would end it otherwise. False where /proc does not say."""
    mask = re.search(r"^SigCgt:\s*([0-9a-f]+)", files.read_text(f"/proc/{pid}/status") or "", re.MULTILINE)
    return mask is not None and bool(int(mask[1], 16) >> (number - 1) & 1)


def environment_outside_slurm() -> dict[str, str]:
    """This environment for a process that is to be no part of the Slurm job that we may be in, nor of its run."""
    return {key: value for key, value in os.environ.items()
            if not slurm_environment.is_of_job(key) and not key.startswith(_NOT_OUTSIDE)}


def is_alive(who: dict[str, Any]) -> bool | None:
    """Whether the process that `identity` described still runs; None if it cannot be seen from here.

    A machine is known by its boot and its space of process numbers (a container has its own), so that a new host name
    does not hide a process; after a reboot, the host's name says that all of its processes are gone.
    """
    if "pid" not in who:
        return None
    boot = _boot_id()
    if who.get("boot_id") != boot:
        return False if who.get("host") == os.uname().nodename else None
    if who.get("pid_space") != _pid_space() or not boot and who.get("host") != os.uname().nodename:
        return None
    start = _start(who["pid"])
    if start == 0 != who.get("pid_start"):
        return None  # a process has that number, but /proc hides when it started
    return start is not None and start == who.get("pid_start")


def describe(who: dict[str, Any]) -> str:
    """Words for messages: `Slurm job 12 on node3`, or `process 4711 on host`."""
    what = f"Slurm job {who['slurm_job']}" if who.get("slurm_job") else f"process {who.get('pid', '?')}"
    return f"{what} on {who.get('host', 'an unknown host')}"


def _boot_id() -> str:
    return (files.read_text("/proc/sys/kernel/random/boot_id") or "").strip()


def _pid_space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; 0 where /proc does not say; None for a dead process."""
    stat = files.read_text(f"/proc/{pid}/stat")
    if stat is not None:
        state, *rest = stat.rpartition(")")[2].split()
        return None if state in "ZX" else int(rest[18])
    try:  # no /proc (macOS), or it hides the processes of others
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 0


def exit_process(code: int) -> NoReturn:
    """End this process. One of several that were started together does so at once: a thread of theirs that lets go of
    a tensor while Python ends would abort it, after all was done."""
    if world_size() == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
