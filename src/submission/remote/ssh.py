"""Run commands on a remote machine by ssh, and copy files by rsync, over one shared connection that is reopened.

Commands are argument lists on both machines; they are quoted for the remote shell.
"""
from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from src.errors import ON, RemoteError, one_line, shell_command
from src.frozen import Frozen
from src.io import private
from src.submission.remote.hosts import Host
from src.submission.remote.output import run_filtered
from src.submission.system import detached

RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each retry of a lost connection
SSH_FAILED = 255  # exit status of ssh itself; those of our commands are smaller
# exit statuses of rsync for a connection that was lost or closed
_RSYNC_CONNECTION_LOST = frozenset((10, 12, 30, 35, SSH_FAILED))
_RSYNC_VANISHED = 24  # exit status of rsync if listed files were removed before their transfer
# never prompt, detect a dead connection within half a minute, and forward nothing
_OPTIONS = ("-oBatchMode=yes", "-oConnectTimeout=15", "-oServerAliveInterval=10", "-oServerAliveCountMax=3",
            "-oClearAllForwardings=yes", "-oForwardAgent=no", "-oForwardX11=no", "-oRemoteCommand=none")
_MAX_SOCKET_PATH = 88  # bytes; the system allows 107, and ssh appends up to 18 while it opens the socket
_PERSIST = 600  # seconds for which the shared connection remains open without a command
_Result = TypeVar("_Result")


class ConnectionLost(Exception):
    """The connection was lost, or cannot be made now.

    message: the last line of ssh;
    made_progress: whether something was done over this connection, so that the number of retries starts anew.
    """

    def __init__(self, message: str, made_progress: bool = False) -> None:
        super().__init__(message)
        self.message, self.made_progress = message, made_progress


