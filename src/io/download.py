"""Fetching: one download for all processes and nodes that want the same; a word at once where there is no internet."""
from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

from src.errors import DataError, UserError
from src.io import files

Found = TypeVar("Found")

PREFETCH = "fetch it on a machine with internet: `python experiments.py prefetch` with your job spec"
REACH_SECONDS = 3.0  # a firewall that swallows packets answers never
_BEAT = 5.0  # seconds after which who fetches says that it lives
_SILENCE = 120.0  # without a beat, it does not; file systems of a cluster show a beat up to a minute late
_LOOK = 0.2  # seconds between two looks of who waits


def once(lock: str | os.PathLike[str], what: str, find: Callable[[], Found | None], fetch: Callable[[], None]) -> Found:
    """What `find` finds; if nothing, after `fetch`, which one process of all that ask at a time is left to do.

    lock: a file that who fetches creates, on a file system that all share; none exists afterwards. Who finds it waits,
    and takes over if its owner has died, or has been silent for two minutes. An error of `fetch` is that of its process
    alone: the next one tries for itself. No lock of the file system is asked for: some grant one to everybody.
    """
    lock = os.fspath(lock)
    told = False
    while (found := find()) is None:
        os.makedirs(os.path.dirname(lock) or ".", exist_ok=True)
        owner = f"{os.uname().nodename} {os.getpid()} {threading.get_ident()} {time.time_ns()}"
        if files.create_exclusive(lock, owner, sync=False):
            with _beating(lock, owner):
                found = find()  # who had the lock before may have fetched it in between
                if found is None:
                    fetch()
                    found = find()
            if found is None:
                raise DataError(f"{what} was fetched, and is still not found")
            return found
        if not told:
            print(f"waiting for another process, which fetches {what}", file=sys.stderr, flush=True)
            told = True
        _wait(lock)
    return found


def once_if_allowed(lock: str | os.PathLike[str], what: str, find: Callable[[], Found | None],
                 fetch: Callable[[], object], url: str, forbidden: str | None, hint: str) -> Found:
    """What `find` finds; if nothing, after `fetch` as in `once`, if that is allowed and its `url` can be reached.

    forbidden: why nothing may be fetched, if so. hint: what to look at if `fetch` fails. DataError in all these cases.
    """
    if (found := find()) is not None:
        return found
    if reason := forbidden or unreachable_reason(url):
        raise DataError(f"{what} is not here, and {reason}", hint=PREFETCH)

    def fetched() -> None:
        try:
            fetch()
        except UserError:
            raise
        except Exception as error:  # of the network, of the hub, of the disk: each library has its own
            raise DataError(f"{what} cannot be fetched: {type(error).__name__}: {' '.join(str(error).split())[:300]}",
                            hint=hint) from error

    try:
        return once(lock, what, find, fetched)
    except OSError as error:
        raise DataError(f"{what} is not here, and cannot be put into {os.path.dirname(lock)}: "
                        f"{error.strerror or error}", hint=PREFETCH) from error


def _wait(lock: str) -> None:
    """Until the lock is gone; a lock whose owner is gone is taken away."""
    seen, since = (files.read_text(lock), _beat_of(lock)), time.monotonic()
    while (owner := seen[0]) is not None:
        time.sleep(_LOOK)
        now = files.read_text(lock), _beat_of(lock)
        if now != seen:
            seen, since = now, time.monotonic()
        elif _is_dead(owner) or time.monotonic() - since > _SILENCE:
            _take_away(lock, owner)
            return


def _take_away(lock: str, owner: str) -> None:
    """Remove the lock of `owner`; put it back if somebody else's came in its place meanwhile."""
    aside = f"{lock}.{os.uname().nodename}.{os.getpid()}.old"
    with contextlib.suppress(FileNotFoundError):
        os.rename(lock, aside)
        if files.read_text(aside) != owner:
            with contextlib.suppress(OSError):
                os.link(aside, lock)
        os.unlink(aside)


def _beat_of(lock: str) -> int | None:
    try:
        return os.stat(lock).st_mtime_ns
    except FileNotFoundError:
        return None


def _is_dead(owner: str) -> bool:
    """Whether the process that `owner` names was on this machine and is no more."""
    node, _, rest = owner.partition(" ")
    process = rest.partition(" ")[0]
    if node != os.uname().nodename or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@contextlib.contextmanager
def _beating(lock: str, owner: str) -> Iterator[None]:
    """Touch the lock every few seconds inside; remove it in the end, if it is still ours."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT):
            with contextlib.suppress(OSError):
                os.utime(lock)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if files.read_text(lock) == owner:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(lock)


def unreachable_reason(url: str) -> str | None:
    """None if the host of `url`, or the proxy that leads there, takes a connection; else, within three seconds, words.

    Libraries try for half a minute and more, and say it in fifty lines.
    """
    place = urlsplit(_proxy_for(url) or url)
    if not place.hostname:
        return None
    port = place.port or (80 if place.scheme == "http" else 443)
    reasons: list[str] = []
    attempt = threading.Thread(target=_connect, args=(place.hostname, port, reasons), daemon=True)
    attempt.start()  # beside us, since looking up a name has no time limit
    attempt.join(REACH_SECONDS)
    if attempt.is_alive():
        reasons = [f"no answer within {REACH_SECONDS:g} s"]
    return f"{place.hostname} cannot be reached from {os.uname().nodename} ({reasons[0]})" if reasons else None


def _connect(host: str, port: int, reasons: list[str]) -> None:
    import socket

    try:
        socket.create_connection((host, port), timeout=REACH_SECONDS).close()
    except OSError as error:
        reasons.append(error.strerror or str(error))


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for `url`."""
    from urllib.request import getproxies, proxy_bypass

    place = urlsplit(url)
    if not place.hostname or proxy_bypass(place.hostname):
        return None
    proxies = getproxies()
    proxy = proxies.get(place.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"
