"""With this folder in PYTHONPATH, Python lists folders as NFS does: from a cache, until this host changes the folder.

$GRIDIRON_LATE_LISTING is the age, in seconds, up to which the cache is used.
"""
from __future__ import annotations

import os
import time
from typing import Any

_SECONDS = float(os.environ.get("GRIDIRON_LATE_LISTING", "0"))
_listings: dict[str, tuple[float, list[str]]] = {}
_list, _open, _link, _replace = os.listdir, os.open, os.link, os.replace


def _forget(path: Any) -> None:
    _listings.pop(os.path.dirname(os.path.abspath(path)), None)


def _late_listdir(path: Any = ".") -> list[str]:
    if isinstance(path, int):  # a descriptor, of shutil
        return _list(path)
    folder = os.path.abspath(path)
    if folder not in _listings or time.monotonic() - _listings[folder][0] > _SECONDS:
        _listings[folder] = time.monotonic(), _list(folder)
    return list(_listings[folder][1])


def _open_and_forget(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
    if flags & os.O_CREAT:
        _forget(path)
    return _open(path, flags, *arguments, **options)


def _link_and_forget(source: Any, target: Any, **options: Any) -> None:
    _forget(target)
    _link(source, target, **options)


def _replace_and_forget(source: Any, target: Any, **options: Any) -> None:
    _forget(target)
    _replace(source, target, **options)


if _SECONDS:
    os.listdir, os.open, os.link, os.replace = (  # type: ignore[assignment]
        _late_listdir, _open_and_forget, _link_and_forget, _replace_and_forget)
