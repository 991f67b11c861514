"""Remote machines, with the project's folder and environment on each: from files without secrets."""
from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from src.errors import RemoteError, did_you_mean
from src.frozen import Frozen
from src.io import user_settings

PROJECT_FILE = "hosts.toml"  # in the project's folder
USER_FILE = user_settings.FILE
_KEYS = ("ssh", "options", "folder", "python", "setup", "output_dir")
# Names that ssh accepts. Its configuration may pass them to a shell (ProxyCommand), so no other characters are allowed.
_SSH_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")
_ACTIVATE = ("source ./activate.sh",)


class Host(Frozen):
    """A remote machine.

    name: as the user calls it;
    ssh: its name in ssh;
    folder: of the project there, absolute or relative to the home folder;
    python: the interpreter, after `setup`;
    setup: shell lines before Python;
    options: additional arguments of ssh;
    output_dir: of batches there, in place of the job spec's.
    """

    name: str
    ssh: str
    folder: str
    python: str = "python"
    setup: tuple[str, ...] = _ACTIVATE
    options: tuple[str, ...] = ()
    output_dir: str | None = None


def find_host(name: str, project: str) -> Host:
    """Return the host with a name. A name in no file is taken for ssh's, unless it is similar to one in a file.

    project: the local folder; by default the project is in the home folder of the host, under the same name.
    RemoteError if a file is invalid, or the name is unknown.
    """
    configured = read_hosts(project)
    if name in configured:
        return configured[name]
    suggestion = did_you_mean(name, configured)
    if suggestion or not _SSH_NAME.fullmatch(name):
        raise RemoteError(f"unknown host '{name}'", where="--on", allowed=configured or "names that ssh knows",
                          hint=suggestion or f"define it in {PROJECT_FILE} or {USER_FILE}")
    return _parse_host(name, {}, project, "--on")


def read_hosts(project: str) -> dict[str, Host]:
    """Return the hosts of the user's file and the project's, by name; the project's override the user's."""
    configured: dict[str, Host] = {}
    for path in (os.path.expanduser(USER_FILE), os.path.join(project, PROJECT_FILE)):
        tables = user_settings.read_toml(path)
        if path == os.path.expanduser(USER_FILE):
            tables.pop(user_settings.TRUSTED_MODULES, None)
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise RemoteError(f"'{name}' is outside of a table", where=path,
                                  hint=f"begin each host with a line such as [cluster], followed by {', '.join(_KEYS)}")
            configured[name] = _parse_host(name, table, project, f"{path}, {name}")
    return configured


def _parse_host(name: str, table: Mapping[str, Any], project: str, where: str) -> Host:
    for key in table:
        if key not in _KEYS:
            raise RemoteError(f"unknown key '{key}'", where=where, allowed=_KEYS, hint=did_you_mean(key, _KEYS))
    texts = {key: _check_text(table[key], f"{where}, {key}") for key in ("ssh", "folder", "python", "output_dir")
             if key in table}
    lists = {key: _check_texts(table[key], f"{where}, {key}") for key in ("setup", "options") if key in table}
    ssh = texts.pop("ssh", name)
    if not _SSH_NAME.fullmatch(ssh):
        raise RemoteError(f"invalid ssh name {ssh!r}", where=where, allowed="letters, digits and _ . @ + -, not - "
                          "first", hint="define a plain name in ~/.ssh/config, and write `ssh = \"thatname\"` here")
    folder = texts.pop("folder", os.path.basename(os.path.realpath(project))).removeprefix("~/").rstrip("/")
    if not folder or folder[0] == "~" or ".." in folder.split("/"):
        raise RemoteError("the folder must belong to the project alone", where=where,
                          allowed="a path in the home folder there, or one that begins with /")
    if "python" in texts and "setup" not in lists:
        lists["setup"] = ()  # an interpreter determines its environment
    return Host(name, ssh, folder, **texts, **lists)  # type: ignore[arg-type]


def _check_text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise RemoteError(f"{value!r} is not a word or path", where=where)
    return value


def _check_texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise RemoteError(f"{value!r} is not a list", where=where,
                          hint='for example ["module load python", "source env"]')
    return tuple(_check_text(item, where) for item in value)
