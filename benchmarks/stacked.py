"""Grids of small models: runs that are trained as a stack, compared with the same runs one after another."""
from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import makespan
from benchmarks.loop import random_split
from src.checks.registered_names import parse_averaging
from src.config import Config
from src.datasets.data import Data, Split
from src.models.factory import make_model
from src.optimizers.averaging import AveragedModel
from src.optimizers.factory import make_optimizer
from src.training.components import TrainingComponents
from src.training.experiment import run_epochs
from src.training.stacked.member import Member
from src.training.stacked.run import train_members

SAMPLES, CLASSES = 50_000, 7
# (batch size, steps, least speed-up of 18 runs with different seeds), (batch size, steps, that of 108 with equal seeds)
DIFFERENT_SEEDS = ((8, 3000, 8.0), (128, 800, 2.5), (2048, 48, 1.0))
EQUAL_SEEDS = ((8, 1000, 20.0), (128, 300, 5.0))
MEMORY = """\
import json, sys
from benchmarks.stacked import peak_growth
print(json.dumps(peak_growth(int(sys.argv[1]))))
"""


def measure() -> list[tuple[str, float, float | None]]:
    """Return (label, ratio, limit)."""
    linear = random_split(SAMPLES)
    rows: list[tuple[str, float, float | None]] = []
    for batch_size, steps, speed_up in DIFFERENT_SEEDS:
        rows.append((f"18 linear runs, different seeds, batch size {batch_size}: a stack / one after another",
                     ratio(linear, grid(18, False), options(batch_size, steps)), 1 / speed_up))
    for batch_size, steps, speed_up in EQUAL_SEEDS:
        rows.append((f"108 linear runs, equal seeds, batch size {batch_size}: a stack / one after another",
                     ratio(linear, grid(108, True), options(batch_size, steps), singles=18), 1 / speed_up))
    lenet = options(32, 56) | {"model": "tiny/lenet"}
    rows.append(("16 runs of tiny/lenet on 8 × 8 pixels, batch size 32: a stack / one after another",
                 ratio(random_images(1797, 8), grid(16, False), lenet), 1 / 2))
    rows.append(("memory of 18 runs of tiny/lenet as a stack / 18 × that of one", memory_ratio(), 1.1))
    rows.append(("108 short runs by two local workers: --stack auto / forks", makespan_ratio(), 0.25))
    return rows


def options(batch_size: int, steps: int) -> dict[str, Any]:
    """Return the config of a training of one epoch, without evaluation."""
    return {"model": "linear", "batch_size": batch_size, "train_length": steps, "train_length_unit": "step",
            "steps_per_epoch": steps, "averaging": "poly_8", "data_splits_map": {"train": "train"}, "log_interval": 0,
            "seed_model": 0, "seed_training": 0, "device": "cpu"}


def grid(runs: int, equal_seeds: bool) -> list[dict[str, Any]]:
    """Return what differs between the runs: learning rates, the momentum of every second run, and perhaps seeds."""
    return [{"base_lr": 0.001 * 1.05**run, "momentum": 0.9 * (run % 2),
             **({} if equal_seeds else {"seed_model": run, "seed_training": run})} for run in range(runs)]


def random_images(samples: int, size: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 1, size, size, generator=generator)
    return Split(x, torch.randint(CLASSES, (samples,), generator=generator))


def build(split: Split, spec: dict[str, Any]) -> TrainingComponents:
    """Return a run on a split, which is on the device of the config."""
    config = Config.from_dict(spec)
    shape, device = tuple(split.x.shape[1:]), split.x.device
    torch.manual_seed(config.seed_model or 0)
    model: nn.Module = make_model(config, shape, CLASSES).to(device)
    averaging = parse_averaging(config.averaging)
    return TrainingComponents(config, Data({"train": split}, "classification", tuple(range(CLASSES)), shape), model,
                              [make_optimizer(config, model)], AveragedModel(model, averaging) if averaging else None,
                              device, [])


def ratio(split: Split, points: Sequence[dict[str, Any]], spec: dict[str, Any], singles: int | None = None,
          turns: int = 3) -> float:
    """Return the median of the seconds of a stack / those of its runs one after another, which take turns.

    singles: number of runs that are timed one after another, for all of them.
    """
    timed = points[:singles]
    stack_seconds([points[0]], split, spec)
    pairs = [(stack_seconds(points, split, spec), sum(single_seconds(point, split, spec) for point in timed)
              * len(points) / len(timed)) for _ in range(turns)]
    return statistics.median(stack for stack, _ in pairs) / statistics.median(single for _, single in pairs)


def single_seconds(point: dict[str, Any], split: Split, spec: dict[str, Any]) -> float:
    """Return the seconds of the steps of a single run."""
    with tempfile.TemporaryDirectory() as folder:
        (row, _, _), = run_epochs(build(split, {**spec, **point}), folder, lambda: None)
    return row["train/time"] or 0.0


def stack_seconds(points: Sequence[dict[str, Any]], split: Split, spec: dict[str, Any]) -> float:
    """Return the seconds of the steps of a stack."""
    with tempfile.TemporaryDirectory() as folder:
        members = [Member(index, build(split, {**spec, **point}), str(Path(folder, str(index))), lambda: None)
                   for index, point in enumerate(points)]
        for member in members:
            Path(str(member.folder)).mkdir()
        outcomes = dict(train_members(members))
        assert set(outcomes.values()) == {"completed"}
        return members[0].experiment.training.elapsed.time


def memory_ratio() -> float:
    """Return the memory of a stack of 18 / 18 × that of a single run, each measured in a process of its own."""
    single, stack = (float(json.loads(subprocess.run([sys.executable, "-c", MEMORY, str(runs)], check=True,
                                                     capture_output=True, text=True).stdout)) for runs in (1, 18))
    return stack / (18 * single)


def peak_growth(runs: int) -> float:
    """Return the bytes that training `runs` runs adds to the largest memory of this process, after a small training.

    The data is not counted, nor is what the libraries allocate when they are first used.
    """
    split, spec = random_images(2048, 28), options(256, 8) | {"model": "tiny/lenet"}

    def train(count: int, batch_size: int) -> None:
        changed = {**spec, "batch_size": batch_size}
        if runs > 1:
            stack_seconds(grid(count, False), split, changed)
        else:
            single_seconds({}, split, changed)

    train(2, 1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _memory("VmRSS")
    train(runs, 256)
    return _memory("VmHWM") - before


def _memory(name: str) -> float:
    """Return a value of this process in bytes: VmRSS is its memory now, VmHWM the largest so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def makespan_ratio() -> float:
    """Return the seconds of a grid of 108 runs by two workers with --stack auto / without, start-up included."""
    with tempfile.TemporaryDirectory() as folder:
        return (makespan.seconds(Path(folder, "stacks"), "--stack", "auto") / makespan.seconds(Path(folder, "forks")))
