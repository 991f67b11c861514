"""Write files without touching what somebody has edited: a file is replaced only if it is as shipped or as written."""
from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from src.io import files

_MARK = re.compile(r"(?m)^# written by experiments\.py setup ([0-9a-f]{12}); edit it, and it is left alone\n")
# of the files as they are shipped, which nobody has adapted yet; tests/submission/setup/test_files_to_write.py
SHIPPED = {"submit_cpu.sh": "3ad4f2cdb508", "activate.sh": "6430932bdbef"}
_SHOWN = ("partition", "account", "qos", "cpus-per-task", "mem", "gres", "constraint", "time")


class Change(NamedTuple):
    """A file to write. text: with its mark; old: its text on disk, None if it does not exist."""

    path: str
    text: str
    old: str | None

    def diff(self) -> list[str]:
        """Return the lines of a unified diff; for a new script, its main options of sbatch."""
        name = os.path.basename(self.path)
        if self.old is None:
            options = (line.removeprefix("#SBATCH --") for line in self.text.splitlines() if line.startswith("#SBATCH"))
            return [f"new   {name}: {', '.join(option for option in options if option.startswith(_SHOWN))}"]
        lines = difflib.unified_diff(self.old.splitlines(), self.text.splitlines(), name, name, lineterm="", n=0)
        return [line for line in lines if not line.startswith("@@")]


def plan_changes(project: str, texts: Mapping[str, str]) -> tuple[list[Change], list[str]]:
    """Return the files to write, and the names of those that are left alone because somebody has edited them.

    texts: by file name in the project. A file that would not change is in neither.
    """
    changes, edited = [], []
    for name, text in texts.items():
        path = os.path.join(project, name)
        old = files.read_text(path)
        marked = with_mark(text)
        if old in (text, marked):
            continue
        if old is not None and not is_untouched(name, old):
            edited.append(name)
        else:
            changes.append(Change(path, marked, old))
    return changes, edited


def write(change: Change) -> None:
    """Write a file; one that names its interpreter is executable."""
    files.write_atomic(change.path, change.text)
    os.chmod(change.path, 0o755 if change.text.startswith("#!") else 0o644)


def restore_hint(name: str) -> str:
    """Return what to do to have setup write an edited file again."""
    return f"`git checkout {name}` restores the shipped one" if name in SHIPPED else f"`rm {name}` removes it"


def with_mark(text: str) -> str:
    """Return a script with a comment that has the hash of the rest, so that an edit is noticed."""
    first, rest = text.split("\n", 1)
    return f"{first}\n# written by experiments.py setup {digest(text)}; edit it, and it is left alone\n{rest}"


def is_untouched(name: str, text: str) -> bool:
    """Return whether a file is as shipped, or as an earlier setup wrote it."""
    if mark := _MARK.search(text):
        return digest(without_mark(text)) == mark[1]
    return SHIPPED.get(name) == digest(text)


def without_mark(text: str) -> str:
    """Return a script as it was before `with_mark`."""
    return _MARK.sub("", text, count=1)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
