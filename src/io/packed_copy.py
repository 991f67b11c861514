"""The copy of a packed environment that this Python is in, if any: its data folders, and where the environment is."""
from __future__ import annotations

import functools
import os
import sys
from typing import Any

from src.io import files

RECORD = ".gridiron-packed.json"  # file at the top of a copy
DATA = ".data"  # folder in a copy: data folders, by their real paths


@functools.cache
def record() -> dict[str, Any]:
    """Return what a copy records of the environment: prefix, base_prefix, executable, data; empty outside of a copy."""
    value = files.read_json(os.path.join(sys.prefix, RECORD))
    return value if isinstance(value, dict) else {}


def data_copy(folder: str) -> str | None:
    """Return the copy of a data folder on this node; None if it is not packed."""
    packed = record().get("data")
    return f"{sys.prefix}/{DATA}{path}" if packed and (path := os.path.realpath(folder)) in packed else None


def environment() -> tuple[str, str, str]:
    """Return prefix, base prefix and executable of this Python; in a copy, those of the environment itself."""
    copied = record()
    if not copied:
        return sys.prefix, sys.base_prefix, sys.executable
    return copied["prefix"], copied["base_prefix"], copied["executable"]
