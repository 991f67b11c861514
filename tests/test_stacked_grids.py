"""Stacked grids end to end: from the command line to the data frame, and through kills, with unchanged numbers."""
from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from src.analysis.reading.results import read_experiments
from src.io import yaml_io
from src.submission.status.observe import observe
from src.submission.system import process
from tests.conftest import ROOT

CHAOS = os.environ.get("GRIDIRON_CHAOS") == "1"  # `make chaos` runs all of it
KILLS, EPOCHS = (20, 30) if CHAOS else (3, 10)
SEED = int(os.environ.get("GRIDIRON_CHAOS_SEED") or random.SystemRandom().randrange(1 << 31))
SECONDS = 1200  # for anything to happen
JOB_SPEC = """\
job_details: {{name: stacked, output_dir: {output_dir}}}
parameters:
  dataset: sklearn/digits
  data_dir: {output_dir}/data
  data_splits_map: {{train: "train[:80%]", val: "train[80%:]"}}
  device: cpu
  batch_size: 64
  steps_per_epoch: 10
  train_length: {epochs}
  averaging: ema_0.9
  checkpoint_every: 15steps
  save_freq: {epochs}
  seed_model: 1
  seed_training: [1, 2]
  base_lr: [0.01, 0.02, 0.04]
  {parameters}
"""


def write_grid(folder: Path, epochs: int, parameters: str) -> Path:
    folder.mkdir()
    spec = folder / "x.yaml"
    spec.write_text(JOB_SPEC.format(output_dir=folder / "results", epochs=epochs, parameters=parameters))
    return spec


def submit(*arguments: object) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    command = [sys.executable, "submit_multiple.py", *map(str, arguments), "--local", "--workers", "1", "-y"]
    return subprocess.Popen(command, cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True)


def run_to_end(*arguments: object) -> str:
    output, _ = (started := submit(*arguments)).communicate(timeout=SECONDS)
    assert started.returncode == 0, output
    return output


def batch_of(folder: Path) -> Path:
    batch, = (folder / "results").glob("[0-9]*-stacked")
    return batch


def runs_of(folder: Path) -> list[Path]:
    return sorted(path for path in batch_of(folder).iterdir() if path.name[0].isdigit())


def assert_same_numbers(folder: Path, reference: Path) -> None:
    """Each run has all rows, and the values and weights of the same run there, up to the rounding of float32."""
    for run, other in zip(runs_of(folder), runs_of(reference), strict=True):
        rows, expected = pd.read_csv(run / "stats.csv"), pd.read_csv(other / "stats.csv")
        assert list(rows.columns) == list(expected.columns)
        for column in rows.columns:
            if not column.endswith(("time", "stamp", "second")):
                np.testing.assert_allclose(rows[column], expected[column], rtol=2e-4, err_msg=f"{run.name} {column}")
        name, = (path.name for path in run.glob("checkpoint-*.pt"))
        weights, others = (torch.load(path / name, weights_only=True)["model"] for path in (run, other))
        for key, value in weights.items():
            torch.testing.assert_close(value, others[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parameters", ["model: linear", "model: tiny/lenet\n  model_input_shape: [[1, 8, 8]]"],
                         ids=["linear", "lenet"])
def test_stacked_grid_is_read_as_single_runs_with_their_numbers(parameters: str, tmp_path: Path) -> None:
    spec, single = (write_grid(tmp_path / name, 2, parameters) for name in ("stacked", "single"))
    output = run_to_end(spec, "--stack", "6")
    assert "stacks     6 runs in 1 stack of 6 (seed_training, base_lr)" in output
    run_to_end(single)
    assert_same_numbers(tmp_path / "stacked", tmp_path / "single")
    big_df = read_experiments(str(batch_of(tmp_path / "stacked")))
    assert list(big_df["facts/stacked"]) == [6] * 6
    assert list(big_df["end"]) == ["completed"] * 6
    config = yaml_io.load_file(str(runs_of(tmp_path / "stacked")[0] / "config.yaml"))
    assert (config["base_lr"], config["facts"]["stacked"]) == (0.01, 6)


def holders(folder: Path) -> dict[Path, dict[str, object]]:
    """The processes that execute runs now, by run."""
    found = {}
    for run in runs_of(folder) if list(folder.glob("results/[0-9]*-stacked")) else []:
        attempts = sorted(run.glob("attempt-*.json"))
        record = json.loads(attempts[-1].read_text()) if attempts and not (run / "done").exists() else {}
        if record and not record["how"] and process.is_alive(record["who"]):
            found[run] = record["who"]
    return found


def wait_for_training(folder: Path, started: subprocess.Popen[str]) -> None:
    """Wait until a process executes a run, or all have ended."""
    end = time.monotonic() + SECONDS
    while not holders(folder) and started.poll() is None:
        assert time.monotonic() < end, "nothing was started"
        time.sleep(0.01)


def kill(folder: Path, started: subprocess.Popen[str], how: str) -> None:
    """Interrupt a stack: kill it, all processes as in a power failure, or stop the command."""
    pids = {int(str(who["pid"])) for who in holders(folder).values()}
    if how == "stop":
        started.send_signal(signal.SIGTERM)
    elif how == "power failure":
        os.kill(started.pid, signal.SIGKILL)
    if how != "stop":
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    started.communicate(timeout=SECONDS)


def run_with_kills(folder: Path, spec: Path, kills: int, chance: random.Random) -> int:
    """Run a grid to its end, and interrupt it at most `kills` times. Return how often it was interrupted."""
    started, done = submit(spec, "--stack", "6"), 0
    while done < kills:
        wait_for_training(folder, started)
        time.sleep(chance.uniform(0, 1))
        if started.poll() is not None:
            break
        kill(folder, started, chance.choice(["kill", "power failure", "stop"]))
        done += 1
        started = submit("-r", batch_of(folder))
    output, _ = started.communicate(timeout=SECONDS)
    states = [run.state.name for run in observe([str(batch_of(folder))])[0].runs.values()]
    assert states == ["done"] * 6, f"seed {SEED}: {output}"
    return done


def test_kills_of_a_stacked_grid_change_no_numbers(tmp_path: Path) -> None:
    """Stacks that are killed at random instants continue, each run from its own checkpoint."""
    chance = random.Random(SEED)
    parameters = "model: tests.training.stacked.slow:make_model"
    calm = write_grid(tmp_path / "calm", EPOCHS, parameters)
    run_to_end(calm, "--stack", "6")
    kills = grids = 0
    while kills < KILLS:
        folder = tmp_path / f"stacked-{grids}"
        kills += run_with_kills(folder, write_grid(folder, EPOCHS, parameters), KILLS - kills, chance)
        assert_same_numbers(folder, tmp_path / "calm")
        grids += 1
    print(f"{kills} kills of {grids} grids, seed {SEED}")
