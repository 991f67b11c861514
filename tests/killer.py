"""Starts a run again and again, each time in a fork that is sent a signal after a random time, so many times.

python killer.py SPEC SIGNAL KILLS SEED: a run that ends before is done once more in a folder beside, RUN-2 and so on;
after the last signal the run is left alone. Checks the rows each time; prints how often it interrupted how many runs.
"""
from __future__ import annotations

import os
import random
import shutil
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
from src import run_folder
from src.submission.job import attempt
from train import train, warm_up

LONGEST = 0.6  # seconds before a signal


def main(spec: Path, number: signal.Signals, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    draw, killed, runs = random.Random(seed), 0, 1
    while killed < kills or not ended(spec):
        if ended(spec):
            runs += 1
            spec = copied(spec, runs)
        pid = os.fork()
        if pid == 0:
            os._exit(attempt.main([str(spec)], train=train, warm_up=warm_up))
        if alone := killed == kills:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert (code, ended(spec)) == (0, True), f"exit code {code}"
        else:
            time.sleep(draw.uniform(0.05, LONGEST))
            os.kill(pid, number)
            os.waitpid(pid, 0)
        check_rows(spec.parent)
        if ended(spec) and number == signal.SIGKILL:  # perhaps between `done` and this: what experiments.py clean does
            run_folder.remove_states(str(spec.parent))
        killed += not alone and not ended(spec)
    print(killed, runs)


def ended(spec: Path) -> bool:
    return (spec.parent / "done").exists()


def copied(spec: Path, number: int) -> Path:
    """The same run once more, in a folder beside."""
    folder = spec.parent.with_name(f"{spec.parent.name.partition('-')[0]}-{number}")
    folder.mkdir()
    shutil.copy(spec, folder)
    return folder / spec.name


def check_rows(folder: Path) -> None:
    """Whole rows in stats.csv, one of each epoch so far, but for the end of a row that was being written."""
    path = folder / "stats.csv"
    text = path.read_text() if path.exists() else ""
    lines = text[:text.rfind("\n") + 1].splitlines()
    assert all(line.count(",") == lines[0].count(",") for line in lines), f"a torn row in {path}"
    numbers = [line.partition(",")[0] for line in lines[1:]]
    assert numbers == [str(epoch) for epoch in range(1, len(numbers) + 1)], f"rows {numbers} of {path}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), signal.Signals[sys.argv[2]], int(sys.argv[3]), int(sys.argv[4]))
