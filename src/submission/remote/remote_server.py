"""The far end of a command from another machine: begins it once, outlives the connection, tells what it says to anyone

`python -m src.submission.remote.remote_server TOKEN` is started by ssh in the project's folder. Its standard input is a
line of
JSON, the request, and then answers; its standard output is lines of JSON after a mark: a login shell may speak too.
"""
from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from src import run_folder
from src.io import files
from src.submission.system import detached, process

MARK = "gridiron: the far side speaks"
NAMED_FILES = ".gridiron/given"  # files that were sent and are none of the project's, as a job spec from elsewhere
_SENT = ".gridiron/sent"  # the names of the project's files that were sent last, each with NUL
def main(token: str) -> None:
    """Begin the command that the request holds, unless that was done before, and follow it to its end."""
    lines = _Lines(sys.stdin.fileno())
    request = json.loads(lines.wait())
    print(f"\n{MARK}", flush=True)
    if token == "going":
        _say(going=detached.running_token(request["words"]))
        return
    folder = os.path.abspath(os.path.join(detached.FOLDER, token))
    if request["words"] is not None and not os.path.isdir(folder):
        _begin(folder, request)
    _follow(folder, lines, request["out"], request["err"])


def _say(**frame: Any) -> None:
    print(json.dumps(frame), flush=True)


class _Lines:
    """Lines of a stream, as they come."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.rest, self.ended = descriptor, b"", False
        self.following: list[str] = []  # lines that were read together with the first

    def wait(self) -> str:
        """Return the first line; `take` returns those after it."""
        while not (lines := self.take(None)) and not self.ended:
            pass
        first, *self.following = lines or ["null"]
        return first

    def take(self, seconds: float | None) -> list[str]:
        """The whole lines that have come; waits so long for the first one, or for as long as it takes (None)."""
        if self.following:
            following, self.following = self.following, []
            return following
        if not self.ended and select.select([self.descriptor], [], [], seconds)[0]:
            chunk = os.read(self.descriptor, 1 << 20)
            self.ended = not chunk
            *lines, self.rest = (self.rest + chunk).split(b"\n")
            return [line.decode() for line in lines]
        return []


def _begin(folder: str, request: Mapping[str, Any]) -> None:
    """Make the errand's folder, whole, and start the command in a session of its own, which no lost connection ends."""
    detached.remove_old()
    if request["files"] is not None:
        _remove_what_is_gone(request["files"])
    staging = os.path.join(os.path.dirname(detached.FOLDER),
                           f".{os.path.basename(folder)}.{os.uname().nodename}.{os.getpid()}")
    os.makedirs(staging)
    if request["code"]:
        _keep_code(staging, request["code"])
    files.write_json(os.path.join(staging, detached.ARGUMENTS), request["words"])
    for name in (detached.FOLLOWED, detached.OUT, detached.ERR):
        detached.touch(os.path.join(staging, name))
    try:
        os.rename(staging, folder)
    except OSError:  # another connection has begun it meanwhile
        shutil.rmtree(staging)
        return
    with open(os.path.join(folder, detached.OUT), "ab") as out, open(os.path.join(folder, detached.ERR), "ab") as err:
        subprocess.Popen([sys.executable, "-m", "src.submission.remote.remote_server", "run", folder],
                         stdin=subprocess.DEVNULL,
                         stdout=out, stderr=err, start_new_session=True,
                         env={**os.environ, process.DETACHED_COMMAND: folder})


def run(folder: str) -> None:
    """Run the errand's command, and write its exit status. Ctrl-C, from whatever login node, comes as a file."""
    who, interrupt = os.path.join(folder, detached.RUNNER), os.path.join(folder, detached.INTERRUPT)
    files.write_json(who, process.identity())
    # Ctrl-C is for the command; a handler, and not SIG_IGN, which it would inherit
    signal.signal(signal.SIGINT, lambda *_: None)
    child, code = subprocess.Popen([sys.executable, *files.read_json(os.path.join(folder, detached.ARGUMENTS))]), None
    while code is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = child.wait(0.5)
        detached.touch(who)  # a sign of life for other login nodes, which cannot see the process
        if os.path.exists(interrupt):
            os.unlink(interrupt)
            os.killpg(0, signal.SIGINT)
    files.write_atomic(os.path.join(folder, detached.EXIT_STATUS), str(128 - code if code < 0 else code))


