"""Upload the project: the files that git tracks or would track, without results, data and environments."""
from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Sequence

from src import run_folder
from src.errors import RemoteError
from src.frozen import Frozen
from src.submission.batch import provenance
from src.submission.packing.environment import ENVIRONMENT_FILES
from src.submission.remote import remote_server
from src.submission.remote.ssh import Remote
from src.submission.system.terminal import count

_NOT_UPLOADED = frozenset(("results", "data", ".venv", ".git", ".gridiron"))  # at the top, links included
# --delay-updates: files are moved into place at the end, each atomically; --keep-dirlinks: a link that
# `_linked_folders` has missed is not replaced by a folder
_RSYNC = ("--links", "--perms", "--times", "--compress", "--keep-dirlinks", "--delay-updates", "--out-format=%i %l %n")
_ITEM = re.compile(r"[<c.][fLdDS]\S* (\d+) (.*)")
_LINKED = "gridiron: linked folder "
_MAX_LISTED = 12  # files that a dry run lists


class Upload(Frozen):
    """The files that rsync uploads, or would upload: (name, bytes) of each new or changed one."""

    files: list[tuple[str, int]]

    def summary(self) -> str:
        """Return `3 files, 12.3 KiB`."""
        if not self.files:
            return "nothing: all files are there"
        return f"{count(len(self.files), 'file')}, {format_size(sum(number for _, number in self.files))}"

    def details(self) -> list[str]:
        """Return a line for each of the largest files, and one for the others."""
        rows = sorted(self.files, key=lambda item: (-item[1], item[0]))
        others = rows[_MAX_LISTED:]
        other_bytes = sum(number for _, number in others)
        return [f"    {format_size(number):>10}  {name}" for name, number in rows[:_MAX_LISTED]] + [
            f"    {format_size(other_bytes):>10}  {count(len(others), 'other file')}"] * bool(others)


def format_size(number: float) -> str:
    """Return a number of bytes as `12.3 KiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:,.{0 if unit == 'bytes' else 1}f} {unit}"
        number /= 1024
    return f"{number:,.1f} GiB"


def project_files(project: str) -> list[str]:
    """Return the names of a project's files, symbolic links as links: those that git tracks or does not ignore.

    Without git, all sources.
    """
    names = provenance.project_files(project)
    if names is None:
        return provenance.snapshot_sources(provenance.Code(project))
    belongs = functools.cache(lambda folder: _belongs_to_project(project, folder))
    uploaded = [name for name in names if name.split("/")[0] not in _NOT_UPLOADED and belongs(os.path.dirname(name))]
    return [name for name in dict.fromkeys(uploaded) if os.path.islink(path := os.path.join(project, name))
            or os.path.isfile(path)]


def _belongs_to_project(project: str, folder: str) -> bool:
    """Return whether a folder is neither in a batch nor in an environment, which git may not ignore."""
    while folder:
        path = os.path.join(project, folder)
        if any(os.path.exists(os.path.join(path, name)) for name in ENVIRONMENT_FILES) or run_folder.is_batch_folder(
                path) and os.path.isdir(os.path.join(path, run_folder.SUBMISSIONS)):
            return False
        folder = os.path.dirname(folder)
    return True


def upload_project(remote: Remote, project: str, files: Sequence[str], dry_run: bool = False) -> Upload:
    """Upload the project's changed files into its folder on the remote machine. Nothing is removed by this.

    A folder that is a symbolic link there stays one, and its files are written where it leads. Each such folder is the
    destination of an rsync of its own: newer versions of rsync do not write through links, even with --keep-dirlinks.
    """
    groups: dict[str, list[str]] = {}
    linked_folders = _linked_folders(remote, files)
    for name in files:
        groups.setdefault(next((folder for folder in _parents(name) if folder in linked_folders), ""), []).append(name)
    uploaded: list[tuple[str, int]] = []
    for folder in sorted(groups, reverse=True):  # the project's own folder is last
        names_inside = [name.removeprefix(f"{folder}/") for name in groups[folder]]
        output = remote.rsync(*_RSYNC, *["--dry-run"] * dry_run, "--files-from=-", "--from0", "--",
                              os.path.join(project, folder, ""), os.path.join(remote.rsync_path(folder), ""),
                              data=b"".join(os.fsencode(name) + b"\0" for name in names_inside))
        uploaded += [(os.path.join(folder, match[2]), int(match[1])) for line in output.splitlines()
                     if line[:1] in "<c" and line[1:2] in "fL" and (match := _ITEM.match(line))]
    return Upload(uploaded)


def _linked_folders(remote: Remote, files: Sequence[str]) -> frozenset[str]:
    """Return those of the files' folders that are symbolic links to folders on the remote machine."""
    folders = sorted({folder for name in files for folder in _parents(name)})
    # bash prints positions, not names: a login shell may print lines too, and names may hold newlines
    script = (f"cd -- {shlex.quote(remote.host.folder)} 2>/dev/null || exit 0; position=0; "
              "while IFS= read -r -d '' folder; do if [ -L \"$folder\" ] && [ -d \"$folder\" ]; then "
              f"printf '\\n{_LINKED}%d\\n' \"$position\"; fi; position=$((position + 1)); done")
    output = remote.read_shell_output(script, data=b"".join(os.fsencode(folder) + b"\0" for folder in folders))
    return frozenset(folders[int(line.removeprefix(_LINKED))] for line in output.splitlines()
                     if line.startswith(_LINKED))


def _parents(name: str) -> list[str]:
    """Return the folders that a file lies in, relative to the project, the innermost first."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]


class NamedFile(Frozen):
    """A file that the user named on the command line.

    remote_name: its name in the project's folder on the remote machine;
    path: the local file, if it is not one of the project's files and is uploaded separately.
    """

    remote_name: str
    path: str | None = None


def locate_file(path: str, project: str, files: Sequence[str], what: str) -> NamedFile:
    """Return the remote name of a file that the user named. RemoteError if it does not exist here.

    files: the project's; what: its kind, for the message.
    """
    if not os.path.isfile(path):
        raise RemoteError(f"no such {what} on this machine", where=path,
                          hint="files are read here, and uploaded")
    inside = os.path.relpath(os.path.abspath(path), os.path.abspath(project))
    if inside in files and not os.path.islink(path):
        return NamedFile(inside)
    return NamedFile(f"{remote_server.NAMED_FILES}/{os.path.basename(path)}", path)


def upload_named_files(remote: Remote, items: Sequence[NamedFile], dry_run: bool = False) -> Upload:
    """Upload the named files that are not the project's into a hidden folder of it."""
    outside = {item.remote_name: item.path for item in items if item.path}
    if not outside or dry_run:
        return Upload([(name, os.path.getsize(path)) for name, path in outside.items()])
    output = remote.rsync("--copy-links", "--perms", "--times", "--compress", "--out-format=%i %l %n", "--",
                          *map(os.path.abspath, outside.values()), f"{remote.rsync_path(remote_server.NAMED_FILES)}/")
    return Upload([(f"{remote_server.NAMED_FILES}/{match[2]}", int(match[1])) for line in output.splitlines()
                   if line[:2] == "<f" and (match := _ITEM.match(line))])
