"""Images of environments: their contents and names, that they work at any path, and which older ones are removed."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import experiments
from src.errors import BatchError, PackError
from src.submission.packing import image, pack, tree
from src.submission.packing.environment import Environment
from src.submission.slurm.client import Job, Queue

STDLIB = os.path.relpath(sysconfig.get_path("stdlib"), sys.base_prefix)
need_squashfs = pytest.mark.skipif(not shutil.which("unsquashfs"), reason="needs squashfs-tools")


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    folder = tmp_path / "my env"
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "module.py").write_text("print('module')")
    (folder / "bin" / "tool").write_text(f"#!{folder}/bin/python3\nimport module, sys\nprint(sys.prefix)\n")
    (folder / "bin" / "tool").chmod(0o755)
    (folder / "share").symlink_to(folder / "bin")
    os.mkfifo(folder / "pipe")
    return Environment(str(folder), str(folder), sys.base_prefix, os.path.realpath(sys.executable), False, (),
                       (str(packages.relative_to(folder)), "pyvenv.cfg"))


def unpack(path: str, to: Path) -> Path:
    if path.endswith(".sqfs"):
        subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-dest", to, path], check=True, capture_output=True)
    else:
        to.mkdir()
        subprocess.run(["tar", "--extract", f"--file={path}", f"--directory={to}"], check=True)
    return to


@pytest.mark.parametrize("form", [pytest.param("squashfs", marks=need_squashfs), "tar"])
def test_image_works_at_another_path(form: str, environment: Environment, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "images" / "1.png").write_bytes(b"1" * 5000)
    result = pack.pack(environment, [str(data)], form)
    copy = unpack(result.path, tmp_path / "copy")
    shutil.move(environment.folder, f"{environment.folder} moved")
    output = subprocess.run([copy / "bin" / "tool"], check=True, capture_output=True, text=True).stdout
    assert output == f"module\n{copy}\n"
    assert os.readlink(copy / "share") == "bin"
    cached, = copy.rglob("module.*.pyc")
    before = cached.stat().st_mtime_ns
    assert (copy / f".data{data}" / "images" / "1.png").read_bytes() == b"1" * 5000
    record = json.loads((copy / ".gridiron-packed.json").read_text())
    assert record == {"prefix": environment.prefix, "executable": f"{environment.prefix}/bin/python",
                      "base_prefix": sys.base_prefix, "data": [str(data)]}
    names = {path.relative_to(copy) for path in copy.rglob("*")}
    kept = {path.relative_to(f"{environment.folder} moved") for path in Path(f"{environment.folder} moved").rglob("*")}
    assert kept - names == {Path("pipe")}
    assert cached.stat().st_mtime_ns == before, "its byte code is valid"
    assert os.stat(copy / "bin" / "tool").st_mode & 0o777 == 0o755


def test_python_that_it_was_made_from_is_packed(environment: Environment, tmp_path: Path) -> None:
    complete = environment._replace(packs_base=True, stdlib=(STDLIB,))
    entries = tree.entries(complete, [])
    names = [entry.name for entry in entries]
    assert names == sorted(set(names), key=lambda name: name.split("/"))
    assert not [name for name in names if name.startswith(".python/") and "/test/" in name]
    copy = tmp_path / "copy"
    copy.mkdir()
    for entry in entries:
        path = copy / entry.name
        if entry.link is not None:
            path.symlink_to(entry.link)
        elif entry.content is not None:
            path.write_bytes(entry.content)
        elif os.path.isdir(entry.path):
            path.mkdir()
        elif path.parent.name == "bin":
            shutil.copy2(entry.path, path)
        else:
            path.symlink_to(entry.path)
    code = "import ctypes, json, ssl, sys; print(sys.prefix, sys.base_prefix, ssl.__file__)"
    output = subprocess.run([copy / "bin" / "python", "-c", code], check=True, capture_output=True, text=True
                            ).stdout.split()
    assert output == [str(copy), str(copy / ".python"), str(copy / ".python" / STDLIB / "ssl.py")]


def test_name_depends_on_contents_and_older_images_are_removed(environment: Environment,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(True)
    monkeypatch.setattr(pack.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(pack.client, "squeue", lambda clusters: queue)
    module = Path(environment.folder, environment.watched[0], "module.py")

    def packed(text: str, age: float) -> pack.Result:
        """Pack the environment with another module, and let the image be this old."""
        module.write_text(text)
        os.utime(module, (1, 1))
        result = pack.pack(environment, [], "tar")
        os.utime(result.path, (os.stat(result.path).st_mtime - age,) * 2)
        return result

    first = packed("1", 1000)
    inode = os.stat(first.path).st_ino
    assert packed("1", 1000).path == first.path and os.stat(first.path).st_ino == inode, "jobs may have it open"
    second_time = os.stat(first.path).st_mtime + 500
    queue = Queue(True, {"1": Job("1", "RUNNING", start=second_time - 100), "2": Job("2", "PENDING", start=1.0)})
    second = packed("2", 500)
    assert (second.removed, second.kept) == ([], [os.path.basename(first.path)]), "job 1 may have it mounted"
    queue = Queue(True, {"1": Job("1", "RUNNING", start=second_time + 100)})
    third = packed("3", 0)
    assert (third.removed, third.kept) == ([os.path.basename(first.path)], [os.path.basename(second.path)])
    queue = Queue(False)
    assert packed("4", 0).removed == [], "Slurm does not answer"
    queue = Queue(True)
    last = packed("5", 0)
    assert len(last.removed) == 3 and last.kept == []
    assert set(os.listdir(f"{environment.folder}.packed")) == {".gitignore", "current", os.path.basename(last.path)}


def test_current_image_is_stale_after_a_change(environment: Environment) -> None:
    assert pack.read_current(environment.folder) is None
    result = pack.pack(environment, [], "tar")
    current = pack.read_current(environment.folder)
    assert current and current.image == os.path.basename(result.path) and current.kibibytes == result.kibibytes
    assert not current.has_base
    os.utime(os.path.join(environment.folder, environment.watched[0]), (1, 1))
    assert pack.read_current(environment.folder) is None


def test_environment_that_changes_meanwhile_is_an_error(environment: Environment,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    add = image._add

    def change_and_add(*arguments: object) -> None:
        os.utime(os.path.join(environment.folder, "pyvenv.cfg"), (1, 1))
        add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(image, "_add", change_and_add)
    with pytest.raises(PackError, match="changed while it was packed"):
        pack.pack(environment, [], "tar")
    assert pack.read_current(environment.folder) is None


def test_failing_programs_leave_nothing(environment: Environment, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zstd").write_text("#!/bin/sh\necho 'No space left on device' >&2\nexit 1\n")
    (tmp_path / "zstd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(PackError, match="zstd failed: No space left on device"):
        pack.pack(environment, [], "tar")
    assert os.listdir(f"{environment.folder}.packed") == [".gitignore"]
    image._squashfs_help.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(image, "_squashfs_help", lambda: "")
        with pytest.raises(PackError, match="mksquashfs is missing here"):
            pack.pack(environment, [], "squashfs")
    if os.geteuid() != 0:
        os.chmod(tmp_path, 0o555)
        with pytest.raises(BatchError, match="only a user who can write beside"):
            pack.pack(environment._replace(folder=f"{environment.folder}2"), [], "tar")


@pytest.mark.parametrize(("line", "options"), [
    ("#!{bin}/python3.11\n", ""), ("#!{bin}/python -E -s\n", " -E -s"),
    ("#!/bin/sh\n'''exec' \"{bin}/python3\" \"$0\" \"$@\"\n' '''\n", ""),
    ("#!/bin/sh\n'''exec' {bin}/python3 \"$0\" \"$@\"\n' '''\n", "")])
def test_scripts_start_the_python_beside_them(line: str, options: str, environment: Environment) -> None:
    link = environment._replace(prefix="/a link/.venv")
    for folder in (link.prefix, link.folder):
        content = tree.relocatable_script(line.format(bin=f"{folder}/bin").encode() + b"import x\n", link)
        assert content is not None
        first, second, rest = content.decode().split("\n", 2)
        assert first == "#!/bin/sh" and second.startswith("'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/python")
        assert second.endswith(f'{options} "$0" "$@"') and rest == "' '''\nimport x\n"


@pytest.mark.parametrize("content", [b"#!/usr/bin/python3\n", b"#!/bin/sh\nexec true\n", b"\x7fELF", b""])
def test_other_programs_stay_as_they_are(content: bytes, environment: Environment) -> None:
    assert tree.relocatable_script(content, environment) is None


def test_pack_env_command(environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                          capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("src.submission.packing.environment.this_environment", lambda home: environment)
    monkeypatch.setattr("src.submission.packing.pack.notes", lambda environment: ["note: one"])
    (tmp_path / "data").mkdir()
    assert experiments.main(["pack-env", "--format", "tar", "--data", str(tmp_path / "data"), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["notes"] == ["note: one"] and document["bytes"] == os.path.getsize(document["image"])
    assert experiments.main(["pack-env", "--format", "tar"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("packed     ") and "jobs use it from now on\n" in out
    assert experiments.main(["pack-env", "--data", str(tmp_path / "missing")]) == 2
    assert "no such folder" in capfd.readouterr().err
