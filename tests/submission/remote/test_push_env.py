"""An environment sent to another machine: what is refused, and what arrives."""
from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import experiments
from src.errors import RemoteError
from src.submission.remote import hosts, push_env, ssh
from src.submission.remote.push_env import Platform
from tests.sshd.fixture import Sshd, sshd

__all__ = ["sshd"]  # the fixture

NASTY = "a $HOME 'far' `touch x`; (1)"
HERE = Platform("Linux x86_64", "glibc 2.36", "Python 3.11.7")


@pytest.mark.parametrize(("there", "words"), [
    (HERE, None), (HERE._replace(python="Python 3.11.2", glibc="glibc 2.39"), None),
    (HERE._replace(system="Linux aarch64"), "it is a Linux aarch64, and the environment is for Linux x86_64"),
    (HERE._replace(python=""), "does not exist there"),
    (HERE._replace(python="Python 3.12.1"), "is Python 3.12.1 there")])
def test_incompatible_platforms(there: Platform, words: str | None) -> None:
    found = push_env.find_incompatibility(HERE, there, "/usr/bin/python3.11")
    assert found is None if words is None else found and words in found


def test_older_libraries_give_a_warning() -> None:
    bare = HERE._replace(python="")
    assert push_env.find_incompatibility(bare, bare, None) is None, "it has a Python of its own"
    assert push_env.compatibility_warnings(HERE, HERE) == []
    assert push_env.compatibility_warnings(HERE, HERE._replace(glibc="glibc 2.100")) == []
    for glibc in ("glibc 2.28", ""):
        warning, = push_env.compatibility_warnings(HERE, HERE._replace(glibc=glibc))
        assert "older than the glibc 2.36 here" in warning


def test_folders_that_are_no_environment_are_refused(tmp_path: Path) -> None:
    def refused(prefix: object, base: object, home: object) -> str:
        with pytest.raises(RemoteError) as error:
            push_env.find_environment(str(prefix), str(base), str(home))
        return str(error.value)

    (tmp_path / "pyvenv.cfg").touch()
    assert push_env.find_environment(str(tmp_path), "/usr", "/home/me") == str(tmp_path)
    assert "not in an environment" in refused("/usr", "/usr", "/home/me")
    assert "more than an environment" in refused(tmp_path, "/usr", tmp_path)
    assert "more than an environment" in refused(tmp_path, "/usr", tmp_path / "me")
    assert "more than an environment" in refused("/", "/usr", "/home/me")
    assert "more than an environment" in refused(tmp_path.parent, "/usr", "/home/me")
    (tmp_path / "conda-meta").mkdir()
    assert push_env.find_environment(str(tmp_path), str(tmp_path), "/home/me") == str(tmp_path)


def test_environment_is_copied_and_updated(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, folder, to = (tmp_path / part / NASTY for part in ("here", "there", "made", "sent"))
    here.mkdir(parents=True)
    there.mkdir(parents=True)
    sshd.write_hosts(here, there)
    venv.create(folder, symlinks=True)
    (folder / "module.py").write_text("new")
    far = ssh.connect(hosts.find_host("cluster", str(here)))
    base = os.path.realpath(sys.executable)
    to.mkdir(parents=True)
    (to / "thesis.tex").write_text("mine")
    with pytest.raises(RemoteError, match="exists there, and is not an environment"):
        push_env.push_environment(far, str(folder), base, str(to))
    with pytest.raises(RemoteError, match="which does not exist there"):
        push_env.push_environment(far, str(folder), f"{base}-of-nobody", str(to))
    (to / "thesis.tex").unlink()
    assert push_env.push_environment(far, str(folder), base, str(to)) == [
        "linked as .venv there, where activate.sh finds it"]
    assert os.readlink(there / ".venv") == str(to)
    assert subprocess.run([to / "bin" / "python", "-c", ""]).returncode == 0
    (to / "of an older one.py").touch()
    assert push_env.push_environment(far, str(folder), base, str(to)) == []
    assert sorted(os.listdir(to)) == sorted(os.listdir(folder)) and not list(tmp_path.rglob("x"))


def test_push_env_command(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                        capfd: pytest.CaptureFixture[str]) -> None:
    """To this very machine: everything is there."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    sshd.write_hosts(here, there)
    venv.create(there / ".venv", symlinks=True)
    monkeypatch.setattr("src.commands.machines.PROJECT", str(here))
    monkeypatch.setattr(sys, "prefix", str(there / ".venv"))
    monkeypatch.setattr(push_env, "base_python", lambda: None)
    assert experiments.main(["push-env", "cluster", "-y"]) == 0
    out = capfd.readouterr().out
    assert f"uploaded   {there / '.venv'}\n" in out and "doctor --on cluster" in out
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert experiments.main(["push-env", "cluster", "-y"]) == 2
    assert "source activate.sh" in capfd.readouterr().err
