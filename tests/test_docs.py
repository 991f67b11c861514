"""What README and docs say is true: commands run, diffs apply, outputs are as shown, links lead somewhere.

Each page is followed from top to bottom in a copy of the project that holds a finished digits grid: diffs are applied,
files written, Python and harmless commands run. Commands for a cluster or a network are only checked word by word.
"""
from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import experiments
import submit_multiple
from src import config
from src.errors import UserError
from src.io import yaml_io
from src.submission.spec import grid, reader
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN_LATER = ROOT / "docs" / "benchmarks.md"  # by make bench
BATCH = "26-11-20-digits-quickstart"  # as the pages call it
# programs that are not ours, which pages may name
OTHERS = {".venv-mlflow/bin/mlflow", "apptainer", "cd", "conda", "cut", "export", "git", "jupyter", "ln", "mkdir",
          "rsync", "sacctmgr", "sbatch", "sinfo", "source", "squeue", "srun", "ssh", "ssh-copy-id", "ssh-keygen",
          "tensorboard", "tmux"}
OTHER_OPTIONS = {"--no-cache-dir", "--requeue", "--test-only", "--ip", "-L", "--key", "--rdzv-id", "--cleanenv", "--nv"}
_PATH = re.compile(r"(jobs|src|tests|docs|notebooks|benchmarks)/[\w./-]*|(submit_|train|experiments)\w*\.(sh|py)")


class Block(NamedTuple):
    """A fenced block: its language and text."""

    language: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page, of these languages or of all."""
    found = [Block(*match) for match in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)]
    return [block for block in found if not languages or block.language in languages]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in a bash block, without variables set in front."""
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
    """The name of the file that a YAML block is, as its first line says."""
    match = re.match(r"# (\S+\.yaml)\n", block.text)
    return match[1] if match else None


def ids(pages: list[Path]) -> list[str]:
    return [page.stem for page in pages]


def with_blocks(*languages: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, *languages)]


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists() or path == WRITTEN_LATER, target
        if anchor:
            headings = re.findall(r"^#+ (.*)", prose(path), re.M)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_files_and_options_in_backticks_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = set(OTHER_OPTIONS)
    for parse, words in ((submit_multiple.parse, []), *((experiments.parse, [name]) for name in (
            "status", "watch", "logs", "cancel", "clean", "report", "note", "reproduce", "export",
            "register", "sync-wandb", "query", "compare", "sync", "prefetch", "doctor", "push-env"))):
        with pytest.raises(SystemExit):
            parse([*words, "--help"])
        known |= set(re.findall(r"--?[a-z][a-z-]*", capsys.readouterr().out))
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        if _PATH.fullmatch(code):
            assert (ROOT / code).exists() or ROOT / code == WRITTEN_LATER, code
        if code.startswith("-"):
            assert re.split(r"[ =]", code)[0] in known, code


def check_ours(script: str, arguments: list[str], made: set[str]) -> None:
    """A command of ours must parse, and name what is there or what the page made before."""
    def there(path: str) -> bool:
        return path.startswith("results/") or path in made or (ROOT / path).exists()

    if script == "submit_multiple.py":
        options = submit_multiple.parse(arguments)
        assert there(options.path) and (not options.script or there(options.script)), arguments
        assert options.retry == options.path.startswith("results/")
    elif script == "experiments.py":
        options = experiments.parse(arguments)
        named = [getattr(options, name, None) for name in ("folder", "path")] + getattr(options, "batches", [])
        assert all(map(there, filter(None, named))), arguments
    else:
        assert script == "train.py" and arguments and all(map(there, arguments)), (script, arguments)


