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
    (HERE._replace(system="Linux aarch64"), "it is a Linux aarch64, and the environment one for Linux x86_64"),
    (HERE._replace(python=""), "is not there"), (HERE._replace(python="Python 3.12.1"), "is Python 3.12.1 there")])
def test_where_it_cannot_run(there: Platform, words: str | None) -> None:
    found = push_env.find_incompatibility(HERE, there, "/usr/bin/python3.11")
    assert found is None if words is None else found and words in found


def test_where_it_may_not_run() -> None:
    bare = HERE._replace(python="")
    assert push_env.find_incompatibility(bare, bare, None) is None, "it has a Python of its own"
    assert push_env.compatibility_warnings(HERE, HERE) == []
    assert push_env.compatibility_warnings(HERE, HERE._replace(glibc="glibc 2.100")) == []
    for glibc in ("glibc 2.28", ""):
        warning, = push_env.compatibility_warnings(HERE, HERE._replace(glibc=glibc))
        assert "older than the glibc 2.36 here" in warning


def test_what_is_no_environment(tmp_path: Path) -> None:
    def refused(prefix: object, base: object, home: object) -> str:
        with pytest.raises(RemoteError) as error:
            push_env.find_environment(str(prefix), str(base), str(home))
        return str(error.value)

    (tmp_path / "pyvenv.cfg").touch()
    assert push_env.find_environment(str(tmp_path), "/usr", "/home/me") == str(tmp_path)
    assert "of no environment of its own" in refused("/usr", "/usr", "/home/me")
    assert "not an environment's alone" in refused(tmp_path, "/usr", tmp_path)
    assert "not an environment's alone" in refused(tmp_path, "/usr", tmp_path / "me")
    assert "not an environment's alone" in refused("/", "/usr", "/home/me")
    assert "not an environment's alone" in refused(tmp_path.parent, "/usr", "/home/me")
    (tmp_path / "conda-meta").mkdir()
    assert push_env.find_environment(str(tmp_path), str(tmp_path), "/home/me") == str(tmp_path)


def test_it_arrives(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(RemoteError, match="is there, and is no environment"):
        push_env.push_environment(far, str(folder), base, str(to))
    with pytest.raises(RemoteError, match="which is not there"):
        push_env.push_environment(far, str(folder), f"{base}-of-nobody", str(to))
    (to / "thesis.tex").unlink()
    assert push_env.push_environment(far, str(folder), base, str(to)) == [
        "activate.sh finds it there: .venv is a link to it now"]
    assert os.readlink(there / ".venv") == str(to)
    assert subprocess.run([to / "bin" / "python", "-c", ""]).returncode == 0
    (to / "of an older one.py").touch()
    assert push_env.push_environment(far, str(folder), base, str(to)) == []
    assert sorted(os.listdir(to)) == sorted(os.listdir(folder)) and not list(tmp_path.rglob("x"))


def test_as_it_is_typed(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
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
    assert f"sent       {there / '.venv'}\n" in out and "doctor --on cluster" in out
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert experiments.main(["push-env", "cluster", "-y"]) == 2
    assert "source activate.sh" in capfd.readouterr().err
