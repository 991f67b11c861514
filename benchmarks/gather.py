"""Reading runs into frames compared with reading their bytes, and big_df's cells compared with creating bare Series."""
from __future__ import annotations

import itertools
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pandas as pd

from src import run_folder
from src.analysis.reading import cache
from src.analysis.reading.results import Results, read_results
from src.analysis.report import write_report
from src.analysis.tables import tables
from src.archive import contents
from src.config import Config, defaults_version
from src.io import yaml_io
from src.submission.storage import archiving
from tests.analysis.make_batch import make_empty_batch, make_run

EPOCHS = 50
MEASURES = ("train/loss", "train/accuracy", "train/time", "train/data_time", "train/seen_examples",
            "train/learning_rate", "val/last/loss", "val/last/accuracy", "val/last/time", "test/last/loss",
            "test/last/accuracy", "test/last/time")  # with epoch, step and timestamp: 15 columns
KEYS = 50
REPORTED = 2_000


def measure(sizes: tuple[int, ...] = (200, 2_000, 10_000)) -> list[tuple[str, float, float | None]]:
    """Return (label, ratio, limit) for batches of `sizes` runs with files in the page cache."""
    return [row for size in sizes for row in _measure(size)] + _against_mlflow()


def _measure(size: int) -> list[tuple[str, float, float | None]]:
    with tempfile.TemporaryDirectory() as root:
        batch = make_runs(root, size)
        _read_all(batch)  # into the page cache
        read, change = partial(read_results, batch), partial(_change, batch, itertools.count())
        results = read()
        raw, cold, cached, changed = _shortest([(_nothing, partial(_read_all, batch)), (partial(_forget, batch), read),
                                                (_nothing, read), (change, read)])
        memory = _memory(batch, cache=False), _memory(batch, cache=True)
        report = _report(batch) if size == REPORTED else []
        archived = _archived(batch, cold, cached)
    bare, cells = _shortest([(_nothing, partial(_bare_series, results)), (_nothing, partial(_all_cells, results))])
    large = size >= 10_000  # for fewer runs, pandas' overhead per frame dominates
    return [(f"read {size:,} runs and write the cache / read their bytes", cold / raw, 4.8 if large else None),
            (f"read {size:,} runs from the cache / read their bytes", cached / raw, 1.0 if large else None),
            (f"read {size:,} runs, 10 of them changed / read their bytes", changed / raw, 1.1 if large else None),
            (f"memory to read {size:,} runs / size of the frames", memory[0], 3.0 if large else None),
            (f"memory to read {size:,} runs from the cache / size of the frames", memory[1], 3.0 if large else None),
            (f"create the Series cells of {size:,} runs / as many bare Series", cells / bare, 1.2), *report, *archived]


def _archived(batch: str, cold: float, cached: float) -> list[tuple[str, float, float | None]]:
    """Archive all runs, and compare reading them with reading their folders, which took `cold` and `cached` seconds."""
    names = run_folder.run_names(batch)
    archiving.archive(batch, dict.fromkeys(names, 0))
    read = partial(read_results, batch)

    def forget_all() -> None:
        _forget(batch)
        contents.clear_cache()

    first, again, repeated = _shortest([(forget_all, read), (contents.clear_cache, read), (_nothing, read)])
    file_count = sum(len(files) for _, _, files in os.walk(batch))
    label, limit = f"read {len(names):,} archived runs", 1.0 if len(names) >= 10_000 else None
    return [(f"{label} and write the cache / read folders and write it", first / cold, limit and 1.3),
            (f"{label} from the cache in a new process / read folders and the cache", again / cached, limit),
            (f"{label} from the cache again / read folders and the cache", repeated / cached, limit),
            (f"files of an archived batch of {len(names):,} runs", float(file_count), 20.0)]


def _report(batch: str) -> list[tuple[str, float, float | None]]:
    start = time.perf_counter()
    path = write_report(batch)
    return [(f"write the report of {REPORTED:,} runs, in seconds", time.perf_counter() - start, 15.0),
            (f"size of the report of {REPORTED:,} runs, in MiB", os.path.getsize(path) / 2**20, 8.0)]