def _keep_code(folder: str, code: Mapping[str, Any]) -> None:
    """What the project's files were made from, for provenance."""
    diff = code["diff"]
    files.write_json(os.path.join(folder, run_folder.CODE_RECORD), {
        key: value for key, value in code.items() if key != "diff"})
    if diff is not None:
        files.write_atomic(os.path.join(folder, run_folder.DIFF), base64.b64decode(diff))
    if not os.path.exists(".git") and run_folder.COMMIT not in code["files"]:  # what a run's facts name as its commit
        if code["commit"]:
            files.write_atomic(run_folder.COMMIT, f"{code['commit']}\n")
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(run_folder.COMMIT)


def _remove_what_is_gone(names: list[str]) -> None:
    """Remove the files that were sent the last time and are no more, and the folders that this leaves empty.

    Nothing else is ever removed, and nothing through a link.
    """
    try:
        with open(_SENT, "rb") as file:
            before = {os.fsdecode(name) for name in file.read().split(b"\0")}
    except FileNotFoundError:
        before = set()
    top = os.path.realpath(".")
    for name in before - set(names) - {""}:
        parent = os.path.dirname(name)
        if ".." in name.split("/") or os.path.realpath(parent or ".") != os.path.normpath(f"{top}/{parent}"):
            continue
        if os.path.islink(name) or os.path.isfile(name):
            os.unlink(name)
            with contextlib.suppress(OSError):  # it is not empty
                while parent:
                    os.rmdir(parent)
                    parent = os.path.dirname(parent)
    files.write_atomic(_SENT, b"".join(os.fsencode(name) + b"\0" for name in names))


def _follow(folder: str, lines: _Lines, out: int, err: int) -> None:
    """Say what the command has printed since these bytes, how far it is, what it asks, and how it ended."""
    shown, asked, done, pause = {detached.OUT: out, detached.ERR: err}, -1, None, 0.02
    if not os.path.isdir(folder):
        _say(lost=True)
        return
    while True:
        detached.touch(os.path.join(folder, detached.FOLLOWED))
        status = files.read_text(os.path.join(folder, detached.EXIT_STATUS))
        alive = status is not None or detached.is_alive(folder)  # looked at before its words are: none are left behind
        quiet = True
        ends = {stream: os.path.getsize(os.path.join(folder, stream)) for stream in shown}
        if (now := files.read_json(os.path.join(folder,
                                                detached.PROGRESS))) != done:  # no older than the words up to there
            done, quiet = now, False
            _say(done=done)
        for stream, end in ends.items():
            while text := _read(os.path.join(folder, stream), shown[stream], end):
                _say(**{stream: text.decode("utf-8", "surrogateescape")})
                shown[stream] += len(text)
                quiet = False
        question = files.read_json(os.path.join(folder, detached.QUESTION))
        if question is not None and question > asked and not os.path.exists(detached.answer_path(folder, question)):
            asked = question
            _say(ask=asked)
        if status is not None:
            _say(exit=int(status))
            return
        if not alive and not os.path.exists(os.path.join(folder, detached.EXIT_STATUS)):
            _say(lost=True)
            return
        pause = min(pause * 1.3, 0.25) if quiet else 0.02
        for line in lines.take(pause):
            _obey(folder, json.loads(line))
        if lines.ended:  # nobody listens
            return


def _read(path: str, start: int, end: int) -> bytes:
    """What a file has between two places, or the beginning of it."""
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(max(0, min(end - start, 1 << 16)))


def _obey(folder: str, line: Mapping[str, Any]) -> None:
    """An answer to a question, or Ctrl-C."""
    if "answer" in line:
        files.write_json(detached.answer_path(folder, line["answer"]), {"text": line["text"]}, sync=False)
    else:
        detached.touch(os.path.join(folder, detached.INTERRUPT))


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2])
    else:
        main(sys.argv[1])
