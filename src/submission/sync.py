"""Results fetched from another machine by rsync: stats, configs and logs, and what is large only if it is asked for."""
from __future__ import annotations

import os
import subprocess

from src.errors import BatchError

# hidden files are half written, or caches of that machine
_NEVER, _LARGE = (".*",), ("*.pt", "*.safetensors", "snapshot/")


def rsync_command(source: str, to: str, project: str, checkpoints: bool = False) -> list[str]:
    """The words of the rsync that brings `source`, HOST or HOST:FOLDER, into the folder `to`. Nothing is ever deleted.

    project: the name of the project's folder: HOST alone means HOST:project/results. BatchError for what is no host.
    """
    host, _, folder = source.partition(":")
    if not host or host.startswith("-") or any(c.isspace() for c in host):
        raise BatchError(f"'{source}' names no machine", where="sync", allowed="HOST or HOST:FOLDER",
                         hint="as ssh knows it: cluster:gridiron/results")
    excluded = _NEVER if checkpoints else (*_NEVER, *_LARGE)
    folder = (folder or f"{project}/results").rstrip("/")
    return ["rsync", "--archive", "--compress", "--partial", "--protect-args", "--info=progress2", "--human-readable",
            *(f"--exclude={pattern}" for pattern in excluded), "--", f"{host}:{folder}/", os.path.join(to, "")]


def fetch(source: str, to: str, project: str, checkpoints: bool = False) -> None:
    """Run it, with its progress on the terminal. BatchError if it fails, or there is no rsync."""
    command = rsync_command(source, to, project, checkpoints)
    os.makedirs(to, exist_ok=True)
    try:
        code = subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        raise BatchError("rsync is not installed here", where="sync", hint="install it on both machines") from None
    if code:
        raise BatchError(f"rsync ended with {code}; its own words are above", where=source,
                         hint=f"does `ssh {source.partition(':')[0]} ls` work? Run it again: it goes on where it was")
