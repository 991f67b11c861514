"""Errands, commands given on another machine, as files: what each prints, how far it is, what it asks and is told"""
from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable

from src.errors import BatchError
from src.io import files
from src.submission.system import process

FOLDER = ".gridiron/errands"  # a folder for each command that was begun here
_KEPT = 30 * 86400  # seconds for which a command that has ended is remembered
_SILENT = 60.0  # seconds without a sign of life after which a command that runs elsewhere is gone
_ALONE = 120.0  # seconds without a follower after which a question is taken as unanswered
# in an errand's folder; what it prints, who runs it, its exit status, how far it is, a question and its answer
OUT, ERR, RUNNER, EXIT_STATUS, PROGRESS, ARGUMENTS = "out", "err", "who.json", "status", "done.json", "words.json"
QUESTION, _ANSWER, FOLLOWED, INTERRUPT = "question", "answer", "followed", "interrupt"
# for the shell, in the project's folder: prints something if a command has not ended, sooner than Python could
LIST_RUNNING = (f"for errand in {FOLDER}/*/; do "
              f'if [ -e "$errand"{ARGUMENTS} ] && [ ! -e "$errand"{EXIT_STATUS} ]; then echo "$errand"; fi; done')


def ask(folder: str, question: str) -> str:
    """What the user answers on the other machine. BatchError if nobody is there, or has not been for two minutes."""
    print(question, end="", flush=True)
    path = os.path.join(folder, QUESTION)
    number = 1 + (files.read_json(path) or 0)
    files.write_json(path, number, sync=False)
    followed = os.path.join(folder, FOLLOWED)
    while (answer := files.read_json(answer_path(folder, number))) is None:
        if os.stat(followed).st_mtime < time.time() - _ALONE:
            break
        time.sleep(0.05)
    if answer is None or answer["text"] is None:
        print()
        raise BatchError("nobody is there to ask", where="the other machine", hint="-y goes on without a question")
    return str(answer["text"]).strip()


def write_progress(folder: str, done: int, total: int, noun: str, failed: int) -> None:
    """How far the command is, for a bar on the other machine."""
    files.write_json(os.path.join(folder, PROGRESS), [done, total, noun, failed], sync=False)


def folders() -> Iterable[str]:
    """The folders of those that are remembered, the newest first."""
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(FOLDER), reverse=True):
            yield os.path.join(FOLDER, name)


def remove_old() -> None:
    """Remove the folders of those that ended long ago."""
    for folder in list(folders()):
        with contextlib.suppress(OSError):
            if os.stat(folder).st_mtime < time.time() - _KEPT and not is_alive(folder):
                shutil.rmtree(folder, ignore_errors=True)


def running_token(words: list[str]) -> str | None:
    """The token of an errand with these words that has not ended."""
    for folder in folders():
        if not os.path.exists(os.path.join(folder, EXIT_STATUS)) and files.read_json(
                os.path.join(folder, ARGUMENTS)) == words and is_alive(folder):
            return os.path.basename(folder)
    return None


def is_alive(folder: str) -> bool:
    """Whether an errand's command may still run; as far as is seen from here, and while nothing says who runs it."""
    path = os.path.join(folder, RUNNER)
    alive = process.is_alive(files.read_json(path) or {})
    if alive is None:  # it is about to say who it is, or runs on another login node
        return os.stat(path if os.path.exists(path) else folder).st_mtime > time.time() - _SILENT
    return alive


def answer_path(folder: str, number: int) -> str:
    """The file of the answer to a question."""
    return os.path.join(folder, f"{_ANSWER}-{number}")


def touch(path: str) -> None:
    """Make a file if there is none, and it is of this moment."""
    with open(path, "ab"):
        os.utime(path)
