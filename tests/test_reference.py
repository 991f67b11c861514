"""The pages of docs/reference agree with the code, and docs/index.md lists every page."""
from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from unittest import mock

import pytest

import experiments
from docs.reference import generate
from src import run_folder
from src.config import FIELDS, TRACKER_FIELDS
from src.submission.job import external_program
from src.submission.remote import remote_command
from src.submission.spec import reader, resources
from tests.conftest import ROOT

DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", generate.PAGES)
def test_generated_page_is_current(name: str) -> None:
    page = generate.FOLDER / name
    assert page.read_text("utf-8") == generate.PAGES[name](), f"{page.relative_to(ROOT)} is stale: run `make reference`"


def test_file_tree_lists_what_git_tracks(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for name in ("train.py", "mine.py", "src/__init__.py", "src/a.py", "src/untracked.py"):
        (tmp_path / name).write_text('"""Do it."""\n' if name == "train.py" else "")
    with mock.patch.object(generate, "ROOT", tmp_path):
        assert "mine.py" in list(generate.file_tree()), "all files without git"
        generate.tracked_files.cache_clear()
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        subprocess.run(["git", "-C", str(tmp_path), "add", "train.py", "src/__init__.py", "src/a.py"], check=True)
        lines = list(generate.file_tree())
    generate.tracked_files.cache_clear()
    assert lines[0] == "train.py                Do it"
    assert "  a.py" in lines, "no blanks at the end"
    assert not any("mine" in line or "untracked" in line for line in lines)


def test_every_config_field_has_a_section_and_most_a_description() -> None:
    entries = list(generate.config_entries((ROOT / "src" / "config.py").read_text("utf-8")))
    assert [entry.name for entry in entries] == list(FIELDS)
    undescribed = [entry.name for entry in entries if not entry.description and entry.section != "Trackers"]
    assert not undescribed, "describe these fields in src/config.py, beside or above them"


def test_tracker_fields_are_those_of_their_sections() -> None:
    entries = generate.config_entries((ROOT / "src" / "config.py").read_text("utf-8"))
    assert list(TRACKER_FIELDS) == [entry.name for entry in entries if entry.section in ("System metrics", "Trackers")]


def test_config_field_without_a_section_is_an_error() -> None:
    with pytest.raises(ValueError, match="first section"):
        list(generate.config_entries("\nclass Config(Frozen):\n    batch_size: int = 100\n"))


@pytest.mark.parametrize(("text", "expected"), [
    ("a value from Beta(a, b); 0: off", "a value from Beta(a, b); 0: off"),
    ("as [top5, f1] or {key: value}", "as `[top5, f1]` or `{key: value}`"),
    ("'beta1,beta2', or num_workers", "`beta1,beta2`, or `num_workers`"),
    ("sgd | adam (docs/optimization.md)", "sgd \\| adam ([optimization](../optimization.md))"),
    ("with --local: as http://host:5000", "with `--local`: as `http://host:5000`"),
    ("as \"end != 'diverged'\", with $NAME=value", "as `end != 'diverged'`, with `$NAME=value`"),
    ("--sort=-NAME; !uniform [0, 1]", "`--sort=-NAME`; `!uniform [0, 1]`")])
def test_values_in_descriptions_become_code(text: str, expected: str) -> None:
    assert generate.markdown(text) == expected


def test_help_texts_have_single_percent_signs() -> None:
    assert "95 % of earlier runs" in generate.commands_page()
    assert "%%" not in generate.commands_page()


def names_of_files() -> set[str]:
    """The constants and patterns of file names that src/run_folder.py defines, as `claim-{ticket}`."""
    tree = ast.parse((ROOT / "src" / "run_folder.py").read_text("utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            names.add(node.value.value)
        if isinstance(node, ast.FunctionDef):
            pattern = node.body[-1].value if isinstance(node.body[-1], ast.Return) else None
            if isinstance(pattern, ast.JoinedStr) and node.returns and ast.unparse(node.returns) == "str":
                names.add(ast.unparse(pattern)[2:-1])
    return names


def test_reference_of_files_has_every_file_name() -> None:
    page = (DOCS / "reference" / "files.md").read_text("utf-8")
    missing = []
    for name in names_of_files():
        text = re.sub(r"\{(\w+)[^}]*\}", lambda match: str(getattr(run_folder, match[1], "{*}")), name)
        pattern = re.escape(text.removeprefix("submissions/")).replace(re.escape("{*}"), r"\{\w+\}")
        if not re.search(pattern, page):
            missing.append(name)
    assert not missing, "add these to docs/reference/files.md"


def test_reference_of_files_has_every_stats_column() -> None:
    page = (DOCS / "reference" / "files.md").read_text("utf-8")
    for column in ("epoch", "step", "timestamp", "loss", "accuracy", "mae", "r2", "time", "data_time",
                   "train/examples_per_second", "train/seen_examples", "train/learning_rate",
                   "train/trainable_parameters", "train/grad_norm"):
        assert f"{column}`" in page, column


def test_job_spec_page_has_every_key() -> None:
    page = (DOCS / "job-spec.md").read_text("utf-8")
    assert [key for key in reader.KEYS if f"`{key}`" not in page and f"\n  {key}: " not in page] == []
    submission = (DOCS / "submission.md").read_text("utf-8")
    keys = resources.KEYS
    assert [key for key in keys if f"`{key}`" not in submission] == []


def test_exit_code_of_requeue_is_documented() -> None:
    assert f"| {external_program.SAVED} |" in (DOCS / "reference" / "exit-codes.md").read_text("utf-8")


def test_commands_that_return_1_are_documented() -> None:
    """Those whose Output has an exit code."""
    row = next(line for line in (DOCS / "reference" / "exit-codes.md").read_text("utf-8").splitlines()
               if line.startswith("| 1 |"))
    for path in sorted((ROOT / "src" / "commands").glob("*.py")):
        functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        texts = {function.name: ast.unparse(function) for function in functions}
        commands = {re.findall(r"set_defaults\(run=(\w+)", text)[0]: name.removeprefix("add_").replace("_", "-")
                    for name, text in texts.items() if name.startswith("add_") and "set_defaults(run=" in text}
        for function in functions:
            outputs = [node for node in ast.walk(function) if isinstance(node, ast.Call)
                       and isinstance(node.func, ast.Name) and node.func.id == "Output" and len(node.args) == 3]
            command = commands.get(function.name, ", ".join(commands.values()))  # that of a helper, in its module
            assert not outputs or re.search(f"`{command}( --|`)", row), (path.name, command)


def test_laptop_page_lists_the_commands_with_on() -> None:
    page = (DOCS / "laptop.md").read_text("utf-8")
    listed, not_repeated = (re.findall(r"`([a-z-]+)`", page.partition(start)[2].partition(end)[0]) for start, end in (
        ("accept `--on HOST`:", "."), ("is repeated.", "which would")))
    assert listed == [name for name, command in experiments.COMMANDS.items() if command.remote]
    assert set(not_repeated) == set(remote_command._NOT_REPEATED)


def test_index_lists_every_page_once() -> None:
    index = DOCS / "index.md"
    pages = {page.resolve() for page in DOCS.rglob("*.md") if page != index}
    listed = [(DOCS / target).resolve() for target in re.findall(r"^- \[[^]]+\]\(([^)#]+)\)", index.read_text("utf-8"),
                                                                 re.M)]
    assert sorted(listed) == sorted(pages), "docs/index.md lists each page of docs/ once, with what it is for"
