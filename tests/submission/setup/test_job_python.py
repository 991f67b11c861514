"""activate.sh as setup writes it: the environment and the modules that a job gets from it, in a real shell."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from src.submission.setup import files_to_write
from src.submission.setup.job_python import JobPython, Modules, activate_script, find_python, loaded_modules
from tests.conftest import ROOT

SHIPPED = (ROOT / "activate.sh").read_text()
CONDA = 'conda() { PATH="$2/bin:$PATH"; : "$UNSET"; }\n'  # as conda's own script does, it reads an unset variable
MODULES = 'module() { echo "module $*"; : "$UNSET"; }\n'


def make_python(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text('#!/bin/sh\necho "$0"\n')
    (folder / "bin" / "python").chmod(0o755)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my project"
    folder.mkdir()
    shutil.copytree(ROOT / "tools", folder / "tools")
    return folder


def run_python(project: Path, text: str) -> list[str]:
    """Return the output of activate.sh and of `python` after it, in a shell that a submit script has set up."""
    (project / "activate.sh").write_text(files_to_write.with_mark(text))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CONDA_", "GRIDIRON_"))}
    done = subprocess.run(["bash", "-c", "set -euo pipefail; source ./activate.sh; shopt -o nounset; python"],
                          cwd=project, env=environment, text=True, capture_output=True, check=True)
    assert subprocess.run([ROOT / ".venv/bin/shellcheck", "--external-sources", "activate.sh"], cwd=project,
                          check=False).returncode == 0
    lines = done.stdout.splitlines()
    assert lines[-2].split() == ["nounset", "on"], "the shell has the options that it had"
    return [*lines[:-2], lines[-1]]


def test_venv_of_the_project_needs_no_change(project: Path, tmp_path: Path) -> None:
    make_python(project / ".venv")
    python = find_python(str(project), str(make_python(tmp_path / "other")))
    script = activate_script(SHIPPED, python, Modules())
    assert (script.text, script.reasons) == (SHIPPED, ("Python of .venv",))
    assert run_python(project, script.text) == [f"{project}/.venv/bin/python"]


def test_conda_environment_that_setup_runs_in(project: Path, tmp_path: Path) -> None:
    conda = tmp_path / "mini forge"
    (conda / "etc/profile.d").mkdir(parents=True)
    (conda / "etc/profile.d/conda.sh").write_text(CONDA.replace("$2", f"{conda}/envs/$2"))
    prefix = make_python(conda / "envs" / "grid")
    (prefix / "conda-meta").mkdir()
    python = find_python(str(project), str(prefix))
    assert python == JobPython(None, (str(conda), "grid"))
    assert run_python(project, activate_script(SHIPPED, python, Modules()).text) == [f"{prefix}/bin/python"]


def test_conda_environments_outside_of_condas_folder(project: Path, tmp_path: Path) -> None:
    conda = make_python(tmp_path / "conda")
    (conda / "etc/profile.d").mkdir(parents=True)
    (conda / "etc/profile.d/conda.sh").write_text(CONDA)
    (conda / "conda-meta").mkdir()
    prefix = make_python(tmp_path / "scratch" / "env")
    (prefix / "conda-meta").mkdir()
    program = str(conda / "bin" / "conda")
    assert find_python(str(project), str(conda), program) == JobPython(None, (str(conda), "base"))
    python = find_python(str(project), str(prefix), program)
    assert python == JobPython(None, (str(conda), str(prefix)))
    assert run_python(project, activate_script(SHIPPED, python, Modules()).text) == [f"{prefix}/bin/python"]
    # micromamba has no script for shells
    assert find_python(str(project), str(prefix)) == JobPython(str(prefix))


def test_environment_elsewhere_and_none(project: Path, tmp_path: Path) -> None:
    elsewhere = make_python(tmp_path / "my venv")
    script = activate_script(SHIPPED, find_python(str(project), str(elsewhere)), Modules())
    assert run_python(project, script.text) == [f"{elsewhere}/bin/python"]
    without = find_python(str(project), str(tmp_path))
    assert activate_script(SHIPPED, without, Modules()).text == SHIPPED
    assert "`make environment`" in without.description()


def test_loaded_modules_are_loaded_before_the_environment(project: Path, tmp_path: Path) -> None:
    make_python(project / ".venv")
    init = tmp_path / "site modules" / "init" / "bash"
    init.parent.mkdir(parents=True)
    init.write_text(MODULES)
    shell = {"LOADEDMODULES": "gcc/12.2:cuda/12.4", "MODULESHOME": str(init.parent.parent)}
    script = activate_script(SHIPPED, JobPython(".venv"), loaded_modules(shell, SHIPPED))
    assert script.reasons == ("Python of .venv", "modules gcc/12.2, cuda/12.4")
    assert run_python(project, script.text) == ["module load gcc/12.2 cuda/12.4", f"{project}/.venv/bin/python"]


def test_repeating_changes_nothing_and_a_new_shell_keeps_the_modules(tmp_path: Path) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init/bash").touch()
    shell = {"LOADEDMODULES": "gcc/12.2", "MODULESHOME": str(tmp_path)}
    python = JobPython(None, ("/opt/conda", "grid"))
    first = activate_script(SHIPPED, python, loaded_modules(shell, SHIPPED)).text
    for environment in ({}, shell, {"LOADEDMODULES": ""}):
        assert activate_script(first, python, loaded_modules(environment, first)).text == first
    other = activate_script(first, python, loaded_modules({**shell, "LOADEDMODULES": "gcc/13"}, first)).text
    assert other == first.replace("gcc/12.2", "gcc/13")
    assert activate_script(first, JobPython(".venv"), Modules()).text.count("module") == 0


def test_hash_of_the_shipped_file_is_known() -> None:
    """After a change of activate.sh: write its new hash into files_to_write.SHIPPED."""
    assert files_to_write.is_untouched("activate.sh", SHIPPED)
