"""submit_multiple.py --on HOST: sends the project, has its copy there submit, and follows that through broken lines"""
from __future__ import annotations

import codecs
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO, Any

from src.errors import RemoteError, shell_command
from src.submission.batch import journal, provenance
from src.submission.remote import hosts, remote_server, ssh, upload
from src.submission.remote.ssh import ConnectionLost, Remote
from src.submission.system import detached, terminal
from src.submission.system.signals import Waker


def submit(argv: Sequence[str], project: str, host_name: str, job_spec: str | None, script: str | None,
           has_output_dir: bool, dry_run: bool, json_output: bool) -> int | None:
    """Send what changed, and submit there; the exit status of that. RemoteError says what failed, and how to go on.

    None if all that is left to do is a dry run here, since what is there is not what would be submitted.

    argv: the command line of submit_multiple.py, of which the others are options
    job_spec: None for a retry
    has_output_dir: whether the output_dir of the host must not be used, since the command line has one or it is a retry
    """
    host, known = hosts.find_host(host_name, project), hosts.read_hosts(project)
    files = upload.project_files(project)
    given = {word: upload.locate_file(word, project, files, what)
             for word, what in ((job_spec, "job spec"), (script, "submit script")) if word}
    words = remote_arguments(argv, given, None if has_output_dir else host.output_dir)
    if dry_run:
        far = ssh.connect(host, known_hosts=known, may_be_missing=True)
        return _dry_run(far, project, files, list(given.values()), words, json_output)
    far = ssh.connect(host, create=(detached.FOLDER, remote_server.NAMED_FILES), known_hosts=known)
    again = shell_command("python", "submit_multiple.py", *argv)
    if token := running_token(far, words):
        print(f"this command is still at work on {host.name}; it is followed from its beginning", flush=True)
        return RemoteCall(far, again, token).follow()
    sent = upload.upload_project(far, project, files).files + upload.upload_named_files(far, list(given.values())).files
    print(f"sent       {upload.Upload(sent).summary()} ({host.name}:{host.folder})", flush=True)
    code = provenance.portable_record(provenance.inspect_code(project), files)
    return RemoteCall(far, again, journal.new_token(), words, {"code": code, "files": files}).follow()


def remote_arguments(argv: Sequence[str], given: Mapping[str, upload.NamedFile], output_dir: str | None) -> list[str]:
    """The command there: without --on, and with what named files are called there."""
    kept = []
    for word in ssh.remove_on_option(argv):
        option, _, value = (word[:2], "", word[2:]) if word[:2] == "-s" else word.partition("=")
        if word in given:
            kept.append(given[word].remote_name)
        elif value in given and (option == "-s" or option.startswith("--s") and "--script".startswith(option)):
            kept += ["--script", given[value].remote_name]
        else:
            kept.append(word)
    return ["submit_multiple.py", *kept, *(["--output-dir", output_dir] if output_dir else [])]


def _dry_run(far: Remote, project: str, files: Sequence[str], given: Sequence[upload.NamedFile], words: Sequence[str],
             json_output: bool) -> int | None:
    """What would be sent. If that is nothing, the dry run there; else None, for the one that can be had here."""
    sent = upload.Upload(upload.upload_project(far, project, files, dry_run=True).files
                        + upload.upload_named_files(far, given, dry_run=True).files)
    with contextlib.redirect_stdout(sys.stderr if json_output else sys.stdout):
        print("\n".join([f"would send {sent.summary()} ({far.host.name}:{far.host.folder})", *sent.details()]),
              flush=True)
        if sent.files:
            print(f"as this machine sees it, since {far.host.name} has not these files yet:", flush=True)
            return None
    return far.run(["python", *words])


def running_token(far: Remote, words: Sequence[str]) -> str | None:
    """The token of the same command, if it was begun there and has not ended."""
    if not far.has_running_commands:
        return None
    said = far.read_output(["python", "-m", "src.submission.remote.remote_server", "going"],
                   json.dumps({"words": list(words)}).encode() + b"\n")
    return json.loads(said.rpartition(remote_server.MARK)[2])["going"]


