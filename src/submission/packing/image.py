"""Write an image: a tar stream, hashed on its way to mksquashfs, or to a compressor."""
from __future__ import annotations

import functools
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from typing import IO, BinaryIO, cast

from src.errors import PackError
from src.io import files
from src.submission.packing.tree import Entry
from src.submission.system.terminal import Progress

SQUASHFS, TAR = "squashfs", "tar"
_COMPRESSION = ["-comp", "zstd", "-Xcompression-level", "3"]  # unpacks faster than gzip, which is the default
_ENDING = {"mksquashfs": ".sqfs", "zstd": ".tar.zst", "gzip": ".tar.gz"}


class _Hashed:
    """A file for tarfile that hashes what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._file.write(data)


def write_image(folder: str, name: str, entries: Sequence[Entry], form: str | None) -> str:
    """Write an image into a folder under NAME-HASH and the ending of its form. Return its file name.

    form: squashfs or tar; None for squashfs if this machine can write it. PackError if it cannot be written.
    """
    program = _program(form)
    temporary = files.temporary_path(os.path.join(folder, name))
    command = {"mksquashfs": ["mksquashfs", "-", temporary, "-tar", "-quiet", "-no-progress", "-b", "256K",
                              *_COMPRESSION * ("zstd" in _squashfs_help())],
               "zstd": ["zstd", "-q", "-T0", "-3", "-o", temporary], "gzip": ["gzip", "-c"]}[program]
    try:
        with tempfile.TemporaryFile() as errors:
            content_hash, code = _stream(entries, command, temporary if program == "gzip" else os.devnull, errors)
            errors.seek(0)
            lines = errors.read().decode(errors="replace").split("\n")
        if code:
            raise PackError(f"{program} failed: {next(filter(None, reversed(lines)), code)}", where=folder,
                                   hint="check the free space there")
        os.chmod(temporary, files.MODE)
        image = f"{name}-{content_hash[:16]}{_ENDING[program]}"
        if not os.path.exists(os.path.join(folder, image)):  # jobs may have it mounted
            os.rename(temporary, os.path.join(folder, image))
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return image


def _program(form: str | None) -> str:
    """Return the program that writes an image of a form. PackError if it is not installed."""
    if form != TAR and "-tar" in _squashfs_help():
        return "mksquashfs"
    if form == SQUASHFS:
        raise PackError("mksquashfs is missing here, or reads no tar files", where="--format squashfs",
                               hint="install squashfs-tools 4.5 or newer; or leave --format out, for a tar file")
    return "zstd" if shutil.which("zstd") else "gzip"


@functools.cache
def _squashfs_help() -> str:
    """Return the options of mksquashfs, of which some depend on its version; empty if it is not installed."""
    if not shutil.which("mksquashfs"):
        return ""
    answer = subprocess.run(["mksquashfs", "-help"], capture_output=True, text=True, check=False)
    return answer.stdout + answer.stderr


def _stream(entries: Sequence[Entry], command: Sequence[str], output: str, errors: IO[bytes]) -> tuple[str, int]:
    """Write the entries to the input of a command. Return the hash of the stream and the exit code of the command."""
    with open(output, "wb") as out, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=errors) as sink:
        assert sink.stdin
        hashed = _Hashed(sink.stdin)
        try:
            with Progress(len(entries), "files") as progress, tarfile.open(
                    fileobj=cast(BinaryIO, hashed), mode="w|", format=tarfile.GNU_FORMAT) as archive:
                for entry in entries:
                    _add(archive, entry)
                    progress.step()
            sink.stdin.close()
        except BrokenPipeError:
            pass  # the exit code shows why
        except BaseException:
            sink.kill()
            raise
    return hashed.hash.hexdigest(), sink.returncode


def _add(archive: tarfile.TarFile, entry: Entry) -> None:
    status = os.lstat(entry.path)
    member = tarfile.TarInfo(entry.name)
    # whole seconds, as in byte code, which is valid only for a source of that time; this user owns all
    member.mtime, member.uid, member.gid = int(status.st_mtime), os.geteuid(), os.getegid()
    member.mode = stat.S_IMODE(status.st_mode) & 0o755 | stat.S_IRUSR | stat.S_IWUSR
    if entry.link is not None:
        member.type, member.linkname = tarfile.SYMTYPE, entry.link
        archive.addfile(member)
    elif entry.content is not None:
        member.size = len(entry.content)
        archive.addfile(member, io.BytesIO(entry.content))
    elif stat.S_ISDIR(status.st_mode):
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    else:
        member.size = status.st_size
        with open(entry.path, "rb") as file:
            archive.addfile(member, file)
