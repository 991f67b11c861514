"""Gathering runs into frames against reading their bytes, and big_df's cells against making bare Series."""
from __future__ import annotations

import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import pandas as pd

from src import run_folder, yaml_io
from src.analysis import cache, tables
from src.analysis.results import Results, read_results
from src.config import Config
from tests.analysis.make_batch import make_empty_batch, make_run

EPOCHS = 50
MEASURES = ("train/loss", "train/accuracy", "train/time", "train/data_time", "train/seen_examples",
            "train/learning_rate", "val/last/loss", "val/last/accuracy", "val/last/time", "test/last/loss",
            "test/last/accuracy", "test/last/time")  # with epoch, step and timestamp: 15 columns
KEYS = 50


def measure(sizes: tuple[int, ...] = (200, 2_000)) -> list[tuple[str, float, float | None]]:
    """(what, ratio, the most it may be) for batches of `sizes` runs, files in the page cache; MiB per MiB of frames."""
    return [row for size in sizes for row in _measure(size)] + _against_mlflow()


def _measure(size: int) -> list[tuple[str, float, float | None]]:
    with tempfile.TemporaryDirectory() as root:
        batch = _make(root, size)
        _read_all(batch)  # into the page cache
        raw = _best(lambda: _read_all(batch))
        read = _best(lambda: _cold(batch))
        results = read_results(batch)
        cached = _best(lambda: read_results(batch))
        changed = min(_after_changes(batch, number) for number in range(3))
        memory = _memory(batch)
    bare = _best(lambda: _bare_series(results))
    cells = _best(lambda: _all_cells(results))
    large = size >= 2_000  # a few hundred runs cost less than the frames' own overhead
    return [(f"gather {size:,} runs, and keep them / read their bytes", read / raw, 6.0 if large else None),
            (f"gather {size:,} runs again / read their bytes", cached / raw, 1.0 if large else None),
            (f"gather {size:,} runs, 10 of them changed / read their bytes", changed / raw, 1.1 if large else None),
            (f"memory to gather {size:,} runs / size of the frames", memory, 3.0 if size >= 10_000 else None),
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
        config = dict(list(config.items())[:KEYS - 1])
        config["facts"] = {"host": "node1", "device": "cpu", "classes": 10, "examples": {"train": 1257, "test": 540}}
        lines = [header] + [",".join(map(repr, (epoch, 13 * epoch, 1.8e9 + epoch + rng.random(),
                                                *(rng.random() for _ in MEASURES)))) for epoch in range(1, EPOCHS + 1)]
        folder = make_run(batch, index, spec, config=yaml_io.dump_flat(config), stats="\n".join(lines) + "\n")
        for name in os.listdir(folder):
            os.utime(os.path.join(folder, name), (1.7e9, 1.7e9))  # written long ago
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
    shutil.rmtree(cache.place(batch), ignore_errors=True)
    return read_results(batch)


def _after_changes(batch: str, number: int) -> float:
    """Seconds of a read after ten runs got a row more."""
    for name in run_folder.run_names(batch)[number::17][:10]:
        path = os.path.join(batch, name, run_folder.STATS)
        with open(path, "a", encoding="utf-8") as file:
            file.write(",".join(map(str, range(EPOCHS + 1 + number, EPOCHS + 16 + number))) + "\n")
        os.utime(path, (1.7e9, 1.7e9 + number))
    return _best(lambda: read_results(batch), 1)


def _memory(batch: str) -> float:
    """How much memory a cold read in a fresh process takes at its peak, over the size of its frames."""
    program = f"""
import pyarrow.parquet
from src.analysis.results import read_results

def mebibytes(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

before = mebibytes("VmRSS")
results = read_results({batch!r}, cache=False)
frames = sum(frame.memory_usage(deep=True).sum() for frame in (results.config, results.long)) / 2**20
print((mebibytes("VmHWM") - before) / frames)
"""
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def _against_mlflow(size: int = 200) -> list[tuple[str, float, float | None]]:
    """mlflow.search_runs and the history of each metric, on sqlite; left out where mlflow is not installed."""
    try:
        import mlflow
        from mlflow.entities import Metric, Param
    except ImportError:
        return []
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as root:
        batch = _make(root, size)
        results = read_results(batch)
        mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
        client = mlflow.MlflowClient()
        experiment = client.create_experiment("digits", artifact_location=root)
        for _, run in results.big_df().iterrows():
            run_id = client.create_run(experiment).info.run_id
            client.log_batch(run_id, params=[Param(key, str(run[key])) for key in results.config],
                             metrics=[Metric(name, value, 0, int(epoch)) for name in MEASURES
                                      for epoch, value in run[name].items()])

        def search() -> None:
            found = mlflow.search_runs([experiment])
            for run_id in found["run_id"]:
                for name in MEASURES:
                    client.get_metric_history(run_id, name)

        read = _best(lambda: _cold(batch).big_df())
        return [(f"gather {size} runs into big_df / mlflow.search_runs and metric histories", read / _best(search, 1),
                 0.01)]


def _all_cells(results: Results) -> None:
    df = results.big_df()
    for name in tables.stats_columns(df):
        df[name].tolist()


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


if __name__ == "__main__":  # python -m benchmarks.gather 10000
    for what, value, most in measure(tuple(map(int, sys.argv[1:])) or (200, 2_000)):
        print(f"{what:75} {value:6.2f}" + (f"   (at most {most:g})" if most else ""))
