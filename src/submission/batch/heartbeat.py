"""The heartbeat of a running attempt: the modification time of its record, renewed by a thread of the process.

For an external program, the train.py that waits for it does this. The age is measured on the clock of the file system,
which also sets the times, so that the clocks of two machines are not compared.
"""
from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from src import run_folder
from src.run_folder import RunFolder

INTERVAL = 30.0  # seconds between heartbeats
_FIRST = 1.0  # seconds to the first one; the interval doubles until it is INTERVAL, so that short runs have some
# seconds for which a heartbeat is fresh: one may be missed, and NFS may show times that are a minute old
TIMEOUT = 120.0
_FILES = (run_folder.STATS, run_folder.LOG)  # other files that a running attempt changes


@contextlib.contextmanager
def beating(records: Collection[str], on_beat: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Renew the heartbeats of attempts during the block, unless their records are deleted.

    records: the paths of the records. The block may remove some, whose attempts have ended. on_beat: called at each
    beat, by the same thread, until it raises an error.
    """
    import signal
    import threading  # not needed by a dry run

    has_ended = threading.Event()

    def beat() -> None:
        interval, does_call = min(_FIRST, INTERVAL), True
        while not has_ended.wait(interval):
            interval = min(2 * interval, INTERVAL)
            for path in list(records):
                with contextlib.suppress(OSError):  # it was deleted, or the file system does not answer now
                    os.utime(path, follow_symlinks=False)
            try:
                if does_call:
                    on_beat()
            except Exception:  # of a driver, for example; heartbeats go on
                does_call = False

    # the thread takes no signals, which would not wake the main thread
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    try:
        yield
    finally:
        has_ended.set()


def age(run: RunFolder, attempt: Mapping[str, Any] | None, now: float) -> float:
    """Return the seconds since an attempt last changed its files; inf if there is none or it has recorded its end.

    attempt: the record of the run's last attempt. now: on the clock of the file system (`file_system_time`).
    """
    if not attempt or attempt.get("how"):
        return math.inf
    names = (run_folder.attempt_name(attempt["ticket"], attempt["number"]), *_FILES)
    return min((abs(now - changed) for name in names if (changed := _modification_time(run.file(name)))),
               default=math.inf)


def file_system_time(batch: str) -> float:
    """Return the time on the clock of a batch's file system; that of this machine if it cannot be written to."""
    import tempfile  # few observations need it

    try:
        with tempfile.NamedTemporaryFile(prefix=".clock-", dir=os.path.join(batch, run_folder.SUBMISSIONS)) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def _modification_time(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None
