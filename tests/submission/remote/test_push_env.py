"""An environment sent to another machine: what is refused, and what arrives."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import experiments
from src.errors import RemoteError
from src.submission.packing import environment, pack
from src.submission.packing.environment import Environment
from src.submission.remote import hosts, push_env, ssh
from src.submission.remote.push_env import Platform
from tests.sshd.fixture import Sshd, sshd

__all__ = ["sshd"]  # the fixture

NASTY = "a $HOME 'far' `touch x`; (1)"
BY_FILE = "sent file by file: `python experiments.py pack-env` makes one file of it"
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
        BY_FILE, "linked as .venv there, where activate.sh finds it"]
    assert os.readlink(there / ".venv") == str(to)
    assert subprocess.run([to / "bin" / "python", "-c", ""]).returncode == 0
    (to / "of an older one.py").touch()
    assert push_env.push_environment(far, str(folder), base, str(to)) == [BY_FILE]
    assert sorted(os.listdir(to)) == sorted(os.listdir(folder)) and not list(tmp_path.rglob("x"))


@pytest.mark.skipif(not shutil.which("unsquashfs"), reason="needs squashfs-tools")
def test_packed_environment_is_sent_as_one_file(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, folder, to = (tmp_path / part / NASTY for part in ("here", "there", "made", "sent"))
    here.mkdir(parents=True)
    there.mkdir(parents=True)
    sshd.write_hosts(here, there)
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "module.py").write_text("new")
    (tmp_path / "data").mkdir()
    far, base = ssh.connect(hosts.find_host("cluster", str(here))), os.path.realpath(sys.executable)
    this = Environment(str(folder), str(folder), sys.base_prefix, base, False, (),
                       (str(packages.relative_to(folder)), "pyvenv.cfg"))
    sent: list[str] = []
    rsync = ssh.Remote.rsync
    monkeypatch.setattr(ssh.Remote, "rsync", lambda self, *arguments, **options: (
        sent.append(arguments[-2]), rsync(self, *arguments, **options))[1])

    squashfs = pack.pack(this, [str(tmp_path / "data")], "squashfs").path
    assert push_env.push_environment(far, str(folder), base, str(to)) == [
        "linked as .venv there, where activate.sh finds it"]
    assert sent == [squashfs]
    assert sorted(os.listdir(to)) == sorted(os.listdir(folder)), "neither the data nor the record of a copy"
    assert subprocess.run([to / "bin" / "python", "-c", ""]).returncode == 0
    current = pack.read_current(str(to))
    assert current and current.image == os.path.basename(squashfs), "jobs there use it"
    inode = to.stat().st_ino
    assert push_env.push_environment(far, str(folder), base, str(to)) == []
    assert to.stat().st_ino == inode, "nothing has changed"

    (to / "of an older one.py").touch()
    tar = pack.pack(this, [], "tar").path
    assert push_env.push_environment(far, str(folder), base, str(to)) == []
    assert sent[-1] == tar and sorted(os.listdir(to)) == sorted(os.listdir(folder))
    assert sorted(os.listdir(to.parent)) == [NASTY, f"{NASTY}.packed"] and not list(tmp_path.rglob("x"))


def test_older_images_stay_while_a_job_of_the_user_is_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that the user's defaults for squeue would hide, or that is in a hidden partition."""
    monkeypatch.setattr(ssh.Remote, "rsync", lambda self, *_, **__: "")
    monkeypatch.setattr(ssh.Remote, "rsync_path", lambda self, path: path)
    monkeypatch.setattr(ssh.Remote, "read_shell_output", lambda self, script: subprocess.run(
        ["sh", "-c", script], check=True, capture_output=True, text=True).stdout)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("SQUEUE_PARTITION", "SLURM_CLUSTERS"):
        monkeypatch.setenv(name, "owner")
    squeue, packed = tmp_path / "squeue", pack.Packed("a-b.tar.gz", 4, "1 1", ())
    squeue.write_text('#!/bin/sh\ncase "$*$SQUEUE_PARTITION$SLURM_CLUSTERS" in "--all --me --noheader") '
                      f"cat {tmp_path}/queue;; esac\n")
    squeue.chmod(0o755)
    to = tmp_path / "venv"
    folder = Path(pack.packed_folder(str(to)))
    folder.mkdir()
    (folder / pack.CURRENT).write_text(f"{packed.image}\n4\n\n")
    older = folder / "a-a.tar.gz"
    older.touch()
    for queue in ("7 killable train.py\n", ""):
        (tmp_path / "queue").write_text(queue)
        push_env._send_image(ssh.Remote(hosts.Host("cluster", "cluster", "gridiron"), None), str(to), packed, str(to))
        assert older.exists() == bool(queue)


def test_without_the_programs_that_unpack_it_is_sent_file_by_file(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack.Packed("a-b.tar.zst", 4, "1 1", ("lib", "/opt/bin/python3.11"))
    monkeypatch.setattr(pack, "read_current", lambda folder: packed)
    inspected: list[str | None] = []
    monkeypatch.setattr(push_env, "_inspect", lambda remote, to, base: (inspected.append(base), (
        HERE._replace(python="", system=f"{os.uname().sysname} {os.uname().machine}"), "none", ["tar"]))[1])
    sent: list[str] = []
    monkeypatch.setattr(push_env, "_send_files", lambda remote, folder, to: sent.append(folder))
    remote = ssh.Remote(hosts.Host("cluster", "cluster", "gridiron"), None)
    monkeypatch.setattr(ssh.Remote, "read_shell_output", lambda self, script: "")
    assert push_env.push_environment(remote, "/made", "/opt/bin/python3.11")[0] == (
        "sent file by file: zstd not installed there")
    assert sent == ["/made"] and inspected == [None], "the image contains its Python"


def test_push_env_command(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                        capfd: pytest.CaptureFixture[str]) -> None:
    """To this very machine: everything is there."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    sshd.write_hosts(here, there)
    venv.create(there / ".venv", symlinks=True)
    monkeypatch.setattr("src.commands.machines.PROJECT", str(here))
    monkeypatch.setattr(sys, "prefix", str(there / ".venv"))
    monkeypatch.setattr(environment, "base_python", lambda: None)
    assert experiments.main(["push-env", "cluster", "-y"]) == 0
    out = capfd.readouterr().out
    assert f"uploaded   {there / '.venv'}\n" in out and "doctor --on cluster" in out
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert experiments.main(["push-env", "cluster", "-y"]) == 2
    assert "source activate.sh" in capfd.readouterr().err
