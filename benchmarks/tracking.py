"""The cost of monitoring: system metrics, trackers per epoch, and finding runs compared with MLflow's search."""
from __future__ import annotations

import contextlib
import io
import itertools
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loguru import logger

from src.analysis.reading import run_index, runs
from src.config import Config
from src.tracking import mlflow_run, system
from tests.analysis.make_batch import curves, make_empty_batch, make_run
from tests.tracking.test_mlflow_server import serving
from tests.training.toys import make_toy, toy_classes, train_toy

SECONDS = 5.0  # between samples, as in the docs
LOADERS = 8
RUNS = 3_000
GRID = 4  # runs
EPOCHS = 150  # of a run of a grid
LONG = 2_000  # epochs of a single run; during most of them, libraries are being imported
TIMED = 500  # its last epochs, which are timed


def measure() -> list[tuple[str, float, float | None]]:
    """Return (label, value, limit)."""
    rows: list[tuple[str, float, float | None]] = [
        (f"system metrics every {SECONDS:.0f} s of a run with {LOADERS} loaders, in % of one core", _percent(), 0.5)]
    bare = _epoch({})
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as (address, _):
        for name, options in (("TensorBoard", {"tensorboard": True}), ("W&B, offline", {"wandb": True}),
                              ("Comet, offline", {"comet": True}),
                              ("MLflow and its server", {"mlflow": True, "mlflow_tracking_uri": address}),
                              ("system metrics", {"system_metrics": SECONDS})):
            rows.append((f"an epoch with {name} / without ({1e3 * bare:.1f} ms)", _epoch(options) / bare, 1.25))
    return [*rows, *_without_its_server(), *_found()]


def _percent() -> float:
    """Return the CPU time of the median sample, including writing it, in % of the time between samples."""
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(LOADERS)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            samples = system.SystemMonitor(Config(system_metrics=SECONDS), "cpu", folder, logger)
            take, spent = system._machine_source(), []
            for _ in range(50):
                time.sleep(0.1)  # lets other processes use the caches
                start = time.thread_time()
                samples._write({"time": time.time(), **take()})
                spent.append(time.thread_time() - start)
            return 100 * statistics.median(spent) / SECONDS
    finally:
        for each in sleepers:
            each.kill()
            each.wait()


