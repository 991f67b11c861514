"""Copy a Python environment to the same path on a remote machine, and check that it can run there."""
from __future__ import annotations

import os
import shlex
import sys
from typing import NamedTuple

from src.errors import RemoteError, experiments_command
from src.io import packed_copy, slurm_environment
from src.submission.packing import pack, tree
from src.submission.packing.environment import ENVIRONMENT_FILES
from src.submission.remote.ssh import Remote

_SHOWN = ("--info=progress2", "--human-readable")
_MARK = "gridiron: "  # begins our lines in the output of a login shell, which may print others


class Platform(NamedTuple):
    """The platform that an environment depends on.

    system: for example `Linux x86_64`;
    glibc: for example `glibc 2.36`; empty without one;
    python: for example `Python 3.11.2`, of the interpreter outside the environment; empty if it is missing.
    """

    system: str
    glibc: str
    python: str


def push_environment(remote: Remote, folder: str, base: str | None, to: str | None = None) -> list[str]:
    """Copy an environment, and return notes for the user. RemoteError if it cannot run on the remote machine.

    folder: its absolute path. If it is packed, the image is copied, and unpacked there;
    base: the Python outside the environment that it uses; None if it contains its own;
    to: the remote path; the same one by default, since the environment's files contain it.
    """
    to = to or folder
    packed = pack.read_current(folder)
    if packed and packed.has_base:
        base = None
    remote_platform, state, programs = _inspect(remote, to, base)
    version = ".".join(map(str, sys.version_info[:3]))
    here = Platform(f"{os.uname().sysname} {os.uname().machine}", _glibc(), f"Python {version}" if base else "")
    if problem := find_incompatibility(here, remote_platform, base):
        raise RemoteError(problem, where=remote.host.name, hint="create the environment there instead: "
                          f"`make environment` in {remote.host.folder}")
    if state == "other":
        raise RemoteError(f"{to} exists there, and is not an environment", where=remote.host.name,
                          hint="it is never overwritten; move it away")
    notes = []
    missing = sorted(_unpackers(packed.image) - set(programs)) if packed else []
    if packed and not missing:
        _send_image(remote, folder, packed, to)
    else:
        notes.append(f"sent file by file: {' and '.join(missing)} not installed there" if packed else
                     "sent file by file: `python experiments.py pack-env` makes one file of it")
        _send_files(remote, folder, to)
    output = remote.read_shell_output(f"cd -- {shlex.quote(remote.host.folder)} 2>/dev/null && ! [ -e .venv ] && "
                                      f"! [ -L .venv ] && ln -s -- {shlex.quote(to)} .venv && echo '{_MARK}linked'; "
                                      "true")
    notes += ["linked as .venv there, where activate.sh finds it"] if _MARK in output else []
    return [*notes, *compatibility_warnings(here, remote_platform)]


def _send_files(remote: Remote, folder: str, to: str) -> None:
    remote.read_shell_output(f"mkdir -p -- {shlex.quote(os.path.dirname(to))}")
    remote.rsync("--archive", "--compress", "--delete", "--partial-dir=.partial", *_SHOWN, "--", f"{folder}/",
                 f"{remote.rsync_path(to)}/", show=True)


def _unpackers(image: str) -> set[str]:
    """Return the programs that unpack an image."""
    return {"unsquashfs"} if image.endswith(".sqfs") else {"tar", "zstd" if image.endswith(".zst") else "gzip"}


