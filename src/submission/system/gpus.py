"""Which GPUs of this machine runs are pinned to: those that were named, or those that nobody uses."""
from __future__ import annotations

import re
import subprocess

from src.errors import JobSpecError

_FREE = 500  # MiB: a GPU with less memory in use, and no process on it, counts as free


def choose_gpus(text: str) -> tuple[list[str], list[str]]:
    """The GPUs that `--gpus` names (`1,3`), or that are free (`free`); and a line for each that is left out as busy.

    JobSpecError if the text is neither, a GPU is not there, or none is free.
    """
    wanted = None if text == "free" else text.split(",")
    if wanted is not None and not all(re.fullmatch(r"\d+", number) for number in wanted):
        raise JobSpecError(f"'{text}' names no GPUs", where="--gpus", allowed="free, or numbers such as 0,2")
    there = _memory_in_use()
    if wanted is not None:
        missing = [number for number in wanted if number not in there]
        if missing:
            raise JobSpecError(f"there is no GPU {', '.join(missing)} here", where="--gpus", allowed=", ".join(there) or
                               "none: nvidia-smi finds no GPU")
        return wanted, []
    occupied = _processes()
    busy = {number: occupied.get(number, []) for number, used in there.items() if used > _FREE or occupied.get(number)}
    free = [number for number in there if number not in busy]
    lines = [f"GPU {number} is busy: {there[number]} MiB in use by {', '.join(users) or 'somebody'}"
             for number, users in busy.items()]
    if not free:
        raise JobSpecError("no GPU is free", where="--gpus", hint="; ".join(lines) or "nvidia-smi finds no GPU here")
    return free, lines


def _memory_in_use() -> dict[str, int]:
    """MiB in use on each GPU, by its number."""
    return {number: int(used) for number, used in _query("--query-gpu=index,memory.used")}


def _processes() -> dict[str, list[str]]:
    """The processes on each GPU, by its number."""
    numbers = {uuid: number for number, uuid in _query("--query-gpu=index,uuid")}
    found: dict[str, list[str]] = {}
    for uuid, pid, name in _query("--query-compute-apps=gpu_uuid,pid,process_name"):
        found.setdefault(numbers.get(uuid, uuid), []).append(f"{name} ({pid})")
    return found


def _query(what: str) -> list[list[str]]:
    try:
        answer = subprocess.run(["nvidia-smi", what, "--format=csv,noheader,nounits"], capture_output=True, text=True,
                                timeout=30, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
