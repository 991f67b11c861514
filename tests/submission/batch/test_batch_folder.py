"""Batch folders are created atomically, and job specs compared as the grammar compares values."""
from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from src.errors import BatchError
from src.submission.batch import batch_folder


def test_batch_is_created_and_found_by_name(tmp_path: Path) -> None:
    path = str(tmp_path / "results" / "26-01-02-a.b")
    assert batch_folder.create(path, "text", ["000_a", "001_a"], ["x: 1\n", "x: 2\n"])
    assert (tmp_path / "results" / "26-01-02-a.b" / "001_a" / "spec.yaml").read_text() == "x: 2\n"
    for other in ("26-01-02-aXb", "26-01-02-a.b-2", "a.b"):
        (tmp_path / "results" / other).mkdir()
        (tmp_path / "results" / other / "job.yaml").touch()
    assert batch_folder.find(str(tmp_path / "results"), "a.b") == [path]
    assert batch_folder.find(str(tmp_path / "nowhere"), "a.b") == []


def test_failed_creation_leaves_nothing(tmp_path: Path) -> None:
    def texts() -> object:
        yield "x: 1\n"
        raise OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        batch_folder.create(str(tmp_path / "26-01-02-a"), "text", ["000_a", "001_a"], texts())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_one_of_several_processes_creates_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, results = str(tmp_path / "26-01-02-a"), []

    def create(number: int) -> None:
        results.append(batch_folder.create(path, f"by {number}", ["000_a"], ["x: 1\n"]))
    numbers = iter(range(100, 200))
    monkeypatch.setattr(os, "getpid", lambda: next(numbers))  # threads stand for processes
    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]
    assert [entry.name for entry in tmp_path.iterdir()] == ["26-01-02-a"]


def test_repair_writes_only_missing_and_empty_specs(tmp_path: Path) -> None:
    path = tmp_path / "26-01-02-a"
    batch_folder.create(str(path), "text", ["000_a", "001_a"], ["x: 1\n", "x: 2\n"])
    (path / "000_a" / "spec.yaml").write_text("x: edited\n")
    (path / "001_a" / "spec.yaml").unlink()
    (path / "003_a").mkdir()
    (path / "003_a" / "spec.yaml").touch()
    names, texts = [f"00{number}_a" for number in range(4)], [f"x: {number + 1}\n" for number in range(4)]
    assert batch_folder.repair_specs(str(path), names, texts) == 3
    assert [(path / name / "spec.yaml").read_text() for name in names] == ["x: edited\n", *texts[1:]]


def test_replacing_a_batch_does_not_follow_its_links(tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "file").touch()
    old, new = tmp_path / "26-01-02-a", tmp_path / "26-01-03-a"
    batch_folder.create(str(old), "text", ["000_a"], ["x: 1\n"])
    (old / "000_a" / "link").symlink_to(linked)
    assert batch_folder.create(str(old), "text", ["000_b"], ["x: 1\n"], replaces=str(old))
    assert os.listdir(old / "000_b") == ["spec.yaml"]
    assert batch_folder.create(str(new), "text", ["000_a"], ["x: 1\n"], replaces=str(old))
    assert sorted(tmp_path.iterdir()) == [new, linked]
    assert (linked / "file").exists()


def test_leftovers_are_removed_after_a_day(tmp_path: Path) -> None:
    names = [".26-01-01-a.host.7.tmp", ".26-01-01-b.host.7.removed", ".mine.tmp", ".26-01-01-new.host.8.tmp"]
    for name in names:
        (tmp_path / name / "000_a").mkdir(parents=True)
        if "new" not in name:
            os.utime(tmp_path / name, (0, 0))
    batch_folder.create(str(tmp_path / "26-01-02-a"), "text", ["000_a"], ["x: 1\n"])
    assert sorted(os.listdir(tmp_path)) == sorted([".mine.tmp", ".26-01-01-new.host.8.tmp", "26-01-02-a"])


def test_replaced_batch_is_kept_if_the_new_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "26-01-02-a"
    batch_folder.create(str(path), "text", ["000_a"], ["x: 1\n"])

    def full(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        batch_folder.create(str(path), "new", ["000_a"], ["x: 2\n"], write_plan=full, replaces=str(path))
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "000_a" / "spec.yaml").read_text() == "x: 1\n"


def test_require_batch_explains_what_is_wrong(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("word", ["grid", "26-01-02-grid", "jobs/x.yaml", "results/26-01-02-grid/"])
def test_batch_is_named_by_folder_name_or_job_spec(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("26-01-01-grid", "26-01-02-grid", "26-01-03-grid-2"):
        batch_folder.create(f"results/{name}", "", [], [])
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "x.yaml").write_text("job_details: {name: grid}\nparameters: {base_lr: 1}\n")
    assert batch_folder.require_batch(word) == "results/26-01-02-grid"


def test_job_spec_without_a_batch_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"job_details: {{name: grid, output_dir: '{tmp_path}'}}\nparameters: {{base_lr: 1}}\n")
    with pytest.raises(BatchError, match=f"there is no batch 'grid' in {tmp_path}; submit the job spec first"):
        batch_folder.require_batch(str(path))
