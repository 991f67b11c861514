"""submit_multiple.py --on HOST: upload the project, submit there, and follow that across lost connections."""
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

from src.errors import RemoteError, one_line, shell_command
from src.printable import printable
from src.submission.batch import journal, provenance
from src.submission.remote import frames, hosts, remote_server, ssh, upload
from src.submission.remote.frames import Frame
from src.submission.remote.ssh import ConnectionLost, Remote
from src.submission.system import detached, terminal
from src.submission.system.signals import Waker

_SERVER = ("python", "-m", "src.submission.remote.remote_server")


def submit(argv: Sequence[str], project: str, host_name: str, job_spec: str | None, script: str | None,
           ignores_host_output_dir: bool, dry_run: bool, json_output: bool) -> int | None:
    """Upload what changed, submit on the remote machine, and return the exit status of that.

    None if a local dry run remains to be done, since the remote files are not those that would be submitted.
    RemoteError, with the command that continues, if it fails.

    argv: the command line of submit_multiple.py, of which the others are options;
    job_spec: None for a retry;
    ignores_host_output_dir: whether the host's output_dir is not used: the command line has one, or this is a retry.
    """
    host, known_hosts = hosts.find_host(host_name, project), hosts.read_hosts(project)
    files = upload.project_files(project)
    named_files = {path: upload.locate_file(path, project, files, what)
                   for path, what in ((job_spec, "job spec"), (script, "submit script")) if path}
    arguments = remote_arguments(argv, named_files, None if ignores_host_output_dir else host.output_dir)
    if dry_run:
        remote = ssh.connect(host, known_hosts=known_hosts, may_be_missing=True)
        return _dry_run(remote, project, files, list(named_files.values()), arguments, json_output)
    remote = ssh.connect(host, create=(detached.FOLDER, remote_server.NAMED_FILES), known_hosts=known_hosts)
    local_command = shell_command("python", "submit_multiple.py", *argv)
    if token := running_token(remote, arguments):
        print(f"this command is still running on {host.name}; following it from its beginning", flush=True)
        return RemoteCall(remote, local_command, token).follow()
    uploaded = _upload(remote, project, files, list(named_files.values()))
    print(f"uploaded   {uploaded.summary()} ({host.name}:{host.folder})", flush=True)
    code = provenance.portable_record(provenance.inspect_code(project), files)
    request = {"code": code, "files": files}
    return RemoteCall(remote, local_command, journal.new_token(), arguments, request).follow()


def remote_arguments(argv: Sequence[str], named_files: Mapping[str, upload.NamedFile],
                     output_dir: str | None) -> list[str]:
    """Return the remote command line: without --on, and with the remote names of the named files."""
    arguments = []
    for word in ssh.remove_on_option(argv):
        option, _, value = (word[:2], "", word[2:]) if word[:2] == "-s" else word.partition("=")
        if word in named_files:
            arguments.append(named_files[word].remote_name)
        elif value in named_files and (option == "-s" or option.startswith("--s") and "--script".startswith(option)):
            arguments += ["--script", named_files[value].remote_name]
        else:
            arguments.append(word)
    return ["submit_multiple.py", *arguments, *(["--output-dir", output_dir] if output_dir else [])]


def _upload(remote: Remote, project: str, files: Sequence[str], named_files: Sequence[upload.NamedFile],
            dry_run: bool = False) -> upload.Upload:
    return upload.Upload(upload.upload_project(remote, project, files, dry_run).files
                         + upload.upload_named_files(remote, named_files, dry_run).files)


def _dry_run(remote: Remote, project: str, files: Sequence[str], named_files: Sequence[upload.NamedFile],
             arguments: Sequence[str], json_output: bool) -> int | None:
    """Print what would be uploaded. If that is nothing, dry-run there and return its exit status; else None."""
    uploaded = _upload(remote, project, files, named_files, dry_run=True)
    with contextlib.redirect_stdout(sys.stderr if json_output else sys.stdout):
        print("\n".join([f"would upload {uploaded.summary()} ({remote.host.name}:{remote.host.folder})",
                         *uploaded.details()]), flush=True)
        if uploaded.files:
            print(f"planned on this machine, since {remote.host.name} does not have these files yet:", flush=True)
            return None
    return remote.run(["python", *arguments])


def running_token(remote: Remote, arguments: Sequence[str]) -> str | None:
    """Return the token of the same command, if it was started there and has not ended."""
    if not remote.has_running_commands:
        return None
    output = remote.read_output([*_SERVER, "going"], json.dumps({"words": list(arguments)}).encode() + b"\n")
    return frames.parse_token(output.rpartition(remote_server.MARK)[2], remote.host.name)


