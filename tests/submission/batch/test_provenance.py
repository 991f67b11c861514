"""The code that a batch was submitted from is stored, and a run can be reproduced from it."""
from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
import submit_multiple
from src.analysis.reading.results import read_experiments
from src.errors import BatchError
from src.io import ownership, secrets, yaml_io
from src.submission.batch import provenance, reproduce
from tests.analysis.test_report import text_of
from tests.conftest import ROOT
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project, project

__all__ = ["fake_slurm", "project"]  # fixtures

SECRET = "q7-planted-secret-q7"
# its results depend on two other modules: one that git tracks, one that it does not
ENTRY = """\
import json, os, sys
sys.path.insert(0, os.environ["GRIDIRON_TEST_ROOT"])
import known, extra
from src.code import code_state
from src.io import yaml_io
from src.submission.job import attempt

def train(spec, folder, check):
    with open(os.path.join(folder, "config.yaml"), "w") as file:
        file.write(yaml_io.dump_flat({**spec, "output_dir": folder, "facts": {
            "threads": 3, **code_state.facts_of_start(folder)}}))
    with open(os.path.join(folder, "stats.csv"), "w") as file:
        file.write(f"epoch,timestamp,val/last/accuracy,val/last/time\\n1,{os.getpid()},{known.RATE},{os.getpid()}\\n")
    with open(os.path.join(folder, "result"), "w") as file:
        json.dump([known.RATE * spec["base_lr"], extra.MORE, os.environ.get("GRIDIRON_THREADS")], file)
    return "completed"

if __name__ == "__main__":
    sys.exit(attempt.main(sys.argv[1:], train=train, warm_up=lambda specs: None))
"""


