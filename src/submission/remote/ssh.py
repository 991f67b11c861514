"""Another machine through ssh and rsync: one connection that commands share, argument lists here, quoted words there"""
from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from src.errors import ON, RemoteError, one_line, shell_command
from src.submission.remote.hosts import Host
from src.submission.system import detached

RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new try of a connection that broke
SSH_FAILED = 255  # ssh's own exit status; ours are smaller
# rsync's exit statuses for a connection that broke, or ended in the midst of things
_RSYNC_BROKEN = frozenset((10, 12, 30, 35, SSH_FAILED))
# never a question, a hung connection is given up after half a minute, and nothing of ours is forwarded
_OPTIONS = ("-oBatchMode=yes", "-oConnectTimeout=15", "-oServerAliveInterval=10", "-oServerAliveCountMax=3",
            "-oClearAllForwardings=yes", "-oForwardAgent=no", "-oForwardX11=no", "-oRemoteCommand=none")
_VANISHED = 24  # rsync's exit status if files that it had listed were gone when their turn came
_PERSIST = 600  # seconds for which a connection stays open without a command
_Made = TypeVar("_Made")


class ConnectionLost(Exception):
    """The connection was lost, or cannot be made now.

    words: ssh's last ones; made_progress: something was done over it.
    """

    def __init__(self, words: str, made_progress: bool = False) -> None:
        super().__init__(words)
        self.words, self.made_progress = words, made_progress


