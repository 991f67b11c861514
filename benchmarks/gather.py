"""Gathering runs into frames against reading their bytes, and big_df's cells against making bare Series."""
from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable

import pandas as pd

from src import run_folder, yaml_io
from src.analysis.results import Results, read_results
from src.config import Config
from tests.analysis.make_batch import make_empty_batch, make_run

EPOCHS = 50
MEASURES = ("train/loss", "train/accuracy", "train/time", "train/data_time", "train/seen_examples",
            "train/learning_rate", "val/last/loss", "val/last/accuracy", "val/last/time", "test/last/loss",
            "test/last/accuracy", "test/last/time")  # with epoch, step and timestamp: 15 columns
KEYS = 50


def measure(sizes: tuple[int, ...] = (200, 2_000, 10_000)) -> list[tuple[str, float, float | None]]:
    """(what, ratio, the most it may be) for batches of `sizes` runs, files in the page cache, no cache of ours."""
    return [row for size in sizes for row in _measure(size)]


def _measure(size: int) -> list[tuple[str, float, float | None]]:
    with tempfile.TemporaryDirectory() as root:
        batch = _make(root, size)
        _read_all(batch)  # into the page cache
        raw = _best(lambda: _read_all(batch))
        read = _best(lambda: _cold(batch))
        results = read_results(batch)
    bare = _best(lambda: _bare_series(results))
    cells = _best(results.big_df)
    # a few hundred runs cost less than the frames' own overhead
    return [(f"gather {size:,} runs / read their bytes", read / raw, 8.0 if size >= 2_000 else None),
            (f"Series cells of {size:,} runs / as many bare Series", cells / bare, 1.2)]


def _make(root: str, size: int) -> str:
    """A batch of `size` runs: configs of 50 keys that differ in a rate and drawn seeds, 50 rows of 15 columns."""
    rng = random.Random(0)
    batch = make_empty_batch(root)
    header = ",".join(("epoch", "step", "timestamp", *MEASURES))
    for index in range(size):
        spec = {"base_lr": 2.0 ** (index % 18 - 9), "batch_size": 2 ** (index % 6 + 3)}
        config = Config.from_dict(spec).to_dict() | {
            "seed_model": rng.getrandbits(31), "seed_training": rng.getrandbits(31), "output_dir": f"results/{index}"}
        config |= {f"extra_{number}": number for number in range(KEYS - len(config) - 1)}
        config["facts"] = {"host": "node1", "device": "cpu", "classes": 10, "examples": {"train": 1257, "test": 540}}
        lines = [header] + [",".join(map(repr, (epoch, 13 * epoch, 1.8e9 + epoch + rng.random(),
                                                *(rng.random() for _ in MEASURES)))) for epoch in range(1, EPOCHS + 1)]
        make_run(batch, index, spec, config=yaml_io.dump_flat(config), stats="\n".join(lines) + "\n")
    return batch


def _read_all(batch: str) -> int:
    """The bytes of each run's config and stats: what no reader can do without."""
    total = 0
    for name in run_folder.run_names(batch):
        for file_name in (run_folder.CONFIG, run_folder.STATS):
            with open(os.path.join(batch, name, file_name), "rb") as file:
                total += len(file.read())
    return total


def _cold(batch: str) -> Results:
    yaml_io._loaded.clear()  # lines that an earlier round has read
    return read_results(batch)


def _bare_series(results: Results) -> list[pd.Series]:
    index = pd.Index(range(1, EPOCHS + 1), name="epoch")
    columns = [results.long[name].to_numpy() for name in results.long.columns[2:]]
    return [pd.Series(column[start:start + EPOCHS], index=index)
            for start in range(0, len(results.long), EPOCHS) for column in columns]


def _best(function: Callable[[], object], rounds: int = 3) -> float:
    """The shortest of some rounds, in seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    for what, value, most in measure():
        print(f"{what:75} {value:6.2f}" + (f"   (at most {most:g})" if most else ""))
