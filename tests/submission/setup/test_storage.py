"""Folders for results and data on large file systems, and the links to them."""
from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.submission.setup import storage

Place = Callable[..., list[str]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A function that returns the names of the proposed folders, of a machine whose file systems are made up.

    Its keywords are the folders with their device, kind and free gigabytes; the project is in the folder `home`.
    """
    def names(environment: Mapping[str, str], **folders: tuple[int, str, int]) -> list[str]:
        real = os.stat

        def stat(path: str, *arguments: object, **options: object) -> object:
            name = os.path.relpath(os.fspath(path), tmp_path).split("/")[0]
            return SimpleNamespace(st_dev=folders[name][0], st_mode=0o40755) if name in folders else real(
                path, *arguments, **options)  # type: ignore[call-overload]
        monkeypatch.setattr(os, "stat", stat)
        monkeypatch.setattr(storage, "free_bytes", lambda path: int(1e9) * folders[
            os.path.relpath(path, tmp_path).split("/")[0]][2])
        (tmp_path / "mounts").write_text("proc /proc proc rw 0 0\n/dev/vda / ext4 rw 0 0\n" + "".join(
            f"server:/{name} {tmp_path}/{name} {kind} rw 0 0\n" for name, (_, kind, _) in folders.items()))
        for name in folders:
            (tmp_path / name / "ada").mkdir(parents=True)
        (tmp_path / "home" / "gridiron").mkdir()
        places = storage.places(
            str(tmp_path / "home" / "gridiron"), str(tmp_path / "home"), "ada",
            {name: str(tmp_path / folder) for name, folder in environment.items()},
            [str(tmp_path / name) for name in folders if name.startswith("root")], str(tmp_path / "mounts"))
        return [os.path.relpath(item.path, tmp_path) for item in places]

    return names


def test_folders_on_other_file_systems_are_proposed_before_the_home_folder(place: Place) -> None:
    assert place({"SCRATCH": "big", "WORK": "missing", "PROJECT": "small", "HOME": "x"},
                 home=(1, "nfs4", 90_000), big=(2, "lustre", 10_000), root=(3, "gpfs", 20_000),
                 small=(4, "nfs", 5)) == ["root/ada", "big", "home/gridiron", "small"]


def test_two_names_of_a_file_system_are_one_folder(place: Place) -> None:
    assert place({"SCRATCH": "big/ada", "WORK": "again"}, home=(1, "nfs4", 9), big=(2, "lustre", 10),
                 again=(2, "lustre", 10)) == ["big/ada", "home/gridiron"]


def test_disks_that_other_nodes_do_not_see_are_left_out(place: Place) -> None:
    assert place({"SCRATCH": "disk", "WORK": "memory"}, home=(1, "nfs4", 9), disk=(2, "xfs", 900),
                 memory=(3, "tmpfs", 900)) == []


def test_disks_of_a_single_machine_are_proposed(place: Place) -> None:
    assert place({"SCRATCH": "disk", "WORK": "memory"}, home=(1, "ext4", 9), disk=(2, "xfs", 900),
                 memory=(3, "tmpfs", 900)) == ["disk", "home/gridiron"]


def test_project_outside_of_the_home_folder_keeps_its_results(tmp_path: Path, place: Place,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    place({}, home=(1, "nfs4", 9), big=(2, "lustre", 900))
    assert storage.places(str(tmp_path / "big"), str(tmp_path / "home"), "ada",
                          {"SCRATCH": str(tmp_path / "big" / "ada")}, []) == []


def test_kinds_of_file_systems_of_this_machine() -> None:
    """The format of the kernel's own file."""
    assert storage._kind("/proc/self", "/proc/self/mounts") == "proc"
    assert storage._kind("/", "/proc/self/mounts") not in ("", "proc")


def test_kind_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(f"a / ext4 rw\nb {tmp_path} nfs rw\nc {tmp_path}/my\\040disk lustre rw\n"
                                     f"d {tmp_path}/my xfs rw\n")
    mounts = str(tmp_path / "mounts")
    assert storage._kind(str(tmp_path / "my disk" / "x"), mounts) == "lustre"
    assert storage._kind(str(tmp_path / "myself"), mounts) == "nfs"
    assert storage._kind("/somewhere", mounts) == "ext4"


def test_links_replace_empty_folders_and_keep_full_ones(tmp_path: Path) -> None:
    project, place = tmp_path / "project", tmp_path / "scratch"
    (project / "results").mkdir(parents=True)
    (project / "data").mkdir()
    (project / "data" / "a9a").touch()
    links, kept = storage.plan_links(str(project), str(place))
    assert links == {f"{project}/results": f"{place}/project/results"}
    assert kept == ["data"]
    for path, target in links.items():
        storage.make_link(path, target)
    (project / "results" / "x").touch()
    assert (place / "project" / "results" / "x").exists()
    assert storage.plan_links(str(project), str(place)) == ({}, ["data"])
