"""Detached commands: a command started from another machine runs on, and both communicate by files in its folder."""
from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable

from src.errors import BatchError
from src.io import deletion, files, records
from src.submission.system import process

FOLDER = ".gridiron/errands"  # in the project; holds a folder for each command that was started here
_RETENTION = 30 * 86400  # seconds for which the folder of an ended command is kept
_HEARTBEAT_TIMEOUT = 60.0  # seconds without a heartbeat after which a command on another login node counts as dead
_ANSWER_TIMEOUT = 120.0  # seconds without a follower after which a question counts as unanswered
# Files in a command's folder: its output, the identity of its process, its exit status, its progress, its arguments, a
# question and the answers, the time at which somebody last followed it, and the request to interrupt it.
OUT, ERR, RUNNER, EXIT_STATUS, PROGRESS, ARGUMENTS = "out", "err", "who.json", "status", "done.json", "words.json"
QUESTION, _ANSWER, FOLLOWED, INTERRUPT = "question", "answer", "followed", "interrupt"
# shell script, run in the project's folder: prints the folders of commands that have not ended, faster than Python
LIST_RUNNING = (f"for errand in {FOLDER}/*/; do "
                f'if [ -e "$errand"{ARGUMENTS} ] && [ ! -e "$errand"{EXIT_STATUS} ]; then echo "$errand"; fi; done')


def ask(folder: str, question: str) -> str:
    """Ask the user on the other machine. BatchError if nobody has followed the command for two minutes."""
    print(question, end="", flush=True)
    path = os.path.join(folder, QUESTION)
    last = files.read_json(path)
    number = 1 + (last if isinstance(last, int) else 0)
    files.write_json(path, number, sync=False)
    followed = os.path.join(folder, FOLLOWED)
    while (answer := files.read_json(answer_path(folder, number))) is None:
        if os.stat(followed).st_mtime < time.time() - _ANSWER_TIMEOUT:
            break
        time.sleep(0.05)
    if answer is None or answer["text"] is None:
        print()
        raise BatchError("nobody answered the question", where="the other machine",
                         hint="pass -y to continue without a question")
    return str(answer["text"]).strip()


def write_progress(folder: str, done: int, total: int, noun: str, failed: int) -> None:
    """Store the progress of the command, for a progress bar on the other machine."""
    files.write_json(os.path.join(folder, PROGRESS), [done, total, noun, failed], sync=False)


def folders() -> Iterable[str]:
    """Yield the folders of all commands, the newest first."""
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(FOLDER), reverse=True):
            yield os.path.join(FOLDER, name)


def remove_old() -> None:
    """Remove the folders of commands that ended long ago."""
    for folder in list(folders()):
        with contextlib.suppress(OSError):
            if os.stat(folder).st_mtime < time.time() - _RETENTION and not is_alive(folder):
                deletion.remove_tree(folder)


def running_token(arguments: list[str]) -> str | None:
    """Return the token of a running command with these arguments; None if there is none."""
    for folder in folders():
        if not os.path.exists(os.path.join(folder, EXIT_STATUS)) and files.read_json(
                os.path.join(folder, ARGUMENTS)) == arguments and is_alive(folder):
            return os.path.basename(folder)
    return None


def is_alive(folder: str) -> bool:
    """Return whether a command may be running; by its heartbeat on another login node, or before it has an identity."""
    path = os.path.join(folder, RUNNER)
    alive = process.is_alive(records.identity(files.read_json(path)))
    if alive is None:
        return os.stat(path if os.path.exists(path) else folder).st_mtime > time.time() - _HEARTBEAT_TIMEOUT
    return alive


def answer_path(folder: str, number: int) -> str:
    """Return the path of the answer to a question."""
    return os.path.join(folder, f"{_ANSWER}-{number}")


def touch(path: str) -> None:
    """Set a file's modification time to now; create the file if there is none."""
    os.close(files.open_for_append(path))
    os.utime(path, follow_symlinks=False)
