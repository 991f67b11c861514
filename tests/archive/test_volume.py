"""ZIP files of archives: other tools read them, and hostile or damaged ones are refused."""
from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from src import run_folder
from src.archive import contents, run_files, writer
from src.archive.volume import ABOUT, About, Volume, link_leads_out
from src.errors import BatchError

REGULAR, FOLDER, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """A batch with two packed runs, whose folders are there too."""
    batch = tmp_path / "batch"
    for number in range(2):
        run = batch / f"00{number}_x+lr=0.1,[a]"
        (run / "arrays" / "empty").mkdir(parents=True)
        (run / "spec.yaml").write_text("lr: 0.1\n")
        (run / "stats.csv").write_text("epoch,loss\n" + "1,0.5\n" * 100)
        (run / "arrays" / "epoch-00001.npz").write_bytes(os.urandom(3_000_000))
        (run / "arrays" / "last").symlink_to("epoch-00001.npz")
        (run / "done").write_text("")
        (run / "done").chmod(0o600)
        os.utime(run / "spec.yaml", ns=(1, 123_456_789_123_456_789))
    publish(batch)
    return batch


def publish(batch: Path) -> set[str]:
    return writer.publish_runs(str(batch), {name: writer.list_entries(str(batch / name))
                                            for name in run_folder.run_names(batch) if (batch / name).exists()})