class RemoteCall:
    """A command that is begun there once and followed to its end, over as many connections as it takes.

    again: what the user types to go on; token: its name there; words: None if it was begun before; request: what comes
    with them.
    """

    def __init__(self, far: Remote, again: str, token: str, words: Sequence[str] | None = None,
                 request: Mapping[str, Any] | None = None) -> None:
        self.far, self.again, self.token, self.words, self.request = far, again, token, words, request or {}
        self.shown = {"out": 0, "err": 0}  # bytes
        self.decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in self.shown}
        self.answers: dict[int, str | None] = {}
        self.bar: terminal.Progress | None = None
        self.done: tuple[int, int] | None = None
        self.made_progress = self.interrupted = False

    def follow(self) -> int:
        """Its exit status; 130 if the user leaves it alone there. RemoteError if it, or the connection, is lost."""
        try:
            return self.far.retry(self._once, self._how_far, self.again)
        except KeyboardInterrupt:  # while there is no connection
            return self._left_alone()
        finally:
            self._close_bar()

    def _how_far(self) -> str:
        return "" if self.done is None else f"{self.done[0]} of {self.done[1]} done"

    def _left_alone(self) -> int:
        print(f"\nleft alone on {self.far.host.name}; `{self.again}` follows it", file=sys.stderr)
        return 130

    def _once(self) -> int:
        """Over one connection. Broken if that is lost."""
        command = ssh.project_command(self.far.host, ["python", "-m", "src.submission.remote.remote_server",
                                                       self.token])
        self.made_progress = False
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen([*self.far.ssh_command(), command], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=errors,
                                       start_new_session=True)  # Ctrl-C is handled here
            assert process.stdin
            assert process.stdout
            try:
                self._say(process.stdin, **{"code": None, "files": None, **(self.request if self.words else {}),
                                            **self.shown, "words": self.words})
                code = self._listen(process.stdin, process.stdout)
                if code is not None:
                    return code
                process.stdin.close()
                ended = process.wait()
            except BrokenPipeError:
                ended = process.wait()
            finally:
                process.kill()
                process.wait()
            errors.seek(0)
            words = ssh.last_line(errors.read())
        if ended in (0, ssh.SSH_FAILED) or ended < 0:
            raise ConnectionLost(words, self.made_progress)
        raise RemoteError(f"the command could not be begun there: {words or f'exit status {ended}'}",
                          where=self.far.host.name, hint="`setup` and `python` of the host say which Python it is")

    def _listen(self, to: IO[bytes], source: IO[bytes]) -> int | None:
        """Obey the far side until it says how the command ended; None if it ends in mid-word."""
        speaks, lines, rest = False, deque[bytes](), b""
        with Waker() as waker:  # Ctrl-C wakes it whichever thread takes the signal, and also just before it sleeps
            while True:
                try:
                    while lines:
                        line = lines.popleft()
                        if speaks:
                            code = self._hear(to, json.loads(line))
                            if code is not None:
                                return code
                        speaks = speaks or line.strip() == remote_server.MARK.encode()
                    if waker.wait(None, source.fileno()):
                        if not (chunk := os.read(source.fileno(), 65536)):
                            return None
                        *whole, rest = (rest + chunk).split(b"\n")
                        lines.extend(whole)
                except json.JSONDecodeError:
                    return None
                except KeyboardInterrupt:
                    if self.interrupted:
                        return self._left_alone()
                    print("\nstopping it there; Ctrl-C again leaves it alone", file=sys.stderr)
                    self._say(to, interrupt=True)
                    self.interrupted = True

    def _hear(self, to: IO[bytes], frame: Mapping[str, Any]) -> int | None:
        """One frame of the far side; the exit status, if it is that."""
        self.words = None  # it has begun
        for stream in self.shown.keys() & frame.keys():
            data = frame[stream].encode("utf-8", "surrogateescape")
            self.shown[stream] += len(data)
            self._close_bar()
            to_whom = sys.stdout if stream == "out" else sys.stderr
            to_whom.write(self.decoders[stream].decode(data))
            to_whom.flush()
            self.made_progress = True
        if frame.get("done"):
            self._show_done(*frame["done"])
        if "ask" in frame:
            number = frame["ask"]
            if number not in self.answers:
                self.answers[number] = sys.stdin.readline() or None
            self._say(to, answer=number, text=self.answers[number])
        if "lost" in frame:
            raise RemoteError("the command there was ended without a word" + (f", {self._how_far()}" * bool(self.done)),
                              where=self.far.host.name, hint=f"`{self.again}` goes on")
        return frame.get("exit")

    def _show_done(self, done: int, total: int, noun: str, failed: int) -> None:
        if (done, total) == self.done:  # as before the connection broke
            return
        self.made_progress, self.done = True, (done, total)
        if self.bar is None or (self.bar.total, self.bar.noun) != (total, noun):
            self._close_bar()
            self.bar = terminal.Progress(total, noun).__enter__()
        self.bar.set(done, failed)

    def _close_bar(self) -> None:
        if self.bar:
            self.bar.__exit__()
            self.bar = None

    @staticmethod
    def _say(to: IO[bytes], **words: Any) -> None:
        to.write(json.dumps(words).encode() + b"\n")
        to.flush()
