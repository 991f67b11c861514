"""Files that many processes read and write at once: whole texts, and records of strings as `key=value` lines."""
from __future__ import annotations

import os
import time


def temporary_path(path: str) -> str:
    """Return a unique path beside `path`, for a file that is then renamed or linked to it."""
    return f"{path}.{os.getpid()}-{time.monotonic_ns()}~"


def write_new_file(path: str, text: str) -> None:
    """Write a file that no other process knows yet."""
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def write_file(path: str, text: str) -> None:
    """Replace a file atomically."""
    temporary = temporary_path(path)
    write_new_file(temporary, text)
    os.rename(temporary, path)


def read_file(path: str) -> str:
    """Return the text of a file, or an empty string if it does not exist."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""


def dump_record(record: dict[str, str]) -> str:
    """Format a record with one `key=value` line per entry; newlines in values are escaped."""
    return "".join("{}={}\n".format(key, value.replace("\\", "\\\\").replace("\n", "\\n"))
                   for key, value in record.items())


def write_record(path: str, record: dict[str, str]) -> None:
    """Replace a record's file atomically."""
    write_file(path, dump_record(record))


def read_record(path: str) -> dict[str, str]:
    """Read a record; empty if its file does not exist."""
    pairs = (line.partition("=") for line in read_file(path).split("\n") if line)
    return {key: "\\".join(part.replace("\\n", "\n") for part in value.split("\\\\")) for key, _, value in pairs}
