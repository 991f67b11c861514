"""The Python of jobs: activate.sh for the environment that setup runs in and the modules that are loaded there."""
from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from src.submission.setup.scripts import Script

NAME = "activate.sh"
_MODULES = re.compile(r"(?m)^\n# modules that were loaded.*\n(?:.*\n)*?module load (.*)\n.*\n\n")
_MODULE_LINES = """
# modules that were loaded when `experiments.py setup` ran
shell_options=$-
set +u # their scripts read unset variables
{init}module load {names}
[[ $shell_options != *u* ]] || set -u

"""


class JobPython(NamedTuple):
    """The environment that jobs are to use.

    folder: of a Python, relative to the project or absolute, if it is not conda's; None if no environment was found;
    conda: conda's folder, and the name or path of its environment; None for another environment.
    """

    folder: str | None
    conda: tuple[str, str] | None = None

    def description(self) -> str:
        if self.conda:
            return f"Python of the conda environment {self.conda[1]}"
        return f"Python of {self.folder}" if self.folder else "no environment yet: run `make environment`"


class Modules(NamedTuple):
    """Environment modules. names: as `module load` takes them; init: the script that defines `module`, if known."""

    names: tuple[str, ...] = ()
    init: str | None = None


def find_python(project: str, prefix: str, conda_program: str | None = None) -> JobPython:
    """Return the environment of the project: its .venv, else that of this Python.

    prefix: of this Python; conda_program: $CONDA_EXE. A Python without a program `python` is no environment for jobs.
    """
    if _has_python(os.path.join(project, ".venv")):
        return JobPython(".venv")
    if os.path.isdir(os.path.join(prefix, "conda-meta")):
        environments, name = os.path.split(prefix)
        candidates = [os.path.dirname(os.path.dirname(conda_program or "")), os.path.dirname(environments), prefix]
        for folder in candidates:
            if os.access(os.path.join(folder, "etc", "profile.d", "conda.sh"), os.R_OK):
                is_named = environments == os.path.join(folder, "envs")
                return JobPython(None, (folder, "base" if folder == prefix else name if is_named else prefix))
    return JobPython(prefix if _has_python(prefix) else None)


def loaded_modules(environment: Mapping[str, str], script: str) -> Modules:
    """Return the modules that are loaded, by Lmod or Environment Modules; else those that activate.sh loads already.

    script: the text of activate.sh. A shell without modules, such as a new one, does not remove them from the file.
    """
    names = tuple(filter(None, environment.get("LOADEDMODULES", "").split(":")))
    if not names:
        match = _MODULES.search(script)
        names = tuple(shlex.split(match[1])) if match else ()
    init = os.path.join(environment.get("MODULESHOME", ""), "init", "bash")
    recorded = re.search(r"(?m)^type module .* \|\| source (.*)$", script)
    if environment.get("MODULESHOME") and os.access(init, os.R_OK):
        return Modules(names, init)
    return Modules(names, shlex.split(recorded[1])[0] if recorded else None)


def activate_script(template: str, python: JobPython, modules: Modules) -> Script:
    """Return activate.sh for an environment and modules. template: the shipped file, or one that setup has written."""
    text = _MODULES.sub("", template)
    if python.conda:
        folder, name = map(shlex.quote, python.conda)
        text = _assign(text, "conda_folder", f"${{CONDA_FOLDER:-{folder}}}")
        text = _assign(text, "conda_environment", f"${{CONDA_ENVIRONMENT:-{name}}}")
    text = _assign(text, "environment_folder", shlex.quote(python.folder or ".venv"))
    reasons = [python.description()]
    if modules.names:
        init = f"type module &>/dev/null || source {shlex.quote(modules.init)}\n" if modules.init else ""
        block = _MODULE_LINES.format(init=init, names=shlex.join(modules.names))
        text = re.sub(r"(?m)^(?=environment_folder=)", lambda _: block, text, count=1)
        reasons.append(f"modules {', '.join(modules.names)}")
    return Script(NAME, text, tuple(reasons))


def _has_python(folder: str) -> bool:
    return os.access(os.path.join(folder, "bin", "python"), os.X_OK)


def _assign(text: str, variable: str, value: str) -> str:
    return re.sub(rf"(?m)^{variable}=.*$", lambda _: f"{variable}={value}", text, count=1)
