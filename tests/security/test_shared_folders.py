"""Another user can write to a folder that we use: planted links, pipes and replaced folders do no harm."""
from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import experiments
import submit_multiple
from src import notes, run_folder
from src.errors import BatchError
from src.io import deletion, download, files
from src.submission.execution import write_batch
from src.submission.job import worker_child
from src.submission.job.attempt import Attempt
from src.submission.system import detached
from src.training.output import log
from src.training.output.recorder import Recorder
from tests.analysis.make_batch import make_batch
from tests.conftest import ROOT
from tests.security.conftest import Victim, link_of_another_user
from tests.submission.conftest import Project, project

__all__ = ["project"]  # the fixture


def write_log(path: Path) -> None:
    with log.open_log(str(path.parent), to_stdout=False) as logger:
        logger.info("written through a link")


def redirect_output(path: Path) -> None:
    """Redirect the output of a child process, and write to it."""
    pid = os.fork()
    if pid == 0:
        try:
            worker_child.redirect_output(str(path.parent))
            os.write(1, b"written through a link")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


WRITERS: dict[str, Callable[[Path], object]] = {
    run_folder.LOG: write_log,
    run_folder.LOCAL_LOG: redirect_output,
    run_folder.NOTES: lambda path: notes.add(str(path.parent), "written through a link", None),
    detached.FOLLOWED: lambda path: detached.touch(str(path))}


@pytest.mark.parametrize("name", WRITERS)
def test_logs_and_notes_are_not_written_through_a_link(name: str, victim: Victim, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(victim.file)
    os.utime(victim.file, (1e9, 1e9))
    with contextlib.suppress(OSError):
        WRITERS[name](run / name)
    assert victim.is_intact()
    assert victim.file.stat().st_mtime == 1e9


def test_stats_are_not_appended_through_a_link_planted_after_their_header(
        victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def replace_and_plant(source: str, path: str) -> None:
        replace(source, path)
        os.unlink(path)
        os.symlink(victim.file, path)

    monkeypatch.setattr(os, "replace", replace_and_plant)
    with pytest.raises(OSError, match="symbolic"), Recorder(str(tmp_path), ["epoch"], lambda: None) as recorder:
        recorder.write_row({"epoch": 1.0})
    assert victim.is_intact()


def test_pipe_in_place_of_a_file_does_not_block_the_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / run_folder.NOTES)
    with pytest.raises(OSError, match="No such device|not a regular file"):
        notes.add(str(tmp_path), "a note", None)


def test_folders_below_a_run_are_not_links_of_another_user(victim: Victim, tmp_path: Path) -> None:
    with Recorder(str(tmp_path), ["epoch"], lambda: None) as recorder:
        link_of_another_user(tmp_path / run_folder.ARRAYS, victim.folder)
        with pytest.raises(BatchError, match="another user made this symbolic link"):
            recorder.write_arrays(1, {"x": np.zeros(3)})
    assert victim.is_intact()


@pytest.mark.parametrize("level", ["batch", "run"])
def test_no_attempt_is_begun_below_a_link_of_another_user(level: str, victim: Victim, tmp_path: Path) -> None:
    (victim.folder / "26-11-29-x" / "000_x").mkdir(parents=True)
    batch = tmp_path / "26-11-29-x"
    if level == "batch":
        link_of_another_user(batch, victim.folder / "26-11-29-x")
    else:
        batch.mkdir()
        link_of_another_user(batch / "000_x", victim.folder / "26-11-29-x" / "000_x")
    with pytest.raises(BatchError, match="another user made this symbolic link"):
        Attempt.begin(str(batch / "000_x"), 1)
    assert os.listdir(victim.folder / "26-11-29-x" / "000_x") == []


def test_own_links_to_results_and_runs_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (tmp_path / "disk" / "26-11-29-x" / "submissions").mkdir(parents=True)
    (tmp_path / "disk" / "26-11-29-x" / "000_x").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    attempt = Attempt.begin(str(tmp_path / "results" / "26-11-29-x" / "000_x"), 1)
    assert attempt
    assert os.listdir(tmp_path / "disk" / "26-11-29-x" / "000_x")


def test_clean_removes_nothing_through_a_link(victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    """The attacker replaces a run folder while the user is asked."""
    batch = Path(make_batch(tmp_path))
    first, second, *_ = sorted(batch.glob("0*"))
    for run in (first, second):
        (run / run_folder.resume_name(1)).write_text("state")

    def replace(*_: object) -> str:
        first.rename(tmp_path / "away")
        first.symlink_to(victim.folder)
        (victim.folder / run_folder.SPEC).write_text("{}\n")
        (victim.folder / run_folder.DONE).write_text("completed\n")
        return "y"

    monkeypatch.setattr("builtins.input", replace)
    assert experiments.main(["clean", str(batch)]) == 0
    assert (victim.folder / "resume-0000000001.pt").exists()
    assert not (second / run_folder.resume_name(1)).exists()
    assert capsys.readouterr().out.endswith("removed 0.0 MiB\n")


def test_clean_keeps_the_state_of_a_run_that_was_started_after_the_look(tmp_path: Path) -> None:
    run = Path(sorted(Path(make_batch(tmp_path)).glob("0*"))[0])
    (run / run_folder.resume_name(1)).write_text("state")
    attempts = run_folder.RunFolder.read(run).attempts
    files.write_json(run / run_folder.attempt_name(1, 0), {})
    assert run_folder.remove_resume_checkpoints(str(run), attempts) == 0
    assert (run / run_folder.resume_name(1)).exists()


def test_overwriting_does_not_remove_a_folder_that_replaced_the_batch(
        project: Project, victim: Victim, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The attacker puts another folder in the batch's place between the check that nothing runs and the removal."""
    words = [project.spec, "--no-submit", "-y"]
    assert project.submit(*words) == 0
    batch = project.batch
    (victim.folder / "work").mkdir()
    (victim.folder / "work" / "thesis.tex").write_text("years")
    observe = write_batch.observe

    def observe_and_replace(batches: list[str]) -> list[object]:
        observations: list[object] = list(observe(batches))
        batch.rename(batch.parent / ".away")
        (victim.folder / "work").rename(batch)
        return observations

    monkeypatch.setattr(write_batch, "observe", observe_and_replace)
    assert project.submit(*words, "-o") == 2
    assert "another process has replaced this batch" in capsys.readouterr().err
    assert (batch / "thesis.tex").read_text() == "years"


def test_tree_is_removed_only_if_it_is_the_expected_one(tmp_path: Path, victim: Victim) -> None:
    (tmp_path / "tree" / "a" / "b").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "link").symlink_to(victim.folder)
    expected = deletion.folder_id(str(tmp_path / "tree"))
    (tmp_path / "link").symlink_to(victim.folder)
    for path in (victim.folder, tmp_path / "link"):
        with pytest.raises(BatchError, match="it has been replaced"):
            deletion.remove_tree(str(path), expected)
    deletion.remove_tree(str(tmp_path / "tree"), expected)
    assert not (tmp_path / "tree").exists()
    assert victim.is_intact()


def test_nothing_is_removed_below_a_link_or_outside(tmp_path: Path, victim: Victim) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "linked").symlink_to(victim.folder)
    with deletion.folder_descriptor(str(tmp_path / "project")) as top:
        for name in ("linked/authorized_keys", "../victim/authorized_keys", str(victim.file), "linked/", "", "."):
            assert not deletion.remove_below(top, name)
    assert victim.is_intact()


def test_umask_000_leaves_nothing_that_others_can_write(project: Project, tmp_path: Path) -> None:
    """A real submission, its workers and a real `note`, each in a process with an umask of 000."""
    program = "import os, sys; os.umask(0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    spec = tmp_path / "umask.yaml"
    spec.write_text(f"job_details: {{name: umask, output_dir: {tmp_path}/out, command: [sh, -c, 'mkdir made && "
                    "touch made/file', '${args}']}\nparameters: {x: [1, 2]}\n")
    work = tmp_path / "work"
    work.mkdir(mode=0o755)
    for words in ([ROOT / "submit_multiple.py", spec, "--local", "--workers", "2", "-y"],
                  [ROOT / "experiments.py", "note", tmp_path / "out" / "BATCH", "a note"]):
        names = os.listdir(tmp_path / "out") if (tmp_path / "out").exists() else [""]
        subprocess.run([sys.executable, "-c", program, *(str(word).replace("BATCH", names[0]) for word in words)],
                       cwd=work, check=False, capture_output=True)
    made = [*(tmp_path / "out").rglob("*"), *work.rglob("*")]
    assert {path.name for path in made} >= {"job.yaml", "spec.yaml", "notes.jsonl", "local.out", "made"}
    writable = [path for path in made if not path.is_symlink() and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)]
    assert not writable


