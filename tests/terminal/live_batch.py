"""Batches with runs in many states, as local workers write them. The process that makes one counts as all of them."""
from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src import run_folder
from src.io import files, yaml_io
from src.submission.batch import journal
from src.submission.batch.journal import LOCAL, Journal
from src.submission.spec import naming
from src.submission.system import process
from tests.analysis.make_batch import curves, grid, make_empty_batch

AXES: dict[str, Sequence[Any]] = {
    "model": ["linear", "tiny/lenet", "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"], "base_lr": [0.01, 0.1, 1.0],
    "averaging": [None, "poly_8"], "batch_size": [16, 64]}
STATES = ("done", "done", "early_stopped", "running", "failed", "done", "pending", "done", "diverged", "pending")
ERROR = "RuntimeError: CUDA error: an illegal memory access was encountered (exit status 1)"
_ENDS = {"done": "completed", "early_stopped": "early_stopped", "diverged": "diverged"}
EPOCHS = 12


def make(root: str | os.PathLike[str], size: int = 36, name: str = "26-11-20-digits-quickstart",
         states: Sequence[str] = STATES) -> Path:
    """A batch of `size` runs whose states repeat `states`; its folder."""
    batch = Path(make_empty_batch(root, name))
    seeds = max(1, -(-size // 36))
    axes = {**AXES, **({"seed_training": range(seeds)} if seeds > 1 else {})}
    specs = grid(axes, dataset="sklearn/digits", train_length=EPOCHS)[:size]
    names = naming.run_names(name.partition("-")[2][6:], specs, list(axes))
    book = Journal(str(batch), journal.new_token())
    book.record_plan(LOCAL, dict.fromkeys(names, 1))
    for index, (run, spec) in enumerate(zip(names, specs, strict=True)):
        (batch / run).mkdir()
        (batch / run / run_folder.SPEC).write_text(yaml_io.dump_flat(spec))
        if (state := states[index % len(states)]) != "pending":
            start(batch / run, spec, state, index)
    return batch


def start(run: Path, spec: dict[str, Any], state: str, seed: int) -> None:
    """Write what a run in this state has written."""
    epochs, now = EPOCHS if state == "done" else 3 + seed % 7, time.time()
    files.write_json(run / run_folder.claim_name(1), process.identity(), sync=False)
    files.write_json(run / run_folder.attempt_name(1, 0), {
        "ticket": 1, "number": 0, "who": process.identity(), "host": "node1", "start": now - 600,
        "end": None if state == "running" else now - 60, "how": _ENDS.get(state, None if state == "running" else state),
        "error": ERROR if state == "failed" else None}, sync=False)
    (run / run_folder.CONFIG).write_text(yaml_io.dump_flat({**spec, "facts": {"epochs": EPOCHS}}))
    (run / run_folder.STATS).write_text(curves(spec, epochs, seed))
    (run / run_folder.LOG).write_text("".join(f"2026-11-20 10:{epoch:02d}:00 | INFO    | epoch {epoch}\n"
                                              for epoch in range(1, epochs + 1)))
    if state in _ENDS:
        (run / run_folder.DONE).write_text(f"{_ENDS[state]}\n")
        os.utime(run / run_folder.DONE, (now - 3000 + 20 * seed % 2900,) * 2)
