"""Fixtures of attacks by other users and machines. docs/security.md lists the attacks."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

OTHER_USER = 65534


class Victim:
    """A file and a folder of the attacked user, outside of everything that a command is meant to change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "victim"
        self.folder.mkdir()
        self.file = self.folder / "authorized_keys"
        self.file.write_text("my key\n")
        (self.folder / "resume-0000000001.pt").write_text("a state of another project")

    def is_intact(self) -> bool:
        """Return whether nothing was written, added or removed."""
        return sorted(os.listdir(self.folder)) == ["authorized_keys", "resume-0000000001.pt"] and (
            self.file.read_text() == "my key\n")


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path)


def link_of_another_user(path: Path, target: Path) -> None:
    """Make a symbolic link that belongs to another user. Skips the test unless it runs as root."""
    if os.geteuid():
        pytest.skip("only root can make files of another user")
    path.symlink_to(target)
    os.lchown(path, OTHER_USER, OTHER_USER)
