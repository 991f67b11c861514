"""Packed environments on a node: mounted or unpacked once, in use while a program runs, never where others can write.

squashfuse mounts and the programs unpack for real; tests that mount are skipped where there is no /dev/fuse.
"""
from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.submission.packing import pack
from src.submission.packing.environment import Environment
from tests.conftest import ROOT

NOBODY = 65534
can_mount = pytest.mark.skipif(
    not (os.access("/dev/fuse", os.W_OK) and shutil.which("squashfuse") and shutil.which("mksquashfs")),
    reason="mounting an image needs /dev/fuse, squashfuse and squashfs-tools")
need_squashfs = pytest.mark.skipif(not shutil.which("unsquashfs"), reason="needs squashfs-tools")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of another user need root")
FORMS = [pytest.param("squashfs", marks=need_squashfs), "tar"]
SHOW = "import sys, packed_module; print(sys.prefix)"


class Node:
    """A project with a small packed environment, and the local disk of a node."""

    def __init__(self, folder: Path) -> None:
        self.project, self.local, self.bin = folder / "my project", folder / "local", folder / "bin"
        for path in (self.project, self.local, self.bin):
            path.mkdir()
        shutil.copy(ROOT / "activate.sh", self.project)
        (self.project / "tools").symlink_to(ROOT / "tools")
        self.environment = self.project / ".venv"
        venv.create(self.environment, symlinks=True)
        self.packages = next(self.environment.glob("lib/python*/site-packages"))
        (self.packages / "packed_module.py").write_text("")
        self.change = 0

    @property
    def folder(self) -> Path:
        """The folder with this user's copies."""
        return self.local / f"gridiron-{os.geteuid()}"

    def copies(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())

    def pack(self, form: str | None = None) -> Path:
        """Pack the environment, without the Python that it was made from, as where nodes have that."""
        watched = (str(self.packages.relative_to(self.environment)), "pyvenv.cfg")
        return Path(pack.pack(Environment(str(self.environment), str(self.environment), sys.base_prefix,
                                          sys.executable, False, (), watched), [], form).path)

    def pack_another(self, form: str | None = None) -> Path:
        """Change the environment, and pack it."""
        self.change += 1
        (self.packages / "packed_module.py").write_text(f"number = {self.change}")
        os.utime(self.packages, (self.change, self.change))
        return self.pack(form)

    def program(self, name: str, text: str) -> None:
        """Put a program of this name in front of the real one, $real."""
        path = self.bin / name
        path.write_text(f"#!/bin/bash\nreal={shutil.which(name)}\n{text}\n")
        path.chmod(0o755)

    def start(self, code: str = SHOW, **variables: str) -> subprocess.Popen[str]:
        """Start a job: a script that sources activate.sh and becomes Python."""
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "SLURM_JOB_ID": "1", "GRIDIRON_LOCAL": str(self.local),
                       "HOME": str(self.project), **variables}
        script = 'set -euo pipefail; source ./activate.sh; exec python -c "$1"'
        return subprocess.Popen(["bash", "-c", script, "job", code], cwd=self.project, env=environment, text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                start_new_session=True)

    def run(self, code: str = SHOW, **variables: str) -> tuple[str, str]:
        """Run a job. Return the prefix of its Python, and what it prints to standard error."""
        process = self.start(code, **variables)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return output.strip(), errors.strip()

    def unmount(self) -> None:
        for path in self.local.glob("*/*.mount.*"):
            subprocess.run(["fusermount3", "-u", "-z", path], capture_output=True)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.unmount()


