"""A real MLflow server, where there is one: runs are shown while they run, in its pages too; nothing breaks without it.

The server has an environment of its own, made by `make mlflow`; or $GRIDIRON_MLFLOW names the program `mlflow` of one.
"""
from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from src.io import yaml_io
from src.tracking import mlflow_run
from tests.conftest import ROOT

PROGRAM = os.environ.get("GRIDIRON_MLFLOW", ROOT / ".venv-mlflow" / "bin" / "mlflow")  # which fails if it is not there
pytestmark = pytest.mark.skipif("GRIDIRON_MLFLOW" not in os.environ and not os.path.exists(PROGRAM),
                                reason="tests on an MLflow server need `make mlflow`")

SPEC = {"dataset": "sklearn/digits", "data_splits_map": {"train": "train[:80%]", "val": "train[80%:]"},
        "train_length": 3, "save_best_checkpoint": True, "best_checkpoint_metric": "val/.*/accuracy",
        "system_metrics": 0.05, "base_lr": [0.05, 0.1], "seed_model": 1, "seed_training": 2}


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server with a database in `folder`: its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            [PROGRAM, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri",
             f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")], cwd=folder,
            stdout=log, stderr=log, start_new_session=True, env={
                **os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    try:
        end = time.monotonic() + 180
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                break
            assert process.poll() is None and time.monotonic() < end, (folder / "server.log").read_text()
            time.sleep(0.5)
        yield address, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def submit(folder: Path, name: str, **parameters: object) -> Path:
    """Run a grid on this machine; its batch."""
    process = begin(folder, name, **parameters)
    words, _ = process.communicate(timeout=300)
    assert process.returncode == 0, words
    batch, = (folder / "results").glob(f"*-{name}")
    return batch


def begin(folder: Path, name: str, **parameters: object) -> subprocess.Popen[str]:
    (folder / f"{name}.yaml").write_text(yaml_io.dump_flat({
        "job_details": {"name": name, "output_dir": str(folder / "results"), "description": "for a test"},
        "parameters": {**SPEC, **parameters}}))
    return subprocess.Popen(
        [sys.executable, "submit_multiple.py", folder / f"{name}.yaml", "--local", "--workers", "1", "-y"], cwd=ROOT,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def page(address: str) -> str:
    """The words that a browser shows there, once its scripts have run."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    with tempfile.TemporaryDirectory() as profile:
        shown = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,3000",
                                "--virtual-time-budget=30000", f"--user-data-dir={profile}", "--dump-dom", address],
                               capture_output=True, text=True, timeout=180).stdout
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(script|style).*?</\1>", "", shown)))


def losses(batch: Path) -> dict[str, list[str]]:
    """The training losses of each run."""
    found = {}
    for run in sorted(batch.glob("0*")):
        header, *lines = [line.split(",") for line in (run / "stats.csv").read_text().splitlines()]
        found[run.name.partition("+")[2]] = [line[header.index("train/loss")] for line in lines]
    return found


def test_grid_is_shown_with_charts_and_model(tmp_path: Path) -> None:
    with serving(tmp_path) as (address, _):
        batch = submit(tmp_path, "shown", mlflow=True, mlflow_tracking_uri=address, train_length=60)
        assert not [line for log in batch.glob("*/training.log") for line in log.read_text().splitlines()
                    if "WARNING" in line]
        client = mlflow_run.connect(address)
        experiment = client.get_experiment_by_name("shown").experiment_id
        runs = {run.info.run_name: run for run in client.search_runs([experiment])}
        assert len(runs) == 3 and {run.info.status for run in runs.values()} == {"FINISHED"}
        best = sorted(batch.glob("0*"))[0]
        subprocess.run([sys.executable, "experiments.py", "register", best, "--name", "digits", "--alias", "production",
                        "--uri", address], cwd=ROOT, check=True, capture_output=True)
        run_id = runs[best.name].info.run_id
        runs_page = f"experiments/{experiment}/runs"
        pages = {runs_page: (batch.name,),  # its runs are folded below it
                 f"{runs_page}/{run_id}": (best.name, "val/last/accuracy"),
                 f"{runs_page}/{run_id}/model-metrics": ("train (8) Add chart", "val/last (4)"),
                 f"{runs_page}/{run_id}/system-metrics": ("System metrics (2) Add chart",),
                 "models/digits": ("digits", "production")}
        for _ in range(4):  # a browser on a crowded machine may give up before all is drawn
            with ThreadPoolExecutor(2) as pool:
                texts = pool.map(lambda path: page(f"{address}/#/{path}"), pages)
                pages = {path: absent for (path, shown), text in zip(pages.items(), texts, strict=True)
                         if (absent := tuple(word for word in shown if word not in text))}
            if not pages:
                break
        assert pages == {}, "not shown"


def test_killing_the_server_does_not_affect_the_grid(tmp_path: Path) -> None:
    calm = submit(tmp_path, "calm")
    with serving(tmp_path) as (address, process):
        grid = begin(tmp_path, "killed", mlflow=True, mlflow_tracking_uri=address)
        while not list((tmp_path / "results").glob("*-killed/000*/done")):
            assert grid.poll() is None, grid.communicate()[0]
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        words, _ = grid.communicate(timeout=300)
        assert grid.returncode == 0, words
    killed, = (tmp_path / "results").glob("*-killed")
    assert losses(killed) == losses(calm)
    assert [log.read_text().count("WARNING") for log in sorted(killed.glob("0*/training.log"))] == [0, 1]
