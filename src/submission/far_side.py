"""The far end of a command from another machine: begins it once, outlives the connection, tells what it says to anyone

`python -m src.submission.far_side TOKEN` is started by ssh in the project's folder. Its standard input is a line of
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
import time
from collections.abc import Iterable, Mapping
from typing import Any

from src import files, run_folder
from src.errors import BatchError
from src.submission import process

MARK = "gridiron: the far side speaks"
CALLS = ".gridiron/calls"  # a folder for each command that was begun here
GIVEN = ".gridiron/given"  # files that were sent and are none of the project's, as a job spec from elsewhere
_SENT = ".gridiron/sent"  # the names of the project's files that were sent last, each with NUL
_KEPT = 30 * 86400  # seconds for which a command that has ended is remembered
_SILENT = 60.0  # seconds without a sign of life after which a command that runs elsewhere is gone
_ALONE = 120.0  # seconds without a follower after which a question is taken as unanswered
# in a call's folder; what it prints, who runs it, its exit status, how far it is, a question and its answer
_OUT, _ERR, _WHO, _STATUS, _DONE, _WORDS = "out", "err", "who.json", "status", "done.json", "words.json"
_QUESTION, _ANSWER, _FOLLOWED, _INTERRUPT = "question", "answer", "followed", "interrupt"
# for the shell, in the project's folder: prints something if a command has not ended, sooner than Python could
UNFINISHED = (f"for call in {CALLS}/*/; do "
              f'if [ -e "$call"{_WORDS} ] && [ ! -e "$call"{_STATUS} ]; then echo "$call"; fi; done')


def main(token: str) -> None:
    """Begin the command that the request holds, unless that was done before, and follow it to its end."""
    calls = _Lines(sys.stdin.fileno())
    request = json.loads(calls.wait())
    print(f"\n{MARK}", flush=True)
    if token == "going":
        _say(going=_going(request["words"]))
        return
    folder = os.path.abspath(os.path.join(CALLS, token))
    if request["words"] is not None and not os.path.isdir(folder):
        _begin(folder, request)
    _follow(folder, calls, request["out"], request["err"])


def _say(**frame: Any) -> None:
    print(json.dumps(frame), flush=True)


class _Lines:
    """Lines of a stream, as they come."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.rest, self.ended = descriptor, b"", False

    def wait(self) -> str:
        """The first line."""
        while not (lines := self.take(None)) and not self.ended:
            pass
        return lines[0] if lines else "null"

    def take(self, seconds: float | None) -> list[str]:
        """The whole lines that have come; waits so long for the first one, or for as long as it takes (None)."""
        if not self.ended and select.select([self.descriptor], [], [], seconds)[0]:
            chunk = os.read(self.descriptor, 1 << 20)
            self.ended = not chunk
            *lines, self.rest = (self.rest + chunk).split(b"\n")
            return [line.decode() for line in lines]
        return []


# ---- beginning it ----

def _begin(folder: str, request: Mapping[str, Any]) -> None:
    """Make the call's folder, whole, and start the command in a session of its own, which no lost connection ends."""
    _forget_old()
    if request["files"] is not None:
        _remove_what_is_gone(request["files"])
    staging = os.path.join(os.path.dirname(CALLS), f".{os.path.basename(folder)}.{os.uname().nodename}.{os.getpid()}")
    os.makedirs(staging)
    if request["code"]:
        _keep_code(staging, request["code"])
    files.write_json(os.path.join(staging, _WORDS), request["words"])
    for name in (_FOLLOWED, _OUT, _ERR):
        _touch(os.path.join(staging, name))
    try:
        os.rename(staging, folder)
    except OSError:  # another connection has begun it meanwhile
        shutil.rmtree(staging)
        return
    with open(os.path.join(folder, _OUT), "ab") as out, open(os.path.join(folder, _ERR), "ab") as err:
        subprocess.Popen([sys.executable, "-m", "src.submission.far_side", "run", folder], stdin=subprocess.DEVNULL,
                         stdout=out, stderr=err, start_new_session=True,
                         env={**os.environ, process.CALL: folder})


def run(folder: str) -> None:
    """Run the call's command, and write its exit status. Ctrl-C, from whatever login node, comes as a file."""
    who, interrupt = os.path.join(folder, _WHO), os.path.join(folder, _INTERRUPT)
    files.write_json(who, process.identity())
    # Ctrl-C is for the command; a handler, and not SIG_IGN, which it would inherit
    signal.signal(signal.SIGINT, lambda *_: None)
    child, code = subprocess.Popen([sys.executable, *files.read_json(os.path.join(folder, _WORDS))]), None
    while code is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = child.wait(0.5)
        _touch(who)  # a sign of life for other login nodes, which cannot see the process
        if os.path.exists(interrupt):
            os.unlink(interrupt)
            os.killpg(0, signal.SIGINT)
    files.write_atomic(os.path.join(folder, _STATUS), str(128 - code if code < 0 else code))


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