class RemoteCall:
    """A command that is started once on a remote machine and followed until it ends, over any number of connections.

    local_command: what the user types to continue;
    token: the name of the command there;
    arguments: None if it was started before;
    request: `code` and `files` of the request (remote_server.py).
    """

    def __init__(self, remote: Remote, local_command: str, token: str, arguments: Sequence[str] | None = None,
                 request: Mapping[str, Any] | None = None) -> None:
        self.remote, self.local_command, self.token = remote, local_command, token
        self.arguments, self.request = arguments, request or {}
        self.bytes_shown = {"out": 0, "err": 0}
        self.decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in self.bytes_shown}
        self.answers: dict[int, str | None] = {}
        self.bar: terminal.Progress | None = None
        self.progress: tuple[int, int] | None = None
        self.made_progress = self.interrupted = False

    def follow(self) -> int:
        """Return the exit status of the command; 130 if the user stops following it.

        RemoteError if the command or the connection is lost.
        """
        try:
            return self.remote.retry(self._follow_once, self._format_progress, self.local_command)
        except KeyboardInterrupt:  # while there is no connection
            return self._detach()
        finally:
            self._close_bar()

    def _format_progress(self) -> str:
        return "" if self.progress is None else f"{self.progress[0]} of {self.progress[1]} done"

    def _detach(self) -> int:
        print(f"\nit continues on {self.remote.host.name}; `{self.local_command}` follows it", file=sys.stderr)
        return 130

    def _follow_once(self) -> int:
        """Follow the command over one connection. ConnectionLost if that is lost."""
        command = ssh.project_command(self.remote.host, [*_SERVER, self.token])
        self.made_progress = False
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen([*self.remote.ssh_command(), command], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=errors,
                                       start_new_session=True)  # Ctrl-C is handled here
            assert process.stdin
            assert process.stdout
            try:
                self._send(process.stdin, **{"code": None, "files": None, **(self.request if self.arguments else {}),
                                             **self.bytes_shown, "words": self.arguments})
                code = self._handle_frames(process.stdin, process.stdout)
                if code is not None:
                    return code
                process.stdin.close()
                ssh_code = process.wait()
            except BrokenPipeError:
                ssh_code = process.wait()
            finally:
                process.kill()
                process.wait()
            errors.seek(0)
            message = ssh.last_line(errors.read())
        if ssh_code in (0, ssh.SSH_FAILED) or ssh_code < 0:
            raise ConnectionLost(message, self.made_progress)
        raise RemoteError(f"the command could not be started there: {message or f'exit status {ssh_code}'}",
                          where=self.remote.host.name, hint="`setup` and `python` of the host determine its Python")

    def _handle_frames(self, to: IO[bytes], source: IO[bytes]) -> int | None:
        """Handle the frames of the server until the exit status; None if they end before it."""
        lines, pending = frames.Lines(remote_server.MARK, self.remote.host.name), deque[bytes]()
        with Waker() as waker:  # Ctrl-C wakes it whichever thread takes the signal, and also just before it sleeps
            while True:
                try:
                    while pending:
                        code = self._handle_frame(to, frames.parse(pending.popleft(), self.remote.host.name))
                        if code is not None:
                            return code
                    if waker.wait(None, source.fileno()):
                        if not (chunk := os.read(source.fileno(), 65536)):
                            return None
                        pending.extend(lines.add(chunk))
                except KeyboardInterrupt:
                    if self.interrupted:
                        return self._detach()
                    print("\ninterrupting it there; press Ctrl-C again to stop following it", file=sys.stderr)
                    self._send(to, interrupt=True)
                    self.interrupted = True

    def _handle_frame(self, to: IO[bytes], frame: Frame) -> int | None:
        """Handle one frame of the server; return the exit status if the frame contains it."""
        self.arguments = None  # the command has started
        for stream, data in frame.output.items():
            self.bytes_shown[stream] += len(data)
            self._close_bar()
            local_stream = sys.stdout if stream == "out" else sys.stderr
            local_stream.write(printable(self.decoders[stream].decode(data)))
            local_stream.flush()
            self.made_progress = True
        if frame.progress:
            self._show_progress(*frame.progress)
        if frame.question is not None:
            if frame.question not in self.answers:
                self.answers[frame.question] = sys.stdin.readline() or None
            self._send(to, answer=frame.question, text=self.answers[frame.question])
        if frame.is_lost:
            progress = f", {self._format_progress()}" if self.progress else ""
            raise RemoteError(f"the command there died without an exit status{progress}",
                              where=self.remote.host.name, hint=f"`{self.local_command}` continues")
        return frame.exit_code

    def _show_progress(self, done: int, total: int, noun: str, failed: int) -> None:
        if (done, total) == self.progress:  # unchanged since before the connection was lost
            return
        self.made_progress, self.progress = True, (done, total)
        if self.bar is None or (self.bar.total, self.bar.noun) != (total, noun):
            self._close_bar()
            self.bar = terminal.Progress(total, one_line(noun)).__enter__()
        self.bar.set(done, failed)

    def _close_bar(self) -> None:
        if self.bar:
            self.bar.__exit__()
            self.bar = None

    @staticmethod
    def _send(to: IO[bytes], **frame: Any) -> None:
        to.write(json.dumps(frame).encode() + b"\n")
        to.flush()
