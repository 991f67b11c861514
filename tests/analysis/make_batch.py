"""Create batches as the training loop writes them, without training: for tests and benchmarks."""
from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src import run_folder
from src.config import Config
from src.io import files, yaml_io

DIGITS = {"dataset": "sklearn/digits", "train_length": 12, "seed_training": 1,
          "data_splits_map": {"train": "train[:70%]", "val": "train[70%:85%]", "test": "train[85%:]"}}
AXES = {"model": ["linear", "tiny/lenet"], "base_lr": [0.01, 0.1, 1.0], "averaging": [None, "poly_8"]}


def grid(axes: Mapping[str, Sequence[Any]], **constants: Any) -> list[dict[str, Any]]:
    """The specs of a product of axes."""
    return [{**constants, **dict(zip(axes, values, strict=True))} for values in itertools.product(*axes.values())]


def make_batch(root: str | os.PathLike[str], specs: Iterable[Mapping[str, Any]] | None = None,
               name: str = "26-11-20-digits", epochs: int = 12, regression: bool = False) -> str:
    """A batch with a finished run for each spec (default: the digits grid), under `root`. Its path."""
    batch = make_empty_batch(root, name)
    for index, spec in enumerate(grid(AXES, **DIGITS) if specs is None else specs):
        make_run(batch, index, spec, stats=curves(spec, epochs, index, regression))
    return batch


def make_empty_batch(root: str | os.PathLike[str], name: str = "26-11-20-digits") -> str:
    """A batch folder without runs."""
    batch = os.path.join(root, name)
    os.makedirs(os.path.join(batch, run_folder.SUBMISSIONS))
    files.write_atomic(os.path.join(batch, run_folder.JOB_SPEC), "job_details: {name: digits}\n", sync=False)
    return batch


def make_run(batch: str, index: int, spec: Mapping[str, Any], *, stats: str | None = "", config: str | None = "",
             end: str | None = run_folder.COMPLETED, error: str | None = None) -> str:
    """A run folder; its path. stats, config: the text of the file; None: no file; '' for config: made from the spec."""
    short = "+".join(f"{key[:3]}={spec[key]}" for key in ("model", "base_lr", "averaging") if key in spec)
    folder = os.path.join(batch, f"{index:03d}_digits+{short}".replace("/", "-"))
    os.mkdir(folder)
    _write(folder, run_folder.SPEC, yaml_io.dump_flat(spec))
    if config == "":
        facts = {"host": "node1", "examples": {"train": 1257, "val": 270, "test": 270}, "classes": 10,
                 "input_shape": [1, 8, 8]}
        config = yaml_io.dump_flat({**Config.from_dict(spec).to_dict(), "output_dir": folder, "facts": facts})
    _write(folder, run_folder.CONFIG, config)
    _write(folder, run_folder.STATS, stats)
    _write(folder, run_folder.DONE, None if end is None else end + "\n")
    if config is not None:
        files.write_json(os.path.join(folder, run_folder.attempt_name(0, 0)), {
            "ticket": 0, "number": 0, "host": "node1", "start": 1.8e9, "end": 1.8e9 + 60,
            "how": "crashed" if error else end, "error": error}, sync=False)
    return folder


def _write(folder: str, name: str, text: str | None) -> None:
    if text is not None:
        with open(os.path.join(folder, name), "w", encoding="utf-8", newline="") as file:
            file.write(text)


def curves(spec: Mapping[str, Any], epochs: int, seed: int = 0, regression: bool = False) -> str:
    """A stats.csv whose runs learn: best near base_lr 0.1, lenet above linear, averages smoother than the last."""
    rng = random.Random(seed)
    rate, score = spec.get("base_lr", 0.1), ("mae", "r2") if regression else ("accuracy",)
    top = (0.97 if spec.get("model") == "linear" else 0.99) - 0.02 * abs(math.log10(rate / 0.1))
    variants = ["last", "av"] if spec.get("averaging") else ["last"]
    measures = [*(f"train/{key}" for key in ("loss", *score, "time", "data_time", "seen_examples", "learning_rate")),
                *(f"{split}/{variant}/{key}" for split in ("val", "test") for variant in variants
                  for key in ("loss", *score, "time", "data_time"))]
    lines = [",".join(["epoch", "step", "timestamp", *measures])]
    for epoch in range(1, epochs + 1):
        cells: list[object] = [epoch, epoch * 13, 1.8e9 + epoch]
        for measure in measures:
            noise = rng.gauss(0, 0.002 if "/av/" in measure else 0.008)
            good = top * (1 - math.exp(-epoch * (0.3 + rate) / 2)) + noise
            cells.append({"loss": 2.3 * (1.01 - good), "accuracy": min(good, 1.0), "r2": good, "mae": 60 * (1 - good),
                          "time": 0.1 + abs(noise), "data_time": 0.01 + abs(noise), "seen_examples": epoch * 1257,
                          "learning_rate": float(rate)}[measure.rpartition("/")[2]])
        lines.append(",".join(map(repr, cells)))
    return "\n".join(lines) + "\n"
