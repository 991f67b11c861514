"""Which environments can be packed or copied, and what shows that they changed."""
from __future__ import annotations

import os
import sys
import venv
from pathlib import Path

import pytest

from src.errors import PackError
from src.io import packed_copy
from src.submission.packing import environment


def test_folders_that_are_no_environment_are_refused(tmp_path: Path) -> None:
    def refused(prefix: object, base: object, home: object) -> str:
        with pytest.raises(PackError) as error:
            environment.find_environment(str(prefix), str(base), str(home))
        return str(error.value)

    (tmp_path / "pyvenv.cfg").touch()
    assert environment.find_environment(str(tmp_path), "/usr", "/home/me") == str(tmp_path)
    assert "not in an environment" in refused("/usr", "/usr", "/home/me")
    assert "more than an environment" in refused(tmp_path, "/usr", tmp_path)
    assert "more than an environment" in refused(tmp_path, "/usr", tmp_path / "me")
    assert "more than an environment" in refused("/", "/usr", "/home/me")
    assert "more than an environment" in refused(tmp_path.parent, "/usr", "/home/me")
    (tmp_path / "conda-meta").mkdir()
    assert environment.find_environment(str(tmp_path), str(tmp_path), "/home/me") == str(tmp_path)


def test_environment_of_this_process_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "made", symlinks=True)
    (tmp_path / "link").symlink_to("made")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "link"))
    monkeypatch.setattr("sysconfig.get_path", lambda name, vars=None: f"{sys.base_prefix}/lib/python3" if "std" in name
                        else f"{sys.prefix}/lib/python3/site-packages")
    found = environment.this_environment("/home/me")
    assert (found.folder, found.prefix, found.base) == (str(tmp_path / "made"), str(tmp_path / "link"), sys.base_prefix)
    assert found.watched[:2] == ("lib/python3/site-packages", "pyvenv.cfg")
    assert found.packs_base is not sys.base_prefix.startswith("/usr")
    (tmp_path / "made" / "pyvenv.cfg").write_text("home = /x\ninclude-system-site-packages = true\n")
    assert not environment.this_environment("/home/me").packs_base, "it uses the packages of that Python"


def test_conda_base_and_copies_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("conda-meta", "envs", "lib"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(PackError, match="conda's base environment contains other environments"):
        environment.this_environment("/home/me")
    monkeypatch.setattr(packed_copy, "record", lambda: {"prefix": "/a/.venv"})
    with pytest.raises(PackError, match="a copy of a packed environment.*GRIDIRON_PACKED=off"):
        environment.this_environment("/home/me")


def test_stamp_shows_changes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.utime(tmp_path / "a", (7.9, 7.9))
    assert environment.stamp(str(tmp_path), ("a", "missing")) == "7 -"


def test_editable_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, url in (("mine", '{"dir_info":{"editable":true},"url":"file:///mine"}'), ("theirs", "{}")):
        info = tmp_path / "lib" / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: {name}\n")
        (info / "direct_url.json").write_text(url)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "lib")])
    assert environment.editable_packages(str(tmp_path)) == ["mine"]