def with_argument(argument: str) -> list[int]:
    """Return the ids of the processes that have this argument on their command lines."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(argument) in (path / "cmdline").read_bytes().split(b"\0"):
                pids.append(int(path.name))
    return pids


@can_mount
def test_job_uses_a_mount_that_the_next_one_removes(node: Node) -> None:
    image = node.pack()
    assert node.run() == (str(node.folder / node.copies()[0]), "")
    first = node.copies()
    assert len(first) == 1 and first[0].startswith(f"{image.stem}.mount.")
    assert oct(node.folder.stat().st_mode) == "0o40700"
    node.run()
    assert len(node.copies()) == 1 and node.copies() != first
    assert not set(os.listdir(node.folder)) & {f"{first[0]}.lock"}


@can_mount
def test_mount_lasts_as_long_as_its_program_and_survives_signals_to_the_whole_job(node: Node) -> None:
    image = node.pack()
    job = node.start("import sys; print('ready', flush=True); sys.stdin.readline()\n"
                     "import packed_module; print(sys.prefix)")
    assert job.stdout and job.stdin and job.stdout.readline() == "ready\n"
    daemon, = with_argument(str(image))
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        os.kill(daemon, number)
    node.run()
    assert len(node.copies()) == 2
    output, _ = job.communicate("go\n", timeout=300)
    assert output.strip() in [str(node.folder / name) for name in node.copies()]
    node.run()
    assert len(node.copies()) == 1, "both ended"
    assert len(with_argument(str(image))) == 1


@can_mount
def test_dead_mount_is_removed_and_failing_one_is_unpacked(node: Node) -> None:
    image = node.pack()
    node.run()
    for daemon in with_argument(str(image)):
        os.kill(daemon, signal.SIGKILL)
    prefix, errors = node.run()
    assert ".mount." in prefix and not errors and len(node.copies()) == 1
    for name in ("squashfuse", "squashfuse_ll", "mount"):
        node.program(name, "echo 'fuse: device not found' >&2; exit 1")
    prefix, errors = node.run()
    assert ".mount." not in prefix and not errors, "unsquashfs unpacked it"
    prefix, errors = node.run(GRIDIRON_PACKED="mount")
    assert prefix == str(node.environment)
    assert errors.endswith(f"is used from where it is: {image.name} cannot be mounted (fuse: device not found)")


@can_mount
@as_root
def test_root_mounts_without_squashfuse(node: Node, tmp_path: Path) -> None:
    image = node.pack()
    (tmp_path / "programs").mkdir()
    for path in Path("/usr/bin").iterdir():
        if not path.name.startswith("squashfuse"):
            (tmp_path / "programs" / path.name).symlink_to(path)
    (tmp_path / "point").mkdir()
    if subprocess.run(["mount", "-t", "squashfs", "-o", "loop", image, tmp_path / "point"], capture_output=True
                      ).returncode:
        pytest.skip("this machine has no loop device, or no squashfs in its kernel")
    subprocess.run(["umount", tmp_path / "point"], check=True)
    for _ in range(2):
        assert node.run(PATH=str(tmp_path / "programs"), GRIDIRON_PACKED="mount")[1] == ""
        assert len(node.copies()) == 1
    subprocess.run(["umount", node.folder / node.copies()[0]], check=True)


@pytest.mark.parametrize("form", [*FORMS, "gzip"])
def test_unpacked_copy_is_used_again(form: str, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "gzip":  # where there is no zstd
        monkeypatch.setattr("src.submission.packing.image.shutil.which", lambda name: None)
        form = "tar"
    node.pack(form)
    prefix, errors = node.run(GRIDIRON_PACKED="unpack")
    assert errors == "" and prefix == str(node.folder / node.copies()[0])
    inode = os.stat(prefix).st_ino
    assert node.run(GRIDIRON_PACKED="unpack") == (prefix, "")
    os.utime(f"{prefix}.lock", (1, 1))
    assert node.run(GRIDIRON_PACKED="unpack") == (prefix, "")
    assert os.stat(prefix).st_ino == inode and node.copies() == [os.path.basename(prefix)]
    assert sorted(os.listdir(prefix)) == sorted([*os.listdir(node.environment), ".gridiron-packed.json"])


def test_used_in_jobs_on_one_node_only(node: Node) -> None:
    plain = (str(node.environment), "")
    assert node.run() == plain, "nothing is packed"
    node.pack("tar")
    assert node.run(SLURM_JOB_ID="") == plain
    assert node.run(GRIDIRON_PACKED="off") == plain
    assert node.run(GRIDIRON_PACKED="unpack", SLURM_JOB_ID="")[0] != plain[0]
    assert node.run(SLURM_JOB_NUM_NODES="2") == (plain[0], f"note: {plain[0]} is used from where it is: packed "
                                                 "environments are for jobs on one node")
    assert node.run(GRIDIRON_PACKED="always")[1].endswith("GRIDIRON_PACKED is 'always', not mount, unpack or off")


def test_twenty_at_once_unpack_once(node: Node, tmp_path: Path) -> None:
    node.pack("tar")
    node.program("tar", f'echo once >>{tmp_path}/calls; sleep 0.3; exec "$real" "$@"')
    jobs = [node.start() for _ in range(20)]
    answers = {job.communicate(timeout=300) for job in jobs}
    assert answers == {(f"{node.folder / node.copies()[0]}\n", "")}
    assert (tmp_path / "calls").read_text() == "once\n"


def test_unpacking_that_was_killed_is_done_again(node: Node, tmp_path: Path) -> None:
    node.pack("tar")
    node.program("tar", f'"$real" "$@"; touch {tmp_path}/half; sleep 60')
    job = node.start()
    wait_until((tmp_path / "half").exists)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    assert [name.rpartition(".")[2] for name in node.copies()] == ["part"]
    (node.bin / "tar").unlink()
    prefix, errors = node.run()
    assert errors == "" and node.copies() == [os.path.basename(prefix)]


def test_copy_from_before_a_reboot_is_not_used(node: Node) -> None:
    node.pack("tar")
    prefix, _ = node.run()
    old = f"{prefix[:-4]}dead"  # its name ends in the id of the boot
    os.rename(prefix, old)
    os.rename(f"{prefix}.lock", f"{old}.lock")
    shutil.rmtree(Path(old, "lib"))
    assert node.run() == (prefix, "")


def test_only_unused_copies_of_other_versions_are_removed(node: Node) -> None:
    node.pack("tar")
    job = node.start("import sys; print(sys.prefix, flush=True); sys.stdin.readline(); import packed_module")
    assert job.stdout
    first = job.stdout.readline().strip()
    for name in ("0123abcd-ef.boot", "4567abcd-ef.boot"):  # of other environments, one of them used a day ago
        (node.folder / name).mkdir()
        (node.folder / f"{name}.lock").touch()
    os.utime(node.folder / "0123abcd-ef.boot.lock", (1, 1))
    node.pack_another("tar")
    second, errors = node.run()
    assert errors == "" and {"4567abcd-ef.boot", *map(os.path.basename, (first, second))} == set(node.copies())
    assert job.communicate("go\n", timeout=300)[1] == "" and job.returncode == 0
    node.run()
    assert set(node.copies()) == {"4567abcd-ef.boot", os.path.basename(second)}


def test_changed_environment_is_used_from_where_it_is(node: Node) -> None:
    node.pack("tar")
    (node.packages / "another").mkdir()
    os.utime(node.packages, (1, 1))
    prefix, errors = node.run()
    assert prefix == str(node.environment)
    assert errors == (f"note: {prefix} is used from where it is: it has changed since it was packed: "
                      "`python experiments.py pack-env` packs it again")


def refused(node: Node, reason: str, **variables: str) -> None:
    prefix, errors = node.run(**variables)
    assert prefix == str(node.environment) and reason in errors, errors
    assert len(errors.splitlines()) == 1


@as_root
def test_folders_that_others_have_made_are_refused(node: Node, tmp_path: Path) -> None:
    node.pack("tar")
    reason = f"{node.folder} is not a folder of your own with mode 700"
    (tmp_path / "theirs").mkdir(mode=0o700)
    node.folder.symlink_to(tmp_path / "theirs")
    refused(node, reason)
    node.folder.unlink()
    node.folder.mkdir(mode=0o777)
    node.folder.chmod(0o777)
    refused(node, reason)
    node.folder.chmod(0o700)
    os.chown(node.folder, NOBODY, NOBODY)
    refused(node, reason)
    node.folder.rmdir()
    node.folder.write_text("a file")
    refused(node, reason)
    node.folder.unlink()
    node.local.chmod(0o777)
    refused(node, f"others can replace folders in {node.local}")
    node.local.chmod(0o1777)
    assert node.run()[1] == "", "as /tmp"
    os.chown(node.local, NOBODY, NOBODY)
    refused(node, f"others can replace folders in {node.local}")
    assert list((tmp_path / "theirs").iterdir()) == []


@as_root
def test_image_that_another_user_planted_is_not_used(node: Node) -> None:
    packed = node.pack("tar").parent
    os.chown(packed, NOBODY, NOBODY)
    refused(node, f"{packed} belongs to another user")
    assert pack.read_current(str(node.environment)) is None
    os.chown(node.environment, NOBODY, NOBODY)
    assert node.run()[1] == "", "the environment of that user"


def test_shared_disks_and_memory_are_not_unpacked_to(node: Node) -> None:
    node.pack("tar")
    for kind in ("nfs", "tmpfs"):
        node.program("stat", f'[[ $1 == --file-system ]] && echo {kind} || exec "$real" "$@"')
        refused(node, f"/tmp is not on a local disk ({kind})", GRIDIRON_LOCAL="", TMPDIR=str(node.local))
    assert node.run()[1] == "", "GRIDIRON_LOCAL is used whatever it is"
    (node.bin / "stat").unlink()
    missing = str(node.local / "missing")
    refused(node, f"there is no folder {missing}", GRIDIRON_LOCAL=missing)
    prefix, errors = node.run(GRIDIRON_LOCAL="", SLURM_TMPDIR=missing, TMPDIR=str(node.local))
    assert errors == "" and prefix.startswith(str(node.folder)), "the first possible one"


def test_full_disk_damaged_image_and_endless_lock_give_one_line(node: Node) -> None:
    image = node.pack("tar")
    node.program("df", "printf 'Avail\\n10\\n'")
    refused(node, f"{node.local} has 0 MiB free, and")
    (node.bin / "df").unlink()
    with open(node.folder / "making", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(node, "another process has been unpacking for too long", GRIDIRON_UNPACK_TIMEOUT="0.1")
    os.truncate(image, image.stat().st_size // 2)
    refused(node, f"{image.name} cannot be unpacked in {node.folder} (")
    assert node.copies() == [] and os.listdir(node.folder) == ["making"]
    image.unlink()
    refused(node, f"{image.name} cannot be unpacked")


def test_conda_environment_without_starting_conda(node: Node, tmp_path: Path) -> None:
    conda, environment = tmp_path / "conda", tmp_path / "conda" / "envs" / "gridiron"
    (conda / "envs").mkdir(parents=True)
    os.rename(node.environment, environment)
    node.environment, node.packages = environment, environment / node.packages.relative_to(node.project / ".venv")
    (environment / "conda-meta").mkdir()
    scripts = environment / "etc" / "conda" / "activate.d"
    scripts.mkdir(parents=True)
    (scripts / "x.sh").write_text('export FROM_SCRIPT="$UNSET$CONDA_PREFIX"\n')
    node.pack("tar")
    prefix, errors = node.run("import os, sys; print(sys.prefix, os.environ['FROM_SCRIPT'])", CONDA_FOLDER=str(conda))
    copy = str(node.folder / node.copies()[0])
    assert (prefix, errors) == (f"{copy} {copy}", "")


def wait_until(condition: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)
