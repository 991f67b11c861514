"""The code that a batch was submitted from is stored, and a run can be reproduced from it."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
import submit_multiple
from src.errors import BatchError
from src.submission.batch import provenance
from src.submission.system import secrets
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
from src.io import yaml_io
from src.submission.job import attempt

def train(spec, folder, check):
    with open(os.path.join(folder, "config.yaml"), "w") as file:
        file.write(yaml_io.dump_flat({**spec, "output_dir": folder, "facts": {"threads": 3}}))
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
    assert [line.split()[0] for line in lines] == ["cd", "git", "git", "cp", "GRIDIRON_THREADS=3"]
    assert experiments.main(["reproduce", str(run), "--run"]) == 0
    assert result(run.with_name(f"{run.name}-repeat-1")) == [3, 4, "3"]
    assert experiments.main(["reproduce", str(run), "--run"]) == 0  # and again
    assert git(repository.folder, "status", "--porcelain") == "M train.py"
    # the printed commands do the same
    tree = f"tree-{git(repository.folder, 'rev-parse', 'HEAD~1')[:10]}"
    subprocess.run(["bash", "-ec", "\n".join(lines).replace(f"{tree}-1", f"{tree}-9")], check=True, capture_output=True)
    assert result(run.with_name(f"{run.name}-repeat-3")) == [3, 4, "3"]
    # of a batch that was submitted on another machine and downloaded, the git history is here
    path, = (repository.batch / "code").glob("*/code.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "project": "/there", "sent_from": {"project": record["project"]}}))
    capsys.readouterr()
    assert experiments.main(["reproduce", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == lines[0]


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
    ("code", "no record of the code that this batch was submitted from"), ("config", "it never started"),
    ("submissions", "repeats it with the current code")])
def test_reproduce_explains_missing_records(repository: Project, missing: str, message: str,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    assert repository.submit(repository.spec, "--local", "-y") == 0
    run = repository.runs()[0]
    path = {"code": code_folder(repository) / "code.json", "config": run / "config.yaml",
            "submissions": next((repository.batch / "submissions").glob("*.jsonl"))}[missing]
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
    page = (repository.batch / "report.html").read_text()
    assert "the larger\nrate wins &lt;b&gt;" in page and commit[:10] in page


def test_names_and_values_recognised_as_secrets() -> None:
    environment = {"WANDB_API_KEY": "a" * 40, "HF_TOKEN": "b" * 9, "SHORT_KEY": "abc", "KEYBOARD": "c" * 9,
                   "COMET_APIKEY": "d" * 9, "HOME": "/root/home", "AWS_SECRET_ACCESS_KEY": "e" * 9}
    values = secrets.secret_values(environment)
    assert set(values.values()) == {"WANDB_API_KEY", "HF_TOKEN", "COMET_APIKEY", "AWS_SECRET_ACCESS_KEY"}
    assert provenance.strip_credentials("https://me:pass@host/x.git") == "https://host/x.git"
    assert provenance.strip_credentials("git@host:me/x.git") == "git@host:me/x.git"


def test_machine_without_git(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project.folder))
    code = provenance.inspect_code(str(project.folder))
    assert code.commit is None and code.line() == "unknown commit: git rev-parse: FileNotFoundError"
    with pytest.raises(BatchError, match="not clean"):
        code.require_clean()
