"""Tests of README and docs: commands run, diffs apply, outputs are as shown, and links have a target.

Each page is followed from top to bottom in a copy of the project that contains a finished digits grid: diffs are
applied, files written, Python and harmless commands run. Commands for a cluster or a network are only parsed.
"""
from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path
from typing import NamedTuple

import pytest

import experiments
import submit_multiple
from docs.reference import generate
from src import config
from src.errors import UserError
from src.io import yaml_io
from src.submission.spec import grid, reader
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "AGENTS.md",
         *sorted((ROOT / "docs").rglob("*.md"))]
BENCHMARKS = ROOT / "docs" / "benchmarks.md"  # missing until `make bench` has written it
TUTORIAL = ROOT / "docs" / "tutorial.md"  # followed by tests/test_tutorial.py
BATCH = "26-11-20-digits-quickstart"  # the batch that the pages refer to
# external programs that pages may use
OTHERS = {".venv-mlflow/bin/mlflow", "apptainer", "cd", "conda", "cut", "export", "git", "jupyter", "ln", "mkdir",
          "rsync", "sacctmgr", "sbatch", "sinfo", "source", "squeue", "srun", "ssh", "ssh-copy-id", "ssh-keygen",
          "tensorboard", "tmux", "unzip"}
OTHER_OPTIONS = {"--chdir", "--cleanenv", "--comment", "--config", "--contain", "--dependency", "--error", "--exclude",
                 "--gres", "--ip", "--job-name", "--key", "--learning_rate", "--me", "--no-home", "--no-requeue",
                 "--nv", "--output", "--parsable", "--rdzv-id", "--requeue", "--ServerApp.ip+", "--signal",
                 "--test-only", "-L", "-M"}
_PATH = re.compile(r"(jobs|src|tests|tools|docs|notebooks|benchmarks)/[\w./-]*|(submit_|train|experiments)\w*\.(sh|py)")


class Block(NamedTuple):
    """A fenced code block."""

    language: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the fenced code blocks of a page, of these languages or of all."""
    matches = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    return [Block(*match) for match in matches if not languages or match[0] in languages]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in a bash block, without leading variable assignments."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;()"):
                while words and re.match(r"\w+=", words[0]):
                    del words[0]
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def file_of(block: Block) -> str | None:
    """Return the name of the file that a block contains, from its first line; None if it is not a file."""
    match = re.match(r"# (\S+\.(?:yaml|py))\n", block.text)
    return match[1] if match and block.language in ("yaml", "python") else None


def ids(pages: list[Path]) -> list[str]:
    return [page.stem for page in pages]


def with_blocks(*languages: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, *languages)]


def slug(heading: str) -> str:
    """Return the anchor that GitHub generates for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def prose(page: Path) -> str:
    """Return the text of a page without code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_have_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists() or path == BENCHMARKS, target
        if anchor:
            headings = re.findall(r"^#+ (.*)", prose(path), re.M)
            assert anchor in map(slug, headings), target


def test_table_of_changes_names_files_and_what_is_in_them() -> None:
    table = prose(ROOT / "docs" / "architecture.md").partition("## Where to change what")[2].partition("\n## ")[0]
    rows = [re.findall(r"`([^`]+)`", row) for row in table.splitlines() if row.startswith("|")]
    assert len(rows) > 40
    for codes in rows:
        files: list[Path] = []
        for code in filter(re.compile(r"[\w./*-]+\.(py|js|md|sh|yaml)").fullmatch, codes):
            beside = [folder for file in files for folder in (file.parent, file.parent.parent)]
            found = next(filter(None, (sorted(folder.glob(code)) for folder in (ROOT, *beside))), [])
            assert found, f"{code} of the row with {codes[0]}"
            files += found
        text = "\n".join(file.read_text("utf-8") for file in files)
        for name in filter(re.compile(r"[a-z_]*[A-Z_]\w*").fullmatch, codes):
            assert re.search(rf"\b{name}\b", text), f"{name} of the row with {codes[0]}"


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_files_and_options_in_backticks_exist(page: Path) -> None:
    known = set(OTHER_OPTIONS)
    for parser in (generate.submit_parser(), *generate.experiments_parsers().values()):
        known |= {option for action in parser._actions for option in action.option_strings}
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        if _PATH.fullmatch(code):
            assert (ROOT / code).exists() or ROOT / code == BENCHMARKS or code == "jobs/x.yaml", code
        if code.startswith("-"):
            assert re.split(r"[ =]", code)[0] in known, code


def check_ours(script: str, arguments: list[str], made: set[str]) -> None:
    """Parse one of the project's commands, and check that its files exist or were made by the page."""
    def exists(path: str) -> bool:
        return path.startswith("results/") or path in made or (ROOT / path).exists()

    if script == "submit_multiple.py":
        options = submit_multiple.parse(arguments)
        assert exists(options.path) and (not options.script or exists(options.script)), arguments
        assert options.retry or not options.path.startswith("results/")
    elif script == "experiments.py":
        options = experiments.parse(arguments)
        named = [getattr(options, name, None) for name in ("folder", "path")] + getattr(options, "batches", [])
        assert all(map(exists, filter(None, named))), arguments
    else:
        assert script in made or script == "train.py" and arguments and all(map(exists, arguments)), (script, arguments)