class Remote(Frozen):
    """A remote machine that answered.

    socket: of the shared connection; None if the user's configuration of ssh shares connections, or if there is no
        private folder for it;
    has_running_commands: whether a detached command there may not have ended.
    """

    host: Host
    socket: str | None
    has_running_commands: bool = False

    def ssh_command(self, *options: str) -> list[str]:
        """Return the arguments that open a session, without the remote command."""
        shared = [f"-oControlPath={self.socket}"] if self.socket else []
        return ["ssh", *_OPTIONS, "-oControlMaster=no", *shared, *self.host.options, *options, "--", self.host.ssh]

    def rsync_path(self, folder: str = "") -> str:
        """Return rsync's name (with --protect-args) of a remote folder, relative to the project's unless absolute."""
        return f"{self.host.ssh}:{os.path.join(self.host.folder, folder)}"

    def run(self, command: Sequence[str], terminal: bool = False, raw: bool = False) -> int:
        """Run a command in the project's folder and environment, with our streams. Return its exit status.

        terminal: allocate one, if we have one: for commands that redraw the screen or end by Ctrl-C.
        raw: print its escape sequences too.
        RemoteError if the connection is lost; whether the command ended is then unknown.
        """
        has_terminal = terminal and sys.stdin.isatty() and sys.stdout.isatty()
        sys.stdout.flush()
        ssh_command = [*self.ssh_command(*["-t"] * has_terminal), project_command(self.host, command)]
        code = subprocess.run(ssh_command, check=False).returncode if raw else run_filtered(ssh_command, has_terminal)
        if code == SSH_FAILED:
            raise RemoteError("the connection was lost", where=self.host.name, hint="repeat the command")
        return code

    def read_output(self, command: Sequence[str], data: bytes = b"") -> str:
        """Return the output of a command, with `data` as its input. RemoteError, with its last line, if it fails.

        It is repeated if the connection is lost, so it must be idempotent.
        """
        return self._read_output(project_command(self.host, command), data)

    def read_shell_output(self, script: str, data: bytes = b"") -> str:
        """Return the output of a shell script in the home folder, without the project's environment."""
        return self._read_output(login_shell_command(script), data)

    def _read_output(self, line: str, data: bytes) -> str:
        def attempt() -> str:
            result = subprocess.run([*self.ssh_command(), line], input=data, capture_output=True, check=False)
            message = last_line(result.stderr)
            if result.returncode == SSH_FAILED:
                raise ConnectionLost(message)
            if result.returncode:
                raise RemoteError(message or f"a command failed there with exit status {result.returncode}",
                                  where=self.host.name)
            return result.stdout.decode(errors="replace")

        return self.retry(attempt)

    def rsync(self, *arguments: str, data: bytes = b"", show: bool = False, living: bool = False) -> str:
        """Run rsync, again if the connection is lost, and return its output. RemoteError if it fails.

        data: its input;
        show: print its output as it comes, and return an empty string;
        living: files may be removed while they are copied, which is not a failure.
        """
        command = ["rsync", "--protect-args", f"--rsh={quote_for_rsync(self.ssh_command()[:-2])}", *arguments]

        def attempt() -> str:
            try:
                result = subprocess.run(command, input=data, check=False, stdout=None if show else subprocess.PIPE,
                                        stderr=subprocess.PIPE)
            except FileNotFoundError:
                raise RemoteError("rsync is not installed here", where="rsync", hint="install it on both machines"
                                  ) from None
            if result.returncode in _RSYNC_CONNECTION_LOST:
                raise ConnectionLost(last_line(result.stderr))
            if result.returncode and not (living and result.returncode == _RSYNC_VANISHED):
                raise RemoteError(f"rsync failed: {_lines(result.stderr)[0] or result.returncode}",
                                  where=self.host.name)
            return "" if show else result.stdout.decode(errors="surrogateescape")

        return self.retry(attempt)

    def retry(self, attempt: Callable[[], _Result], progress: Callable[[], str] = lambda: "",
              command: str | None = None) -> _Result:
        """Call `attempt` until it raises no ConnectionLost, with exponential back-off, and return its result.

        progress, command: what is done, and the command that continues, for the RemoteError after the last retry.
        """
        retries = 0
        while True:
            try:
                return attempt()
            except ConnectionLost as error:
                retries = 0 if error.made_progress else retries
                message = error.message or "no answer"
                if retries == len(RETRY_DELAYS):
                    done = f"{text}; " if (text := progress()) else ""
                    raise RemoteError(f"{done}the connection was lost, and {retries} retries failed ({message})",
                                      where=self.host.name, hint=f"`{command}` continues" if command else
                                      "repeat the command to continue") from None
                print(f"{self.host.name}: the connection was lost ({message}); retrying", file=sys.stderr, flush=True)
                time.sleep(RETRY_DELAYS[retries])
                retries += 1
                self.reopen()

    def reopen(self) -> None:
        """Open the shared connection if it is closed; a failure is ignored, since the next command reports it."""
        if self.socket:
            _open(self.host, self.socket)

    def close(self) -> None:
        """Close the shared connection."""
        if self.socket:
            subprocess.run([*self.ssh_command("-Oexit")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, check=False)


def connect(host: Host, create: Iterable[str] = (), known_hosts: Iterable[str] = (),
            may_be_missing: bool = False) -> Remote:
    """Connect to a machine, and check that rsync and the project's folder exist there. RemoteError otherwise.

    create: folders in the project's to create;
    known_hosts: names of configured hosts, for the message about an unknown one;
    may_be_missing: the project's folder need not exist.
    """
    remote = Remote(host, None if _shares_connections(host) else _socket(host))
    folders = shlex.join(os.path.join(host.folder, name) for name in create)
    script = f"command -v rsync >/dev/null || exit 3; {f'mkdir -p -- {folders} || exit 4; ' if folders else ''}" \
             f"cd -- {shlex.quote(host.folder)} || exit {0 if may_be_missing else 5}; {detached.LIST_RUNNING}"

    def attempt() -> tuple[int, str, bool]:
        if message := _open(host, remote.socket):
            raise _explain(host, message, known_hosts) or ConnectionLost(message)
        result = subprocess.run([*remote.ssh_command(), login_shell_command(script)], stdin=subprocess.DEVNULL,
                                capture_output=True, check=False)
        message = last_line(result.stderr)
        if result.returncode == SSH_FAILED:
            raise _explain(host, message, known_hosts) or ConnectionLost(message)
        return result.returncode, message, bool(result.stdout.strip())

    code, message, has_running_commands = remote.retry(attempt)
    problems = {
        3: ("rsync is not installed there", "install it there, or load its module in ~/.bash_profile there"),
        4: (f"the folder {host.folder} cannot be created there: {message}", "`folder` in hosts.toml names another"),
        5: (f"the folder {host.folder} does not exist there",
            f"`{shell_command('python', 'submit_multiple.py', 'JOB_SPEC', '--on', host.name)}` creates it")}
    if code:
        what, hint = problems.get(code, (f"its shell failed: {message or code}", None))
        raise RemoteError(what, where=host.name, hint=hint)
    return remote._replace(has_running_commands=has_running_commands)


def remove_on_option(argv: Sequence[str]) -> list[str]:
    """Return a command line without --on HOST or --on=HOST."""
    result, remaining = [], list(argv)
    while remaining:
        word = remaining.pop(0)
        if word == "--on":
            remaining.pop(0)
        elif not word.startswith("--on="):
            result.append(word)
    return result


def project_command(host: Host, command: Sequence[str]) -> str:
    """Return the remote shell's line for an argument list, run in the project's folder and environment."""
    command = [host.python, *command[1:]] if command[0] == "python" else command
    return login_shell_command(" && ".join((
        f"cd -- {shlex.quote(host.folder)}", f"export {ON}={shlex.quote(host.name)}", *host.setup,
        f"exec {shlex.join(command)}")))


def login_shell_command(script: str) -> str:
    """Return a line that runs a script in bash, whatever shell a user has; a login shell defines `module`, `conda`."""
    return f"exec bash -lc {shlex.quote(script)}"


def quote_for_rsync(words: Iterable[str]) -> str:
    """Quote words as rsync splits the value of --rsh: in single quotes, with those inside doubled."""
    return " ".join("'" + word.replace("'", "''") + "'" for word in words)


def last_line(output: bytes) -> str:
    """Return the last line with text of a program's stderr."""
    return _lines(output)[-1]


def _lines(output: bytes) -> list[str]:
    """Return the lines with text; one empty line if there are none."""
    return [one_line(line.strip()) for line in output.decode(errors="replace").splitlines() if line.strip()] or [""]


def _shares_connections(host: Host) -> bool:
    """Return whether the user's configuration of ssh shares connections, as it does for a second factor."""
    result = _run_ssh([*host.options, "-G", "--", host.ssh])
    return any(line.startswith("controlpath ") and line != "controlpath none" for line in result.stdout.splitlines())


def _run_ssh(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["ssh", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False, errors="replace")
    except FileNotFoundError:
        raise _ssh_is_missing() from None


def _ssh_is_missing() -> RemoteError:
    return RemoteError("ssh is not installed here", where="--on", hint="install an OpenSSH client")


def _socket(host: Host) -> str | None:
    """Return the path of the shared connection's socket, in a folder of this user alone.

    None if there is no such folder with a short path: then each command opens a connection of its own.
    """
    paths = (os.path.join(folder, _hash(host)) for folder in private.runtime_folders())
    return next((path for path in paths if len(os.fsencode(path)) <= _MAX_SOCKET_PATH), None)


def _hash(host: Host) -> str:
    import hashlib  # imported on demand: start-up time on a login node

    # this machine's name, since a home folder may be shared with others, which cannot use the socket
    return hashlib.sha256("\0".join((os.uname().nodename, host.ssh, *host.options)).encode()).hexdigest()[:16]


def _open(host: Host, socket: str | None) -> str:
    """Open the shared connection unless it is open. Return the last line of ssh if that fails, otherwise "".

    ssh continues in the background, so it inherits none of our streams: a reader of them would wait for its end.
    """
    if socket is None:
        return ""
    shared = [f"-oControlPath={socket}", *host.options]
    if os.path.exists(socket) and _run_ssh(["-Ocheck", *shared, "--", host.ssh]).returncode == 0:
        return ""
    with tempfile.TemporaryFile() as errors:
        try:
            code = subprocess.run(["ssh", *_OPTIONS, "-oControlMaster=auto", f"-oControlPersist={_PERSIST}", *shared,
                                   "-N", "-f", "--", host.ssh], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=errors, check=False, start_new_session=True).returncode
        except FileNotFoundError:
            raise _ssh_is_missing() from None
        errors.seek(0)
        return (last_line(errors.read()) or f"ssh ended with exit status {code}") if code else ""


# a part of ssh's message, the problem, and what to do; the first that matches
_EXPLANATIONS = (
    ("resolve hostname", "ssh knows no machine '{ssh}'", "define its address as a Host in ~/.ssh/config"),
    ("Connection refused", "'{ssh}' refuses the connection", "check that its sshd is running, and the port"),
    ("Permission denied", "'{ssh}' does not accept our key", "`ssh {ssh}` must work without a prompt: ssh-copy-id "
     "installs a key there, ssh-add unlocks one with a passphrase; for a second factor, see docs/laptop.md"),
    ("Host key verification failed", "the host key of '{ssh}' is unknown or has changed", "`ssh {ssh}` shows its key "
     "and asks"),
    ("timed out", "'{ssh}' does not answer", "check whether a VPN is needed"),
    ("No route", "'{ssh}' cannot be reached from here", "check whether a VPN is needed"),
    ("unreachable", "'{ssh}' cannot be reached from here", "check whether a VPN is needed"))


def _explain(host: Host, message: str, known_hosts: Iterable[str]) -> RemoteError | None:
    """Return the error that a message of ssh means, with what to do; None if a retry may succeed."""
    for part, problem, hint in _EXPLANATIONS:
        if part.lower() in message.lower():
            names = list(known_hosts) if part == "resolve hostname" else []
            return RemoteError(f"{problem.format(ssh=host.ssh)} ({message})", where=host.name, allowed=names or None,
                               hint=hint.format(ssh=host.ssh))
    return None