def _send_image(remote: Remote, folder: str, packed: pack.Packed, to: str) -> None:
    """Copy an image, unpack it to the path of the environment, and make it the one that jobs there use.

    The file `current` is written last: while its first line differs, the image is unpacked again.
    """
    remote_folder = pack.packed_folder(to)
    image = os.path.join(remote_folder, packed.image)
    remote.read_shell_output(f"mkdir -p -- {shlex.quote(remote_folder)}")
    remote.rsync("--partial-dir=.partial", *_SHOWN, "--", os.path.join(pack.packed_folder(folder), packed.image),
                 f"{remote.rsync_path(remote_folder)}/", show=True)
    unpack = {".sqfs": 'unsquashfs -quiet -no-progress -no-xattrs -dest "$new" "$image"',
              ".zst": 'mkdir "$new" && tar --extract --zstd --file="$image" --directory="$new"',
              ".gz": 'mkdir "$new" && tar --extract --gzip --file="$image" --directory="$new"'
              }[os.path.splitext(packed.image)[1]]
    watched = shlex.join(name for name in packed.watched if not name.startswith("/"))
    remote.read_shell_output(f"""set -e
to=$(readlink -m -- {shlex.quote(to)}) image={shlex.quote(image)} current={shlex.quote(remote_folder)}/{pack.CURRENT}
new=$to.unpacking
watched() {{ (cd -- "$to" && stat --format=%Y -- {watched} 2>/dev/null | paste -sd ' '); }}
if [ "$(sed -n 1p "$current" 2>/dev/null)" != {packed.image} ] || [ "$(sed -n 3p "$current")" != "$(watched)" ]; then
    rm -rf -- "$new" "$to.old"
    {unpack} >/dev/null
    rm -rf -- "$new/{packed_copy.DATA}" "$new/{packed_copy.RECORD}"
    if [ -d "$new/{tree.PYTHON}" ]; then printf 'home = %s/{tree.PYTHON}/bin\n' "$to" >>"$new/pyvenv.cfg"; fi
    if [ -e "$to" ]; then mv -- "$to" "$to.old"; fi
    mv -- "$new" "$to"
    rm -rf -- "$to.old"
    printf '%s\n' {packed.image} {packed.kibibytes} "$(watched)" {watched} >"$current.new"
    mv -- "$current.new" "$current"
fi
{slurm_environment.shell_for_local_cluster()}
if queue=$(squeue --all --me --noheader 2>/dev/null) && [ -z "$queue" ]; then
    find {shlex.quote(remote_folder)} -maxdepth 1 -name '*-*' ! -name {packed.image} -exec rm -f -- {{}} +
fi""")


def find_incompatibility(here: Platform, there: Platform, base: str | None) -> str | None:
    """Return why an environment that runs here cannot run there; None if it can."""
    if here.system != there.system:
        return f"it is a {there.system}, and the environment is for {here.system}"
    if base and not there.python:
        return f"the environment needs {base}, which does not exist there"
    if base and here.python.split(".")[:2] != there.python.split(".")[:2]:
        return f"{base} is {there.python} there and {here.python} here"
    return None


def compatibility_warnings(here: Platform, there: Platform) -> list[str]:
    """Return warnings about what may prevent some packages from running there."""
    if here.glibc and here.glibc != there.glibc and _numbers(there.glibc) < _numbers(here.glibc):
        command = experiments_command("doctor", "--deep")
        return [f"warning: {there.glibc or 'another C library'} there is older than the {here.glibc} here: packages "
                f"that were built for this machine may not load; `{command}` there tries torch"]
    return []


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.rpartition(" ")[2].split(".") if part.isdecimal()]


def _inspect(remote: Remote, to: str, base: str | None) -> tuple[Platform, str, list[str]]:
    """Return the remote platform, what is at the path (none, environment or other), and which unpackers are there."""
    path = shlex.quote(to)
    is_environment = " || ".join(f"[ -e {shlex.quote(os.path.join(to, name))} ]" for name in ENVIRONMENT_FILES)
    output = remote.read_shell_output(
        f'say() {{ printf "{_MARK}%s\\n" "$1"; }}; say "$(uname -sm)"; say "$(getconf GNU_LIBC_VERSION 2>/dev/null)"; '
        f'say "$({shlex.quote(base or "true")} --version 2>/dev/null)"; '
        f'if ! [ -e {path} ]; then say none; elif {is_environment} || [ -z "$(ls -A {path})" ]; then say environment; '
        'else say other; fi; say "$(for name in unsquashfs tar zstd gzip; do command -v $name >/dev/null && '
        'printf "%s " $name; done)"')
    lines = [line.removeprefix(_MARK).strip() for line in output.splitlines() if line.startswith(_MARK)]
    if len(lines) != 5:
        raise RemoteError("its shell does not answer", where=remote.host.name)
    return Platform(lines[0], lines[1], lines[2] if base else ""), lines[3], lines[4].split()


def _glibc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""
