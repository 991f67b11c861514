"""A train.py without torch for searches: its metric follows from the learning rate, and it pauses and resumes.

Rows of stats.csv are its saved state. In the run folder it leaves a line in `starts` for each start, a line in
`trained` for each epoch, and a file `overlap` if two processes train the run at the same time.
"""
from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, os.environ["GRIDIRON_TEST_ROOT"])

from src.run_folder import RunFolder
from src.submission.job import attempt
from src.submission.system.signals import signals

SECONDS_PER_EPOCH = float(os.environ.get("GRIDIRON_TEST_EPOCH", "0.01"))


def value_after(spec: dict[str, Any], epoch: int) -> float:
    """Return the metric: larger for a learning rate near 0.1, and for more epochs."""
    best = 1 - abs(math.log10(spec["base_lr"]) + 1) / 4
    return round(best * (1 - 0.5 ** epoch), 6)


def train(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
    """Train epoch after epoch. batch_size 13 crashes in epoch 2; 14 diverges; 99 writes another metric."""
    assert folder
    stats, name = os.path.join(folder, "stats.csv"), "other" if spec["batch_size"] == 99 else "score"
    _append(folder, "starts", str(os.getpid()))
    pause_after, rows = RunFolder.read(folder).pause_epoch(), _whole_rows(stats)
    if pause_after is not None and len(rows) >= pause_after:
        return "paused"
    with open(stats, "w") as file:
        file.write("".join([f"epoch,{name}\n", *rows]))
    for epoch in range(len(rows) + 1, spec["train_length"] + 1):
        _train_epoch(folder)
        check()
        if spec["batch_size"] == 13 and epoch == 2:
            raise RuntimeError("unlucky")
        if spec["batch_size"] == 14:
            return "diverged"
        _append(folder, "stats.csv", f"{epoch},{value_after(spec, epoch)}")
        _append(folder, "trained", str(epoch))
        if epoch == spec["train_length"]:
            return "completed"
        if epoch == pause_after:
            return "paused"
        if signals.time_is_short():
            return "requeued"
    return "completed"


def _train_epoch(folder: str) -> None:
    lock = os.path.join(folder, f"training-{os.getpid()}")
    with open(lock, "w"):
        pass
    time.sleep(SECONDS_PER_EPOCH)
    for name in os.listdir(folder):
        pid = name.removeprefix("training-")
        if pid != name and int(pid) != os.getpid() and os.path.exists(f"/proc/{pid}"):
            _append(folder, "overlap", f"{pid} and {os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(lock)


def _append(folder: str, name: str, line: str) -> None:
    with open(os.path.join(folder, name), "a") as file:
        file.write(line + "\n")


def _whole_rows(path: str) -> list[str]:
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [line for line in file.readlines()[1:] if line.endswith("\n")]


def warm_up(specs: list[dict[str, Any]]) -> None:
    """Do nothing: there is nothing to import."""


if __name__ == "__main__":
    sys.exit(attempt.main(sys.argv[1:], train=train, warm_up=warm_up))
