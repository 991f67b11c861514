"""A batch that an earlier version wrote can be read, resumed and completed.

tests/golden/older-batch was written by the version before the modules of src were sorted into folders: a grid of three
digits runs, of which 000 is done, 001 was stopped by SIGUSR1 in epoch 9 and has resume checkpoints, and 002 is new.
expected-001.csv has the rows of 001 without an interruption. Never refresh it; add a second batch when the
files change.
"""
from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.analysis.reading.results import read_results
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "older-batch"
NAME = "26-11-29-before-layout"


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the batch."""
    return Path(shutil.copytree(GOLDEN / NAME, tmp_path_factory.mktemp("results") / NAME))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={**environment, "OMP_NUM_THREADS": "1"})


def states(batch: Path) -> list[str]:
    printed = run("experiments.py", "status", batch, "--json")
    assert printed.returncode == 0, printed.stderr
    return [row["state"] for row in json.loads(printed.stdout)[0]["runs"]]


def rows(path: Path) -> list[dict[str, float]]:
    """The rows of a stats.csv without the columns that measure time."""
    with path.open(newline="") as file:
        return [{name: float(cell or "nan") for name, cell in row.items()
                 if not name.endswith(("time", "timestamp", "second"))} for row in csv.DictReader(file)]


def test_status_and_results_read_it(batch: Path) -> None:
    assert states(batch) == ["done", "timeout", "new"]
    results = read_results(str(batch))
    assert [end is not None for end in results.big_df()["end"]] == [True, False, False], "the last is new"
    assert len(rows(batch / "000_before-layout+bas_lr=0.25" / "stats.csv")) == 40


def test_reproduce_writes_beside_the_run(batch: Path) -> None:
    """Its config names the folder of another machine, to which the code of that version would write."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if head.returncode:
        pytest.skip("the project is not in git here")
    path, = batch.glob("code/*/code.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "commit": head.stdout.strip()}))
    printed = run("experiments.py", "reproduce", batch / "000_before-layout+bas_lr=0.25")
    assert printed.returncode == 0, printed.stderr
    start, cleanup = printed.stdout.splitlines()[-2:]
    assert start.endswith("/config.yaml") and cleanup.startswith("git worktree remove")
    assert f'output_dir: "{batch}/000_before-layout+bas_lr=0.25"' in printed.stdout


def test_it_is_renamed(batch: Path) -> None:
    target = batch.with_name("26-11-29-other")
    assert run("experiments.py", "rename", batch, "other").returncode == 0
    assert states(target) == ["done", "timeout", "new"]
    target.rename(batch)


def test_its_checkpoints_load(batch: Path) -> None:
    import torch

    from train import load_model

    model, _ = load_model(str(batch / "000_before-layout+bas_lr=0.25"))
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_it_is_resumed_and_completed(batch: Path) -> None:
    interrupted = batch / "001_before-layout+bas_lr=0.5"
    retried = run("submit_multiple.py", "-r", batch, "--local", "-y")
    assert retried.returncode == 0, retried.stderr
    assert states(batch) == ["done"] * 3
    assert "resum" in (interrupted / "training.log").read_text()
    actual, expected = rows(interrupted / "stats.csv"), rows(GOLDEN / "expected-001.csv")
    assert len(actual) == len(expected) == 40
    for row, reference in zip(actual, expected, strict=True):
        # another processor may differ in the last bits
        assert row == pytest.approx(reference, rel=1e-3, nan_ok=True)
