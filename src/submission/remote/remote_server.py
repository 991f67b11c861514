"""The remote end of a command: start it once, detached from the connection, and report on it to whoever follows.

ssh starts `python -m src.submission.remote.remote_server TOKEN` in the project's folder. Its standard input is a line
of JSON, the request, followed by lines with answers. Its standard output is lines of JSON after MARK, since a login
shell may print lines too.

Request: `words`, the arguments of the command (null to follow one that was started before); `out` and `err`, the bytes
of its output that were read already; `files`, the names of the uploaded files; `code`, their provenance. With
"going" in place of TOKEN, only `words`, to request the token of a running command with these arguments.
Answers: `answer` and `text`, or `interrupt`.
Output: `out` and `err`, text; `done`, the progress; `ask`, the number of a question; `exit`, the exit status; `lost`,
if the command died; `going`, the token of the running command, or null.
"""
from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from src import run_folder
from src.io import deletion, files
from src.submission.system import detached, process

MARK = "gridiron: the far side speaks"
NAMED_FILES = ".gridiron/given"  # folder of uploaded files outside the project, such as a job spec from elsewhere
_UPLOADED = ".gridiron/sent"  # the names of the project's files of the last upload, each followed by NUL
_MIN_PAUSE, _MAX_PAUSE = 0.02, 0.25  # seconds between two looks at the command's files


def main(token: str) -> None:
    """Start the command of the request, unless it was started before, and follow it until it ends."""
    lines = _Lines(sys.stdin.fileno())
    request = json.loads(lines.wait())
    print(f"\n{MARK}", flush=True)
    if token == "going":
        _send(going=detached.running_token(request["words"]))
        return
    folder = os.path.abspath(os.path.join(detached.FOLDER, token))
    if request["words"] is not None and not os.path.isdir(folder):
        _start(folder, request)
    _follow(folder, lines, request["out"], request["err"])


def _send(**frame: Any) -> None:
    print(json.dumps(frame), flush=True)


class _Lines:
    """Lines of a stream, read without blocking."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.rest, self.ended = descriptor, b"", False
        self.following: list[str] = []  # lines that were read together with the first

    def wait(self) -> str:
        """Return the first line; `take` returns those after it."""
        while not (lines := self.take(None)) and not self.ended:
            pass
        first, *self.following = lines or ["null"]
        return first

    def take(self, timeout: float | None) -> list[str]:
        """Return the complete lines that have arrived; wait up to `timeout` seconds for the first, None: forever."""
        if self.following:
            following, self.following = self.following, []
            return following
        if not self.ended and select.select([self.descriptor], [], [], timeout)[0]:
            chunk = os.read(self.descriptor, 1 << 20)
            self.ended = not chunk
            *lines, self.rest = (self.rest + chunk).split(b"\n")
            return [line.decode() for line in lines]
        return []


def _start(folder: str, request: Mapping[str, Any]) -> None:
    """Create the command's folder atomically, and start the command in its own session, independent of ssh."""
    detached.remove_old()
    if request["files"] is not None:
        _remove_deleted(request["files"])
    staging = os.path.join(os.path.dirname(detached.FOLDER),
                           f".{os.path.basename(folder)}.{os.uname().nodename}.{os.getpid()}")
    os.makedirs(staging)
    if request["code"]:
        _store_code(staging, request["code"])
    files.write_json(os.path.join(staging, detached.ARGUMENTS), request["words"])
    for name in (detached.FOLLOWED, detached.OUT, detached.ERR):
        detached.touch(os.path.join(staging, name))
    try:
        os.rename(staging, folder)
    except OSError:  # another connection has started it meanwhile
        deletion.remove_tree(staging)
        return
    with open(files.open_for_append(os.path.join(folder, detached.OUT)), "ab") as out, open(
            files.open_for_append(os.path.join(folder, detached.ERR)), "ab") as err:
        subprocess.Popen([sys.executable, "-m", "src.submission.remote.remote_server", "run", folder],
                         stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
                         env={**os.environ, process.DETACHED_COMMAND: folder})


def run(folder: str) -> None:
    """Run the command, and write its exit status. Ctrl-C arrives as a file, since any login node may send it."""
    runner, interrupt = os.path.join(folder, detached.RUNNER), os.path.join(folder, detached.INTERRUPT)
    files.write_json(runner, process.identity())
    # Ctrl-C is for the command; a handler instead of SIG_IGN, which the command would inherit
    signal.signal(signal.SIGINT, lambda *_: None)
    child, code = subprocess.Popen([sys.executable, *files.read_json(os.path.join(folder, detached.ARGUMENTS))]), None
    while code is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = child.wait(0.5)
        detached.touch(runner)  # heartbeat for other login nodes, which cannot see the process
        if os.path.exists(interrupt):
            os.unlink(interrupt)
            os.killpg(0, signal.SIGINT)
    files.write_atomic(os.path.join(folder, detached.EXIT_STATUS), str(128 - code if code < 0 else code))


