"""Times, memory sizes and lists of array indices, as Slurm reads and prints them."""
from __future__ import annotations

import time


def format_duration(seconds: float) -> str:
    """Format as 2:05, 1:00:00 or 2-00:00:00."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}-{hour:02}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def format_long_duration(seconds: float) -> str:
    """Format as 00:02:05 or 2-00:00:00."""
    text = format_duration(seconds)
    return text if "-" in text else ":".join(part.zfill(2) for part in (["0", *text.split(":")])[-3:])


def format_time(unix_seconds: str, default: str = "N/A") -> str:
    """Format as 2024-05-06T07:08:09; `default` for an empty string."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(float(unix_seconds))) if unix_seconds else default


def parse_time_limit(text: str) -> str:
    """Return a time limit in seconds, rounded up to minutes, or an empty string for no limit.

    Formats: minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s. Raises ValueError or KeyError for others.
    """
    if text.lower() in ("infinite", "unlimited", "0", "-1"):
        return ""
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        hour, minute, second = (*parts, 0, 0)[:3]
    else:
        hour, minute, second = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    seconds = ((int(days or 0) * 24 + hour) * 60 + minute) * 60 + second
    return str(-(-seconds // 60) * 60)


def parse_memory(text: str) -> int:
    """Return 8G, 500M or 500 in MB. Raises ValueError for other formats."""
    factor = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 ** 2}.get(text[-1:].upper())
    return int(float(text[:-1]) * factor) if factor else int(text)


def parse_indices(text: str) -> list[int]:
    """Return the sorted indices of 1,3,7-9:2, here [1, 3, 7, 9]. Raises ValueError for other formats."""
    indices: list[int] = []
    for part in text.split(","):
        bounds, _, step = part.partition(":")
        first, dash, last = bounds.partition("-")
        part_indices = range(int(first), int(last) + 1, int(step or 1)) if dash else [int(first)]
        if not part_indices:
            raise ValueError(part)
        indices += part_indices
    return sorted(set(indices))


def format_indices(indices: list[int]) -> str:
    """Format sorted indices: [0, 1, 2, 5] becomes 0-2,5."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