def _calls() -> Iterable[str]:
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(CALLS), reverse=True):
            yield os.path.join(CALLS, name)


def _forget_old() -> None:
    for folder in list(_calls()):
        with contextlib.suppress(OSError):
            if os.stat(folder).st_mtime < time.time() - _KEPT and not _is_alive(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _going(words: list[str]) -> str | None:
    """The token of a call with these words that has not ended."""
    for folder in _calls():
        if not os.path.exists(os.path.join(folder, _STATUS)) and files.read_json(
                os.path.join(folder, _WORDS)) == words and _is_alive(folder):
            return os.path.basename(folder)
    return None


def _is_alive(folder: str) -> bool:
    """Whether a call's command may still run; as far as can be seen from here, and while nothing says who runs it."""
    path = os.path.join(folder, _WHO)
    alive = process.is_alive(files.read_json(path) or {})
    if alive is None:  # it is about to say who it is, or runs on another login node
        return os.stat(path if os.path.exists(path) else folder).st_mtime > time.time() - _SILENT
    return alive


# ---- following it ----

def _follow(folder: str, calls: _Lines, out: int, err: int) -> None:
    """Say what the command has printed since these bytes, how far it is, what it asks, and how it ended."""
    shown, asked, done, pause = {_OUT: out, _ERR: err}, -1, None, 0.02
    if not os.path.isdir(folder):
        _say(lost=True)
        return
    while True:
        _touch(os.path.join(folder, _FOLLOWED))
        status = files.read_text(os.path.join(folder, _STATUS))
        alive = status is not None or _is_alive(folder)  # looked at before its words are: none are left behind
        quiet = True
        ends = {stream: os.path.getsize(os.path.join(folder, stream)) for stream in shown}
        if (now := files.read_json(os.path.join(folder, _DONE))) != done:  # no older than the words up to there
            done, quiet = now, False
            _say(done=done)
        for stream, end in ends.items():
            while text := _read(os.path.join(folder, stream), shown[stream], end):
                _say(**{stream: text.decode("utf-8", "surrogateescape")})
                shown[stream] += len(text)
                quiet = False
        question = files.read_json(os.path.join(folder, _QUESTION))
        if question is not None and question > asked and not os.path.exists(_answer(folder, question)):
            asked = question
            _say(ask=asked)
        if status is not None:
            _say(exit=int(status))
            return
        if not alive and not os.path.exists(os.path.join(folder, _STATUS)):
            _say(lost=True)
            return
        pause = min(pause * 1.3, 0.25) if quiet else 0.02
        for line in calls.take(pause):
            _obey(folder, json.loads(line))
        if calls.ended:  # nobody listens
            return


def _read(path: str, start: int, end: int) -> bytes:
    """What a file has between two places, or the beginning of it."""
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(max(0, min(end - start, 1 << 16)))


def _answer(folder: str, number: int) -> str:
    return os.path.join(folder, f"{_ANSWER}-{number}")


def _touch(path: str) -> None:
    with open(path, "ab"):
        os.utime(path)


def _obey(folder: str, line: Mapping[str, Any]) -> None:
    """An answer to a question, or Ctrl-C."""
    if "answer" in line:
        files.write_json(_answer(folder, line["answer"]), {"text": line["text"]}, sync=False)
    else:
        _touch(os.path.join(folder, _INTERRUPT))


# ---- in the command itself ----

def ask(folder: str, question: str) -> str:
    """What the user answers on the other machine. BatchError if nobody is there, or has not been for two minutes."""
    print(question, end="", flush=True)
    path = os.path.join(folder, _QUESTION)
    number = 1 + (files.read_json(path) or 0)
    files.write_json(path, number, sync=False)
    followed = os.path.join(folder, _FOLLOWED)
    while (answer := files.read_json(_answer(folder, number))) is None:
        if os.stat(followed).st_mtime < time.time() - _ALONE:
            break
        time.sleep(0.05)
    if answer is None or answer["text"] is None:
        print()
        raise BatchError("nobody is there to ask", where="the other machine", hint="-y goes on without a question")
    return str(answer["text"]).strip()


def tell(folder: str, done: int, total: int, noun: str, failed: int) -> None:
    """How far the command is, for a bar on the other machine."""
    files.write_json(os.path.join(folder, _DONE), [done, total, noun, failed], sync=False)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2])
    else:
        main(sys.argv[1])
