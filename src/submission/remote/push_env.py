"""Sends an environment to the same path on another machine, since it is no other's, and says where it would not run"""
from __future__ import annotations

import os
import shlex
import sys
from typing import NamedTuple

from src.errors import RemoteError, shell_command
from src.submission.remote.ssh import Remote

_MARKS = ("pyvenv.cfg", "conda-meta")  # what the folder of an environment has
_SYSTEM = frozenset(("/", "/usr", "/usr/local", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/home", "/root",
                     "/var", "/tmp", "/srv", "/mnt"))
_MARK = "gridiron: "  # a login shell may speak too


class Platform(NamedTuple):
    """system: as `Linux x86_64`; glibc: as `glibc 2.36`, empty if there is none; python: as `Python 3.11.2`, of the one
    that the environment is built on, empty if it is missing."""

    system: str
    glibc: str
    python: str


def push_environment(far: Remote, folder: str, base: str | None, to: str | None = None) -> list[str]:
    """Bring an environment there, and give words on what may be amiss. RemoteError if it cannot run there.

    folder: its absolute path; base: the Python outside of it that it is built on, None if it has its own; to: where it
    goes, which is where its own files say that it is: `folder`.
    """
    to = to or folder
    there, state = _look(far, to, base)
    here = Platform(f"{os.uname().sysname} {os.uname().machine}", _glibc(), f"Python {_version()}" if base else "")
    if wrong := find_incompatibility(here, there, base):
        raise RemoteError(wrong, where=far.host.name, hint="make the environment there instead: `make environment` in "
                          f"{far.host.folder}")
    if state == "other":
        raise RemoteError(f"{to} is there, and is no environment", where=far.host.name, hint="nothing is put over it")
    far.read_shell_output(f"mkdir -p -- {shlex.quote(os.path.dirname(to))}")
    far.rsync("--archive", "--compress", "--delete", "--partial-dir=.partial", "--info=progress2", "--human-readable",
              "--", f"{folder}/", f"{far.rsync_path(to)}/", show=True)
    linked = far.read_shell_output(f"cd -- {shlex.quote(far.host.folder)} 2>/dev/null && ! [ -e .venv ] && "
                                   "! [ -L .venv ] && "
                                   f"ln -s -- {shlex.quote(to)} .venv && echo '{_MARK}linked'; true")
    notes = ["activate.sh finds it there: .venv is a link to it now"] if _MARK in linked else []
    return [*notes, *compatibility_warnings(here, there)]


def find_environment(prefix: str, base_prefix: str, home: str) -> str:
    """The folder of the environment that this Python is of. RemoteError if there is none, or nothing to be sent."""
    folder = os.path.realpath(prefix)
    if prefix == base_prefix and not os.path.isdir(os.path.join(folder, "conda-meta")):
        raise RemoteError("this Python is of no environment of its own", where=folder,
                          hint="`source activate.sh` first, and give the command again")
    inside = os.path.join(os.path.realpath(home), "").startswith(os.path.join(folder, ""))
    if folder in _SYSTEM or inside or not any(os.path.exists(os.path.join(folder, mark)) for mark in _MARKS):
        raise RemoteError("this folder is not an environment's alone", where=folder, hint="make one in a folder of its "
                          "own, as .venv of the project")
    return folder


def base_python() -> str | None:
    """The Python outside of the environment that it is built on; None if it has its own, as conda's have."""
    base = getattr(sys, "_base_executable", sys.executable)
    return base if sys.prefix != sys.base_prefix else None


def find_incompatibility(here: Platform, there: Platform, base: str | None) -> str | None:
    """Why an environment that runs here cannot run there."""
    if here.system != there.system:
        return f"it is a {there.system}, and the environment one for {here.system}"
    if base and not there.python:
        return f"the environment is built on {base}, which is not there"
    if base and here.python.split(".")[:2] != there.python.split(".")[:2]:
        return f"{base} is {there.python} there and {here.python} here"
    return None


def compatibility_warnings(here: Platform, there: Platform) -> list[str]:
    """What may keep some packages from running there."""
    if here.glibc and here.glibc != there.glibc and _numbers(there.glibc) < _numbers(here.glibc):
        tries = shell_command("python", "experiments.py", "doctor", "--deep")
        return [f"warning: {there.glibc or 'another C library'} there is older than the {here.glibc} here: packages "
                f"that were built for this machine may not load; `{tries}` there tries torch"]
    return []


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.rpartition(" ")[2].split(".") if part.isdecimal()]


def _look(far: Remote, to: str, base: str | None) -> tuple[Platform, str]:
    """What the other machine is, and what is at the path there: nothing, an environment, or something other."""
    path = shlex.quote(to)
    marked = " || ".join(f"[ -e {shlex.quote(os.path.join(to, mark))} ]" for mark in _MARKS)
    said = far.read_shell_output(
        f'say() {{ printf "{_MARK}%s\\n" "$1"; }}; say "$(uname -sm)"; say "$(getconf GNU_LIBC_VERSION 2>/dev/null)"; '
        f'say "$({shlex.quote(base or "true")} --version 2>/dev/null)"; '
        f'if ! [ -e {path} ]; then say none; elif {marked} || [ -z "$(ls -A {path})" ]; then say environment; '
        "else say other; fi")
    lines = [line.removeprefix(_MARK).strip() for line in said.splitlines() if line.startswith(_MARK)]
    if len(lines) != 4:
        raise RemoteError("its shell gives no answer", where=far.host.name)
    return Platform(lines[0], lines[1], lines[2] if base else ""), lines[3]


def _glibc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def _version() -> str:
    return ".".join(map(str, sys.version_info[:3]))