def _store_code(folder: str, code: Mapping[str, Any]) -> None:
    """Store the provenance of the project's files."""
    diff = code["diff"]
    files.write_json(os.path.join(folder, run_folder.CODE_RECORD), {
        key: value for key, value in code.items() if key != "diff"})
    if diff is not None:
        files.write_atomic(os.path.join(folder, run_folder.DIFF), base64.b64decode(diff))
    if not os.path.exists(".git") and run_folder.COMMIT not in code["files"]:  # runs record it as their commit
        if code["commit"]:
            files.write_atomic(run_folder.COMMIT, f"{code['commit']}\n")
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(run_folder.COMMIT)


def _remove_deleted(names: list[str]) -> None:
    """Remove the files of the last upload that are not in this one, and the folders that become empty.

    Nothing else is ever removed, and nothing through a symbolic link.
    """
    try:
        with open(_UPLOADED, "rb") as file:
            before = {os.fsdecode(name) for name in file.read().split(b"\0")}
    except FileNotFoundError:
        before = set()
    with deletion.folder_descriptor(os.path.realpath(".")) as project:
        for name in before - set(names):
            deletion.remove_below(project, name)
    files.write_atomic(_UPLOADED, b"".join(os.fsencode(name) + b"\0" for name in names))


def _follow(folder: str, lines: _Lines, out: int, err: int) -> None:
    """Send output, progress and questions of the command until it ends or the connection closes.

    out, err: bytes of its output that the other side has already.
    """
    if not os.path.isdir(folder):
        _send(lost=True)
        return
    follower = _Follower(folder, {detached.OUT: out, detached.ERR: err})
    pause = _MIN_PAUSE
    while True:
        detached.touch(os.path.join(folder, detached.FOLLOWED))
        status = files.read_text(os.path.join(folder, detached.EXIT_STATUS))
        # checked before the output is read, so that the last lines are not missed
        alive = status is not None or detached.is_alive(folder)
        has_news = follower.send_news()
        if status is not None:
            _send(exit=int(status))
            return
        if not alive and not os.path.exists(os.path.join(folder, detached.EXIT_STATUS)):
            _send(lost=True)
            return
        pause = _MIN_PAUSE if has_news else min(pause * 1.3, _MAX_PAUSE)
        for line in lines.take(pause):
            _handle_answer(folder, json.loads(line))
        if lines.ended:  # the connection is closed
            return


class _Follower:
    """Sends what is new in a command's folder.

    position: number of bytes of each stream that were sent.
    """

    def __init__(self, folder: str, position: dict[str, int]) -> None:
        self.folder, self.position = folder, position
        self.last_question = -1
        self.progress: list[Any] | None = None

    def send_news(self) -> bool:
        """Send what is new; return whether there was output or progress."""
        has_news = False
        ends = {stream: os.path.getsize(os.path.join(self.folder, stream)) for stream in self.position}
        # read after the sizes: never older than the output up to them
        progress = files.read_json(os.path.join(self.folder, detached.PROGRESS))
        if progress != self.progress:
            self.progress, has_news = progress, True
            _send(done=progress)
        for stream, end in ends.items():
            while text := _read(os.path.join(self.folder, stream), self.position[stream], end):
                _send(**{stream: text.decode("utf-8", "surrogateescape")})
                self.position[stream] += len(text)
                has_news = True
        question = files.read_json(os.path.join(self.folder, detached.QUESTION))
        if isinstance(question, int) and question > self.last_question and not os.path.exists(
                detached.answer_path(self.folder, question)):
            self.last_question = question
            _send(ask=question)
        return has_news


def _read(path: str, start: int, end: int) -> bytes:
    """Return a file's bytes from `start` to `end`, at most 64 KiB of them."""
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(max(0, min(end - start, 1 << 16)))


def _handle_answer(folder: str, line: Mapping[str, Any]) -> None:
    """Store an answer to a question, or a request to interrupt the command."""
    if "answer" in line:
        files.write_json(detached.answer_path(folder, line["answer"]), {"text": line["text"]}, sync=False)
    else:
        detached.touch(os.path.join(folder, detached.INTERRUPT))


if __name__ == "__main__":
    files.limit_umask()
    if sys.argv[1] == "run":
        run(sys.argv[2])
    else:
        main(sys.argv[1])
