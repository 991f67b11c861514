"""Where results and data may lie, and the links to there."""
from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.submission.setup import storage


def test_places_are_own_folders_on_other_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("home", "big", "roots/ada", "small"):
        (tmp_path / name).mkdir(parents=True)
    devices = {"home": 1, "big": 2, "ada": 3, "small": 4}
    space = {"big": 10_000, "ada": 20_000, "small": 5}
    real = os.stat

    def stat(path: str, *arguments: object, **options: object) -> object:
        name = os.path.basename(os.fspath(path))
        return SimpleNamespace(st_dev=devices[name], st_mode=0o40755) if name in devices else real(
            path, *arguments, **options)  # type: ignore[call-overload]
    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(storage, "free_bytes", lambda path: space[os.path.basename(path)])
    environment = {"SCRATCH": str(tmp_path / "big"), "WORK": str(tmp_path / "missing"), "PROJECT": str(
        tmp_path / "small"), "HOME": "x"}
    found = storage.places(str(tmp_path / "home"), "ada", environment, [str(tmp_path / "roots")])
    assert [os.path.basename(place.path) for place in found] == ["ada", "big", "small"]


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