def files_below(folder: Path) -> dict[str, bytes | str]:
    return {str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def test_other_tools_read_a_volume(batch: Path, tmp_path: Path) -> None:
    volume = batch / "archive" / "1.zip"
    with zipfile.ZipFile(volume) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 17
    subprocess.run(["python", "-m", "zipfile", "-e", volume, tmp_path / "python"], check=True)
    name = run_folder.run_names(batch)[0]
    packed = files_below(batch / name)
    extracted = files_below(tmp_path / "python" / name)
    assert {**packed, "arrays/last": b"epoch-00001.npz"} == extracted  # Python's zipfile writes links as files


def test_files_are_read_from_the_volume(batch: Path) -> None:
    name = run_folder.run_names(batch)[0]
    folder, kept = batch / name, files_below(batch / name)
    spec = (folder / "spec.yaml").stat()
    os.rename(folder, batch.parent / "away")
    assert run_files.is_archived(folder)
    assert sorted(run_files.list_names(folder)) == ["arrays", "done", "spec.yaml", "stats.csv"]
    for path, content in kept.items():
        if isinstance(content, bytes) and path != "arrays/last":
            assert run_files.read_bytes(folder, path) == content
            with run_files.open_binary(folder, path) as file:
                assert file.read() == content
                file.seek(-3, os.SEEK_END)
                assert file.read(5) == content[-3:] or not content
    status = run_files.status(folder, "spec.yaml")
    assert status is not None and (status.st_size, status.st_mtime_ns) == (spec.st_size, spec.st_mtime_ns)
    assert run_files.read_bytes(folder, "arrays/last") is None, "links are not followed"
    assert run_files.read_bytes(folder, "absent") is None and not run_files.exists(folder, "arrays/")
    with pytest.raises(OSError, match="larger than"):
        run_files.read_bytes(folder, "stats.csv", 100)
    # a folder without a spec does not hide the archived run
    folder.mkdir()
    assert run_files.is_archived(folder) and "done" in run_files.list_names(folder)


def test_times_are_those_of_os_stat_to_the_last_bit(tmp_path: Path) -> None:
    """A throughput that is computed from them does not change when runs are archived."""
    path = tmp_path / "done"
    path.touch()
    for number in range(50):
        os.utime(path, ns=(0, 1_764_589_180_123_456_789 + 7_654_321_987 * number))
        info = path.stat()
        assert run_files.Status(1, 0, info.st_mtime_ns, info.st_mode, (0, 0, 0, 0, 0)).st_mtime == info.st_mtime


def test_a_run_folder_counts_rather_than_the_archive(batch: Path) -> None:
    folder = batch / run_folder.run_names(batch)[0]
    (folder / "done").unlink()
    assert run_files.read_bytes(folder, "done") is None and not run_files.is_archived(folder)
    assert "done" not in run_files.list_names(folder)


def test_a_damaged_member_is_an_error(batch: Path) -> None:
    path = batch / "archive" / "1.zip"
    name = run_folder.run_names(batch)[0]
    data = path.read_bytes()
    spec = data.index(b"lr: 0.1")
    os.rename(batch / name, batch.parent / "away")
    path.write_bytes(data[:spec] + b"lr: 9.1" + data[spec + 7:])
    with pytest.raises(OSError, match="damaged in the archive") as info:
        run_files.read_bytes(batch / name, "spec.yaml")
    assert str(path) in str(info.value.filename)
    large = data.index(b"arrays/epoch-00001.npz") + 200_000
    path.write_bytes(data[:large] + bytes(1000) + data[large + 1000:])
    for read in (run_files.read_bytes, run_files.open_binary):
        with pytest.raises(OSError, match="damaged in the archive"):
            read(batch / name, "arrays/epoch-00001.npz")


def write_zip(path: Path, *members: tuple[str, bytes, int], about: str = About().to_json()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, mode in (*members, (ABOUT, about.encode(), REGULAR)):
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, data)


def read_index(path: Path) -> None:
    """Open a volume, and parse all of its index."""
    volume = Volume(str(path))
    for name in volume.runs:
        volume.members(name)


def flip(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new)


@pytest.mark.parametrize("name", ["../x/spec.yaml", "/etc/passwd", "run/../../x", "run/./x", "run//x", "run/..",
                                  ".run/x", "run\\x/y", "plain", "./run/x"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    write_zip(tmp_path / "1.zip", (name.replace("\\", "!"), b"x", REGULAR))
    path = tmp_path / "1.zip"
    path.write_bytes(path.read_bytes().replace(b"!", b"\\"))
    with pytest.raises(BatchError, match="not that of a file in a run folder"):
        read_index(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("members", "reason"), [
    ([("run/x", b"a", REGULAR), ("run/x", b"b", REGULAR)], "twice"),
    ([("run/x", b"a", REGULAR), ("run2/x", b"b", REGULAR), ("run/y", b"c", REGULAR)], "apart from others"),
    ([("run/x", b"/etc/passwd", LINK)], "leads out"),
    ([("run/a/x", b"../../other/spec.yaml", LINK)], "leads out"),
    ([("run/a", b"b", LINK), ("run/a/x", b"", REGULAR)], "leads out"),
    ([("run/x", b"", stat.S_IFIFO | 0o644)], "no regular file"),
    ([("run/x", b"", FOLDER)], "no regular file"),
])
def test_links_and_other_kinds_are_refused(tmp_path: Path, members: list[tuple[str, bytes, int]], reason: str) -> None:
    write_zip(tmp_path / "1.zip", *members)
    with pytest.raises(BatchError, match=reason):
        read_index(tmp_path / "1.zip")


def test_links_stay_in_the_run_folder() -> None:
    assert not any(link_leads_out(*link) for link in [
        ("a", "b"), ("a/b", "../c/d"), ("a/b/c", "../../d"), ("a", "b/c")])
    assert all(link_leads_out(*link) for link in [
        ("a", ".."), ("a", "/x"), ("a/b", "../../c"), ("a", "b/../../c"), ("a", "b/../c"), ("a", ""), ("a", "x\0")])


@pytest.mark.parametrize("change", [
    lambda data: data[:-30], lambda data: b"", lambda data: b"PK\5\6" + bytes(18), lambda data: data + b"x",
    flip(b"\x08\x00\x00\x00", b"\x0c\x00\x00\x00"),  # another method
    lambda data: data[:-6] + b"\xff\xff\xff\0" + data[-2:], lambda data: data[:-12] + b"\xff\xff" + data[-10:]])
def test_damaged_indexes_are_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "1.zip"
    write_zip(path, ("run/spec.yaml", b"lr: 1\n" * 100, REGULAR))
    read_index(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BatchError, match="this archive is not read") as info:
        read_index(path)
    assert info.value.hint


def test_a_bomb_is_refused_without_unpacking_it(tmp_path: Path) -> None:
    path = tmp_path / "batch" / "archive" / "1.zip"
    write_zip(path, ("run/spec.yaml", bytes(70_000_000), REGULAR))
    with pytest.raises(OSError, match="larger than 64 MiB"):
        run_files.read_bytes(tmp_path / "batch" / "run", "spec.yaml")
    # a size that is a lie: more than the index says
    data = path.read_bytes()
    path.write_bytes(data.replace((70_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    contents.clear_cache()  # otherwise what was seen less than a second ago is trusted
    with pytest.raises(OSError, match="damaged in the archive"):
        run_files.read_bytes(tmp_path / "batch" / "run", "spec.yaml")
    path.write_bytes(data.replace((70_000_000).to_bytes(4, "little"), (2**32 - 2).to_bytes(4, "little")))
    contents.clear_cache()
    with pytest.raises(BatchError, match="cannot be right"):
        run_files.read_bytes(tmp_path / "batch" / "run", "spec.yaml")


@pytest.mark.parametrize("about", ["{", "[]", '{"format": 2, "removed": []}', '{"format": 1, "removed": 3}'])
def test_another_format_is_refused(tmp_path: Path, about: str) -> None:
    write_zip(tmp_path / "1.zip", about=about)
    with pytest.raises(BatchError, match="newer version"):
        Volume(str(tmp_path / "1.zip"))


def test_large_sizes_and_positions_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 4 GiB they are in extra fields; the limit is lowered so that this is so at once."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    path = tmp_path / "batch" / "archive" / "1.zip"
    write_zip(path, ("a/spec.yaml", b"lr: 1\n", REGULAR), ("b/spec.yaml", b"lr: 2\n" * 100, REGULAR))
    data = path.read_bytes()
    path.write_bytes(data[:-14] + b"\xff" * 12 + data[-2:])  # as of a large file, whose last record refers to another
    assert run_files.archived_names(tmp_path / "batch") == ["a", "b"]
    assert run_files.read_text(tmp_path / "batch" / "b", "spec.yaml") == "lr: 2\n" * 100


def test_the_version_of_a_run_changes_with_the_run_alone(batch: Path) -> None:
    first, second = run_folder.run_names(batch)
    for name in (first, second):
        os.rename(batch / name, batch.parent / name)
    versions = run_files.archived_versions(batch)
    assert len({*versions.values()}) == 2 and versions[first] == run_files.archived_version(batch / first)
    os.rename(batch.parent / first, batch / first)
    assert run_files.archived_versions(batch) == {second: versions[second]}, "its folder counts"
    publish(batch)
    os.rename(batch / first, batch.parent / first)
    later = run_files.archived_versions(batch)
    assert later[second] == versions[second] and later[first] != versions[first]


def test_later_volumes_take_precedence_and_many_are_merged(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = run_folder.run_names(batch)
    kept = files_below(batch / second)
    for name in (first, second):
        os.rename(batch / name, batch.parent / name)
    writer.remove_runs(str(batch), [first])
    assert run_folder.run_names(batch) == [second]
    os.rename(batch.parent / first, batch / first)
    (batch / first / "spec.yaml").write_text("lr: 0.2\n")
    assert publish(batch) == {first}
    os.rename(batch / first, batch.parent / first)
    monkeypatch.setattr(writer, "MAX_VOLUMES", 2)
    writer.merge_volumes(str(batch))
    assert os.listdir(batch / "archive") == ["4.zip"]
    assert run_files.read_text(batch / first, "spec.yaml") == "lr: 0.2\n"
    for path, content in kept.items():
        assert path == "arrays/last" or run_files.read_bytes(batch / second, path) == content
    writer.remove_runs(str(batch), [first, second, "other"])
    assert not (batch / "archive").exists() and contents.of_batch(batch) is None


def test_a_volume_is_published_again_if_a_later_one_replaces_it(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped before it took number 2 finds it free again after a merge."""
    def merge_first(_: str) -> int:
        monkeypatch.undo()
        write_zip(batch / "archive" / "5.zip", about=About(complete=True).to_json())
        (batch / "archive" / "1.zip").unlink()
        return 2

    monkeypatch.setattr(writer, "_next_number", merge_first)
    publish(batch)
    assert sorted(os.listdir(batch / "archive")) == ["5.zip", "6.zip"]
    assert len(run_files.archived_names(batch)) == 2


def test_many_runs_are_read_by_few_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, as a table is made, and with the content of each, also in another order."""
    batch, names = tmp_path / "batch", [f"{number:03d}_x" for number in range(200)]
    for name in names:
        (batch / name).mkdir(parents=True)
        for file in ("spec.yaml", "config.yaml", "stats.csv", "done"):
            (batch / name / file).write_text(f"{name}/{file}\n" * 100)
    publish(batch)
    for name in names:
        shutil.rmtree(batch / name)
    reads, pread, open_file = [], os.pread, os.open
    monkeypatch.setattr(os, "pread", lambda *arguments: reads.append(arguments) or pread(*arguments))
    monkeypatch.setattr(os, "open", lambda path, *arguments, **options: open_file(path, *arguments, **options) if str(
        path).endswith(".zip") else pytest.fail(f"{path} is opened, although the archive has it"))
    first = run_files.read_bytes(batch / names[0], "spec.yaml")
    assert first == f"{names[0]}/spec.yaml\n".encode() * 100
    for order in (names, names[::-1], random.Random(0).sample(names, len(names))):
        reads.clear()
        for name in order:
            for file in ("done", "config.yaml", "stats.csv"):
                assert run_files.read_bytes(batch / name, file) == f"{name}/{file}\n".encode() * 100
        assert order != names or len(reads) < len(names) / 4
