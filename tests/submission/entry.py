"""A train.py without torch: `train` obeys what its spec's loss and base_lr say, so that tests choose how runs end."""
from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, os.environ["GRIDIRON_TEST_ROOT"])

from src.submission.job import attempt
from src.submission.system import process
from src.submission.system.signals import signals


def train(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
    """batch_size 13 crashes, 14 diverges, 15 sleeps for long, 16 waits for USR1 and saves itself until `steps` has 3
    lines, 17 waits for the other processes of its start, 18 waits for a file `go` in its batch and looks out; each run
    leaves a line in `executed` at its end."""
    print(f"training {spec['batch_size']} with {os.environ.get('GRIDIRON_THREADS')} threads")
    if spec["batch_size"] == 13 and not os.path.exists(os.path.join(os.path.dirname(folder or "."), "mended")):
        raise RuntimeError("unlucky\nnumber")
    if spec["batch_size"] == 15:
        for _ in range(600):
            time.sleep(0.1)
    if spec["batch_size"] == 16:
        steps = os.path.join(folder or ".", "steps")
        with open(steps, "a+") as file:
            file.write(f"{os.environ.get('SLURM_JOB_ID')}\n")
            file.seek(0)
            left = 3 - len(file.readlines())
        while left and not signals.time_is_short():
            time.sleep(0.05)
        if left:
            return "requeued"
    if spec["batch_size"] == 17:
        with open(os.path.join(folder or ".", "present"), "a+") as file:
            file.write("here\n")
            file.flush()
            while file.seek(0) or len(file.readlines()) < process.world_size():
                time.sleep(0.05)
    while spec["batch_size"] == 18 and not os.path.exists(os.path.join(os.path.dirname(folder or "."), "go")):
        time.sleep(0.1)
        check()
    check()
    with open(os.path.join(folder or ".", "executed"), "a") as file:
        file.write("once\n")
    return "diverged" if spec["batch_size"] == 14 else "completed"


def warm_up(specs: list[dict[str, Any]]) -> None:
    """Nothing to import."""


if __name__ == "__main__":
    sys.exit(attempt.main(sys.argv[1:], train=train, warm_up=warm_up))