def git(folder: Path, *arguments: str | Path) -> str:
    return subprocess.run(["git", "-C", folder, "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments],
                          check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in git that was pushed, and then got two more commits, a changed file and an untracked one."""
    folder = tmp_path / "the project's"
    folder.mkdir()
    monkeypatch.setenv("GRIDIRON_TEST_ROOT", str(ROOT))
    monkeypatch.setattr(submit_multiple, "PROJECT", str(folder))
    monkeypatch.chdir(folder)
    project = Project(folder)
    (folder / "train.py").write_text(ENTRY)
    (folder / "known.py").write_text("RATE = 1\n")
    (folder / ".gitignore").write_text("__pycache__/\n/re sults\n/data\n")
    git(folder, "init", "--quiet", "--initial-branch=trunk")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(tmp_path, "clone", "--quiet", "--bare", folder, tmp_path / "remote.git")
    git(folder, "remote", "add", "origin", f"file://name:{SECRET}@{tmp_path}/remote.git")
    git(folder, "update-ref", "refs/remotes/origin/trunk", "HEAD")
    (folder / "known.py").write_text("RATE = 2\n")
    git(folder, "commit", "--quiet", "-am", "two")
    (folder / "known.py").write_text("RATE = 3\n")
    (folder / "extra.py").write_text("MORE = 4\n")
    project.write_spec("[8]")
    git(folder, "commit", "--quiet", "-m", "the spec", "x.yaml")
    return project


def code_folder(project: Project) -> Path:
    """Return the only folder in the batch's code/."""
    only, = (project.batch / "code").iterdir()
    return only


def result(run: Path) -> list[object]:
    return json.loads((run / "result").read_text())


def test_code_is_stored_with_the_batch(repository: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert repository.submit(repository.spec, "--local", "-y") == 0
    out = capsys.readouterr().out
    commit = git(repository.folder, "rev-parse", "HEAD")
    assert f"code       {commit[:10]} on trunk, 2 uncommitted files, 2 unpushed commits\n" in out
    record = json.loads((code_folder(repository) / "code.json").read_text())
    assert (record["commit"], record["branch"], record["dirty"], record["unpushed"]) == (commit, "trunk", True, 2)
    assert (record["changed"], record["untracked"]) == (["known.py"], ["extra.py"])
    assert record["remote"].endswith("/remote.git") and "@" not in record["remote"]
    assert record["command_line"] == [str(repository.spec), "--local", "-y"]
    assert record["host"] == os.uname().nodename
    assert "+RATE = 3" in (code_folder(repository) / "uncommitted.diff").read_text()
    assert (code_folder(repository) / "untracked" / "extra.py").read_text() == "MORE = 4\n"
    installed = (code_folder(repository) / "environment.txt").read_text().lower().splitlines()
    assert f"pytest=={pytest.__version__}" in installed


def test_slurm_options_are_recorded(project: Project, fake_slurm: FakeSlurm) -> None:
    (project.folder / "s.sh").write_text("#!/bin/bash\n#SBATCH --time=5\n")
    assert project.submit(project.spec, "-s", "s.sh", "--sbatch", "mem=3G", "-y") == 0
    record = json.loads((code_folder(project) / "code.json").read_text())
    assert record["slurm"]["options"] == {"mem": "3G"}
    assert record["slurm"]["script"] == str(project.folder / "s.sh")
    assert record["commit"] is None and "not a git repository" in record["git"]


def test_large_secret_and_non_source_files_are_not_stored(repository: Project) -> None:
    for name, size in (("large.txt", 2**20 + 1), ("my_credentials.json", 3), ("weights.pt", 3)):
        (repository.folder / name).write_bytes(b"x" * size)
    inner = repository.folder / "other results" / "26-11-20-b"
    for folder in ("submissions", "000_b"):
        (inner / folder).mkdir(parents=True)
    (inner / "job.yaml").write_text("a: 1\n")
    (inner / "000_b" / "spec.yaml").write_text("a: 1\n")
    assert repository.submit(repository.spec, "--local", "-y") == 0
    assert sorted(path.name for path in (code_folder(repository) / "untracked").rglob("*")) == ["extra.py"]
    left_out = json.loads((code_folder(repository) / "code.json").read_text())["left_out"]
    assert left_out == {"large.txt": "1.0 MiB", "my_credentials.json": "its name suggests a secret"}


def test_secrets_of_the_environment_are_stored_nowhere(repository: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the remote's address, nor in a diff, an untracked file, the command line, a log or a journal."""
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("GRIDIRON_NOTIFY", f"mailto://me:{SECRET}@example.org")
    (repository.folder / "known.py").write_text(f"RATE = 3  # {SECRET}\n")
    (repository.folder / "extra.py").write_text(f"MORE = 4  # {SECRET}\n")
    assert repository.submit(repository.spec, "--local", "-y") == 0
    assert "***" in (code_folder(repository) / "uncommitted.diff").read_text()
    assert list(json.loads((code_folder(repository) / "code.json").read_text())["left_out"]) == [
        "the value of $WANDB_API_KEY in the diff"]
    leaks = [path for path in repository.results.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert leaks == []
    assert len([path for path in repository.results.rglob("*") if path.is_file()]) > 10


def test_secrets_are_recognised_by_shape_and_name(repository: Project) -> None:
    """In the address of the remote, a diff, an untracked file, and names of files."""
    token, password = "ghp_" + "a1" * 18, "p@ss/w0rd"
    git(repository.folder, "remote", "set-url", "origin", f"https://me:{password}@host.org/x.git?private_token={SECRET}")
    (repository.folder / "known.py").write_text(f"RATE = 3  # {token}\nURL = 'postgres://me:{password}@host/db'\n")
    (repository.folder / "extra.py").write_text(f"MORE = 4\nTOKEN = '{token}'\n")
    names = ("hf_token.txt", "service-account.json", "rclone.cfg")
    for name in names:
        (repository.folder / name).write_text(SECRET)
    assert repository.submit(repository.spec, "--local", "-y") == 0
    record = json.loads((code_folder(repository) / "code.json").read_text())
    assert record["remote"] == "https://host.org/x.git"
    assert record["left_out"] == {"values in the diff": "they have the shape of tokens, keys or passwords",
                                  **dict.fromkeys(names, "its name suggests a secret")}
    stored = [path.read_bytes() for path in repository.results.rglob("*") if path.is_file()]
    assert not any(secret.encode() in data for data in stored for secret in (token, password, SECRET))
    assert "TOKEN = '***'" in (code_folder(repository) / "untracked" / "extra.py").read_text()


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022])
def test_only_the_user_reads_the_stored_code(repository: Project, mask: int) -> None:
    previous = os.umask(mask)
    try:
        assert repository.submit(repository.spec, "--local", "-y") == 0
    finally:
        os.umask(previous)
    assert [path.stat().st_mode & 0o777 for path in (repository.batch / "code", code_folder(repository))] == [0o700] * 2


def test_require_clean_refuses_uncommitted_and_unpushed_code(repository: Project,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    for options in (("-y",), ("-d",)):
        assert repository.submit(repository.spec, "--local", "--require-clean", *options) == 2
        assert "the code is not clean: " in (error := capsys.readouterr().err)
        assert "2 uncommitted files, 2 unpushed commits (known.py, extra.py); commit and push, or" in error
        assert not repository.results.exists()
    git(repository.folder, "add", ".")
    git(repository.folder, "commit", "--quiet", "-m", "all")
    git(repository.folder, "update-ref", "refs/remotes/origin/trunk", "HEAD")
    assert repository.submit(repository.spec, "--local", "--require-clean", "-y") == 0
    assert not (code_folder(repository) / "uncommitted.diff").exists()


def test_dry_run_does_not_call_git(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "inspect_code", None)
    assert project.submit(project.spec, "--local", "-d") == 0


def change_everything(project: Project) -> None:
    """Edit, delete and commit files, as a researcher does meanwhile."""
    (project.folder / "known.py").write_text("RATE = 100\n")
    (project.folder / "extra.py").unlink()
    git(project.folder, "commit", "--quiet", "-am", "other")
    (project.folder / "train.py").write_text("raise SystemExit('broken')\n")


def test_reproduce_repeats_a_run_after_the_code_changed(repository: Project,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert repository.submit(repository.spec, "--local", "-y") == 0
    run = repository.runs()[1]
    assert result(run)[:2] == [3, 4]
    change_everything(repository)
    capsys.readouterr()
    assert experiments.main(["reproduce", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["cd", "git", "git", "cp", "GRIDIRON_THREADS=3", "git"]
    assert experiments.main(["reproduce", str(run), "--run"]) == 0
    assert capsys.readouterr().out.endswith("\nidentical: 1 epoch, 2 columns\n")
    assert result(run.with_name(f"{run.name}-repeat-1")) == [3, 4, "3"]
    assert experiments.main(["reproduce", str(run), "--run"]) == 0  # and again
    assert git(repository.folder, "status", "--porcelain") == "M train.py"
    assert worktrees(repository) == 1
    # the printed commands do the same
    tree = f"tree-{git(repository.folder, 'rev-parse', 'HEAD~1')[:10]}"
    subprocess.run(["bash", "-ec", "\n".join(lines).replace(f"{tree}-1", f"{tree}-9")], check=True, capture_output=True)
    assert result(run.with_name(f"{run.name}-repeat-3")) == [3, 4, "3"]
    assert worktrees(repository) == 1
    # of a batch that was submitted on another machine and downloaded, the git history is here
    path, = (repository.batch / "code").glob("*/code.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "project": "/there", "sent_from": {"project": record["project"]}}))
    capsys.readouterr()
    assert experiments.main(["reproduce", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == lines[0]


def worktrees(project: Project) -> int:
    """Return the number of git worktrees of a project; those of `reproduce` are removed."""
    return len(git(project.folder, "worktree", "list").splitlines())


def test_code_edited_while_runs_are_queued(repository: Project, fake_slurm: FakeSlurm,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    """The runs say so wherever they are shown, and `reproduce` repeats what ran, not what was submitted."""
    (repository.folder / "s.sh").write_text(f"#!/bin/bash\nexec {sys.executable} train.py \"$@\"\n")
    assert repository.submit(repository.spec, "-s", "s.sh", "-y") == 0
    (repository.folder / "known.py").write_text("RATE = 50\n")
    (repository.folder / "x.yaml").write_text("the next batch\n")
    fake_slurm.run_all()
    run, batch = repository.runs()[1], str(repository.batch)
    assert result(run)[0] == 50
    change_everything(repository)
    capsys.readouterr()
    assert experiments.main(["status", batch]) == 0
    assert "\ncode changed since submission: known.py (2 runs)" in capsys.readouterr().out
    assert experiments.main(["status", batch, "--json"]) == 0
    assert [row["code_changed"] for row in json.loads(capsys.readouterr().out)[0]["runs"]] == [["known.py"]] * 2
    assert experiments.main(["report", batch]) == 0
    page = text_of(str(repository.batch / "report.html"))
    assert "known.py" in page and "changed since" in page
    assert f"python experiments.py reproduce {shlex.quote(str(run))} --run" in page
    big_df = read_experiments(batch)
    assert big_df["facts/code_changed"].tolist() == [["known.py"]] * 2 and big_df["facts/code"].nunique() == 1
    capsys.readouterr()
    assert experiments.main(["reproduce", str(run), "--run"]) == 0
    out = capsys.readouterr().out
    assert "# code changed since submission: known.py; this repeats what ran\n" in out
    assert out.endswith("\nidentical: 1 epoch, 2 columns\n") and worktrees(repository) == 1
    assert result(run.with_name(f"{run.name}-repeat-1")) == [50, 4, "3"]


def test_first_difference_is_printed(repository: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert repository.submit(repository.spec, "--local", "-y") == 0
    run = repository.runs()[0]
    stats = run / "stats.csv"
    stats.write_text(stats.read_text().replace(",3,", ",3.5,"))
    assert experiments.main(["reproduce", str(run), "--run"]) == 1
    assert capsys.readouterr().out.endswith(
        "\nfirst difference: epoch 1, val/last/accuracy: 3.5 before, 3 now\n")


@pytest.mark.parametrize(("before", "after", "is_identical", "line"), [
    ("epoch,loss\n1,0.5\n2,nan\n", "epoch,loss\n1,5e-1\n2,nan\n", True, "identical: 2 epochs, 2 columns"),
    ("epoch,loss,train/time\n1,0.5,3\n", "epoch,loss,train/time\n1,0.5,4\n", True, "identical: 1 epoch, 2 columns"),
    ("epoch,loss\n1,0.5\n2,0.", "epoch,loss\n1,0.5\n2,0.4\n", True,
     "identical: 1 epoch, 2 columns; the repeat has 1 more epoch"),
    ("epoch,loss\n1,0.5\n2,0.4\n", "epoch,loss\n1,0.5\n", False,
     "first difference: the repeat has 1 of 2 epochs"),
    ("epoch,loss,a\n1,0.5,1\n", "epoch,loss\n1,0.5\n", True, "identical: 1 epoch, 2 columns; only one has a"),
    ("epoch,loss\n1,0.5\n2,0.4\n", "epoch,loss\n1,0.5\n2,0.41\n", False,
     "first difference: epoch 2, loss: 0.4 before, 0.41 now")])
def test_results_are_compared_without_times(tmp_path: Path, before: str, after: str, is_identical: bool,
                                            line: str) -> None:
    for name, text in (("a", before), ("b", after)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stats.csv").write_text(text)
    assert reproduce.compare_results(str(tmp_path / "a"), str(tmp_path / "b")) == (is_identical, line)


def test_run_without_stats_cannot_be_compared(tmp_path: Path) -> None:
    assert reproduce.compare_results(str(tmp_path), str(tmp_path)) == (
        True, f"nothing to compare: {tmp_path} has no stats.csv with rows")


@pytest.mark.parametrize("is_old_code", [False, True])
def test_moved_batch_is_reproduced_where_it_is(repository: Project, is_old_code: bool) -> None:
    """Also with the code of an earlier version, which writes to the output_dir of the config."""
    assert repository.submit(repository.spec, "--local", "-y") == 0
    moved = repository.folder / "new & better" / "renamed"
    moved.parent.mkdir()
    repository.batch.rename(moved)
    run = moved / "000_tiny+bas_lr=0.1"
    if is_old_code:
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.partition("facts:")[0] + 'facts: {"threads": 3}\n')
        (repository.folder / "train.py").write_text(ENTRY)
    lines = reproduce.plan_steps(str(run), str(repository.folder)).lines()
    assert any(line.startswith("sed ") for line in lines) == is_old_code
    assert experiments.main(["reproduce", str(run), "--run"]) == 0
    assert result(run.with_name(f"{run.name}-repeat-1"))[:2] == [3 * 0.1, 4]
    assert list(repository.results.iterdir()) == []


def test_archived_run_is_reproduced_from_the_archive(repository: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """By a train.py that does not read archives, and without a change of the archive."""
    assert repository.submit(repository.spec, "--local", "-y") == 0
    batch, run = repository.batch, repository.runs()[1]
    (repository.folder / "train.py").write_text(ENTRY + "# has changed\n")
    (run / "config.yaml").chmod(0o640)
    assert experiments.main(["archive", str(batch)]) == 0
    volume, = (batch / "archive").iterdir()
    before = volume.read_bytes()
    capsys.readouterr()
    assert experiments.main(["reproduce", str(run)]) == 0
    script = capsys.readouterr().out
    assert "unarchive" not in script and sorted(path.name for path in batch.iterdir()) == [
        "archive", "code", "job.yaml", "submissions"]
    assert experiments.main(["reproduce", str(run), "--run"]) == 0
    assert capsys.readouterr().out.endswith("\nidentical: 1 epoch, 2 columns\n")
    repeat = run.with_name(f"{run.name}-repeat-1")
    assert result(repeat) == [3, 4, "3"] and not run.exists() and volume.read_bytes() == before
    assert yaml_io.load_flat((repeat / "spec.yaml").read_text(), "") == {"batch_size": 8, "base_lr": 1}
    experiments.main(["delete", "-y", str(repeat)])
    subprocess.run(["bash", "-ec", script], check=True, capture_output=True)  # the printed commands do the same
    assert result(repeat) == [3, 4, "3"] and worktrees(repository) == 1
    # an archived repeat is not taken for a free name
    assert experiments.main(["archive", str(batch)]) == 0 and not repeat.exists()
    assert experiments.main(["reproduce", str(repeat), "--run"]) == 0
    assert result(run.with_name(f"{repeat.name}-repeat-1")) == [3, 4, "3"]
    assert experiments.main(["reproduce", str(run), "--run"]) == 0
    assert result(run.with_name(f"{run.name}-repeat-2")) == [3, 4, "3"] and not repeat.exists()


def test_archived_run_of_another_user_needs_trust(repository: Project, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert repository.submit(repository.spec, "--local", "-y") == 0
    run = repository.runs()[0]
    assert experiments.main(["archive", str(repository.batch)]) == 0
    volume = str(repository.batch / "archive" / "1.zip")
    monkeypatch.setattr(ownership, "other_owner", lambda *paths: "mallory" if volume in paths else None)
    assert experiments.main(["reproduce", str(run), "--run"]) == 2
    assert "this executes code of mallory" in capsys.readouterr().err


OWN = """\
import json, pathlib, sys, known
folder = pathlib.Path(sys.argv[2])
folder.joinpath("stats.csv").write_text(f"epoch,loss\\n1,{known.RATE * float(sys.argv[1])}\\n")
folder.joinpath("data").write_text(pathlib.Path("data/x").read_text())
"""


@pytest.fixture
def own_program(repository: Project) -> Project:
    """A program of the user's own, tracked by git, that reads a file that git ignores."""
    (repository.folder / "own.py").write_text(OWN)
    (repository.folder / "data").mkdir()
    (repository.folder / "data" / "x").write_text("seven")
    repository.spec.write_text(
        "job_details: {name: own, output_dir: re sults, command: ["
        f"{sys.executable}, own.py, '{{rate}}', '{{folder}}']}}\n"
        "parameters: {rate: [0.5, 2]}\n")
    git(repository.folder, "add", "own.py")
    git(repository.folder, "commit", "--quiet", "-m", "own")
    return repository


def test_own_program_records_facts(own_program: Project) -> None:
    assert own_program.submit(own_program.spec, "--local", "-y") == 0
    run = own_program.runs()[1]
    facts = json.loads((run / "facts.json").read_text())
    assert facts["command"] == [sys.executable, "own.py", "2", str(run)]
    assert facts["host"] == os.uname().nodename and 0 < facts["duration"] < 60
    assert facts["commit"] == git(own_program.folder, "rev-parse", "HEAD")
    assert list(facts["scripts"]) == ["own.py", "known.py"]
    assert facts["scripts"]["own.py"] == hashlib.sha256(OWN.encode()).hexdigest()
    assert facts["code_changed"] == []
    big_df = read_experiments(str(own_program.batch))
    assert big_df["facts/host"].tolist() == [facts["host"]] * 2
    assert big_df["facts/duration"].tolist()[1] == facts["duration"]


def test_own_program_is_reproduced_with_its_code_command_and_data(own_program: Project, fake_slurm: FakeSlurm,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    (own_program.folder / "s.sh").write_text(f"#!/bin/bash\nexec {sys.executable} train.py \"$@\"\n")
    assert own_program.submit(own_program.spec, "-s", "s.sh", "-y") == 0
    (own_program.folder / "own.py").write_text(OWN.replace("known", "more"))
    (own_program.folder / "more.py").write_text("RATE = 50\n")
    fake_slurm.run_all()
    run = own_program.runs()[0]
    assert (run / "stats.csv").read_text() == "epoch,loss\n1,25.0\n"
    (own_program.folder / "own.py").write_text("raise SystemExit('broken')\n")
    (own_program.folder / "more.py").write_text("RATE = 60\n")
    (own_program.folder / "known.py").write_text("RATE = 7\n")
    capsys.readouterr()
    assert experiments.main(["status", str(own_program.batch)]) == 0
    assert "code changed since submission: own.py, more.py (2 runs)" in capsys.readouterr().out
    assert experiments.main(["reproduce", str(run), "--run"]) == 0
    assert capsys.readouterr().out.endswith("\nidentical: 1 epoch, 2 columns\n")
    repeat = run.with_name(f"{run.name}-repeat-1")
    assert (repeat / "data").read_text() == "seven" and (repeat / "spec.yaml").read_text() == (
        run / "spec.yaml").read_text()
    assert experiments.main(["reproduce", str(run)]) == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-ec", script], check=True, capture_output=True)  # the printed commands do the same
    assert (run.with_name(f"{run.name}-repeat-2") / "stats.csv").read_text() == "epoch,loss\n1,25.0\n"
    assert worktrees(own_program) == 1 and (own_program.folder / "more.py").read_text() == "RATE = 60\n"


def test_archived_run_of_own_program_is_reproduced(own_program: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert own_program.submit(own_program.spec, "--local", "-y") == 0
    run = own_program.runs()[0]
    spec = (run / "spec.yaml").read_text()
    assert experiments.main(["archive", str(own_program.batch)]) == 0
    assert experiments.main(["reproduce", str(run), "--run"]) == 0
    assert capsys.readouterr().out.endswith("\nidentical: 1 epoch, 2 columns\n") and not run.exists()
    assert (run.with_name(f"{run.name}-repeat-1") / "spec.yaml").read_text() == spec


def test_runs_of_different_code_in_one_batch_are_announced(own_program: Project,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    """Whether an edit came before a retry or an extension; an edit of a job spec or a note is none."""
    folder, spec = own_program.folder, own_program.spec.read_text()
    (folder / "own.py").write_text(OWN.replace("float(sys.argv[1])", "float(sys.argv[1]) / (sys.argv[1] != '2')"))
    assert own_program.submit(own_program.spec, "--local", "-y") == 1
    (folder / "other.yaml").write_text("job_details: {name: other}\nparameters: {a: 1}\n")
    (folder / "notes.yaml").write_text("an idea: bigger\n")
    capsys.readouterr()
    assert own_program.submit("-r", own_program.batch, "-d") == 0
    assert "code " not in capsys.readouterr().out
    (folder / "own.py").write_text(OWN)
    (folder / "other.yaml").write_text("job_details: {name: other}\nparameters: {a: 2}\n")
    assert own_program.submit("-r", own_program.batch, "-y") == 0
    assert "\ncode       differs from that of the 1 done run: own.py\n" in capsys.readouterr().out
    (folder / "known.py").write_text("RATE = 7\n")
    own_program.spec.write_text(spec.replace("[0.5, 2]", "[0.5, 2, 3]"))
    assert own_program.submit(own_program.spec, "--extend", "--local", "-y") == 0
    assert "\ncode       differs from that of the 2 done runs: own.py, known.py\n" in capsys.readouterr().out

    line = "code: 3 versions in 3 runs (own.py: 1 and 2 runs; known.py: 2 and 1 runs)"
    assert experiments.main(["status", str(own_program.batch)]) == 0
    assert f"\n{line}\n" in capsys.readouterr().out
    assert experiments.main(["report", str(own_program.batch)]) == 0
    assert line in text_of(str(own_program.batch / "report.html"))
    capsys.readouterr()
    assert experiments.main(["status", str(own_program.batch), "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)[0]["code_versions"]
    assert [version["runs"] for version in versions] == [1, 1, 1]
    assert {name for version in versions for name in version["files"]} == {"own.py", "known.py"}


def test_edited_job_specs_are_no_changed_code(own_program: Project, fake_slurm: FakeSlurm) -> None:
    """Nor is code that the program neither imports nor names."""
    for name in ("other.yaml", "notes.md", "unused.py"):
        (own_program.folder / name).write_text("parameters: {a: 1}\n" if name == "other.yaml" else "1\n")
    (own_program.folder / "s.sh").write_text(f"#!/bin/bash\nexec {sys.executable} train.py \"$@\"\n")
    assert own_program.submit(own_program.spec, "-s", "s.sh", "-y") == 0
    for name in ("other.yaml", "notes.md", "unused.py", "x.yaml"):
        (own_program.folder / name).write_text("parameters: {a: 2}\n" if name.endswith("yaml") else "2\n")
    fake_slurm.run_all()
    assert json.loads((own_program.runs()[0] / "facts.json").read_text())["code_changed"] == []


def test_retry_with_another_train_py_is_announced(repository: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """Of train.py, src/ and modules that the job spec names; other files are no code of its runs."""
    assert repository.submit(repository.spec, "--local", "-y") == 0
    for name in ("done", "attempt-1-0.json"):
        (repository.runs()[1] / name).unlink()
    (repository.folder / "unused.py").write_text("1\n")
    capsys.readouterr()
    assert repository.submit("-r", repository.batch, "-d") == 0
    assert "code " not in capsys.readouterr().out
    (repository.folder / "train.py").write_text(ENTRY + "# edited\n")
    assert repository.submit("-r", repository.batch, "-y") == 0
    assert "\ncode       differs from that of the 1 done run: train.py\n" in capsys.readouterr().out
    assert experiments.main(["status", str(repository.batch)]) == 0
    assert "\ncode: 2 versions in 2 runs (train.py: 1 and 1 runs)\n" in capsys.readouterr().out


def test_changed_script_outside_the_project_is_noted(repository: Project, tmp_path: Path) -> None:
    script = tmp_path / "outside.sh"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    repository.spec.write_text(f"job_details: {{name: own, output_dir: re sults, command: ['{script}', train.py]}}\n"
                               "parameters: {a: [1]}\n")
    assert repository.submit(repository.spec, "--local", "-y") == 0
    run = str(repository.runs()[0])
    scripts = json.loads((repository.runs()[0] / "facts.json").read_text())["scripts"]
    assert list(scripts)[:2] == [str(script), "train.py"]
    assert reproduce.plan_steps(run, str(repository.folder)).notes == []
    script.write_text("#!/bin/sh\nexit 1\n")
    assert reproduce.plan_steps(run, str(repository.folder)).notes == [f"{script} has changed since"]


def test_reproduce_outside_git_says_whether_the_project_has_changed(project: Project,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text("job_details: {name: own, output_dir: re sults, command: [touch, '{folder}/{file}']}\n"
                            "parameters: {file: [a]}\n")
    assert project.submit(project.spec, "--local", "-y") == 0
    run, = project.runs()
    capsys.readouterr()
    assert experiments.main(["reproduce", str(run), "--run"]) == 0
    assert "as it is now: unchanged since the submission\n" in capsys.readouterr().out
    assert (run.with_name(f"{run.name}-repeat-1") / "a").exists()
    (project.folder / "train.py").write_text("raise SystemExit(1)\n")
    assert experiments.main(["reproduce", str(run)]) == 0
    assert "as it is now, and 1 file changed: train.py\n" in capsys.readouterr().out


def test_runs_start_from_the_snapshot(repository: Project, fake_slurm: FakeSlurm,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    """Edits while they are queued have no effect; data stays where it is; a retry uses the code of its time."""
    (repository.folder / "data").mkdir()
    (repository.folder / "s.sh").write_text(f"#!/bin/bash\ntest -d data\nexec {sys.executable} train.py \"$@\"\n")
    repository.spec.write_text(repository.spec.read_text().replace("sults}", "sults, snapshot: true}"))
    commit = git(repository.folder, "rev-parse", "HEAD")
    assert repository.submit(repository.spec, "-s", "s.sh", "-y") == 0
    assert "runs start from a snapshot" in capsys.readouterr().out
    change_everything(repository)
    fake_slurm.run_all()
    assert [result(run)[:2] for run in repository.runs()] == [[3 * 0.1, 4], [3, 4]]
    snapshot = code_folder(repository) / "snapshot"
    assert (snapshot / "COMMIT").read_text() == f"{commit}\n"
    assert (snapshot / "data").is_symlink() and not (snapshot / ".git").exists()
    run = repository.runs()[1]
    assert experiments.main(["reproduce", str(run), "--run"]) == 0
    assert result(run.with_name(f"{run.name}-repeat-1")) == [3, 4, "3"]
    (repository.folder / "train.py").write_text(ENTRY.replace("import known, extra", "import known as extra, known"
                                                              ).replace("extra.MORE", "5"))
    (run / "done").unlink()
    assert repository.submit("-r", repository.batch, "-y") == 0
    fake_slurm.run_all()
    assert result(run)[:2] == [100, 5]
    assert len(list((repository.batch / "code").iterdir())) == 2


def test_snapshot_with_a_secret_is_refused(repository: Project, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    repository.spec.write_text(repository.spec.read_text().replace("sults}", "sults, snapshot: true}"))
    (repository.folder / "extra.py").write_text(f"MORE = '{SECRET}'\n")
    assert repository.submit(repository.spec, "--local", "-y") == 2
    error = capsys.readouterr().err
    assert "extra.py: this file contains the value of $MY_TOKEN" in error and SECRET not in error
    assert list(repository.results.iterdir()) == []


def test_snapshot_without_git(project: Project) -> None:
    project.spec.write_text(project.spec.read_text().replace("sults}", "sults, snapshot: true}"))
    assert project.submit(project.spec, "--local", "-y") == 0
    assert project.executed() == [1] * 4
    assert {"train.py", "x.yaml"} <= {path.name for path in (code_folder(project) / "snapshot").iterdir()}
    assert not (code_folder(project) / "snapshot" / "COMMIT").exists()


@pytest.mark.parametrize(("missing", "message"), [
    ("code", "no record of the code that this batch was submitted from"), ("config", "it never started")])
def test_reproduce_explains_missing_records(repository: Project, missing: str, message: str,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    assert repository.submit(repository.spec, "--local", "-y") == 0
    run = repository.runs()[0]
    path = {"code": code_folder(repository) / "code.json", "config": run / "config.yaml"}[missing]
    path.unlink()
    assert experiments.main(["reproduce", str(run)]) == 2
    assert message in capsys.readouterr().err


def test_notes_are_stored_with_the_commit_and_shown(repository: Project, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    assert repository.submit(repository.spec, "--local", "-y") == 0
    monkeypatch.setattr("src.commands.records.PROJECT", str(repository.folder))
    capsys.readouterr()
    batch = str(repository.batch)
    assert experiments.main(["note", batch, "the larger\nrate wins <b>"]) == 0
    git(repository.folder, "add", ".")
    git(repository.folder, "commit", "--quiet", "-m", "all")
    assert experiments.main(["note", batch, "no, it does not"]) == 0
    commit = git(repository.folder, "rev-parse", "HEAD")
    capsys.readouterr()
    assert experiments.main(["note", batch]) == 0
    first, second = capsys.readouterr().out.replace("larger\nrate", "larger rate").splitlines()
    assert first.endswith("and uncommitted changes  the larger rate wins <b>")
    assert second.endswith(f"  {commit[:10]}  no, it does not")
    assert experiments.main(["note", batch, " "]) == 2
    for run in repository.runs():
        (run / "stats.csv").write_text("epoch,val/last/loss\n1,0.5\n")
    assert experiments.main(["report", batch]) == 0
    page = text_of(str(repository.batch / "report.html"))
    assert "the larger\nrate wins <b>" in page and commit[:10] in page


def test_names_and_values_recognised_as_secrets() -> None:
    environment = {"WANDB_API_KEY": "a" * 40, "HF_TOKEN": "b" * 9, "SHORT_KEY": "abc", "KEYBOARD": "c" * 9,
                   "COMET_APIKEY": "d" * 9, "HOME": "/root/home", "AWS_SECRET_ACCESS_KEY": "e" * 9}
    values = secrets.secret_values(environment)
    assert set(values.values()) == {"WANDB_API_KEY", "HF_TOKEN", "COMET_APIKEY", "AWS_SECRET_ACCESS_KEY"}


def test_machine_without_git(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project.folder))
    code = provenance.inspect_code(str(project.folder))
    assert code.commit is None and code.line() == "unknown commit: git rev-parse: FileNotFoundError"
    with pytest.raises(BatchError, match="not clean"):
        code.require_clean()
