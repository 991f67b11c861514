"""Files appear whole; of many creators one wins; a crash leaves the old file and no litter."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from src.errors import ConfigError
from src.io import files
from tests.conftest import ROOT


def test_write_atomic_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    files.write_atomic(path, "one é\n")
    files.write_atomic(path, "two\n", sync=False)
    assert path.read_text() == "two\n"
    assert os.listdir(tmp_path) == ["a file"]


def test_a_power_cut_leaves_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is on the disk before the name is, and the name when the call returns."""
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def renamed(old: str, new: str) -> None:
        done.append(f"{old} > {new}")
        replace(old, new)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    files.write_atomic(tmp_path / "file", "new\n")
    beside = done[0]
    assert os.path.dirname(beside) == str(tmp_path)
    assert done == [beside, f"{beside} > {tmp_path}/file", str(tmp_path)]


def plant_link(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the next temporary file of `name` be a link of somebody else to a file of ours; return that file."""
    precious = folder / "precious"
    precious.write_text("mine\n")
    monkeypatch.setattr(os, "urandom", lambda count: b"\0" * count)
    os.symlink(precious, files.temporary_path(str(folder / name)))
    return precious


@pytest.mark.parametrize("write", [files.write_atomic, files.create_exclusive, files.write_json])
def test_temporary_files_are_not_written_through_a_planted_link(write: Callable[[Path, str], object], tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    precious = plant_link(tmp_path, "file", monkeypatch)
    with pytest.raises(FileExistsError):
        write(tmp_path / "file", "theirs\n")
    assert precious.read_text() == "mine\n"


def test_temporary_names_cannot_be_predicted(tmp_path: Path) -> None:
    assert len({files.temporary_path(str(tmp_path / "file")) for _ in range(100)}) == 100


@pytest.mark.parametrize("write", [files.append_line, files.overwrite])
def test_existing_files_are_not_written_through_a_link(write: Callable[[Path, str], object], tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine\n")
    (tmp_path / "file").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        write(tmp_path / "file", "theirs\n")
    assert precious.read_text() == "mine\n"


def test_write_atomic_replaces_a_link_and_not_its_target(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine\n")
    (tmp_path / "file").symlink_to(precious)
    files.write_atomic(tmp_path / "file", "new\n")
    assert (precious.read_text(), (tmp_path / "file").read_text()) == ("mine\n", "new\n")


def test_a_record_takes_no_new_block_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a long record of a start\n")
    before = path.stat().st_ino
    files.overwrite(path, "short\n")
    assert (path.read_text(), path.stat().st_ino) == ("short\n", before)
    with pytest.raises(FileNotFoundError):
        files.overwrite(tmp_path / "none", "x")


def test_a_failing_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, "old\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_atomic(path, "new\n")
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_keeps_its_permissions_to_others(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        files.write_atomic(tmp_path / "a", "x")
        assert files.create_exclusive(tmp_path / "b", "x")
    finally:
        os.umask(old)
    assert [os.stat(tmp_path / name).st_mode & 0o777 for name in "ab"] == [0o640, 0o640]


@pytest.mark.parametrize("links", [True, False])
def test_of_many_creators_one_wins(links: bool, tmp_path: Path) -> None:
    program = f"""
import os, sys
from src.io import files
if not {links}:
    def no_links(*_):
        raise PermissionError("this file system has no hard links")
    os.link = no_links
sys.stdin.read(1)
print(files.create_exclusive({str(tmp_path / 'claim')!r}, str(os.getpid())))
"""
    creators = [subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 text=True, cwd=ROOT) for _ in range(8)]
    for creator in creators:
        assert creator.stdin is not None
        creator.stdin.close()  # all at once
    answers = {creator.pid: (creator.stdout.read() if creator.stdout else "").strip() for creator in creators}
    for creator in creators:
        creator.wait()
    winner, = (pid for pid, answer in answers.items() if answer == "True")
    assert sorted(answers.values()) == ["False"] * 7 + ["True"]
    assert (tmp_path / "claim").read_text() == str(winner)
    assert os.listdir(tmp_path) == ["claim"]


def test_a_link_that_succeeded_with_its_answer_lost_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def answer_lost(source: str, target: str) -> None:
        link(source, target)
        raise FileExistsError(target)  # as NFS says when it repeats the request
    monkeypatch.setattr(os, "link", answer_lost)
    assert files.create_exclusive(tmp_path / "claim", "x")


def test_lines_of_several_writers_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    program = f"from src.io import files\nfor n in range(200): files.append_line({str(path)!r}, 'x' * 500)"
    writers = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert path.read_text() == ("x" * 500 + "\n") * 600


def test_a_line_that_does_not_fit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))  # as on a full disk
    with pytest.raises(OSError, match="No space left"):
        files.append_line(tmp_path / "lines", "a line")


def test_json_that_is_missing_or_torn_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert files.read_json(path) is None
    path.write_text('{"a": 1')
    assert files.read_json(path) is None
    files.write_json(path, {"a": [1]})
    assert files.read_json(path) == {"a": [1]}
    (tmp_path / "lines").write_text('{"a": 1}\nnot json\n{"b": 2}\n{"c"')
    assert files.read_json_lines(tmp_path / "lines") == [{"a": 1}, {"b": 2}]
    assert files.read_text(path / "below a file") is None


def test_expand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch")
    assert files.expand_path("~/x", "data_dir") == "/home/me/x"
    assert files.expand_path("${SCRATCH}/x", "data_dir") == "/scratch/x"
    with pytest.raises(ConfigError, match=r"^data_dir: the variable \$NOWHERE"):
        files.expand_path("$NOWHERE/x", "data_dir")
