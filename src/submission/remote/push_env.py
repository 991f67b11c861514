"""Copy a Python environment to the same path on a remote machine, and check that it can run there."""
from __future__ import annotations

import os
import shlex
import sys
from typing import NamedTuple

from src.errors import RemoteError, shell_command
from src.submission.remote.ssh import Remote

_ENVIRONMENT_FILES = ("pyvenv.cfg", "conda-meta")  # an environment's folder contains one of them
_SYSTEM = frozenset(("/", "/usr", "/usr/local", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/home", "/root",
                     "/var", "/tmp", "/srv", "/mnt"))
_MARK = "gridiron: "  # begins our lines in the output of a login shell, which may print others


class Platform(NamedTuple):
    """What an environment depends on.

    system: for example `Linux x86_64`;
    glibc: for example `glibc 2.36`; empty without one;
    python: for example `Python 3.11.2`, of the interpreter outside the environment; empty if it is missing.
    """

    system: str
    glibc: str
    python: str


def push_environment(remote: Remote, folder: str, base: str | None, to: str | None = None) -> list[str]:
    """Copy an environment, and return notes for the user. RemoteError if it cannot run on the remote machine.

    folder: its absolute path;
    base: the Python outside the environment that it uses; None if it contains its own;
    to: the remote path; the same one by default, since the environment's files contain it.
    """
    to = to or folder
    remote_platform, state = _inspect(remote, to, base)
    here = Platform(f"{os.uname().sysname} {os.uname().machine}", _glibc(), f"Python {_version()}" if base else "")
    if problem := find_incompatibility(here, remote_platform, base):
        raise RemoteError(problem, where=remote.host.name, hint="create the environment there instead: "
                          f"`make environment` in {remote.host.folder}")
    if state == "other":
        raise RemoteError(f"{to} exists there, and is not an environment", where=remote.host.name,
                          hint="it is never overwritten; move it away")
    remote.read_shell_output(f"mkdir -p -- {shlex.quote(os.path.dirname(to))}")
    remote.rsync("--archive", "--compress", "--delete", "--partial-dir=.partial", "--info=progress2",
                 "--human-readable", "--", f"{folder}/", f"{remote.rsync_path(to)}/", show=True)
    output = remote.read_shell_output(f"cd -- {shlex.quote(remote.host.folder)} 2>/dev/null && ! [ -e .venv ] && "
                                      f"! [ -L .venv ] && ln -s -- {shlex.quote(to)} .venv && echo '{_MARK}linked'; "
                                      "true")
    notes = ["linked as .venv there, where activate.sh finds it"] if _MARK in output else []
    return [*notes, *compatibility_warnings(here, remote_platform)]


def find_environment(prefix: str, base_prefix: str, home: str) -> str:
    """Return the folder of the environment of this Python. RemoteError if it has none that can be copied."""
    folder = os.path.realpath(prefix)
    if prefix == base_prefix and not os.path.isdir(os.path.join(folder, "conda-meta")):
        raise RemoteError("this Python is not in an environment", where=folder,
                          hint="`source activate.sh` first, and repeat the command")
    contains_home = os.path.join(os.path.realpath(home), "").startswith(os.path.join(folder, ""))
    if folder in _SYSTEM or contains_home or not any(
            os.path.exists(os.path.join(folder, name)) for name in _ENVIRONMENT_FILES):
        raise RemoteError("this folder contains more than an environment", where=folder,
                          hint="create one in a folder of its own, as .venv of the project")
    return folder


def base_python() -> str | None:
    """Return the Python outside the environment that it uses; None if it contains its own, as conda's do."""
    base = getattr(sys, "_base_executable", sys.executable)
    return base if sys.prefix != sys.base_prefix else None


def find_incompatibility(here: Platform, there: Platform, base: str | None) -> str | None:
    """Return why an environment that runs here cannot run there; None if it can."""
    if here.system != there.system:
        return f"it is a {there.system}, and the environment is for {here.system}"
    if base and not there.python:
        return f"the environment needs {base}, which does not exist there"
    if base and here.python.split(".")[:2] != there.python.split(".")[:2]:
        return f"{base} is {there.python} there and {here.python} here"
    return None


def compatibility_warnings(here: Platform, there: Platform) -> list[str]:
    """Return warnings about what may prevent some packages from running there."""
    if here.glibc and here.glibc != there.glibc and _numbers(there.glibc) < _numbers(here.glibc):
        command = shell_command("python", "experiments.py", "doctor", "--deep")
        return [f"warning: {there.glibc or 'another C library'} there is older than the {here.glibc} here: packages "
                f"that were built for this machine may not load; `{command}` there tries torch"]
    return []


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.rpartition(" ")[2].split(".") if part.isdecimal()]


def _inspect(remote: Remote, to: str, base: str | None) -> tuple[Platform, str]:
    """Return the remote platform, and what is at the path there: none, environment, or other."""
    path = shlex.quote(to)
    is_environment = " || ".join(f"[ -e {shlex.quote(os.path.join(to, name))} ]" for name in _ENVIRONMENT_FILES)
    output = remote.read_shell_output(
        f'say() {{ printf "{_MARK}%s\\n" "$1"; }}; say "$(uname -sm)"; say "$(getconf GNU_LIBC_VERSION 2>/dev/null)"; '
        f'say "$({shlex.quote(base or "true")} --version 2>/dev/null)"; '
        f'if ! [ -e {path} ]; then say none; elif {is_environment} || [ -z "$(ls -A {path})" ]; then say environment; '
        "else say other; fi")
    lines = [line.removeprefix(_MARK).strip() for line in output.splitlines() if line.startswith(_MARK)]
    if len(lines) != 4:
        raise RemoteError("its shell does not answer", where=remote.host.name)
    return Platform(lines[0], lines[1], lines[2] if base else ""), lines[3]


def _glibc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def _version() -> str:
    return ".".join(map(str, sys.version_info[:3]))