def make_runs(root: str, size: int) -> str:
    """Make a batch of `size` runs: configs of 50 keys that differ in a rate and seeds, 50 rows of 15 columns."""
    rng = random.Random(0)
    batch = make_empty_batch(root)
    header = ",".join(("epoch", "step", "timestamp", *MEASURES))
    for index in range(size):
        spec = {"base_lr": 2.0 ** (index % 18 - 9), "batch_size": 2 ** (index % 6 + 3)}
        config = Config.from_dict(spec).to_dict() | {
            "seed_model": rng.getrandbits(31), "seed_training": rng.getrandbits(31), "output_dir": f"results/{index}"}
        config = dict(list(config.items())[:KEYS - 1])
        config["facts"] = {"host": "node1", "device": "cpu", "classes": 10, "examples": {"train": 1257, "test": 540},
                           "defaults": defaults_version()}
        lines = [header] + [",".join(map(repr, (epoch, 13 * epoch, 1.8e9 + epoch + rng.random(),
                                                *(rng.random() for _ in MEASURES)))) for epoch in range(1, EPOCHS + 1)]
        folder = make_run(batch, index, spec, config=yaml_io.dump_flat(config), stats="\n".join(lines) + "\n")
        for name in os.listdir(folder):
            os.utime(os.path.join(folder, name), (1.7e9, 1.7e9))  # written long ago
    return batch


def _read_all(batch: str) -> int:
    """Read the bytes of each run's config and stats, the minimum for any reader."""
    total = 0
    for name in run_folder.run_names(batch):
        for file_name in (run_folder.CONFIG, run_folder.STATS):
            with open(os.path.join(batch, name, file_name), "rb") as file:
                total += len(file.read())
    return total


def _nothing() -> None:
    pass


def _forget(batch: str) -> None:
    """Delete the caches of an earlier round."""
    yaml_io._loaded.clear()
    yaml_io._loaded_containers.clear()
    shutil.rmtree(cache.cache_dir(batch), ignore_errors=True)


def _change(batch: str, numbers: Iterator[int]) -> None:
    """Append a row to ten runs."""
    number = next(numbers)
    for name in run_folder.run_names(batch)[number::17][:10]:
        path = os.path.join(batch, name, run_folder.STATS)
        with open(path, "a", encoding="utf-8") as file:
            file.write(",".join(map(str, range(EPOCHS + 1 + number, EPOCHS + 16 + number))) + "\n")
        os.utime(path, (1.7e9, 1.7e9 + number))


def _memory(batch: str, cache: bool) -> float:
    """Return the peak memory of a read in a fresh process, relative to the size of its frames."""
    program = f"""
import pyarrow.parquet
from src.analysis.reading.results import read_results

def mebibytes(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

before = mebibytes("VmRSS")
results = read_results({batch!r}, cache={cache})
frames = sum(frame.memory_usage(deep=True).sum() for frame in (results.config, results.long)) / 2**20
print((mebibytes("VmHWM") - before) / frames)
"""
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def _against_mlflow(size: int = 200) -> list[tuple[str, float, float | None]]:
    """Compare with mlflow.search_runs and the history of each metric, on sqlite, if mlflow is installed."""
    try:
        import mlflow
        from mlflow.entities import Metric, Param
    except ImportError:
        return []
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as root:
        batch = make_runs(root, size)
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
            frame = mlflow.search_runs([experiment])
            for run_id in frame["run_id"]:
                for name in MEASURES:
                    client.get_metric_history(run_id, name)

        read, searched = _shortest([
            (partial(_forget, batch), lambda: read_results(batch).big_df()), (_nothing, search)], rounds=3)
        return [(f"read {size} runs into big_df / mlflow.search_runs and metric histories", read / searched, 0.01)]


def _all_cells(results: Results) -> None:
    df = results.big_df()
    for name in tables.stats_columns(df):
        df[name].tolist()


def _bare_series(results: Results) -> list[pd.Series]:
    index = pd.Index(range(1, EPOCHS + 1), name="epoch")
    columns = [results.long[name].to_numpy() for name in results.long.columns[2:]]
    return [pd.Series(column[start:start + EPOCHS], index=index)
            for start in range(0, len(results.long), EPOCHS) for column in columns]


def _shortest(pairs: Sequence[tuple[Callable[[], object], Callable[[], object]]], rounds: int = 7) -> list[float]:
    """Return the minimum seconds of each function in rounds in which they take turns, each after its preparation."""
    times: list[list[float]] = [[] for _ in pairs]
    for _ in range(rounds):
        for (prepare, function), seconds in zip(pairs, times, strict=True):
            prepare()
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
    return list(map(min, times))


if __name__ == "__main__":  # python -m benchmarks.gather 10000
    for label, value, limit in measure(tuple(map(int, sys.argv[1:])) or (200, 2_000, 10_000)):
        print(f"{label:75} {value:6.2f}" + (f"   (limit {limit:g})" if limit else ""))
