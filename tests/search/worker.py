"""A worker whose trials take no time: it decides, claims, writes rows of stats.csv, and records how the trial ended.

    python -m tests.search.worker BATCH SEED

runs it as a process that is slow at random moments, so that several of them race.
"""
from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from src import run_folder
from src.io import files
from src.run_folder import RunFolder
from src.search import decide, definition
from src.search.decide import Finished, Start, Wait
from src.search.definition import EarlyStop, Search
from src.search.history import History
from src.search.space import CHOICE, FLOAT, Branching, Dimension, Space
from src.submission.batch import claims
from src.submission.system import process

SPACE = Space({"model": "linear"},
              (Dimension("base_lr", "base_lr", FLOAT, 1e-4, 1, log=True),
               Dimension("batch_size", "batch_size", CHOICE, choices=(32, 128))),
              (Branching("LIST", (Space({"optim_alg": "sgd"}, (Dimension("LIST.0.momentum", "momentum", FLOAT, 0, 1),)),
                                  Space({"optim_alg": "adam"}))),))
ASHA = EarlyStop("asha", (1, 3), 3)


def make_batch(folder: Path, **changes: Any) -> str:
    """Make a batch with a search of nine trials."""
    search = Search(**{"method": "random", "trials": 9, "parallel": 4, "seed": 0, "metric": "val/loss",
                       "maximize": False, "length": 9, "space": SPACE, "name": "x", "early_stop": ASHA, **changes})
    (folder / run_folder.SUBMISSIONS).mkdir(parents=True)
    (folder / run_folder.JOB_SPEC).write_text("job_details: {name: x}\nparameters: {}\n")
    definition.write(folder, search)
    return str(folder)


def history_of(batch: str, **options: Any) -> History:
    search = definition.read(batch)
    assert search is not None
    return History(batch, search, is_dead=lambda _run, who: process.is_alive(who) is False, **options)


def name_run(trial: int, _parameters: Mapping[str, Any]) -> str:
    return f"{trial:03d}_x"


def step(history: History) -> Start | Wait | Finished:
    return decide.next_step(history, name_run, process.identity())


def loss(parameters: Mapping[str, Any], epoch: int) -> float:
    """The loss of a trial, which falls with its epochs."""
    penalty = 0.1 if parameters["optim_alg"] == "adam" else parameters["momentum"] / 4
    return abs(parameters["base_lr"] - 0.01) + penalty + 1 / epoch


def rows(folder: str) -> list[str]:
    return (files.read_text(os.path.join(folder, run_folder.STATS)) or "epoch,val/loss\n").splitlines()


def execute(start: Start, length: int, how: str | None = None, pause: Callable[[], None] = lambda: None) -> bool:
    """Run a trial as an attempt does. Return False if another process has it.

    how: makes the attempt end like this after one epoch, or never if it is "killed".
    """
    claimed = claims.claim(start.folder, start.ticket, in_worker=True)
    pause()
    if claimed is None or RunFolder.read(start.folder).ended:
        return False
    record = {"who": process.identity(), "start": time.time(), "how": None}
    if not claims.create_attempt(start.folder, *claimed, record):
        return False
    pause()
    lines = rows(start.folder)
    epochs = range(len(lines), (start.pause_at or length) + 1)
    if epochs:  # an attempt that finds its epochs in stats.csv trains nothing, like src/training/experiment.py
        with open(os.path.join(start.folder, "executed"), "a") as file:
            file.write(f"{start.ticket} {start.trial.target}\n")
    lines += [f"{epoch},{loss(start.trial.parameters, epoch)}" for epoch in (epochs[:1] if how else epochs)]
    files.write_atomic(os.path.join(start.folder, run_folder.STATS), "\n".join(lines) + "\n")
    pause()
    if how == "killed":
        return True
    if how is None and start.pause_at is None:
        files.write_atomic(os.path.join(start.folder, run_folder.DONE), "completed\n")
    end = how or (run_folder.COMPLETED if start.pause_at is None else run_folder.PAUSED)
    files.write_json(os.path.join(start.folder, run_folder.attempt_name(*claimed)), {**record, "how": end})
    return True


def work(batch: str, pause: Callable[[], None] = lambda: None, patience: float = 300, **options: Any) -> History:
    """Work until the search is complete."""
    history, end = history_of(batch, **options), time.monotonic() + patience
    while not isinstance(action := step(history), Finished):
        assert time.monotonic() < end, "the search does not end"
        if isinstance(action, Wait):
            time.sleep(0.01)
        else:
            execute(action, history.search.length, pause=pause)
        pause()
    assert action.error is None
    return history


def check(batch: str) -> History:
    """Assert that a search is complete, each decision made once and its own, and no trial run twice for one rung."""
    history = history_of(batch)
    history.refresh()
    search, ledger = history.search, history.current
    numbers = sorted(name for name in os.listdir(os.path.join(batch, "search")) if name.startswith("decision"))
    assert numbers == [f"decision-{number:04d}.json" for number in range(len(history.decisions))]
    assert len(ledger.trials) == search.trials and not ledger.open_trials()
    count, differences = decide.replay(batch, search, name_run)
    assert (count, differences) == (len(history.decisions), [])
    for trial in ledger.trials:
        folder = os.path.join(batch, trial.run)
        targets = [int(line.split()[1]) for line in (Path(folder) / "executed").read_text().splitlines()]
        assert sorted({*targets}) == list(range(trial.target + 1)) and targets == sorted(targets)
        epochs = [int(line.split(",")[0]) for line in rows(folder)[1:]]
        assert epochs == list(range(1, search.rungs[trial.target] + 1))
    return history


def main(batch: str, seed: int) -> None:
    rng = random.Random(seed)
    work(batch, pause=lambda: time.sleep(rng.choice([0, 0, 0.001, 0.01])), grace=0.3)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    print(json.dumps("complete"))
