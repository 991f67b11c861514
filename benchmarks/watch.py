"""The live screen of `watch` with 10,000 runs, a tenth of them running: first screen, redraws, share of a core.

Read from a terminal of 100 columns and 30 lines, as over ssh: the time from a key to the last byte of what it changes.
"""
from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import resource
import select
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from tests.terminal import live_batch

SIZE = 10_000
IDLE = 40.0  # seconds
KEYS = 40
TURNS = 3  # in which the first screen and a status are measured
_QUIET = 0.25  # seconds without output, after which a redraw is complete
_PROGRAM = Path(__file__).resolve().parents[1] / "experiments.py"


def measure(size: int = SIZE) -> list[tuple[str, float, float | None]]:
    """Return (label, value, limit)."""
    folder = tempfile.mkdtemp(prefix="gridiron-watch-")
    try:
        live_batch.make(os.path.join(folder, "results"), size)
        turns = [(*_first_screen(folder, size), _status(folder)) for _ in range(TURNS + 1)][1:]  # one warms up
        seconds, ours, status = (statistics.median(values) for values in zip(*turns, strict=True))
        terminal = _Terminal(folder)
        try:
            return [(f"first screen with {size:,} runs, in seconds", seconds, 5.0),
                    (f"CPU time until then / of `experiments.py status` ({status:.2f} s)", ours / status, 1.8),
                    *_measure(terminal, size)]
        finally:
            terminal.close()
    finally:
        shutil.rmtree(folder)


def _first_screen(folder: str, size: int) -> tuple[float, float]:
    """Return the seconds until the runs are shown, and the CPU time."""
    start = time.perf_counter()
    terminal = _Terminal(folder)
    try:
        terminal.read_until(f"{size:,} runs")
        return time.perf_counter() - start, terminal.cpu_seconds()
    finally:
        terminal.close()


def _status(folder: str) -> float:
    """Return the CPU time of a status."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, str(_PROGRAM), "status"], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _measure(terminal: _Terminal, size: int) -> list[tuple[str, float, float | None]]:
    terminal.read_until(f"{size:,} runs")
    terminal.read_until("so far")  # the records of all starts are read
    redraws = [terminal.redraw(b"j") for _ in range(KEYS)]
    find = statistics.median(terminal.redraw(key) for key in (b"/", b"l", b"e", b"n", b"e", b"t", b"\r"))
    terminal.redraw(b"\x1b")
    used, start = terminal.cpu_seconds(), time.perf_counter()
    sent = len(terminal.read_for(IDLE))
    share = (terminal.cpu_seconds() - used) / (time.perf_counter() - start)
    return [("redraw after a key that moves, in ms", 1e3 * statistics.median(redraws), 60.0),
            ("redraw after a letter to find, in ms", 1e3 * find, 250.0),
            (f"share of a core while nothing is pressed, over {IDLE:.0f} s", share, 0.1),
            ("bytes sent per second while nothing is pressed", sent / IDLE, 2000.0)]


class _Terminal:
    """`watch` in a terminal of its own."""

    def __init__(self, folder: str) -> None:
        self._seen = b""  # all output so far
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            os.chdir(folder)
            environment = {**os.environ, "TERM": "xterm-256color"}
            os.execve(sys.executable, [sys.executable, str(_PROGRAM), "watch"], environment)
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))

    def read_for(self, seconds: float) -> bytes:
        """Return the output of some seconds."""
        data, deadline = b"", time.perf_counter() + seconds
        while (left := deadline - time.perf_counter()) > 0:
            if select.select([self._descriptor], [], [], left)[0]:
                data += os.read(self._descriptor, 1 << 16)
        self._seen += data
        return data

    def read_until(self, text: str) -> None:
        """Read until a text was printed; perhaps it was before."""
        deadline = time.perf_counter() + 300
        while text.encode() not in self._seen:
            assert time.perf_counter() < deadline, self._seen[-500:]
            self.read_for(0.02)

    def redraw(self, key: bytes) -> float:
        """Press a key that changes the screen, and return the seconds until the last byte that follows at once."""
        os.write(self._descriptor, key)
        start = last = time.perf_counter()
        assert select.select([self._descriptor], [], [], 60.0)[0], f"{key!r} changes nothing"
        while select.select([self._descriptor], [], [], _QUIET)[0]:
            os.read(self._descriptor, 1 << 16)
            last = time.perf_counter()
            if last - start > 2 * _QUIET:  # the clock, or rows that were read, are drawn meanwhile
                break
        return last - start

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has used."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the program."""
        os.kill(self._pid, signal.SIGTERM)
        with contextlib.suppress(OSError):  # the other end of the terminal is closed
            self.read_for(5.0)
        os.waitpid(self._pid, 0)
        os.close(self._descriptor)


if __name__ == "__main__":
    for label, value, limit in measure():
        print(f"{label}: {value:.3g} (limit {limit})")
