"""The files of runs as they lie: each opened once, many at a time where the disk is slow; stamps tell of changes."""
from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from src import run_folder
from src.errors import UserError
from src.io import yaml_io

# above this duration of a call, threads are faster; below it they only wait for each other
SLOW_CALL_SECONDS = 0.4e-3
_THREADS, _BLOCK, _PROBES = 32, 256, 32
STAMP_LENGTH = 9  # numbers of a stamp: inode, size and mtime_ns of each of three files, zeros where there is none
_CONFIG, _STATS, _DONE = (f"/{name}" for name in (run_folder.CONFIG, run_folder.STATS, run_folder.DONE))
_MOST = 2**63  # of an inode, in a column of int64
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class RunText(NamedTuple):
    """What the files of one run hold. whole: it has a config.yaml; else its spec stands for it (a foreign program)."""

    folder: str
    end: str | None
    whole: bool
    config: dict[str, Any]
    header: str  # of stats.csv, empty if there is no whole line
    body: bytes  # its whole rows


def map_ordered(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """`function` of each item, in order; in threads if the first ones took long, as they do on a shared disk.

    At most a few hundred results wait to be taken, however many items there are.
    """
    start = time.perf_counter()
    first = [function(item) for item in items[:_PROBES]]
    slow = time.perf_counter() - start > SLOW_CALL_SECONDS * len(first)
    yield from first
    rest = items[_PROBES:]
    if not slow or not rest:
        yield from map(function, rest)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: list[Future[_Result]] = []
        for begin in range(0, len(rest), _BLOCK):
            ahead = [pool.submit(function, item) for item in rest[begin:begin + _BLOCK]]
            yield from (future.result() for future in waiting)
            waiting = ahead
        yield from (future.result() for future in waiting)


def read_stamp(folder: str) -> tuple[int, ...] | None:
    """What changes when a run's files do, (STAMP,) numbers, to be taken before they are read. A spec that stands for a
    config has its inode below zero. None if a file cannot be looked at.
    """
    try:
        try:
            config, stats, done = os.stat(folder + _CONFIG), os.stat(folder + _STATS), os.stat(folder + _DONE)
        except FileNotFoundError:
            return _stamp_of_some(folder)
        return (config.st_ino % _MOST, config.st_size, config.st_mtime_ns, stats.st_ino % _MOST, stats.st_size,
                stats.st_mtime_ns, done.st_ino % _MOST, done.st_size, done.st_mtime_ns)
    except OSError:
        return None


def _stamp_of_some(folder: str) -> tuple[int, ...]:
    """Where not all three files are there."""
    config = _stamp(folder + _CONFIG)
    if not config[0]:
        inode, size, time_ns = _stamp(f"{folder}/{run_folder.SPEC}")
        config = (-inode, size, time_ns)
    return (*config, *_stamp(folder + _STATS), *_stamp(folder + _DONE))


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0, 0)
    return (found.st_ino % _MOST, found.st_size, found.st_mtime_ns)


def read_run(folder: str, only_done: bool = False) -> RunText | str:
    """A run, or the reason why it is left out. Opens each of its three files once."""
    try:
        done = _read_bytes(f"{folder}/{run_folder.DONE}")
        if only_done and done is None:
            return NOT_DONE
        text = _read_bytes(f"{folder}/{run_folder.CONFIG}")
        if text is None:
            return _without_config(folder, done)
        config = yaml_io.load_flat(text.decode(), run_folder.CONFIG)
        if not config:
            return f"{run_folder.CONFIG} is empty"
        return RunText(folder, _end(done), True, config, *_read_stats(folder))
    except UserError as error:
        return str(error)
    except UnicodeDecodeError as error:
        return f"{run_folder.CONFIG}: not a text file in UTF-8 (byte {error.start})"
    except OSError as error:
        return f"{os.path.basename(error.filename or folder)} cannot be read: {error.strerror}"


NOT_DONE = "not done"


def _read_bytes(path: str) -> bytes | None:
    """The bytes of a file, None if there is none. Two thirds of what `open` takes, for files as small as these."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        parts = []
        while part := os.read(file, 1 << 18):
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(file)


def _without_config(folder: str, done: bytes | None) -> RunText | str:
    """A foreign program writes no config, so its spec stands for it once it is done; other runs never got so far."""
    if not run_folder.is_run_folder(folder):
        return f"no run folder: it has no {run_folder.SPEC}"
    if done is not None:
        spec = run_folder.read_spec(f"{folder}/{run_folder.SPEC}")
        return RunText(folder, _end(done), False, spec, *_read_stats(folder))
    attempt = run_folder.RunFolder.read(folder).last_attempt()
    if attempt is None:
        return "not started"
    return f"started, but has no {run_folder.CONFIG} yet" + (f": {attempt['error']}" if attempt.get("error") else "")


def _end(done: bytes | None) -> str | None:
    return None if done is None else done.decode(errors="replace").strip() or run_folder.COMPLETED


def _read_stats(folder: str) -> tuple[str, bytes]:
    """Header and rows of stats.csv; what follows the last line break is torn and left out."""
    text = _read_bytes(f"{folder}/{run_folder.STATS}") or b""
    end = text.find(b"\n")
    if end < 0:
        return "", b""
    header = text[:end].rstrip(b"\r").decode(errors="replace")
    return header, text[end + 1:] if text.endswith(b"\n") else text[end + 1:text.rfind(b"\n") + 1]
