"""What travels to another machine: the files that git has or would take, without results, data and environments"""
from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from src import run_folder
from src.errors import RemoteError
from src.submission import far_side, provenance
from src.submission.plan import count
from src.submission.remote import Remote

_STAYS = frozenset(("results", "data", ".venv", ".git", ".gridiron"))  # at the top, links too
_ENVIRONMENT = ("pyvenv.cfg", "conda-meta")  # what the folder of one has
# folders that are links there stay links; a file is whole at every instant, and all take their places at the end
_RSYNC = ("--links", "--perms", "--times", "--compress", "--keep-dirlinks", "--delay-updates", "--out-format=%i %l %n")
_ITEM = re.compile(r"[<c.][fLdDS]\S* (\d+) (.*)")
_SHOWN = 12  # files that a dry run names


@dataclass(frozen=True)
class Sent:
    """What rsync sends, or would: (name, bytes) of each file that is new or changed."""

    files: list[tuple[str, int]]

    def line(self) -> str:
        """`3 files, 12.3 KiB`"""
        if not self.files:
            return "nothing: it is all there"
        return f"{count(len(self.files), 'file')}, {size(sum(number for _, number in self.files))}"

    def lines(self) -> list[str]:
        """A line for each, the largest first; if they are many, for some."""
        rows = sorted(self.files, key=lambda item: (-item[1], item[0]))
        more = rows[_SHOWN:]
        return [f"    {size(number):>10}  {name}" for name, number in rows[:_SHOWN]] + [
            f"    {size(sum(number for _, number in more)):>10}  {count(len(more), 'other file')}"] * bool(more)


def size(number: float) -> str:
    """`12.3 KiB`"""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:,.{0 if unit == 'bytes' else 1}f} {unit}"
        number /= 1024
    return f"{number:,.1f} GiB"


def names(project: str) -> list[str]:
    """The files of a project, links as links: tracked ones, and those that git neither has nor ignores. Without git,
    all sources."""
    found = provenance.listed(project)
    if found is None:
        return provenance.sources(provenance.Code(project))
    inside = functools.cache(lambda folder: _is_of_project(project, folder))
    kept = [name for name in found if name.split("/")[0] not in _STAYS and inside(os.path.dirname(name))]
    return [name for name in dict.fromkeys(kept) if os.path.islink(path := os.path.join(project, name))
            or os.path.isfile(path)]


def _is_of_project(project: str, folder: str) -> bool:
    """Whether a folder is neither in a batch nor in an environment that lies in the project and is not ignored."""
    while folder:
        path = os.path.join(project, folder)
        if any(os.path.exists(os.path.join(path, name)) for name in _ENVIRONMENT) or run_folder.is_batch_folder(
                path) and os.path.isdir(os.path.join(path, run_folder.SUBMISSIONS)):
            return False
        folder = os.path.dirname(folder)
    return True


def send(to: Remote, project: str, files: Sequence[str], dry_run: bool = False) -> Sent:
    """Bring the project's files into its folder there: those that changed. Nothing is removed by this."""
    said = to.rsync(*_RSYNC, *["--dry-run"] * dry_run, "--files-from=-", "--from0", "--", os.path.join(project, ""),
                    to.path() + "/", data=b"".join(os.fsencode(name) + b"\0" for name in files))
    found = [(match[2], int(match[1])) for line in said.splitlines()
             if line[:1] in "<c" and line[1:2] in "fL" and (match := _ITEM.match(line))]
    return Sent(found)


@dataclass(frozen=True)
class Given:
    """A file that the user named. there: how it is called in the project's folder there; path: where it is here, if it
    is none of the project's files and so is sent by itself.
    """

    there: str
    path: str | None = None


def given(path: str, project: str, files: Sequence[str], what: str) -> Given:
    """How a file that the user named is called there. RemoteError if there is none."""
    if not os.path.isfile(path):
        raise RemoteError(f"there is no such {what} here", where=path, hint="files are read here, and sent")
    inside = os.path.relpath(os.path.abspath(path), os.path.abspath(project))
    if inside in files and not os.path.islink(path):
        return Given(inside)
    return Given(f"{far_side.GIVEN}/{os.path.basename(path)}", path)


def send_given(to: Remote, items: Sequence[Given], dry_run: bool = False) -> Sent:
    """Bring what is none of the project's files, into a hidden folder of it."""
    outside = {item.there: item.path for item in items if item.path}
    if not outside or dry_run:
        return Sent([(there, os.path.getsize(path)) for there, path in outside.items()])
    said = to.rsync("--copy-links", "--perms", "--times", "--compress", "--out-format=%i %l %n", "--",
                    *map(os.path.abspath, outside.values()), to.path(far_side.GIVEN) + "/")
    return Sent([(f"{far_side.GIVEN}/{match[2]}", int(match[1])) for line in said.splitlines()
                 if line[:2] == "<f" and (match := _ITEM.match(line))])