@pytest.mark.parametrize("page", with_blocks("bash"), ids=ids(with_blocks("bash")))
def test_commands_are_well_formed(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    made = {name for block in blocks(page, "yaml", "python") if (name := file_of(block))}
    for block in blocks(page, "bash"):
        for program, *arguments in commands(block.text):
            if program == "python":
                check_ours(arguments[0], arguments[1:], made)
            elif program == "make":
                assert {word for word in arguments if word[0] != "-" and "=" not in word} <= targets, arguments
            else:
                assert program in OTHERS, f"{program}: a typing error, or missing in OTHERS"


@pytest.mark.parametrize("page", with_blocks("yaml"), ids=ids(with_blocks("yaml")))
def test_job_specs_have_as_many_runs_as_they_say(page: Path) -> None:
    for block in blocks(page, "yaml"):
        value = yaml_io.load(block.text, page.name)
        if file_of(block):
            continue  # the page runs it
        if "job_details" not in value:
            value = {"job_details": {"name": "t"}, "parameters": value}
        parsed = reader.parse_job_spec(yaml_io.dump_flat(value), page.name)
        expanded = grid.expand_job_spec(parsed, None, config.check_parameters)
        if number := re.match(r"# (\d+) runs?\n", block.text):
            assert len(expanded.specs) == int(number[1]), block.text


def rows_of_table(heading: str) -> list[list[str]]:
    """Return the cells, without backticks, of the table under a heading of docs/job-spec.md."""
    section = (ROOT / "docs" / "job-spec.md").read_text("utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", section, re.M)[1:]
    assert rows
    return [[cell.strip("`") for cell in row] for row in rows]


@pytest.mark.parametrize(("written", "read"), rows_of_table("Numbers and other values"))
def test_yaml_reads_as_the_table_says(written: str, read: str) -> None:
    assert repr(yaml_io.load(f"key: {written}", "table")["key"]) == read


BAD_SPECS = ("bach_size: 8", "batch_size: 007", "batch_size: []", "ZIP: {batch_size: [8, 16], base_lr: [1]}",
             "EXCLUDE: [{batch_size: 16}]\n  batch_size: [8]", "batch_size: 8\n  ZIP: {batch_size: [1]}",
             "batch_size: 8\n  batch_size: 9", "base_lr: \"[x for x in open('f')]\"", "data_splits_map: {test: test}",
             "base_lr: !uniform [0, 1]", "base_lr: !unifrom [0, 1]")


def test_errors_are_worded_as_the_table_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def submit(text: str, *options: str) -> str:
        (tmp_path / "job.yaml").write_text(f"job_details: {{name: t}}\nparameters:\n  {text}\n")
        submit_multiple.main([str(tmp_path / "job.yaml"), "--output-dir", str(tmp_path), *options])
        return capsys.readouterr().err

    errors = [submit(text, "--local", "-d") for text in BAD_SPECS] + [submit("batch_size: 8")]
    assert submit("batch_size: 8", "--no-submit", "-y") == ""
    errors.append(submit("batch_size: 9", "--no-submit", "-y"))
    for wording, _ in rows_of_table("Errors you may see"):
        assert any(wording in error for error in errors), wording


def run(arguments: list[str], folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run this Python in a copy of the project; the test fails, with the output, on another exit code."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "GRIDIRON_"))}
    expanded = [path for word in arguments for path in sorted(glob(word, root_dir=folder)) or [word]]  # as a shell does
    result = subprocess.run([sys.executable, *expanded], cwd=folder, capture_output=True, text=True, timeout=300,
                            stdin=subprocess.DEVNULL, env={**environment, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"})
    assert result.returncode == code, f"{shlex.join(arguments)}\n{result.stdout}{result.stderr}"
    return result


def copy_project(folder: Path) -> None:
    """Copy the project without tests, results and hidden files."""
    heavy = shutil.ignore_patterns(".*", "results", "data", "__pycache__", "tests", "core")
    shutil.copytree(ROOT, folder, ignore=heavy)
    (folder / "data").mkdir()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a finished digits grid, under the name that the pages use."""
    folder = tmp_path_factory.mktemp("docs") / "project"
    copy_project(folder)
    (folder / "gridiron.sif").touch()  # a dry run checks that the image exists
    run(["submit_multiple.py", "jobs/digits-quickstart.yaml", "--local", "--workers", "2", "-y", "--max-runs", "14"],
        folder)
    made, = (folder / "results").iterdir()
    made.rename(folder / "results" / BATCH)
    return folder


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(prepared, folder)
    shutil.copytree(folder / "results" / BATCH, folder / "results" / "picture" / BATCH)
    shutil.copytree(folder / "results" / BATCH, folder / "results" / "26-11-20-lenet")  # of the README
    return folder


def is_harmless(arguments: list[str]) -> bool:
    """Return whether one of the project's commands is quick and needs no Slurm, network or keyboard."""
    script, *rest = arguments
    if script == "train.py":
        return True
    if script == "experiments.py":
        if "--on" in rest:
            return False  # see tests/submission/remote/test_remote_command.py
        return rest[0] in ("status", "report", "query", "compare", "cancel", "note", "rename", "move", "wait") \
            or rest[0] == "logs" and "-f" not in rest \
            or rest[0] == "export" and bool({"csv", "parquet"} & set(rest))
    options = submit_multiple.parse(rest)
    if options.on:
        return False  # see tests/submission/remote/test_remote_submit.py
    small = options.max_runs or options.retry or not options.path.startswith("jobs/")
    return options.dry_run or options.local and small and (options.yes or options.retry)


def apply_diff(text: str, folder: Path) -> list[str]:
    """Apply hunks whose context and removed lines occur exactly once in the file. Return the changed files."""
    names = []
    for part in re.split(r"^\+\+\+ ", text, flags=re.M)[1:]:
        name, *hunks = re.split(r"^@@\n", part, flags=re.M)
        path = folder / name.strip()
        names.append(name.strip())
        for hunk in hunks:
            lines = hunk.splitlines()
            assert all(line[:1] in ("", " ", "+", "-") for line in lines), hunk
            old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
            new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
            before = path.read_text("utf-8") if path.exists() else ""
            if not old:
                assert not before, f"{name}: a hunk without context"
            else:
                assert f"\n{before}".count(f"\n{old}") == 1, f"{name} must contain this once:\n{old}"
            path.write_text(f"\n{before}".replace(f"\n{old}", f"\n{new}", 1)[1:] if old else new, "utf-8")
    return names


def check_console(text: str, folder: Path) -> None:
    """Run `$ command` and compare its whole output, where … matches anything."""
    first, _, expected = text.partition("\n")
    program, script, *arguments = shlex.split(first.removeprefix("$ "))
    assert program == "python" and is_harmless([script, *arguments])
    result = run([script, *arguments], folder)
    pattern = ".*?".join(map(re.escape, expected.strip().split("…")))
    assert re.fullmatch(pattern, (result.stdout + result.stderr).strip(), re.S), result.stdout


def write_file(block: Block, folder: Path) -> str | None:
    """Write a block that is a file. Return its name, or None."""
    name = file_of(block)
    if name and block.language == "python":
        (folder / name).write_text(block.text.partition("\n")[2], "utf-8")
    elif name:
        (folder / name).write_text(block.text, "utf-8")
    return name


def lint(names: Iterable[str], folder: Path) -> None:
    """Check that ruff accepts Python files of a page."""
    if scripts := sorted({name for name in names if name.endswith(".py")}):
        shutil.copy(ROOT / "pyproject.toml", folder)
        run(["-m", "ruff", "check", "--no-cache", *scripts], folder)


RUNNABLE = [page for page in with_blocks("python", "bash", "diff", "console") if page != TUTORIAL]


@pytest.mark.parametrize("page", RUNNABLE, ids=ids(RUNNABLE))
def test_page_can_be_followed(page: Path, copy: Path) -> None:
    changed: list[str] = []
    for block in blocks(page):
        if block.language == "diff":
            changed += apply_diff(block.text, copy)
        elif name := write_file(block, copy):
            changed.append(name)
        elif block.language == "python":
            run(["-c", block.text], copy)
        elif block.language == "console":
            check_console(block.text, copy)
        elif block.language == "bash":
            for program, *arguments in commands(block.text):
                if program == "python" and is_harmless(arguments):
                    run(arguments, copy)
    lint(changed, copy)


def test_a_page_that_is_wrong_would_fail(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        check_ours("submit_multiple.py", ["jobs/digits-quickstart.yaml", "--local", "-s", "submit_cpu.sh"], set())
    with pytest.raises(SystemExit):
        check_ours("experiments.py", ["statsu"], set())
    with pytest.raises(AssertionError):
        check_ours("train.py", ["jobs/no-such.yaml"], set())
    (tmp_path / "a.py").write_text("one\ntwo\n")
    with pytest.raises(AssertionError, match="must contain this once"):
        apply_diff("+++ a.py\n@@\n tw\n+three\n", tmp_path)
    assert list(commands("A=1 make x && b c | d  # e\n")) == [["make", "x"], ["b", "c"], ["d"]]
