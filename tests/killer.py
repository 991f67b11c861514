"""Interrupt a run repeatedly: start it in a fork, send a signal after a random time, and check stats.csv.

    python killer.py SPEC SIGNAL KILLS SEED

If the run ends before KILLS signals have interrupted it, a copy of it is started in a folder beside, RUN-2 and so on.
After the last signal the run continues to its end. Prints the number of interruptions and of runs.
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

MAX_DELAY = 0.6  # seconds before a signal


def main(spec: Path, number: signal.Signals, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    rng, interruptions, runs = random.Random(seed), 0, 1
    while interruptions < kills or not is_done(spec):
        if is_done(spec):
            runs += 1
            spec = copy_run(spec, runs)
        pid = os.fork()
        if pid == 0:
            os._exit(attempt.main([str(spec)], train=train, warm_up=warm_up))
        if is_last := interruptions == kills:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert (code, is_done(spec)) == (0, True), f"exit code {code}"
        else:
            time.sleep(rng.uniform(0.05, MAX_DELAY))
            os.kill(pid, number)
            os.waitpid(pid, 0)
        check_rows(spec.parent)
        if is_done(spec) and number == signal.SIGKILL:
            # the signal may have come after `done` was written and before the checkpoints were removed; `experiments.py
            # clean` removes them as well
            run_folder.remove_resume_checkpoints(str(spec.parent))
        interruptions += not is_last and not is_done(spec)
    print(interruptions, runs)


def is_done(spec: Path) -> bool:
    return (spec.parent / "done").exists()


def copy_run(spec: Path, number: int) -> Path:
    """Make another folder for the same run. Returns its spec."""
    folder = spec.parent.with_name(f"{spec.parent.name.partition('-')[0]}-{number}")
    folder.mkdir()
    shutil.copy(spec, folder)
    return folder / spec.name


def check_rows(folder: Path) -> None:
    """Check that stats.csv has one complete row per epoch so far; the last line may be an incomplete row."""
    path = folder / "stats.csv"
    text = path.read_text() if path.exists() else ""
    lines = text[:text.rfind("\n") + 1].splitlines()
    assert all(line.count(",") == lines[0].count(",") for line in lines), f"incomplete row in {path}"
    numbers = [line.partition(",")[0] for line in lines[1:]]
    assert numbers == [str(epoch) for epoch in range(1, len(numbers) + 1)], f"{path} has rows of epochs {numbers}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), signal.Signals[sys.argv[2]], int(sys.argv[3]), int(sys.argv[4]))
