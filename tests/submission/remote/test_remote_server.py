"""The far end of a command from another machine: what it removes, takes for alive, forgets, and waits for."""
from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from src.errors import BatchError
from src.submission.remote import remote_server
from src.submission.system import detached, process


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / ".gridiron" / "errands").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def call(there: Path, token: str, words: list[str], who: dict[str, object] | None = None) -> Path:
    folder = there / ".gridiron" / "errands" / token
    folder.mkdir()
    (folder / "words.json").write_text(json.dumps(words))
    if who is not None:
        (folder / "who.json").write_text(json.dumps(who))
    return folder


def test_only_uploaded_files_are_removed_and_none_through_a_link(there: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (there / "linked").symlink_to(tmp_path / "scratch")
    (there / "a" / "b").mkdir(parents=True)
    sent = ["kept", "gone", "a/b/gone", "linked/x", "../outside", str(tmp_path / "other"), "a link", "n\udcff\n"]
    for path in ("kept", "gone", "a/b/gone", "linked/x", "../outside", "../other", "theirs", "a/theirs", "n\udcff\n"):
        (there / path).write_text("x")
    (there / "a link").symlink_to("kept")
    remote_server._remove_deleted(sent)
    assert (there / "gone").exists()
    remote_server._remove_deleted(["kept"])
    assert sorted(path.name for path in there.iterdir()) == [".gridiron", "a", "kept", "linked", "theirs"]
    assert [path.name for path in (there / "a").iterdir()] == ["theirs"]
    assert (tmp_path / "scratch" / "x").exists()
    assert (tmp_path / "outside").exists()
    assert (tmp_path / "other").exists()


def test_interrupt_that_arrives_with_the_request_is_kept() -> None:
    reader, writer = os.pipe()
    os.write(writer, b'{"words": []}\n{"interrupt": true}\n{"ans')
    lines = remote_server._Lines(reader)
    assert lines.wait() == '{"words": []}'
    assert lines.take(0) == ['{"interrupt": true}']
    os.write(writer, b'wer": 1}\n')
    os.close(writer)
    assert lines.take(5) == ['{"answer": 1}']
    assert lines.take(5) == []
    assert lines.ended
    os.close(reader)


def test_same_command_is_found_while_it_runs(there: Path) -> None:
    words = ["submit_multiple.py", "x.yaml"]
    me = process.identity()
    call(there, "1-other", ["submit_multiple.py", "y.yaml"], me)
    assert detached.running_token(words) is None
    ended = call(there, "2-ended", words, me)
    (ended / "status").write_text("0")
    call(there, "3-dead", words, {**me, "pid_start": 1})
    assert detached.running_token(words) is None
    elsewhere = call(there, "4-on-another-login-node", words, {**me, "boot_id": "other", "host": "login2"})
    assert detached.running_token(words) == elsewhere.name
    os.utime(elsewhere / "who.json", (0, 0))  # it has given no sign of life for long
    assert detached.running_token(words) is None
    call(there, "5", words, me)
    assert detached.running_token(words) == "5"


def test_folders_of_old_commands_are_removed(there: Path) -> None:
    old = call(there, "1", [], {**process.identity(), "pid_start": 1})
    alive = call(there, "2", [], process.identity())
    new = call(there, "3", [])
    for folder in (old, alive):
        os.utime(folder, (0, 0))
    detached.remove_old()
    assert (old.exists(), alive.exists(), new.exists()) == (False, True, True)


def test_question_is_answered_or_times_out(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = call(there, "1", [])
    (folder / "followed").touch()
    (folder / "answer-1").write_text(json.dumps({"text": "y\n"}))
    assert detached.ask(str(folder), "Submit? ") == "y"
    (folder / "answer-2").write_text(json.dumps({"text": None}))
    with pytest.raises(BatchError, match="nobody answered the question"):
        detached.ask(str(folder), "Really? ")
    os.utime(folder / "followed", (time.time() - 200,) * 2)
    with pytest.raises(BatchError, match="nobody answered the question"):
        detached.ask(str(folder), "Surely? ")
    assert capsys.readouterr().out == "Submit? Really? \nSurely? \n"


def test_jobs_and_workers_do_not_inherit_the_detached_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(process.DETACHED_COMMAND, "x")
    monkeypatch.setenv("GRIDIRON_ON", "cluster")
    assert not {process.DETACHED_COMMAND, "GRIDIRON_ON"} & process.environment_outside_slurm().keys()
