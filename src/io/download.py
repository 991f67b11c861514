"""Downloads: once for all processes and nodes that need the same file; fails fast when offline."""
from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

from src.errors import DataError, UserError
from src.io import files

T = TypeVar("T")

PREFETCH = "download it on a machine with internet: `python experiments.py prefetch` with your job spec"
CONNECT_TIMEOUT = 3.0  # seconds; a firewall that drops packets never answers
_HEARTBEAT_INTERVAL = 5.0  # seconds between updates of the lock's time by the process that downloads
_HEARTBEAT_TIMEOUT = 120.0  # seconds; file systems of a cluster may show an update up to a minute late
_POLL_INTERVAL = 0.2  # seconds between checks of a lock that another process holds


def once(lock: str | os.PathLike[str], name: str, find: Callable[[], T | None], download: Callable[[], None]) -> T:
    """Return what `find` returns; if that is None, call `download` first, in only one of the processes that need it.

    lock: a file that the downloading process creates, on a file system that all share, and removes afterwards. Other
    processes wait until it is gone, and break it if its owner has died or has not updated it for two minutes. An error
    of `download` is raised in its own process only; the next process tries again. flock is not used, since some file
    systems grant it to everybody.
    """
    lock = os.fspath(lock)
    has_waited = False
    while (result := find()) is None:
        files.make_folder(os.path.dirname(lock) or ".")
        owner = f"{os.uname().nodename} {os.getpid()} {threading.get_ident()} {time.time_ns()}"
        if files.create_exclusive(lock, owner, sync=False):
            with _heartbeat(lock, owner):
                result = find()  # the previous owner may have downloaded it in between
                if result is None:
                    download()
                    result = find()
            if result is None:
                raise DataError(f"{name} was downloaded and still cannot be found")
            return result
        if not has_waited:
            print(f"waiting for another process that downloads {name}", file=sys.stderr, flush=True)
            has_waited = True
        _wait_for(lock)
    return result


def once_if_allowed(lock: str | os.PathLike[str], name: str, find: Callable[[], T | None],
                    download: Callable[[], object], url: str, forbidden: str | None, hint: str) -> T:
    """Return what `find` returns, after `download` as in `once` if that is allowed and the host of `url` is reachable.

    forbidden: why nothing may be downloaded, if so; hint: what to check if `download` fails. DataError if the result is
    missing and cannot be downloaded.
    """
    if (result := find()) is not None:
        return result
    if reason := forbidden or unreachable_reason(url):
        raise DataError(f"{name} is not here, and {reason}", hint=PREFETCH)

    def download_or_data_error() -> None:
        try:
            download()
        except UserError:
            raise
        except Exception as error:  # each library has its own classes for errors of the network, the hub and the disk
            raise DataError(f"{name} cannot be downloaded: {type(error).__name__}: "
                            f"{' '.join(str(error).split())[:300]}", hint=hint) from error

    try:
        return once(lock, name, find, download_or_data_error)
    except OSError as error:
        raise DataError(f"{name} is not here, and cannot be stored in {os.path.dirname(lock)}: "
                        f"{error.strerror or error}", hint=PREFETCH) from error


def _wait_for(lock: str) -> None:
    """Wait until the lock is gone; remove it if its owner is dead."""
    state, since = (files.read_text(lock), _modified_at(lock)), time.monotonic()
    while (owner := state[0]) is not None:
        time.sleep(_POLL_INTERVAL)
        new_state = files.read_text(lock), _modified_at(lock)
        if new_state != state:
            state, since = new_state, time.monotonic()
        elif _is_dead(owner) or time.monotonic() - since > _HEARTBEAT_TIMEOUT:
            _break_lock(lock, owner)
            return


def _break_lock(lock: str, owner: str) -> None:
    """Remove the lock of `owner`; restore the lock if another process has replaced it meanwhile."""
    aside = files.temporary_path(lock)
    with contextlib.suppress(FileNotFoundError):
        os.rename(lock, aside)
        if files.read_text(aside) != owner:
            with contextlib.suppress(OSError):
                os.link(aside, lock)
        os.unlink(aside)


def _modified_at(lock: str) -> int | None:
    try:
        return os.stat(lock).st_mtime_ns
    except FileNotFoundError:
        return None


def _is_dead(owner: str) -> bool:
    """Return whether the process that `owner` names ran on this machine and has ended."""
    host, _, rest = owner.partition(" ")
    pid = rest.partition(" ")[0]
    if host != os.uname().nodename or not re.fullmatch("[0-9]{1,10}", pid):
        return False
    try:
        os.kill(int(pid), 0)
    except OSError as error:  # PermissionError: a process of another user
        return isinstance(error, ProcessLookupError)
    return False


@contextlib.contextmanager
def _heartbeat(lock: str, owner: str) -> Iterator[None]:
    """Update the lock's time every few seconds in the block, and remove the lock at its end if it is still ours."""
    is_done = threading.Event()

    def beat() -> None:
        while not is_done.wait(_HEARTBEAT_INTERVAL):
            with contextlib.suppress(OSError):
                os.utime(lock, follow_symlinks=False)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
        if files.read_text(lock) == owner:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(lock)


def unreachable_reason(url: str) -> str | None:
    """Return why the host of `url`, or the proxy for it, accepts no connection; None if it does. Takes 3 s at most.

    Libraries retry for half a minute and more, and report the failure in fifty lines.
    """
    address = urlsplit(_proxy_for(url) or url)
    if not address.hostname:
        return None
    port = address.port or (80 if address.scheme == "http" else 443)
    reasons: list[str] = []
    attempt = threading.Thread(target=_connect, args=(address.hostname, port, reasons), daemon=True)
    attempt.start()  # in a thread, since a name lookup has no timeout
    attempt.join(CONNECT_TIMEOUT)
    if attempt.is_alive():
        reasons = [f"no answer within {CONNECT_TIMEOUT:g} s"]
    return f"{address.hostname} cannot be reached from {os.uname().nodename} ({reasons[0]})" if reasons else None


def _connect(host: str, port: int, reasons: list[str]) -> None:
    import socket

    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        reasons.append(error.strerror or str(error))


def _proxy_for(url: str) -> str | None:
    """Return the proxy that the environment sets for `url`; None without one."""
    from urllib.request import getproxies, proxy_bypass

    address = urlsplit(url)
    if not address.hostname or proxy_bypass(address.hostname):
        return None
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"