@pytest.mark.parametrize("page", with_blocks("bash"), ids=ids(with_blocks("bash")))
def test_commands_are_well_formed(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    made = {name for block in blocks(page, "yaml") if (name := file_of(block))}
    for block in blocks(page, "bash"):
        for program, *arguments in commands(block.text):
            if program == "python":
                check_ours(arguments[0], arguments[1:], made)
            elif program == "make":
                assert {word for word in arguments if word[0] != "-" and "=" not in word} <= targets, arguments
            else:
                assert program in OTHERS, f"{program}: a typing error, or to be made known in OTHERS"


@pytest.mark.parametrize("page", with_blocks("yaml"), ids=ids(with_blocks("yaml")))
def test_job_specs_have_as_many_runs_as_they_say(page: Path) -> None:
    for block in blocks(page, "yaml"):
        value = yaml_io.load(block.text, page.name)
        if file_of(block):
            continue  # the page itself runs it
        if "job_details" not in value:
            value = {"job_details": {"name": "t"}, "parameters": value}
        parsed = reader.parse_job_spec(yaml_io.dump_flat(value), page.name)
        found = grid.of_job_spec(parsed, None, config.check_parameters)
        if said := re.match(r"# (\d+) runs?\n", block.text):
            assert len(found.specs) == int(said[1]), block.text


def rows_of_table(heading: str) -> list[list[str]]:
    """The cells, without backticks, of the table under a heading of docs/job-spec.md."""
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


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run this Python in a copy of the project; fails the test, with what was printed, if that fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "GRIDIRON_"))}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, env={**environment, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"})
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a finished digits grid, under the name that the pages give it."""
    folder = tmp_path_factory.mktemp("docs") / "project"
    heavy = shutil.ignore_patterns(".*", "results", "data", "__pycache__", "tests", "core")
    shutil.copytree(ROOT, folder, ignore=heavy)
    (folder / "data").mkdir()
    (folder / "gridiron.sif").touch()  # a dry run looks whether the image is there
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
    return folder


def is_harmless(arguments: list[str]) -> bool:
    """Whether a command of ours is quick and touches neither Slurm, nor the network, nor a keyboard."""
    script, *rest = arguments
    if script == "train.py":
        return True
    if script == "experiments.py":
        if "--on" in rest:
            return False  # likewise tests/submission/remote/test_remote_command.py
        return rest[0] in ("status", "report", "query", "compare", "cancel", "note") \
            or rest[0] == "logs" and "-f" not in rest \
            or rest[0] == "export" and bool({"csv", "parquet"} & set(rest))
    options = submit_multiple.parse(rest)
    if options.on:
        return False  # tests/submission/remote/test_remote_submit.py has a machine to reach
    small = options.max_runs or options.retry or not options.path.startswith("jobs/")
    return options.dry_run or options.local and small and (options.yes or options.retry)


def apply_diff(text: str, folder: Path) -> list[str]:
    """Apply hunks of whole lines: what stands there with a blank or - must be in the file, once. The files changed."""
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
                assert not before, f"{name}: a hunk that says nothing of where it belongs"
            else:
                assert f"\n{before}".count(f"\n{old}") == 1, f"{name} has this not once:\n{old}"
            path.write_text(f"\n{before}".replace(f"\n{old}", f"\n{new}", 1)[1:] if old else new, "utf-8")
    return names


def check_console(text: str, folder: Path) -> None:
    """`$ command` and its whole output, where … stands for anything."""
    first, _, expected = text.partition("\n")
    program, script, *arguments = shlex.split(first.removeprefix("$ "))
    assert program == "python" and is_harmless([script, *arguments])
    done = run([script, *arguments], folder)
    pattern = ".*?".join(map(re.escape, expected.strip().split("…")))
    assert re.fullmatch(pattern, (done.stdout + done.stderr).strip(), re.S), done.stdout


RUNNABLE = with_blocks("python", "bash", "diff", "console")


@pytest.mark.parametrize("page", RUNNABLE, ids=ids(RUNNABLE))
def test_page_can_be_followed(page: Path, copy: Path) -> None:
    changed: list[str] = []
    for block in blocks(page):
        if block.language == "diff":
            changed += apply_diff(block.text, copy)
        elif block.language == "yaml" and (name := file_of(block)):
            (copy / name).write_text(block.text, "utf-8")
        elif block.language == "python":
            run(["-c", block.text], copy)
        elif block.language == "console":
            check_console(block.text, copy)
        elif block.language == "bash":
            for program, *arguments in commands(block.text):
                if program == "python" and is_harmless(arguments):
                    run(arguments, copy)
    if changed:
        shutil.copy(ROOT / "pyproject.toml", copy)
        run(["-m", "ruff", "check", "--no-cache", *sorted(set(changed))], copy)


def test_a_page_that_is_wrong_would_fail(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        check_ours("submit_multiple.py", ["jobs/digits-quickstart.yaml", "--local", "-s", "submit_cpu.sh"], set())
    with pytest.raises(SystemExit):
        check_ours("experiments.py", ["statsu"], set())
    with pytest.raises(AssertionError):
        check_ours("train.py", ["jobs/no-such.yaml"], set())
    (tmp_path / "a.py").write_text("one\ntwo\n")
    with pytest.raises(AssertionError, match="not once"):
        apply_diff("+++ a.py\n@@\n tw\n+three\n", tmp_path)
    assert list(commands("A=1 make x && b c | d  # e\n")) == [["make", "x"], ["b", "c"], ["d"]]
