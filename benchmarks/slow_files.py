"""A read-only file system in which each request takes 5 ms, as on a busy file server; it counts the requests.

    /usr/bin/python3 benchmarks/slow_files.py MOUNT_POINT DESCRIPTION

DESCRIPTION is a JSON file: `folders` maps paths in the mount to real folders, `files` maps paths in it to files that
stand in for them, `links` maps beginnings of link targets to others, and the numbers of requests are written to
`counts` at the end. It requires Debian's python3-fusepy, which belongs to the system's Python.
"""
from __future__ import annotations

import collections
import json
import os
import stat
import sys
import threading
import time
from typing import Any

SECONDS = 0.005  # per request
METADATA = ("getattr", "readlink", "open", "readdir")


class SlowFiles:
    """The operations that fusepy calls, in several threads. A name is looked up by getattr."""

    use_ns = True  # times are in nanoseconds

    def __init__(self, folders: dict[str, str], files: dict[str, str], links: dict[str, str], counts: str) -> None:
        self._folders, self._files, self._links, self._counts_path = folders, files, links, counts
        self._counts: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def __call__(self, operation: str, *arguments: Any) -> Any:
        """Perform one operation; its OSError is the answer."""
        return getattr(self, operation)(*arguments)

    def _count(self, operation: str) -> None:
        with self._lock:
            self._counts[operation] += 1
        time.sleep(SECONDS)

    def _real(self, path: str) -> str:
        if path in self._files:
            return self._files[path]
        top = max((name for name in self._folders if f"{path}/".startswith(f"{name}/")), key=len, default="")
        return self._folders.get(top, "/nonexistent") + path.removeprefix(top)

    def getattr(self, path: str, handle: Any = None) -> dict[str, Any]:
        self._count("getattr")
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        status = os.lstat(self._real(path))
        return {"st_mode": status.st_mode, "st_nlink": status.st_nlink, "st_size": status.st_size,
                "st_uid": status.st_uid, "st_gid": status.st_gid, "st_mtime": status.st_mtime_ns}

    def readlink(self, path: str) -> str:
        self._count("readlink")
        target = os.readlink(self._real(path))
        for beginning, other in self._links.items():
            if target.startswith(beginning):
                return other + target.removeprefix(beginning)
        return target

    def readdir(self, path: str, handle: Any) -> list[str]:
        self._count("readdir")
        return [".", "..", *os.listdir(self._real(path))]

    def open(self, path: str, flags: int) -> int:
        self._count("open")
        return os.open(self._real(path), os.O_RDONLY)

    def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
        self._count("read")
        return os.pread(handle, size, offset)

    def release(self, path: str, handle: int) -> int:
        os.close(handle)
        return 0

    def destroy(self, path: str) -> None:
        with open(self._counts_path, "w") as file:
            json.dump(self._counts, file)


if __name__ == "__main__":
    import fusepy

    with open(sys.argv[2]) as description:
        operations = SlowFiles(**json.load(description))
    # clients of NFS, too, use what they know of a folder for 30 seconds, and contents of unchanged files
    fusepy.FUSE(operations, sys.argv[1], foreground=True, ro=True, auto_cache=True, attr_timeout=30, entry_timeout=30,
                negative_timeout=30)
