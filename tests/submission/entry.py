"""A train.py without torch: batch_size selects how a run ends."""
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
    """Behave as the spec's batch_size selects, and append a line to `executed` at the end.

    13: crash, unless the batch has a file `mended`. 14: diverge. 15: sleep for a minute. 16: wait for USR1 and save,
    until the file `steps` has 3 lines. 17: wait for the other processes of this start. 18: wait for a file `go` in the
    batch, and check meanwhile whether the run was taken over.
    """
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
            remaining = 3 - len(file.readlines())
        while remaining and not signals.time_is_short():
            time.sleep(0.05)
        if remaining:
            return "requeued"
    if spec["batch_size"] == 17:
        with open(os.path.join(folder or ".", "present"), "a+") as file:
            file.write("present\n")
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
    """Do nothing: there is nothing to import."""


if __name__ == "__main__":
    sys.exit(attempt.main(sys.argv[1:], train=train, warm_up=warm_up))
