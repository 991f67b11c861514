"""Batch folders appear whole or not at all, and are compared as the grammar compares values."""
from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from src.errors import BatchError
from src.submission.batch import batch_folder


def test_a_batch_is_written_whole_and_found(tmp_path: Path) -> None:
    path = str(tmp_path / "results" / "26-01-02-a.b")
    assert batch_folder.create(path, "text", ["000_a", "001_a"], ["x: 1\n", "x: 2\n"])
    assert (tmp_path / "results" / "26-01-02-a.b" / "001_a" / "spec.yaml").read_text() == "x: 2\n"
    for other in ("26-01-02-aXb", "26-01-02-a.b-2", "a.b"):
        (tmp_path / "results" / other).mkdir()
        (tmp_path / "results" / other / "job.yaml").touch()
    assert batch_folder.find(str(tmp_path / "results"), "a.b") == [path]
    assert batch_folder.find(str(tmp_path / "nowhere"), "a.b") == []


def test_a_crash_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def texts() -> object:
        yield "x: 1\n"
        raise OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        batch_folder.create(str(tmp_path / "26-01-02-a"), "text", ["000_a", "001_a"], texts())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_of_several_processes_one_makes_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, made = str(tmp_path / "26-01-02-a"), []

    def write(number: int) -> None:
        made.append(batch_folder.create(path, f"by {number}", ["000_a"], ["x: 1\n"]))
    numbers = iter(range(100, 200))
    monkeypatch.setattr(os, "getpid", lambda: next(numbers))  # threads stand for processes
    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]
    assert [entry.name for entry in tmp_path.iterdir()] == ["26-01-02-a"]


def test_mending_writes_what_is_gone_and_touches_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "26-01-02-a"
    batch_folder.create(str(path), "text", ["000_a", "001_a"], ["x: 1\n", "x: 2\n"])
    (path / "000_a" / "spec.yaml").write_text("x: edited\n")
    (path / "001_a" / "spec.yaml").unlink()
    (path / "003_a").mkdir()
    (path / "003_a" / "spec.yaml").touch()
    names, texts = [f"00{number}_a" for number in range(4)], [f"x: {number + 1}\n" for number in range(4)]
    assert batch_folder.repair_specs(str(path), names, texts) == 3
    assert [(path / name / "spec.yaml").read_text() for name in names] == ["x: edited\n", *texts[1:]]


def test_a_replaced_batch_is_removed_but_for_what_its_links_point_to(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    old, new = tmp_path / "26-01-02-a", tmp_path / "26-01-03-a"
    batch_folder.create(str(old), "text", ["000_a"], ["x: 1\n"])
    (old / "000_a" / "link").symlink_to(precious)
    assert batch_folder.create(str(old), "text", ["000_b"], ["x: 1\n"], replaces=str(old))
    assert os.listdir(old / "000_b") == ["spec.yaml"]
    assert batch_folder.create(str(new), "text", ["000_a"], ["x: 1\n"], replaces=str(old))
    assert sorted(tmp_path.iterdir()) == [new, precious]
    assert (precious / "file").exists()


def test_what_a_killed_process_left_half_made_is_swept_a_day_later(tmp_path: Path) -> None:
    names = [".26-01-01-a.host.7.tmp", ".26-01-01-b.host.7.removed", ".mine.tmp", ".26-01-01-new.host.8.tmp"]
    for name in names:
        (tmp_path / name / "000_a").mkdir(parents=True)
        if "new" not in name:
            os.utime(tmp_path / name, (0, 0))
    batch_folder.create(str(tmp_path / "26-01-02-a"), "text", ["000_a"], ["x: 1\n"])
    assert sorted(os.listdir(tmp_path)) == sorted([".mine.tmp", ".26-01-01-new.host.8.tmp", "26-01-02-a"])


def test_an_earlier_batch_is_kept_until_the_new_one_is_written(tmp_path: Path) -> None:
    path = tmp_path / "26-01-02-a"
    batch_folder.create(str(path), "text", ["000_a"], ["x: 1\n"])

    def full(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        batch_folder.create(str(path), "new", ["000_a"], ["x: 2\n"], write_plan=full, replaces=str(path))
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "000_a" / "spec.yaml").read_text() == "x: 1\n"


def test_the_folders_a_user_may_name(tmp_path: Path) -> None:
    path = tmp_path / "26-01-02-a"
    batch_folder.create(str(path), "text", ["000_a"], ["x: 1\n"])
    assert batch_folder.require_batch(f"{path}/") == str(path)
    with pytest.raises(BatchError, match=f"its batch is {path}"):
        batch_folder.require_batch(str(path / "000_a"))
    with pytest.raises(BatchError, match="no such folder"):
        batch_folder.require_batch(str(tmp_path / "x"))
    with pytest.raises(BatchError, match="not a batch folder"):
        batch_folder.require_batch(str(tmp_path))


@pytest.mark.parametrize(("old", "new", "expected"), [
    ({"a": 1}, {"a": 1}, []),
    ({"a": 1}, {"a": 1.0}, ["a: 1 -> 1.0"]),
    ({"a": [1]}, {"a": [True]}, ["a: [1] -> [true]"]),
    ({"p": {"x": 1}}, {"p": {"y": 1}}, ["p.x: 1 -> nothing", "p.y: nothing -> 1"]),
    ({"a": None}, {}, ["a: null -> nothing"])])
def test_differences(old: object, new: object, expected: list[str]) -> None:
    assert batch_folder.differences(old, new) == expected
