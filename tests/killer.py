"""Starts a run again and again, each time in a fork that is sent a signal after a random time, until it has ended.

python killer.py SPEC SIGNAL STARTS SEED: checks the rows each time, and prints how many starts it took. The last start
is left alone.
"""
from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import src.datasets.factory
import src.models.factory
import src.optimizers.factory
import src.training.experiment  # noqa: F401  # once, for all starts
from src.submission import attempt
from train import train, warm_up


def main(spec: str, number: signal.Signals, starts: int, seed: int) -> None:
    torch.set_num_threads(1)
    draw, folder = random.Random(seed), Path(spec).parent
    longest = 0.6
    for start in range(1, starts + 1):
        pid = os.fork()
        if pid == 0:
            os._exit(attempt.main([spec], train=train, warm_up=warm_up))
        time.sleep(draw.uniform(0.05, longest))
        os.kill(pid, number)
        os.waitpid(pid, 0)
        check_rows(folder)
        if (folder / "done").exists():
            print(start)
            return
    pid = os.fork()
    if pid == 0:
        os._exit(attempt.main([spec], train=train, warm_up=warm_up))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(starts + 1)
    sys.exit(code)


def check_rows(folder: Path) -> None:
    """Whole rows in stats.csv, one of each epoch so far, but for the end of a row that was being written."""
    path = folder / "stats.csv"
    text = path.read_text() if path.exists() else ""
    lines = text[:text.rfind("\n") + 1].splitlines()
    assert all(line.count(",") == lines[0].count(",") for line in lines), f"a torn row in {path}"
    numbers = [line.partition(",")[0] for line in lines[1:]]
    assert numbers == [str(epoch) for epoch in range(1, len(numbers) + 1)], f"rows {numbers} of {path}"


if __name__ == "__main__":
    main(sys.argv[1], signal.Signals[sys.argv[2]], int(sys.argv[3]), int(sys.argv[4]))
