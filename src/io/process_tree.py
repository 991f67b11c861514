"""A process and its descendants: their ids, memory and CPU time, as the kernel lists them."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable

from src.io import files

_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


def pids(root: int) -> list[int]:
    """Return a process and its descendants, from the kernel's lists of children: scanning all processes is slower."""
    process_ids = [root]
    for parent in process_ids:
        process_ids += map(int, _read(f"/proc/{parent}/task/{parent}/children").split())
    return process_ids


def memory(processes: Iterable[int]) -> int:
    """Return the resident bytes of processes together. Pages that several of them share count for each."""
    return _PAGE * sum(int(cells[1]) for pid in processes if len(cells := _read(f"/proc/{pid}/statm").split()) > 1)


def proportional_memory(processes: Iterable[int]) -> int | None:
    """Return the bytes of processes together; of a page that several share, each has its part. None if the kernel does
    not count them. It reads the page tables, which takes a tenth of a second for each GB.
    """
    sizes = [re.search(r"^Pss: +(\d+) kB", _read(f"/proc/{pid}/smaps_rollup"), re.MULTILINE) for pid in processes]
    return sum(1024 * int(size[1]) for size in sizes if size) or None


def peak_memory() -> int:
    """Return the most bytes that this process alone had resident; getrusage may return those of the one before exec."""
    lines = _read("/proc/self/status").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def cpu_seconds(processes: Iterable[int]) -> float:
    """Return the CPU time of processes together, with that of their children that have ended."""
    ticks = 0
    for pid in processes:
        # the name of the program, in parentheses, may contain anything
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def waiting_seconds(processes: Iterable[int]) -> float:
    """Return how long the main threads of processes have waited for a CPU in all; 0 if the kernel does not count."""
    return sum(int(cells[1]) / 1e9 for pid in processes if len(cells := _read(f"/proc/{pid}/schedstat").split()) > 1)


def _read(path: str) -> str:
    """Return the text of a file of the kernel; empty if its process has ended."""
    try:
        return files.read_text(path) or ""
    except OSError:
        return ""
