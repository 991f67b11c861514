"""train.py under signals: killed, stopped, at its time limit, and started again."""
from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from src import run_folder
from src.io import yaml_io
from tests.conftest import ROOT

CHAOS = os.environ.get("GRIDIRON_CHAOS") == "1"  # `make chaos` runs all of it
SEED = int(os.environ.get("GRIDIRON_CHAOS_SEED") or random.SystemRandom().randrange(1 << 31))
SPEC = {"dataset": "sklearn/digits", "data_splits_map": {"train": "train[:80%]", "val": "train[80%:]"},
        "model": "tiny/wrn_10_1_0.3", "model_input_shape": [1, 8, 8], "batch_size": 32, "steps_per_epoch": 10,
        "train_length": 12, "base_lr": 0.05, "averaging": "ema_0.9", "optim_alg": "adamw", "save_freq": 12,
        "seed_model": 1, "seed_training": 2, "checkpoint_every": "7steps", "device": "cpu"}
TRAIN = [sys.executable, str(ROOT / "train.py")]


def make_run(folder: Path, **options: Any) -> Path:
    folder.mkdir(parents=True)
    path = folder / run_folder.SPEC
    path.write_text(yaml_io.dump_flat({**SPEC, "data_dir": str(folder.parent / "data"), **options}))
    return path


def environment() -> dict[str, str]:
    return {**{key: value for key, value in os.environ.items() if not key.startswith("SLURM")}, "OMP_NUM_THREADS": "1"}


def run(spec: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TRAIN, *options, str(spec)], capture_output=True, text=True, env=environment(), timeout=300)


def outcome(spec: Path) -> tuple[list[list[str]], dict[str, torch.Tensor], set[str]]:
    """Return stats.csv without its times, the final weights, and the names of the files."""
    header, *rows = [line.split(",") for line in (spec.parent / "stats.csv").read_text().splitlines()]
    columns = [index for index, name in enumerate(header) if not name.endswith(("time", "stamp", "second"))]
    weights = torch.load(spec.parent / "checkpoint-00012.pt", weights_only=True)
    names = {path.name for path in spec.parent.iterdir() if not path.name.startswith(("attempt-", "claim-", "."))}
    return ([[row[index] for index in columns] for row in [header, *rows]],
            {**weights["model"], **{f"av {key}": value for key, value in weights["averaged"].items()}}, names)


