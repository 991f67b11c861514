from __future__ import annotations

import os
import subprocess
import sys

from src.io import process_tree
from tests.conftest import ROOT

GROW = """
import subprocess, sys
program = "x = b'x' * 60_000_000; print(sum(range(4_000_000)), flush=True); input()"
child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.readline()
child.communicate(b"\\n")
print("ended", flush=True)
sys.stdin.readline()
"""


def test_memory_and_time_of_descendants_count() -> None:
    with subprocess.Popen([sys.executable, "-c", GROW], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin and parent.stdout
        child = int(parent.stdout.readline())
        pids = process_tree.pids(parent.pid)
        assert pids == [parent.pid, child]
        assert process_tree.memory(pids) > process_tree.memory([parent.pid]) + 50_000_000
        used = process_tree.cpu_seconds([child])
        assert used > 0
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        parent.stdout.readline()
        assert process_tree.pids(parent.pid) == [parent.pid]
        assert process_tree.cpu_seconds([parent.pid]) >= used  # with that of the child that has ended
        parent.communicate(b"\n")
    assert process_tree.memory([parent.pid]) == process_tree.cpu_seconds([parent.pid]) == 0
    assert process_tree.pids(os.getpid())[0] == os.getpid()


def test_peak_is_not_that_of_the_process_that_started_this_one() -> None:
    ballast = bytearray(os.urandom(1000) * 100_000)
    program = "from src.io import process_tree; print(process_tree.peak_memory())"
    peak = int(subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True).stdout)
    assert 1_000_000 < peak < len(ballast)
