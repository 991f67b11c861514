"""submit_multiple.py --on HOST, through a real sshd to another folder of this machine, without Slurm."""
from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

import submit_multiple
from src.submission.remote import hosts, ssh
from src.submission.remote.remote_submit import remote_arguments
from src.submission.remote.upload import NamedFile
from tests.conftest import ROOT
from tests.sshd.fixture import Sshd, sshd
from tests.sshd.laptop import JOB_SPEC, Laptop, wait_until
from tests.submission.conftest import INTERRUPT_FROM_A_THREAD

__all__ = ["sshd"]  # the fixture

@pytest.fixture
def laptop(tmp_path: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GRIDIRON_TEST_ROOT", raising=False)
    return Laptop(tmp_path / "my $laptop" / "pro 'ject'", tmp_path / "the `cluster`" / "pro ject; (1)", sshd)


def test_project_is_uploaded_submitted_and_followed(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = laptop.git("rev-parse", "HEAD")
    monkeypatch.setenv("MY_TOKEN", "q7-planted-secret-q7")
    with open(laptop.folder / "train.py", "a") as file:
        file.write("# mended q7-planted-secret-q7\n")
    (laptop.folder / "src" / "new ä.py").write_text("new = 1\n")
    said = laptop.submit("jobs/tiny.yaml", "--local", "--workers", "2", "-y")
    assert "4 runs: 2 batch_size" in said
    assert "4/4 runs" in said
    assert laptop.executed() == [1] * 4
    assert not (laptop.remote_dir / "hosts.toml").is_symlink()
    assert {path.name for path in laptop.remote_dir.iterdir()} & {"results", "data", ".venv", ".git"} == {"results"}
    assert not (laptop.remote_dir / "results").is_symlink()
    folder, = (laptop.batch() / "code").iterdir()
    code = json.loads((folder / "code.json").read_text())
    assert (code["commit"], code["branch"], code["dirty"]) == (commit, "main", True)
    assert code["sent_from"] == {"host": os.uname().nodename, "project": str(laptop.folder)}
    assert "+# mended ***" in (folder / "uncommitted.diff").read_text()
    assert (folder / "untracked" / "src" / "new ä.py").read_text() == "new = 1\n"
    assert f"experiments.py status {laptop.batch().relative_to(laptop.remote_dir)} --on cluster" in said


def test_snapshot_and_clean_commit_on_the_host(laptop: Laptop) -> None:
    commit = laptop.commit()
    (laptop.folder / "jobs" / "tiny.yaml").write_text(
        "job_details: {name: tiny, snapshot: true}\nparameters: {batch_size: 1}\n")
    said = laptop.submit("jobs/tiny.yaml", "--local", "-y")
    assert f"{commit[:10]} on main, 1 uncommitted file, no remote to push to, runs start from a snapshot" in said
    snapshot, = laptop.batch().glob("code/*/snapshot")
    assert (snapshot / "COMMIT").read_text() == f"{commit}\n"
    assert (snapshot / "src" / "config.py").is_file()
    assert not (snapshot / "src" / "config.py").is_symlink()
    assert laptop.executed() == [1]
    said = laptop.submit("jobs/tiny.yaml", "--local", "-y", "-o", "--require-clean", code=2)
    assert "the code is not clean" in said
    assert laptop.executed() == [1]


def test_dry_run_lists_the_upload_and_changes_nothing(laptop: Laptop) -> None:
    (laptop.folder / "notes.txt").write_text("x" * 500_000)
    said = laptop.submit("jobs/tiny.yaml", "--local", "-d")
    assert "would upload" in said
    assert "488.3 KiB  notes.txt" in said
    assert "huge.bin" not in said
    assert " results" not in said.partition("planned on this machine")[0]
    assert "4 runs: 2 batch_size" in said
    assert not laptop.remote_dir.exists()
    laptop.submit("jobs/tiny.yaml", "--local", "-y")
    (laptop.folder / "notes.txt").write_text("y" * 6000)
    said = laptop.submit("jobs/tiny.yaml", "--local", "-d", "--set", "base_lr=3")
    assert "would upload 1 file, 5.9 KiB" in said
    assert "nothing to submit: 4 of 4 done" in laptop.submit("jobs/tiny.yaml", "--local", "-y")
    said = laptop.submit("jobs/tiny.yaml", "--local", "-d", "--set", "base_lr=3", "--output-dir", "other")
    assert "would upload nothing: all files are there" in said
    assert "dry run: nothing was written or submitted" in said
    assert not (laptop.remote_dir / "other").exists()
    rows = laptop.submit("jobs/tiny.yaml", "--local", "-d", "--json", "--output-dir", "other").splitlines()
    assert [json.loads(row)["spec"]["batch_size"] for row in rows if row[0] == "{"] == [1, 1, 2, 2]


def test_second_submission_uploads_changes_and_removes_deleted_files(laptop: Laptop) -> None:
    (laptop.folder / "src" / "old" / "deep").mkdir(parents=True)
    (laptop.folder / "src" / "old" / "deep" / "gone.py").write_text("x")
    laptop.submit("jobs/tiny.yaml", "--local", "-y")
    assert (laptop.remote_dir / "src" / "old" / "deep" / "gone.py").exists()
    shutil.rmtree(laptop.folder / "src" / "old")
    (laptop.remote_dir / "results" / "mine.txt").write_text("kept")
    (laptop.remote_dir / "src" / "theirs.py").write_text("somebody's own file there is kept")
    spec = laptop.write_spec("second", "batch_size: 1")
    said = laptop.submit(spec, "--local", "-y")
    assert "uploaded   1 file, 56 bytes" in said
    assert not (laptop.remote_dir / "src" / "old").exists()
    assert (laptop.remote_dir / "results" / "mine.txt").exists()
    assert (laptop.remote_dir / "src" / "theirs.py").exists()
    assert laptop.executed() == [1] * 4
    said = laptop.submit(spec, "--local", "-y", "-o")
    assert "uploaded   nothing: all files are there" in said


def test_files_are_written_through_remote_links_which_stay_links(laptop: Laptop, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    for name in ("jobs", "results", "deep \n$er"):
        (scratch / name).mkdir(parents=True)
    laptop.remote_dir.mkdir(parents=True)
    for name in ("jobs", "results"):
        (laptop.remote_dir / name).symlink_to(scratch / name)
    (scratch / "jobs" / "a" / "b").mkdir(parents=True)
    (scratch / "jobs" / "a" / "b" / "c").symlink_to("../../../deep \n$er")
    (laptop.folder / "jobs" / "a" / "b" / "c").mkdir(parents=True)
    (laptop.folder / "jobs" / "a" / "b" / "c" / "notes.txt").write_text("1")
    (laptop.folder / "jobs" / "a" / "notes.txt").write_text("1")
    laptop.submit("jobs/tiny.yaml", "--local", "-y")
    assert len(list((scratch / "results").iterdir())) == 1
    (laptop.folder / "jobs" / "a" / "b" / "c" / "notes.txt").write_text("changed")
    laptop.write_spec("tiny", "batch_size: 3")
    (laptop.folder / "jobs" / "tiny.yaml").rename(laptop.folder / "jobs" / "other.yaml")
    output = laptop.submit("jobs/other.yaml", "--local", "-d")
    assert "would upload 2 files" in output
    assert "jobs/a/b/c/notes.txt" in output
    assert not (scratch / "jobs" / "other.yaml").exists()
    assert "uploaded   2 files" in laptop.submit("jobs/other.yaml", "--local", "-y", "-o")
    assert (scratch / "deep \n$er" / "notes.txt").read_text() == "changed"
    assert (scratch / "jobs" / "a" / "notes.txt").read_text() == "1"
    assert (scratch / "jobs" / "tiny.yaml").exists(), "nothing is removed through a link"
    assert "batch_size: 3" in (scratch / "jobs" / "other.yaml").read_text()
    for link in (laptop.remote_dir / "jobs", laptop.remote_dir / "results", scratch / "jobs" / "a" / "b" / "c"):
        assert link.is_symlink()
    assert len(laptop.executed()) == 1


def test_job_spec_and_script_outside_the_project_are_uploaded(laptop: Laptop, tmp_path: Path) -> None:
    (tmp_path / "else where").mkdir()
    outside = tmp_path / "else where" / "my $spec.yaml"
    outside.write_text(JOB_SPEC.format(name="outside", parameters="batch_size: 1"))
    said = laptop.submit(outside, "--local", "-y")
    assert laptop.executed("outside") == [1], said
    (laptop.folder / ".gitignore").write_text("jobs/\nresults\ndata\n.venv\n__pycache__\n")
    laptop.commit()
    laptop.git("rm", "-q", "--cached", "jobs/tiny.yaml")
    laptop.submit("jobs/tiny.yaml", "--local", "-y")
    assert laptop.executed() == [1] * 4
    script = tmp_path / "else where" / "s.sh"
    script.write_text("#!/bin/bash\nexec python train.py\n")
    said = laptop.submit(outside, f"--script={script}", "--no-submit", "-y", "--output-dir", "again")
    assert "wrote 1 run folder" in said
    assert (laptop.remote_dir / ".gridiron" / "given" / "s.sh").exists()
    assert "no such job spec on this machine" in laptop.submit("jobs/nothing.yaml", "--local", code=2)


def test_batches_and_environments_are_not_uploaded(laptop: Laptop) -> None:
    (laptop.folder / "out" / "b" / "submissions").mkdir(parents=True)
    (laptop.folder / "out" / "b" / "job.yaml").write_text("x")
    (laptop.folder / "out" / "b" / "deep").mkdir()
    (laptop.folder / "out" / "b" / "deep" / "stats.csv").write_text("x")
    (laptop.folder / "my env" / "lib").mkdir(parents=True)
    (laptop.folder / "my env" / "pyvenv.cfg").write_text("x")
    (laptop.folder / "my env" / "lib" / "large.py").write_text("x")
    laptop.submit("jobs/tiny.yaml", "--local", "-y")
    assert not (laptop.remote_dir / "out").exists()
    assert not (laptop.remote_dir / "my env").exists()


def test_question_is_asked_here(laptop: Laptop) -> None:
    said = laptop.submit("jobs/tiny.yaml", "--local", stdin="no\n", code=2)
    assert "Run 4 runs? [y/N] " in said
    assert "the answer was not y" in said
    assert not (laptop.remote_dir / "results").exists()
    said = laptop.submit("jobs/tiny.yaml", "--local", code=2)
    assert "nobody answered the question" in said
    assert not (laptop.remote_dir / "results").exists()
    laptop.submit("jobs/tiny.yaml", "--local", stdin="y\n")
    assert laptop.executed() == [1] * 4
    name = laptop.batch().name
    assert f"Type {name} to remove it" in laptop.submit("jobs/tiny.yaml", "--local", "-o", stdin=f"{name}\n")
    assert laptop.executed() == [1] * 4


def test_errors_and_exit_codes_are_passed_on(laptop: Laptop) -> None:
    wrong = laptop.write_spec("wrong", "bach_size: 1")
    assert "did you mean 'batch_size'?" in laptop.submit(wrong, "--local", "-y", code=2)
    unlucky = laptop.write_spec("unlucky", "batch_size: [13, 1]")
    said = laptop.submit(unlucky, "--local", "-y", code=1)
    assert "1 run failed" in said
    batch = str(laptop.batch("unlucky").relative_to(laptop.remote_dir))
    assert f"python submit_multiple.py -r {batch} --local --on cluster" in said
    (laptop.batch("unlucky") / "mended").touch()
    laptop.submit("-r", batch, "-y")
    assert laptop.executed("unlucky") == [1, 1]


def test_failing_environment_is_reported(laptop: Laptop) -> None:
    laptop.sshd.write_hosts(laptop.folder, laptop.remote_dir, ("source nothing.sh",))
    said = laptop.submit("jobs/tiny.yaml", "--local", "-y", code=2)
    assert "could not be started there" in said
    assert "nothing.sh" in said


def test_output_of_a_login_shell_is_ignored(laptop: Laptop) -> None:
    laptop.sshd.write_hosts(laptop.folder, laptop.remote_dir, (
        "echo 'Welcome! {\"exit\": 7}'", "echo careful >&2", f"export GRIDIRON_TEST_ROOT='{laptop.remote_dir}'"))
    assert "Welcome" not in laptop.submit("jobs/tiny.yaml", "--local", "-y")
    assert laptop.executed() == [1] * 4


def test_local_runs_survive_a_lost_connection_and_are_followed_again(laptop: Laptop) -> None:
    """One cut is mended by the command itself; then the laptop's command is killed, and given again."""
    spec = laptop.write_spec("long", "batch_size: [18, 1]")
    process = laptop.start(spec, "--local", "--workers", "2", "-y")
    wait_until(lambda: list((laptop.remote_dir / "results").glob("*-long/*/executed")))
    assert laptop.sshd.drop_connections()
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    process = laptop.start(spec, "--local", "--workers", "2", "-y")
    assert process.stdout
    assert "still running on cluster" in process.stdout.readline()
    (laptop.batch("long") / "go").touch()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "2/2 runs" in said
    assert laptop.executed("long") == [1, 1]
    assert "nothing to submit: 2 of 2 done" in laptop.submit(spec, "--local", "--workers", "2", "-y")


def test_last_retry_reports_progress_and_the_command_that_continues(
        laptop: Laptop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = laptop.write_spec("long", "batch_size: [1, 18]")
    config = tmp_path / "config"
    shutil.copy(laptop.sshd.config, config)
    text = (laptop.folder / "hosts.toml").read_text()
    (laptop.folder / "hosts.toml").write_text(text.replace(str(laptop.sshd.config), str(config)))
    monkeypatch.setattr(submit_multiple, "PROJECT", str(laptop.folder))
    monkeypatch.setattr(ssh, "RETRY_DELAYS", (0.01, 0.02))
    monkeypatch.chdir(laptop.folder)
    words = [spec, "--local", "--workers", "1", "-y", "--on", "cluster"]

    def network_is_gone() -> None:
        wait_until(lambda: list((laptop.remote_dir / "results").glob("*-long/*/executed")))
        time.sleep(1)  # it is told
        config.write_text(config.read_text().replace(f"Port {laptop.sshd.port}", "Port 1"))
        laptop.sshd.drop_connections()

    thread = threading.Thread(target=network_is_gone)
    thread.start()
    assert submit_multiple.main(words) == 2
    thread.join()
    said = capfd.readouterr().err
    assert "error: cluster: 1 of 2 done; the connection was lost, and 2 retries failed (" in said
    assert f"`python submit_multiple.py {' '.join(words)}` continues" in said
    shutil.copy(laptop.sshd.config, config)
    (laptop.batch("long") / "go").touch()
    assert submit_multiple.main(words) == 0
    assert laptop.executed("long") == [1, 1]


def test_ctrl_c_interrupts_the_remote_command(laptop: Laptop) -> None:
    spec = laptop.write_spec("long", "batch_size: [18, 1]")
    process = laptop.start(spec, "--local", "--workers", "2", "-y")
    wait_until(lambda: list((laptop.remote_dir / "results").glob("*-long/*/executed")))
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "interrupting it there" in said
    assert "what was finished is kept" in said
    assert "--local --on cluster" in said
    assert laptop.executed("long") == [0, 1]


def test_ctrl_c_interrupts_if_another_thread_takes_the_signal(laptop: Laptop, tmp_path: Path) -> None:
    """As if it came right before the main thread sleeps: the signal does not interrupt its system call."""
    spec = laptop.write_spec("long", "batch_size: [18, 1]")
    (laptop.folder / "jobs" / "interrupted.py").write_text(
        INTERRUPT_FROM_A_THREAD.format(file=str(tmp_path / "stop")) + "import sys\nsys.path.insert(0, '.')\n"
        "import submit_multiple\nsys.exit(submit_multiple.main(sys.argv[1:]))\n")
    process = laptop.start(spec, "--local", "--workers", "2", "-y", program="jobs/interrupted.py")
    wait_until(lambda: list((laptop.remote_dir / "results").glob("*-long/*/executed")))
    time.sleep(1)  # it is told, and the main thread sleeps
    (tmp_path / "stop").touch()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert "interrupting it there" in output
    assert laptop.executed("long") == [0, 1]


def test_question_survives_a_lost_connection(laptop: Laptop) -> None:
    process = laptop.start("jobs/tiny.yaml", "--local")
    wait_until(lambda: list(laptop.remote_dir.glob(".gridiron/errands/*/question")))
    laptop.sshd.drop_connections()
    said, _ = process.communicate("y\n", timeout=300)
    assert process.returncode == 0, said
    assert "retrying" in said
    assert said.count("Run 4 runs?") == 1
    assert laptop.executed() == [1] * 4


def test_arguments_have_the_remote_names_of_files() -> None:
    given = {"/a/x.yaml": NamedFile("G/x.yaml", "/a/x.yaml"), "/b/s.sh": NamedFile("G/s.sh", "/b/s.sh"),
             "jobs/y": NamedFile("jobs/y")}
    for words, there in (
            ("--on h /a/x.yaml -s /b/s.sh -y", "G/x.yaml -s G/s.sh -y"), ("/a/x.yaml --on=h -s/b/s.sh", "G/x.yaml "
             "--script G/s.sh"), ("jobs/y --script=/b/s.sh --on h", "jobs/y --script G/s.sh"),
            ("jobs/y --scr=/b/s.sh", "jobs/y --script G/s.sh"),
            ("jobs/y --stack auto --on h -s /b/s.sh", "jobs/y --stack auto -s G/s.sh"),
            ("jobs/y --set=/b/s.sh --sbatch a=/b/s.sh", "jobs/y --set=/b/s.sh --sbatch a=/b/s.sh")):
        assert remote_arguments(words.split(), given, None) == ["submit_multiple.py", *there.split()]
    assert remote_arguments(["jobs/y"], given, "/o $o")[-2:] == ["--output-dir", "/o $o"]


def test_project_without_git_uploads_its_sources_and_broken_git_fails(laptop: Laptop) -> None:
    shutil.rmtree(laptop.folder / ".git" / "refs")
    assert "cannot list the project's files" in laptop.submit("jobs/tiny.yaml", "--local", "-y", code=2)
    shutil.rmtree(laptop.folder / ".git")
    laptop.submit("jobs/tiny.yaml", "--local", "-y")
    assert laptop.executed() == [1] * 4
    record, = laptop.batch().glob("code/*/code.json")
    assert json.loads(record.read_text())["commit"] is None
    assert not (laptop.remote_dir / "COMMIT").exists()


def test_commands_of_the_laptop_page(laptop: Laptop) -> None:
    """Those of docs/laptop.md, with `cluster` as the page has it; nothing is submitted, for want of a Slurm."""
    page = (ROOT / "docs" / "laptop.md").read_text("utf-8")
    lines = re.findall(r"^python submit_multiple.py (.*) --on cluster( -d)?$", page, re.M)
    assert len(lines) == 3
    for name in ("jobs/cifar10-example.yaml", "submit_2080.sh"):
        shutil.copy(ROOT / name, laptop.folder / name)
    assert "wrote" in laptop.submit(*shlex.split(lines[0][0]), "--no-submit", "-y")
    assert "would upload nothing: all files are there" in laptop.submit(*shlex.split(lines[1][0]), "-d")
    laptop.batch("cifar10-example").rename(laptop.remote_dir / "results" / "26-11-20-cifar10-example")
    assert "submit_2080.sh" in laptop.submit(*shlex.split(lines[2][0]), "-d")
    table, = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    (laptop.folder / "hosts.toml").write_text(table)
    found = hosts.read_hosts(str(laptop.folder))
    assert found["box"] == hosts.Host("box", "box", laptop.folder.name, "/opt/envs/gridiron/bin/python", (),
                                      ("-p", "2222"))
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.M))
    assert list(rows) == ["ssh", "options", "folder", "setup", "python", "output_dir"]
    assert rows["setup"] == f"`{json.dumps(list(hosts.Host('a', 'a', 'a').setup))}`"
