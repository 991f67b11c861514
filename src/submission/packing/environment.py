"""The Python environment of this process: its folder, the Python it was made from, and files that show changes."""
from __future__ import annotations

import os
import sys
import sysconfig
from typing import NamedTuple

from src.errors import PackError
from src.io import packed_copy

ENVIRONMENT_FILES = ("pyvenv.cfg", "conda-meta")  # an environment's folder contains one of them
_CONDA_BASE = ("envs", "pkgs", "condabin")  # folders of conda's own environment, which holds all others
_SYSTEM = frozenset(("/", "/usr", "/usr/local", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/home", "/root",
                     "/var", "/tmp", "/srv", "/mnt"))


class Environment(NamedTuple):
    """An environment.

    folder: its real path;
    prefix: its path as Python names it, which scripts in it contain;
    base: the prefix of the Python that it was made from; its own if it contains that Python;
    executable: of that Python;
    packs_base: whether that Python is packed too; not if it is the system's, which nodes have;
    stdlib: folders of its standard library, relative to `base`;
    watched: files and folders whose modification times change when packages are installed or removed, relative to
        `folder` unless they are outside it.
    """

    folder: str
    prefix: str
    base: str
    executable: str
    packs_base: bool
    stdlib: tuple[str, ...]
    watched: tuple[str, ...]


def this_environment(home: str) -> Environment:
    """Return the environment of this process. PackError if it has none that can be packed."""
    if packed_copy.record():
        raise PackError("this Python is a copy of a packed environment", where=sys.prefix,
                               hint="set GRIDIRON_PACKED=off before `source activate.sh`, and repeat the command")
    folder = find_environment(sys.prefix, sys.base_prefix, home)
    if any(os.path.isdir(os.path.join(folder, name)) for name in _CONDA_BASE):
        raise PackError("conda's base environment contains other environments and cannot be packed",
                               where=folder, hint="create one for the project: `conda env create -f environment.yml`")
    executable = os.path.realpath(base_python() or sys.executable)
    bases = {"platbase": sys.base_exec_prefix}
    stdlib = tuple(dict.fromkeys(os.path.relpath(sysconfig.get_path(name, vars=bases), sys.base_prefix)
                                 for name in ("stdlib", "platstdlib")))
    packs_base = _can_pack_base(folder, executable, stdlib)
    packages = dict.fromkeys(os.path.relpath(os.path.realpath(sysconfig.get_path(name)), folder)
                             for name in ("purelib", "platlib"))
    marks = [name for name in ("pyvenv.cfg", "conda-meta/history") if os.path.exists(os.path.join(folder, name))]
    return Environment(folder, sys.prefix, sys.base_prefix, executable, packs_base, stdlib,
                       (*packages, *marks, *((executable,) if packs_base else ())))


def find_environment(prefix: str, base_prefix: str, home: str) -> str:
    """Return the folder of the environment of this Python. PackError if it is none that can be copied."""
    folder = os.path.realpath(prefix)
    if prefix == base_prefix and not os.path.isdir(os.path.join(folder, "conda-meta")):
        raise PackError("this Python is not in an environment", where=folder,
                               hint="`source activate.sh` first, and repeat the command")
    contains_home = os.path.join(os.path.realpath(home), "").startswith(os.path.join(folder, ""))
    if folder in _SYSTEM or contains_home or not any(
            os.path.exists(os.path.join(folder, name)) for name in ENVIRONMENT_FILES):
        raise PackError("this folder contains more than an environment", where=folder,
                               hint="create one in a folder of its own, as .venv of the project")
    return folder


def base_python() -> str | None:
    """Return the Python outside the environment that it uses; None if it contains its own, as conda's do."""
    base = getattr(sys, "_base_executable", sys.executable)
    return base if sys.prefix != sys.base_prefix else None


def _can_pack_base(folder: str, executable: str, stdlib: tuple[str, ...]) -> bool:
    """Return whether the Python outside the environment can be packed with it, and is not on every node anyway.

    Modules of conda's Python load libraries of conda, and an environment may use the packages of its base Python.
    """
    base = sys.base_prefix
    if sys.prefix == base or base.startswith("/usr") or os.path.isdir(os.path.join(base, "conda-meta")):
        return False
    with open(os.path.join(folder, "pyvenv.cfg")) as file:
        settings = dict(line.replace(" ", "").strip().lower().split("=", 1) for line in file if "=" in line)
    return (settings.get("include-system-site-packages") != "true" and not any(
        name.startswith("..") for name in stdlib) and executable.startswith(f"{os.path.realpath(base)}/bin/"))


def stamp(folder: str, watched: tuple[str, ...]) -> str:
    """Return the modification times of the watched files, as tools/packed_env.sh compares them; a dash for none."""
    def seconds(name: str) -> str:
        try:
            return str(int(os.stat(os.path.join(folder, name)).st_mtime))
        except OSError:
            return "-"

    return " ".join(map(seconds, watched))


def editable_packages(folder: str) -> list[str]:
    """Return the names of the packages that were installed in editable mode: their sources are outside of `folder`."""
    from importlib.metadata import distributions

    return sorted(package.metadata["Name"] for package in distributions(path=[
        path for path in sys.path if path.startswith((f"{folder}/", f"{sys.prefix}/"))])
        if '"editable": true' in (package.read_text("direct_url.json") or "").replace('":true', '": true'))