def assert_same(spec: Path, calm: Path) -> None:
    (rows, weights, names), (calm_rows, calm_weights, calm_names) = outcome(spec), outcome(calm)
    assert rows == calm_rows
    assert names == calm_names
    assert weights.keys() == calm_weights.keys()
    assert all(torch.equal(weights[key], calm_weights[key]) for key in weights)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruptions."""
    spec = make_run(tmp_path_factory.mktemp("calm") / "run")
    done = run(spec)
    assert done.returncode == 0, done.stderr
    return spec


@pytest.mark.parametrize(("name", "kills"), [("SIGKILL", 200 if CHAOS else 15), ("SIGTERM", 60 if CHAOS else 6)])
def test_interruptions_at_random_instants_change_no_results(name: str, kills: int, calm: Path, tmp_path: Path) -> None:
    """Every row is complete after each interruption, none is lost, and the results are equal."""
    spec = make_run(tmp_path / "run")
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "killer.py"), str(spec), name, str(kills), str(SEED)],
                          capture_output=True, text=True, env=environment(), timeout=900)
    assert done.returncode == 0, f"seed {SEED}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    interruptions, runs = map(int, done.stdout.split()[-2:])
    assert interruptions == kills
    for each in (spec, *(tmp_path / f"run-{number}" / spec.name for number in range(2, runs + 1))):
        assert_same(each, calm)


def start(spec: Path, rows: int = 2) -> subprocess.Popen[str]:
    """Start a run, and return when it has written so many lines of stats.csv."""
    process = subprocess.Popen([*TRAIN, str(spec)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env=environment(), process_group=0)
    end = time.monotonic() + 300
    stats = spec.parent / "stats.csv"
    while not stats.exists() or len(stats.read_text().splitlines()) < rows:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)
    return process


def attempts(spec: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(spec.parent.glob("attempt-*"))]


@pytest.mark.parametrize(("number", "code", "how", "message"), [
    (signal.SIGTERM, 1, "cancelled", "stopped by SIGTERM"), (signal.SIGINT, 1, "cancelled", "stopped by SIGINT"),
    (signal.SIGUSR1, 75, "timeout", "but is not restarted automatically outside Slurm")])
def test_stopped_run_saves_itself_and_resumes(number: int, code: int, how: str, message: str, calm: Path,
                                              tmp_path: Path) -> None:
    spec = make_run(tmp_path / "run", checkpoint_every=None)
    process = start(spec)
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=300)
    assert (process.returncode, message in output) == (code, True), output
    assert attempts(spec)[-1]["how"] == how
    assert len(list(spec.parent.glob("resume-*.pt"))) == 1
    again = run(spec)
    assert again.returncode == 0, again.stderr
    facts = yaml_io.load_file(str(spec.parent / "config.yaml"))["facts"]
    assert facts["resumed_at_step"] > 0
    assert_same(spec, calm)


PAUSE = """
import sys, train
from src.submission.job import attempt
sys.exit(attempt.run_spec(sys.argv[1], train.train, ticket=int(sys.argv[2]), pause_after=int(sys.argv[3]) or None))
"""


def run_until(spec: Path, ticket: int, epoch: int) -> subprocess.CompletedProcess[str]:
    """Run a trial until it pauses after an epoch; 0: to its end."""
    return subprocess.run([sys.executable, "-c", PAUSE, str(spec), str(ticket), str(epoch)], capture_output=True,
                          text=True, env=environment(), timeout=300, cwd=ROOT)


def test_promoted_trial_equals_an_uninterrupted_one(calm: Path, tmp_path: Path) -> None:
    """A trial that pauses at two rungs has the same rows, weights and averages, bit for bit."""
    spec = make_run(tmp_path / "run", clip_grad_norm=1.0)
    uninterrupted = make_run(tmp_path / "uninterrupted", clip_grad_norm=1.0)
    assert run(uninterrupted).returncode == 0
    for ticket, epoch in enumerate((2, 5), 1):
        done = run_until(spec, ticket, epoch)
        assert done.returncode == 0, done.stderr
        assert (attempts(spec)[-1]["how"], attempts(spec)[-1]["pause_after"]) == ("paused", epoch)
        assert len((spec.parent / "stats.csv").read_text().splitlines()) == 1 + epoch
        assert not (spec.parent / "done").exists()
        assert run_folder.newest_resume_step(str(spec.parent)) == 10 * epoch
    before = (spec.parent / "stats.csv").read_text()
    again = run_until(spec, 3, 5)  # as after a worker that was killed between the state and the attempt's end
    assert (again.returncode, attempts(spec)[-1]["how"]) == (0, "paused"), again.stderr
    assert (spec.parent / "stats.csv").read_text() == before
    assert run_until(spec, 4, 0).returncode == 0
    assert_same(spec, uninterrupted)


def test_fresh_starts_over_and_keeps_earlier_files(calm: Path, tmp_path: Path) -> None:
    spec = make_run(tmp_path / "run", checkpoint_every=None)
    process = start(spec)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=300)
    again = run(spec, "--fresh")
    assert again.returncode == 0, again.stderr
    assert "moved the files of earlier starts to" in again.stdout
    earlier = spec.parent / "before-1"
    assert {"stats.csv", "config.yaml", "training.log"} < {path.name for path in earlier.iterdir()}
    assert list(earlier.glob("resume-*.pt"))
    assert outcome(spec)[0] == outcome(calm)[0]
    assert run(spec, "--fresh").returncode == 0  # also if it has ended
    assert (spec.parent / "before-2" / "done").exists()