def test_new_files_of_a_library_user_are_not_writable_by_others(tmp_path: Path) -> None:
    """A notebook has no entry point of ours that limits its umask."""
    previous = os.umask(0)
    try:
        files.write_atomic(tmp_path / "a", "x")
        files.create_exclusive(tmp_path / "b", "x")
        files.append_line(tmp_path / "c", "x")
        files.make_folder(tmp_path / "d")
    finally:
        os.umask(previous)
    assert {path.stat().st_mode & 0o022 for path in tmp_path.iterdir()} == {0}


def test_locks_of_downloads_are_not_renewed_through_a_link(tmp_path: Path, victim: Victim) -> None:
    os.utime(victim.file, (1e9, 1e9))
    (tmp_path / "lock").symlink_to(victim.file)
    interval, download._HEARTBEAT_INTERVAL = download._HEARTBEAT_INTERVAL, 0.01
    try:
        with download._heartbeat(str(tmp_path / "lock"), "another owner"):
            time.sleep(0.1)
    finally:
        download._HEARTBEAT_INTERVAL = interval
    assert victim.file.stat().st_mtime == 1e9


@pytest.mark.parametrize("pid", ["0", "99999999999999999999", "²", "-1", ""])
def test_lock_of_another_user_with_an_odd_process_id_is_respected(pid: str) -> None:
    assert not download._is_dead(f"{os.uname().nodename} {pid} 1 2")


def test_journals_of_a_batch_are_not_written_below_a_link_of_another_user(
        project: Project, victim: Victim, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    folder = project.batch / run_folder.SUBMISSIONS
    folder.rename(project.folder / "moved")
    link_of_another_user(folder, project.folder / "moved")
    before = sorted(os.listdir(project.folder / "moved"))
    assert submit_multiple.main(["-r", str(project.batch), "--local", "-y"]) == 2
    assert "another user made this symbolic link" in capsys.readouterr().err
    assert sorted(os.listdir(project.folder / "moved")) == before
