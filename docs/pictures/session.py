"""The picture of the README: a real session on the Slurm of `make cluster`, recorded by `make session`.
"""
from __future__ import annotations

import codecs
import fcntl
import itertools
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from docs.pictures.terminal import PROMPT, Event, Frame, Screen, frames, sample, svg
from src.errors import UserError, exits_on_user_error
from src.io import files

_ROOT = Path(__file__).resolve().parents[2]
_SESSION = Path(__file__).with_name("session.svg")
_COLUMNS, _LINES = 114, 26
_TITLE = "A terminal: a job spec, its dry run, its submission to Slurm, a live table of the runs, and the report"
_READY = "\x1e"  # printed before each prompt, and not shown
_OVER = "every run has ended"  # printed by `watch`
_TIMEOUT = 900  # seconds

_MOST_FRAMES = 30  # of one command, however long it ran

# commands, and how many seconds their output stays on the screen before the next one
COMMANDS = {
    "cat digits.yaml": 3.0,
    "python submit_multiple.py digits.yaml -s submit_cpu.sh --array --dry-run": 6.0,
    "python submit_multiple.py digits.yaml -s submit_cpu.sh --array": 3.0,
    "python experiments.py watch --every 2": 3.0,
    "python experiments.py report results/*": 6.0,
}
ANSWER = "y"  # to the question whether to submit


def job_spec() -> str:
    """Return the job spec that the README shows first."""
    block = re.search(r"^```yaml\n(# digits\.yaml\n.*?)^```", (_ROOT / "README.md").read_text("utf-8"), re.M | re.S)
    assert block, "README.md has no job spec named digits.yaml"
    return block[1]


class Shell:
    """bash in a terminal of its own. `events` is what it has printed so far."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self._start = time.monotonic()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.chdir(folder)
            environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
            # one thread for each run: all nodes of this Slurm share the cores of one machine
            environment |= {"PS1": f"{_READY}{PROMPT}", "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}",
                            "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], environment)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
        self._read_until(_READY)

    def run(self, command: str) -> None:
        """Type a command word by word, and wait until it has ended. A question is answered by ANSWER, and `watch` is
        left when every run has ended.
        """
        for word in re.findall(r"\S+\s*", command):
            os.write(self._terminal, word.encode())
            self._read_for(0.12)
        self._read_for(0.4)
        os.write(self._terminal, b"\n")
        if (end := self._read_until(_READY, "[y/N] ", _OVER)) != _READY:
            self._read_for(1.5)
            os.write(self._terminal, b"q" if end == _OVER else f"{ANSWER}\n".encode())
            self._read_until(_READY)

    def close(self) -> None:
        """End the shell."""
        os.close(self._terminal)
        os.waitpid(self._process, 0)

    def _read_until(self, *ends: str) -> str:
        """Read until one of `ends` was printed, and return it."""
        first, deadline = len(self.events), time.monotonic() + _TIMEOUT
        while time.monotonic() < deadline:
            self._read_for(0.1)
            text = "".join(event.text for event in self.events[first:])
            for end in ends:
                if end in text:
                    return end
        raise UserError(f"no prompt within {_TIMEOUT} s", where=self.events[-1].text[-200:])

    def _read_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self._terminal], [], [], left)[0]:
                output = self._decoder.decode(os.read(self._terminal, 1 << 16))
                self.events.append(Event(time.monotonic() - self._start, output))


def record(folder: Path) -> list[Frame]:
    """Run the commands in a clone of the project, and return the frames of their session."""
    shell = Shell(folder)
    starts = [0]
    for command in COMMANDS:
        shell.run(command)
        starts.append(len(shell.events))
    shell.close()
    screen = Screen(_COLUMNS, _LINES)
    session: list[Frame] = []
    for (first, last), pause in zip(itertools.pairwise(starts), COMMANDS.values(), strict=True):
        shown = [event._replace(text=event.text.replace(_READY, "")) for event in shell.events[first:last]]
        *first_frames, end = frames(shown, screen, shortest=0.1, longest=0.8)
        session += [*sample(first_frames, _MOST_FRAMES), end._replace(seconds=pause)]
    return session


@exits_on_user_error
def main() -> None:
    """Record the session and write docs/pictures/session.svg."""
    if not shutil.which("sbatch") or subprocess.run(["sinfo"], check=False, capture_output=True).returncode:
        raise UserError("no Slurm answers here", hint="`make session` starts the one of `make cluster`")
    folder = Path(tempfile.gettempdir(), "gridiron")
    try:
        folder.mkdir()
    except FileExistsError:
        raise UserError("the session needs this folder for itself, and it exists", where=str(folder)) from None
    try:
        subprocess.run(["git", "clone", "--quiet", _ROOT, folder], check=True)
        subprocess.run(["git", "checkout", "--quiet", "-B", "main"], cwd=folder, check=True)
        (folder / ".venv").symlink_to(_ROOT / ".venv")
        (folder / "digits.yaml").write_text(job_spec(), "utf-8")
        session = record(folder)
    finally:
        shutil.rmtree(folder)
    still = max(index for index, frame in enumerate(session) if any(
        " runs " in row and " running " in row for row in frame.rows))
    files.write_atomic(_SESSION, svg(session, _COLUMNS, _LINES, still, _TITLE), sync=False)
    print(_SESSION.relative_to(_ROOT))


if __name__ == "__main__":
    sys.exit(main())