def _epoch(options: dict[str, Any]) -> float:
    """Return the seconds of the median epoch of a small training, from row to row."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    splits = {"train": toy_classes(5_000, 50), "val": toy_classes(1_000, 50, seed=1)}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        rows, _ = train_toy(make_toy(splits, batch_size=100, train_length=LONG, **options), folder)
    times = [float(row["timestamp"] or 0) for row in rows]
    return statistics.median(after - before for before, after in itertools.pairwise(times[-TIMED:]))


def _without_its_server() -> Iterator[tuple[str, float, float | None]]:
    """Measure the additional time per run of a grid when the MLflow server is killed or stopped in its second run."""
    bare = _grid(None, lambda: None)
    for what, number in (("is killed", signal.SIGKILL), ("hangs", signal.SIGSTOP)):
        with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as (address, process):
            _grid(address, lambda: None)  # imports the library
            longer = _grid(address, lambda: os.killpg(process.pid, number)) - bare  # noqa: B023  # called in this iteration
            yield f"additional time per run if the MLflow server {what} during a grid, in s", longer / GRID, 2.0


def _grid(address: str | None, in_the_middle: Callable[[], None]) -> float:
    """Return the seconds of some small trainings in sequence."""
    spent = 0.0
    splits = {"train": toy_classes(5_000, 50), "val": toy_classes(1_000, 50, seed=1)}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        for index in range(GRID):
            run = Path(make_empty_batch(folder, f"26-11-20-b{index}")) / "000_b"
            run.mkdir()
            rows = 0

            def check() -> None:
                nonlocal rows
                rows += 1
                if index == 1 and rows == EPOCHS // 2:  # noqa: B023  # called in this iteration
                    in_the_middle()

            start = time.perf_counter()
            train_toy(make_toy(splits, batch_size=100, train_length=EPOCHS, mlflow=address is not None,
                        mlflow_tracking_uri=address), str(run), check)
            spent += time.perf_counter() - start
    return spent


def _found() -> Iterator[tuple[str, float, float | None]]:
    """Compare searches among 3,000 runs in files and the same runs in MLflow's database."""
    specs = [{"base_lr": 0.001 * (index % 300 + 1), "seed_training": index // 300} for index in range(RUNS)]
    with tempfile.TemporaryDirectory() as folder:
        batch = make_empty_batch(folder)
        text = curves(specs[0], 3, 0, False)
        for index, spec in enumerate(specs):
            make_run(batch, index, spec, stats=text)
        search = _database(Path(folder), specs)
        runs.find_runs(None, folder)
        time.sleep(2.1)  # recently written files are checked every time
        some, one, none = ({"base_lr": 0.1, **seed} for seed in ({}, {"seed_training": 7}, {"seed_training": 77}))
        for what, ours, theirs in (
                ("find_runs, ten of {} runs", lambda: runs.find_runs(some, folder), lambda: search(some)),
                ("is_done of a finished run among {} runs", lambda: runs.is_done(one, folder), lambda: search(one, 1)),
                ("is_done of a missing run among {} runs", lambda: runs.is_done(none, folder), lambda: search(none, 1)),
                ("find_runs, checking each run, ten of {} runs", lambda: _again(some, folder), lambda: search(some)),
                ("first find_runs in a process, ten of {} runs", lambda: _first(some, folder), lambda: search(some))):
            own, other = _least(ours), _least(theirs)
            label = f"{what.format(f'{RUNS:,}')} / mlflow.search_runs on sqlite ({1e3 * other:.0f} ms)"
            yield label, own / other, None if "check" in what or "first" in what else 1.0


def _again(params: dict[str, Any], folder: str) -> None:
    for batch in run_index._batches.values():
        batch.looked = 0.0
    runs.find_runs(params, folder)


def _first(params: dict[str, Any], folder: str) -> None:
    run_index._batches.clear()
    runs.find_runs(params, folder)


def _database(folder: Path, specs: list[dict[str, Any]]) -> Callable[..., Any]:
    """Make an MLflow database with the same runs, as copies of the rows of one. Return its search by parameters, which
    returns a frame, or a list of limited length."""
    import mlflow
    from mlflow.entities import Metric, Param

    client = mlflow_run.connect(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("found", f"file://{folder}/artifacts")
    first = client.create_run(experiment, run_name="a run").info.run_id
    config = mlflow_run.flatten_parameters(Config.from_dict(specs[0]).to_dict())
    client.log_batch(first, [Metric("val/last/accuracy", 0.5, 0, epoch) for epoch in range(3)], [
        Param(name, str(value)) for name, value in list(config.items())[:98]] + [
        Param(name, "?") for name in specs[0] if name not in list(config)[:98]])
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        for table in ("runs", "params", "metrics", "latest_metrics", "tags"):
            rows = database.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (first,))
            names = [column[0] for column in rows.description]
            copies = [_copy(dict(zip(names, row, strict=True)), f"{index:032x}", spec)
                      for row in rows.fetchall() for index, spec in enumerate(specs)]
            database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})", copies)
        database.commit()
    mlflow.set_tracking_uri(client.tracking_uri)

    def search(params: dict[str, Any], most: int | None = None) -> Any:
        filter_string = " and ".join(f"params.{name} = '{value}'" for name, value in params.items())
        options = {"max_results": most, "output_format": "list"} if most else {}
        return mlflow.search_runs([experiment], filter_string, **options)

    return search


def _copy(row: dict[str, Any], run: str, spec: dict[str, Any]) -> list[Any]:
    """Return a row of the database for another run with the parameters of a spec."""
    return list({**row, "run_uuid": run, **({"value": str(spec[row["key"]])} if row.get("key") in spec else {})
                 }.values())


def _least(action: Callable[[], Any]) -> float:
    """Return the minimum seconds of seven calls, after a warm-up."""
    action()
    spent = []
    for _ in range(7):
        start = time.perf_counter()
        action()
        spent.append(time.perf_counter() - start)
    return min(spent)
