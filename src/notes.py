"""Notes on a batch: what somebody concluded from it, each with the time and the commit, a line of JSON each"""
from __future__ import annotations

import json
import os
import time
from typing import NamedTuple

from src import run_folder
from src.io import files


class Note(NamedTuple):
    """time: unix seconds; commit: as it was told, None if it was not known."""

    time: float
    commit: str | None
    text: str

    def line(self) -> str:
        """`2026-11-20 12:34  1a2b3c4d5e  what was concluded`."""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.time))
        return f"{when}  {self.commit or 'no commit'}  {self.text}"


def add(batch: str, text: str, commit: str | None) -> Note:
    """Append a note to the log of a batch, which is never written anew."""
    note = Note(time.time(), commit, text)
    files.append_line(os.path.join(batch, run_folder.NOTES), json.dumps(note._asdict(), ensure_ascii=False), sync=True)
    return note


def read(batch: str) -> list[Note]:
    """The notes of a batch, the oldest first."""
    return sorted((Note(line.get("time", 0.0), line.get("commit"), str(line.get("text", "")))
                   for line in files.read_json_lines(os.path.join(batch, run_folder.NOTES)) if isinstance(line, dict)),
                  key=lambda note: note.time)


def merge(batch: str, other: str) -> None:
    """Append the notes of another copy of a batch that this one lacks."""
    here = set(read(batch))
    for note in read(other):
        if note not in here:
            files.append_line(os.path.join(batch, run_folder.NOTES), json.dumps(note._asdict(), ensure_ascii=False))
