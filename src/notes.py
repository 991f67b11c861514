"""Notes of the user on a batch, each with the time and the commit, as lines of JSON."""
from __future__ import annotations

import json
import os
import time
from typing import NamedTuple

from src import run_folder
from src.io import files, records, secrets

_FORMS: records.Forms = {"time": records.is_time, "commit": records.optional(records.is_text), "text": records.is_text}


class Note(NamedTuple):
    """One note. time: unix seconds; commit: None if unknown."""

    time: float
    commit: str | None
    text: str

    def line(self) -> str:
        """Format the note as `2026-11-20 12:34  1a2b3c4d5e  its text`."""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.time))
        return f"{when}  {self.commit or 'no commit'}  {self.text}"


def add(batch: str, text: str, commit: str | None) -> Note:
    """Append a note to the notes of a batch; earlier ones are never rewritten. Secrets in it are redacted."""
    note = Note(time.time(), commit, secrets.redact_json(text, secrets.secret_values(os.environ)))
    files.append_line(os.path.join(batch, run_folder.NOTES), json.dumps(note._asdict(), ensure_ascii=False), sync=True)
    return note


def read(batch: str) -> list[Note]:
    """Return the notes of a batch, the oldest first."""
    lines = [records.fields(line, _FORMS) for line in files.read_json_lines(os.path.join(batch, run_folder.NOTES))]
    return sorted((Note(line.get("time", 0.0), line.get("commit"), line.get("text", "")) for line in lines if line),
                  key=lambda note: note.time)


def merge(batch: str, other: str) -> None:
    """Append notes that another copy of the batch has and this one lacks."""
    existing = set(read(batch))
    for note in read(other):
        if note not in existing:
            files.append_line(os.path.join(batch, run_folder.NOTES), json.dumps(note._asdict(), ensure_ascii=False))
