"""The files of a project that a command runs are found without executing anything."""
from __future__ import annotations

from pathlib import Path

import pytest

from src.code import program_files

PROJECT = {
    "mine.py": "import os, helper\nfrom pkg import part\nfrom pkg.sub.deep import name\n\"\"\"See notes.py.\"\"\"\n",
    "helper.py": "def load():\n    import late\n    return open('settings.json'), open('data/big.json')\n",
    "late.py": "import subprocess\nsubprocess.run(['bash', 'tool.sh'])\n",
    "tool.sh": "# old: unused.py\npython -m runner --config base.yaml\n", "runner.py": "", "base.yaml": "lr: 1\n",
    "pkg/__init__.py": "", "pkg/part.py": "from . import sibling\nfrom .. import outside\n", "pkg/sibling.py": "",
    "pkg/sub/__init__.py": "", "pkg/sub/deep.py": "name = 1\n", "pkg/unused.py": "",
    "settings.json": "{}", "data/big.json": "{}", "notes.py": "", "unused.py": "", "job.yaml": "parameters: {a: 1}\n",
    "jobs/x.yaml": "a: 1\n", ".venv/lib/os.py": "", "broken.py": "print 'python 2'; x = 'helper.py'\n",
    "run": "#!/bin/sh\n", "results/b/000_x/spec.yaml": "lr: 1\n"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_imports_and_names_are_followed(project: Path) -> None:
    names = program_files.files_of_command(["python", "mine.py", "--lr=1"], str(project))
    assert names[0] == "mine.py"
    assert set(names) == {"mine.py", "helper.py", "late.py", "tool.sh", "runner.py", "base.yaml", "settings.json",
                          "pkg/__init__.py", "pkg/part.py", "pkg/sibling.py", "pkg/sub/__init__.py", "pkg/sub/deep.py"}


@pytest.mark.parametrize(("words", "names"), [
    (["python", "-m", "pkg.sub.deep"], {"pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/deep.py"}),
    (["bash", "-c", "python runner.py && true"], {"runner.py"}),
    (["./run", "--config=base.yaml", "job.yaml", "jobs/x.yaml"], {"run", "base.yaml"}),
    (["python", "broken.py"], {"broken.py", "helper.py", "late.py", "tool.sh", "runner.py", "base.yaml",
                               "settings.json"}),
    (["make", "train"], set()), (["python", "{folder}/results/b/000_x/spec.yaml"], set()),
    (["python", "runner.py", "results/b/000_x/spec.yaml"], {"runner.py"})])
def test_commands(project: Path, words: list[str], names: set[str]) -> None:
    assert set(program_files.files_of_command(words, str(project))) == names


def test_script_outside_the_project_keeps_its_name(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "tool.sh"
    outside.write_text("true\n")
    assert program_files.files_of_command([str(outside), str(project / "runner.py")], str(project)) == [
        str(outside), "runner.py"]


@pytest.mark.parametrize(("script", "is_found"), [
    ("import wandb\nwandb.log({'loss': 1})\n", True), ("from wandb import init\nrun = init()\nrun.log({})\n", True),
    ("import wandb\nimport logger\nwandb.log({'loss': 1})\n", False),
    ("import logging\nlogging.log(1, 'wandb')\n", False),
    ("import wandb\nwandb.log({})\nopen('stats.csv', 'w')\n", False)])
def test_script_that_logs_to_wandb_alone_is_found(tmp_path: Path, script: str, is_found: bool) -> None:
    (tmp_path / "mine.py").write_text(script)
    (tmp_path / "logger.py").write_text("open(f'{folder}/stats.csv')\n")
    assert program_files.wandb_logger(["python", "mine.py"], str(tmp_path)) == ("mine.py" if is_found else None)


def test_modules_of_a_config_are_followed(project: Path) -> None:
    assert program_files.imported_files(["pkg.part", "torch.nn"], str(project)) == [
        "pkg/part.py", "pkg/__init__.py", "pkg/sibling.py"]
