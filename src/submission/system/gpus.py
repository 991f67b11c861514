"""Select the GPUs of this machine that runs are pinned to: by number, or those that are free."""
from __future__ import annotations

import re
import subprocess

from src.errors import JobSpecError

_FREE = 500  # MiB: a GPU with less memory in use, and no process on it, counts as free


def choose_gpus(text: str) -> tuple[list[str], list[str]]:
    """Return the GPUs that `--gpus` selects (`1,3`, or `free`), and with `free` a line for each busy one.

    JobSpecError if the text is neither, a GPU does not exist, or none is free.
    """
    requested = None if text == "free" else text.split(",")
    if requested is not None and not all(re.fullmatch(r"\d+", number) for number in requested):
        raise JobSpecError(f"invalid value '{text}'", where="--gpus", allowed="free, or numbers such as 0,2")
    memory = {number: int(used) for number, used in _query("--query-gpu=index,memory.used")}  # MiB in use
    if requested is not None:
        missing = [number for number in requested if number not in memory]
        if missing:
            raise JobSpecError(f"no GPU {', '.join(missing)} on this machine", where="--gpus",
                               allowed=", ".join(memory) or "none: nvidia-smi lists no GPU")
        return requested, []
    processes = _processes()
    busy = {number: processes.get(number, []) for number, used in memory.items()
            if used > _FREE or processes.get(number)}
    free = [number for number in memory if number not in busy]
    lines = [f"GPU {number} is busy: {memory[number]} MiB in use by {', '.join(names) or 'unknown processes'}"
             for number, names in busy.items()]
    if not free:
        raise JobSpecError("no GPU is free", where="--gpus", hint="; ".join(lines) or "nvidia-smi lists no GPU")
    return free, lines


def _processes() -> dict[str, list[str]]:
    """Return the processes on each GPU, by its number."""
    numbers = {uuid: number for number, uuid in _query("--query-gpu=index,uuid")}
    processes: dict[str, list[str]] = {}
    for uuid, pid, name in _query("--query-compute-apps=gpu_uuid,pid,process_name"):
        processes.setdefault(numbers.get(uuid, uuid), []).append(f"{name} ({pid})")
    return processes


def _query(option: str) -> list[list[str]]:
    """Return the table that nvidia-smi prints, as rows of cells; empty if it is missing or hangs."""
    try:
        answer = subprocess.run(["nvidia-smi", option, "--format=csv,noheader,nounits"], capture_output=True, text=True,
                                timeout=30, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
