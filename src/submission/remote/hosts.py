"""Machines that are reached by ssh, and the project's folder and environment on each: from a file without secrets"""
from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from src.errors import RemoteError, did_you_mean
from src.io import yaml_io

PROJECT_FILE = "hosts.toml"  # beside the project
USER_FILE = "~/.config/gridiron.toml"
_KEYS = ("ssh", "options", "folder", "python", "setup", "output_dir")
# what ssh knows a machine by. ssh's own configuration may hand it to a shell (ProxyCommand), so nothing else passes
_SSH_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")
_ACTIVATE = ("source ./activate.sh",)


@dataclass(frozen=True)
class Host:
    """A machine. name: what the user calls it; ssh: what ssh knows it by; options: further words for ssh; folder: the
    project's there, absolute or in the home folder; setup: shell lines that come before Python, and python: what they
    make known; output_dir: of batches there, instead of the job spec's.
    """

    name: str
    ssh: str
    folder: str
    python: str = "python"
    setup: tuple[str, ...] = _ACTIVATE
    options: tuple[str, ...] = ()
    output_dir: str | None = None


def find_host(name: str, project: str) -> Host:
    """The machine of that name. One that no file knows is taken as ssh's name, unless it looks like a known one.

    project: its folder here; one of the same name, in the home folder there, is where it goes by default. RemoteError
    if a file is wrong, or nothing could be meant.
    """
    known = read_hosts(project)
    if name in known:
        return known[name]
    meant = did_you_mean(name, known)
    if meant or not _SSH_NAME.fullmatch(name):
        raise RemoteError(f"there is no host '{name}'", where="--on", allowed=known or "names that ssh knows",
                          hint=meant or f"{PROJECT_FILE} or {USER_FILE} says where others are")
    return _host(name, {}, project, "--on")


def read_hosts(project: str) -> dict[str, Host]:
    """All machines of the user's file and the project's, by name; where both have one, the project's. RemoteError."""
    found: dict[str, Host] = {}
    for path in (os.path.expanduser(USER_FILE), os.path.join(project, PROJECT_FILE)):
        if not os.path.exists(path):
            continue
        try:
            tables = tomllib.loads(yaml_io.read_user_file(path))
        except tomllib.TOMLDecodeError as error:
            raise RemoteError(f"this is no TOML: {error}", where=path) from None
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise RemoteError(f"'{name}' stands outside of a table", where=path,
                                  hint=f"a line such as [cluster] begins a host, and {', '.join(_KEYS)} follow it")
            found[name] = _host(name, table, project, f"{path}, {name}")
    return found


def _host(name: str, table: Mapping[str, Any], project: str, where: str) -> Host:
    for key in table:
        if key not in _KEYS:
            raise RemoteError(f"unknown key '{key}'", where=where, allowed=_KEYS, hint=did_you_mean(key, _KEYS))
    texts = {key: _text(table[key], f"{where}, {key}") for key in ("ssh", "folder", "python", "output_dir")
             if key in table}
    lists = {key: _texts(table[key], f"{where}, {key}") for key in ("setup", "options") if key in table}
    ssh = texts.pop("ssh", name)
    if not _SSH_NAME.fullmatch(ssh):
        raise RemoteError(f"ssh cannot be given the name {ssh!r}", where=where, allowed="letters, digits and _ . @ + "
                          "-, not - first", hint="give it a plain name in ~/.ssh/config, and here `ssh = \"thatname\"`")
    folder = texts.pop("folder", os.path.basename(os.path.realpath(project))).removeprefix("~/").rstrip("/")
    if not folder or folder[0] == "~" or ".." in folder.split("/"):
        raise RemoteError("the folder is not one of the project's own", where=where,
                          allowed="a path in the home folder there, or one that begins with /")
    if "python" in texts and "setup" not in lists:
        lists["setup"] = ()  # an interpreter brings its environment along
    return Host(name, ssh, folder, **texts, **lists)  # type: ignore[arg-type]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise RemoteError(f"{value!r} is not a word or path", where=where)
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise RemoteError(f"{value!r} is not a list", where=where, hint='as ["module load python", "source env"]')
    return tuple(_text(item, where) for item in value)
