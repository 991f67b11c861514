"""One list of dependencies: pyproject.toml, the lock, conda's file, the installed packages and the imports agree."""
from __future__ import annotations

import ast
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from src.io import yaml_io
from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DECLARED = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
DEVELOPMENT, OPTIONAL = ([Requirement(line) for line in PYPROJECT["dependency-groups"][group]]
                         for group in ("dev", "optional"))
LOCK = (ROOT / "requirements.lock").read_text()
SERVER_LOCK = (ROOT / "requirements-mlflow.lock").read_text()
LOCKED = [Requirement(line) for line in LOCK.splitlines() if not line.startswith("#")]


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def pinned(requirement: Requirement) -> str:
    """The version of a line of the lock, `name==version`, with a marker or not."""
    pin = re.fullmatch(r"==([\w.+!]+)", str(requirement.specifier))
    assert pin, f"requirements.lock: {requirement} is not pinned"
    return pin[1]


def test_the_lock_pins_all_that_is_declared() -> None:
    for wanted in DECLARED + DEVELOPMENT + OPTIONAL:
        pins = [pinned(line) for line in LOCKED if canonicalize_name(line.name) == canonicalize_name(wanted.name)]
        assert pins, f"{wanted.name} is in pyproject.toml and not in requirements.lock: make lock"
        assert all(pin in wanted.specifier for pin in pins), f"{wanted} is not met by {pins}: make lock"


def test_the_lock_can_be_installed_from_any_mirror() -> None:
    for line in (LOCK + SERVER_LOCK).splitlines():
        assert re.fullmatch(r"#.*|[\w.-]+==[\w.+!]+( ; .*)?", line), f"{line!r}: nothing but pins"
    for text in (LOCK, SERVER_LOCK, (ROOT / "pyproject.toml").read_text(), (ROOT / "environment.yml").read_text()):
        assert "://" not in text, "no host names: where packages come from is the machine's affair"


def test_mlflows_server_is_of_its_clients_version() -> None:
    assert PYPROJECT["dependency-groups"]["mlflow-server"] == ["mlflow"]
    client, = (pinned(line) for line in LOCKED if line.name == "mlflow-skinny")
    assert f"\nmlflow=={client}\n" in SERVER_LOCK, "make lock UPGRADE=--upgrade"


def test_conda_installs_the_same() -> None:
    environment = yaml_io.load_file(ROOT / "environment.yml")
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock"]}
    python = next(line.removeprefix("python=") for line in conda if line.startswith("python="))
    assert f"{python}.0" in SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert {line.split("=")[0] for line in conda} == {"python", "pip"}, "a package from conda would be a second truth"
    # the environment that submit scripts activate
    assert f"conda_environment=${{CONDA_ENVIRONMENT:-{environment['name']}}}" in (ROOT / "activate.sh").read_text()


def test_these_tests_run_in_the_locked_environment() -> None:
    here = [line for line in LOCKED if line.marker is None or line.marker.evaluate()]
    differ = [f"{line.name} {version(line.name)}" for line in here if version(line.name) != pinned(line)]
    assert not differ, f"installed, but not what requirements.lock says (on {platform.platform()})"


def test_the_lock_is_complete() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def imported(folder: str) -> set[str]:
    """Top-level packages that the Python files right under and below a folder import, in functions too."""
    found = set()
    for path in [*ROOT.glob("*.py"), *(ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names


def test_what_is_imported_is_declared() -> None:
    # a package that is there only because another one wants it may be gone with the next lock; one that is not
    # installed is a researcher's choice, asked for by name where it is missing
    owners = packages_distributions()
    for folder, allowed in (("src", names(DECLARED + OPTIONAL)),
                            ("tests", names(DECLARED + DEVELOPMENT + OPTIONAL))):
        for package in imported(folder) & owners.keys():
            distributions = {canonicalize_name(owner) for owner in owners[package]}
            assert distributions & allowed, f"pyproject.toml does not name {distributions}, imported in {folder}"


def test_the_environment_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "requirements.lock").write_text("")
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/packages.py", tmp_path / "tools")
    (tmp_path / "large disk").mkdir()
    (tmp_path / ".venv").symlink_to("large disk")
    subprocess.run(["make", f"PYTHON={sys.executable}", "environment"], cwd=tmp_path, check=True)
    assert (tmp_path / ".venv").is_symlink()
    assert (tmp_path / "large disk/bin/python").exists()
    assert (tmp_path / "large disk/.installed").exists()