@dataclass(frozen=True)
class Remote:
    """A machine that answered. socket: of the shared connection; None where the user's own ssh configuration has one;
    has_running_commands: whether something that was begun there from here, or elsewhere, may not have ended.
    """

    host: Host
    socket: str | None
    has_running_commands: bool = False

    def ssh_command(self, *options: str) -> list[str]:
        """The words that open a session, without the command."""
        shared = [f"-oControlPath={self.socket}"] if self.socket else []
        return ["ssh", *_OPTIONS, "-oControlMaster=no", *shared, *self.host.options, *options, "--", self.host.ssh]

    def rsync_path(self, folder: str = "") -> str:
        """A folder there, of the project unless it is absolute, as rsync takes it (with --protect-args)."""
        return f"{self.host.ssh}:{os.path.join(self.host.folder, folder)}"

    def run(self, words: Sequence[str], terminal: bool = False) -> int:
        """Run a command there, in the project's folder and environment; its words go where ours go. Its exit status.

        terminal: give it one, if we have one: for what redraws the screen or is ended by Ctrl-C. RemoteError if the
        connection breaks: nothing says what has become of the command.
        """
        both = terminal and sys.stdin.isatty() and sys.stdout.isatty()
        sys.stdout.flush()
        code = subprocess.run([*self.ssh_command(*["-t"] * both), project_command(self.host, words)],
                              check=False).returncode
        if code == SSH_FAILED:
            raise RemoteError("the connection broke", where=self.host.name, hint="the same command again looks anew")
        return code

    def read_output(self, words: Sequence[str], data: bytes = b"") -> str:
        """What a command prints there, given `data`; tried again if the connection breaks, so let it change nothing
        twice. RemoteError, with its last words, if it fails."""
        return self._ask(project_command(self.host, words), data)

    def read_shell_output(self, script: str, data: bytes = b"") -> str:
        """The same for a line of the far shell, in the home folder and without the environment."""
        return self._ask(login_shell_command(script), data)

    def _ask(self, line: str, data: bytes) -> str:
        def once() -> str:
            done = subprocess.run([*self.ssh_command(), line], input=data, capture_output=True, check=False)
            words = last_line(done.stderr)
            if done.returncode == SSH_FAILED:
                raise ConnectionLost(words)
            if done.returncode:
                raise RemoteError(words or f"a command failed there with {done.returncode}", where=self.host.name)
            return done.stdout.decode(errors="replace")

        return self.retry(once)

    def rsync(self, *words: str, data: bytes = b"", show: bool = False, living: bool = False) -> str:
        """Run rsync with these words, and what it prints (shown as it comes, with `show`, and then not given). It
        is tried again if the connection breaks. RemoteError, with its words, if it fails.

        living: some of the files may be removed while they are copied, which is no failure."""
        command = ["rsync", "--protect-args", f"--rsh={quote_for_rsync(self.ssh_command()[:-2])}", *words]

        def once() -> str:
            try:
                done = subprocess.run(command, input=data, check=False, stdout=None if show else subprocess.PIPE,
                                      stderr=subprocess.PIPE)
            except FileNotFoundError:
                raise RemoteError("rsync is not installed here", where="rsync", hint="install it on both machines"
                                  ) from None
            said = last_line(done.stderr)
            if done.returncode in _RSYNC_BROKEN:
                raise ConnectionLost(said)
            if done.returncode and not (living and done.returncode == _VANISHED):
                raise RemoteError(f"rsync failed: {_first_line(done.stderr) or done.returncode}", where=self.host.name)
            return "" if show else done.stdout.decode(errors="surrogateescape")

        return self.retry(once)

    def retry(self, once: Callable[[], _Made], how_far: Callable[[], str] = lambda: "",
                  again: str | None = None) -> _Made:
        """What `once` gives, tried again with growing pauses while the connection is broken.

        how_far: it has come, and again: what the user types to go on, for the RemoteError when patience ends.
        """
        tries = 0
        while True:
            try:
                return once()
            except ConnectionLost as broken:
                tries = 0 if broken.made_progress else tries
                words = broken.words or "no answer"
                if tries == len(RETRY_DELAYS):
                    done = f"{found}; " if (found := how_far()) else ""
                    raise RemoteError(f"{done}the connection broke, and {tries} more tries failed ({words})",
                                      where=self.host.name,
                                      hint=f"{f'`{again}`' if again else 'the same command again'} goes on") from None
                print(f"{self.host.name}: the connection broke ({words}); trying again", file=sys.stderr, flush=True)
                time.sleep(RETRY_DELAYS[tries])
                tries += 1
                self.reopen()

    def reopen(self) -> None:
        """A new shared connection if the old one is gone; without a word if that fails too."""
        if self.socket:
            _open(self.host, self.socket)

    def close(self) -> None:
        """End the shared connection."""
        if self.socket:
            subprocess.run([*self.ssh_command("-Oexit")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, check=False)


def connect(host: Host, create: Iterable[str] = (), known_hosts: Iterable[str] = (),
            may_be_missing: bool = False) -> Remote:
    """Reach a machine, and see that the project's folder and rsync are there. RemoteError says what is missing.

    create: folders in the project's, which are made with it; known_hosts: the hosts that there are, for the message
    about one that there is not; may_be_missing: the folder need not be there.
    """
    remote = Remote(host, None if _shares_already(host) else _socket(host))
    folders = shlex.join(os.path.join(host.folder, name) for name in create)
    script = f"command -v rsync >/dev/null || exit 3; {f'mkdir -p -- {folders} || exit 4; ' if folders else ''}" \
             f"cd -- {shlex.quote(host.folder)} || exit {0 if may_be_missing else 5}; {detached.LIST_RUNNING}"

    def once() -> tuple[int, str, bool]:
        if words := _open(host, remote.socket):
            raise _explained(host, words, known_hosts) or ConnectionLost(words)
        done = subprocess.run([*remote.ssh_command(), login_shell_command(script)], stdin=subprocess.DEVNULL,
                              capture_output=True, check=False)
        said = last_line(done.stderr)
        if done.returncode == SSH_FAILED:
            raise _explained(host, said, known_hosts) or ConnectionLost(said)
        return done.returncode, said, bool(done.stdout.strip())

    code, said, has_running_commands = remote.retry(once)
    problems = {
        3: ("there is no rsync there", "install it there, or load its module in ~/.bash_profile there"),
        4: (f"the folder {host.folder} cannot be made there: {said}", "`folder` in hosts.toml names another"),
        5: (f"there is no folder {host.folder} there",
            f"`{shell_command('python', 'submit_multiple.py', 'JOB_SPEC', '--on', host.name)}` makes it")}
    if code:
        what, hint = problems.get(code, (f"its shell failed: {said or code}", None))
        raise RemoteError(what, where=host.name, hint=hint)
    return replace(remote, has_running_commands=has_running_commands)


def remove_on_option(argv: Sequence[str]) -> list[str]:
    """A command line without --on HOST or --on=HOST."""
    kept, rest = [], list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--on":
            rest.pop(0)
        elif not word.startswith("--on="):
            kept.append(word)
    return kept


def project_command(host: Host, words: Sequence[str]) -> str:
    """The far shell's line for a command, given as words: in the project's folder, in the configured environment."""
    words = [host.python, *words[1:]] if words[0] == "python" else words
    return login_shell_command(" && ".join((
        f"cd -- {shlex.quote(host.folder)}", f"export {ON}={shlex.quote(host.name)}", *host.setup,
        f"exec {shlex.join(words)}")))


def login_shell_command(script: str) -> str:
    """The same for whatever shell a user has there: a login shell, which knows of `module` and `conda`."""
    return f"exec bash -lc {shlex.quote(script)}"


def quote_for_rsync(words: Iterable[str]) -> str:
    """Words in the form in which rsync's --rsh takes them apart: in quotes, quotes in them doubled."""
    return " ".join("'" + word.replace("'", "''") + "'" for word in words)


def last_line(output: bytes) -> str:
    """The last line that says something, of what a program wrote to stderr."""
    return next((one_line(line.strip()) for line in reversed(output.decode(errors="replace").splitlines())
                 if line.strip()), "")


def _first_line(output: bytes) -> str:
    return next((one_line(line.strip()) for line in output.decode(errors="replace").splitlines() if line.strip()), "")


def _shares_already(host: Host) -> bool:
    """Whether the user's own configuration of ssh has connections shared: then a second factor was asked for there."""
    done = _ssh([*host.options, "-G", "--", host.ssh])
    return any(line.startswith("controlpath ") and line != "controlpath none" for line in done.stdout.splitlines())


def _ssh(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["ssh", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              errors="replace")
    except FileNotFoundError:
        raise RemoteError("ssh is not installed here", where="--on", hint="install an OpenSSH client") from None


def _socket(host: Host) -> str:
    """Where the shared connection's socket is: in a folder that is nobody else's, of a name that is short enough."""
    folder = os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/tmp", f"gridiron-ssh-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RemoteError("this folder is open to others", where=folder, hint="remove it")
    return os.path.join(folder, _hash(host))


def _hash(host: Host) -> str:
    import hashlib

    return hashlib.sha256("\0".join((host.ssh, *host.options)).encode()).hexdigest()[:16]


def _open(host: Host, socket: str | None) -> str:
    """Open the shared connection unless it is open; ssh's last words if that fails, else nothing.

    It stays behind as a process of its own, so it gets none of our streams: who waits for their end would wait for it.
    """
    if socket is None:
        return ""
    shared = [f"-oControlPath={socket}", *host.options]
    if os.path.exists(socket) and _ssh(["-Ocheck", *shared, "--", host.ssh]).returncode == 0:
        return ""
    with tempfile.TemporaryFile() as words:
        try:
            code = subprocess.run(["ssh", *_OPTIONS, "-oControlMaster=auto", f"-oControlPersist={_PERSIST}", *shared,
                                   "-N", "-f", "--", host.ssh], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=words, check=False, start_new_session=True).returncode
        except FileNotFoundError:
            raise RemoteError("ssh is not installed here", where="--on", hint="install an OpenSSH client") from None
        words.seek(0)
        return (last_line(words.read()) or f"ssh ended with {code}") if code else ""


# what ssh says, what that means, and what to do; the first that fits
_MEANINGS = (
    ("resolve hostname", "ssh knows no machine '{ssh}'", "a Host in ~/.ssh/config gives it its address"),
    ("Connection refused", "'{ssh}' refuses the connection", "is its sshd running, and the port right?"),
    ("Permission denied", "'{ssh}' does not accept our key", "`ssh {ssh}` must work without a question: ssh-copy-id "
     "brings a key there, ssh-add opens one with a passphrase; for a second factor, see docs/laptop.md"),
    ("Host key verification failed", "'{ssh}' is not known here, or has another host key", "`ssh {ssh}` shows its key "
     "and asks"),
    ("timed out", "'{ssh}' does not answer", "is a VPN needed?"),
    ("No route", "'{ssh}' cannot be reached from here", "is a VPN needed?"),
    ("unreachable", "'{ssh}' cannot be reached from here", "is a VPN needed?"))


def _explained(host: Host, words: str, known: Iterable[str]) -> RemoteError | None:
    """ssh's words as a sentence, with what to do; None if the next try may well succeed."""
    for sign, what, hint in _MEANINGS:
        if sign.lower() in words.lower():
            hosts = list(known) if sign == "resolve hostname" else []
            return RemoteError(f"{what.format(ssh=host.ssh)} ({words})", where=host.name, allowed=hosts or None,
                               hint=hint.format(ssh=host.ssh))
    return None
