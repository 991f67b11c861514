"""W&B's early termination: the same bands, thresholds and stopped runs as W&B's own library gives.

tests/golden/wandb-hyperband.json has what the library `sweeps` 0.3 gave for random histories. As it wants an older
numpy, it is in no lock file. Where it can be imported, as after `pip install --no-deps --target FOLDER sweeps jsonref`
and with PYTHONPATH=FOLDER, the histories are given to it again, and GRIDIRON_REFRESH=1 writes the file anew.
"""
from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import warnings
from typing import Any

import pytest

from src.search import hyperband
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "wandb-hyperband.json"
LENGTH = 40  # values of the longest history
RULES: list[dict[str, Any]] = [
    {"min_iter": 1}, {"min_iter": 3, "strict": False}, {"min_iter": 2, "eta": 2},
    {"min_iter": 2, "eta": 4, "strict": False}, {"max_iter": 27, "s": 2}, {"max_iter": 27, "s": 9, "eta": 3},
    {"max_iter": 40, "s": 3, "eta": 2, "strict": False}]


def histories(seed: int) -> list[list[float]]:
    """Values that runs have logged; some runs diverged."""
    rng = random.Random(seed)
    return [[round(rng.choice([rng.random(), 1 / (1 + step) + rng.gauss(0, 0.1)]), 4)
             for step in range(rng.randrange(LENGTH))] for _ in range(rng.randrange(1, 25))]


def by_library(rule: dict[str, Any], seed: int, goal: str) -> dict[str, Any]:
    """Return the bands below LENGTH, their thresholds and the indices of stopped runs, by W&B's library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stopping = pytest.importorskip("sweeps.hyperband_stopping")
        run = pytest.importorskip("sweeps.run")
        runs = [run.SweepRun(name=str(index), state=run.RunState.running, history=[{"m": value} for value in history])
                for index, history in enumerate(histories(seed))]
        config = {"method": "grid", "metric": {"name": "m", "goal": goal}, "parameters": {"a": {"values": [1]}},
                  "early_terminate": {"type": "hyperband", **rule}}
        stopped = stopping.hyperband_stop_runs(runs, config)
    info = runs[0].early_terminate_info
    below = [position for position, band in enumerate(info["bands"]) if band < LENGTH]
    return {"bands": [info["bands"][position] for position in below],
            "thresholds": [info["thresholds"][position] for position in below],
            "stopped": sorted(int(run.name) for run in stopped)}


def by_us(rule: dict[str, Any], seed: int, goal: str) -> dict[str, Any]:
    eta = rule.get("eta", 3)
    bands = (hyperband.bands_from_min(rule["min_iter"], eta, LENGTH) if "min_iter" in rule
             else hyperband.bands_from_max(rule["max_iter"], rule["s"], eta))
    losses = [[-value if goal == "maximize" else value for value in history] for history in histories(seed)]
    limits = [hyperband.threshold([loss[band - 1] for loss in losses if len(loss) >= band], eta) for band in bands]
    stopped = []
    for index, loss in enumerate(losses):
        reached = [position for position, band in enumerate(bands) if band <= len(loss)]
        if reached and hyperband.is_stopped(loss[bands[reached[-1]] - 1], min(loss), limits[reached[-1]],
                                            rule.get("strict", True)):
            stopped.append(index)
    return {"bands": list(bands), "thresholds": limits, "stopped": stopped}


CASES = [(rule, seed, goal) for rule in RULES for seed in range(6) for goal in ("minimize", "maximize")]


def test_decides_as_wandbs_library_did() -> None:
    if os.environ.get("GRIDIRON_REFRESH"):
        GOLDEN.write_text("[\n" + ",\n".join(json.dumps({"rule": rule, "seed": seed, "goal": goal, **by_library(
            rule, seed, goal)}) for rule, seed, goal in CASES) + "\n]\n")
    recorded = json.loads(GOLDEN.read_text())
    assert [(case["rule"], case["seed"], case["goal"]) for case in recorded] == CASES
    for case in recorded:
        ours = by_us(case["rule"], case["seed"], case["goal"])
        assert ours == {key: case[key] for key in ours}, case
    assert sum(len(case["stopped"]) for case in recorded) > 100, "the histories test nothing"


@pytest.mark.skipif(importlib.util.find_spec("sweeps") is None, reason="W&B's library sweeps is not here")
def test_decides_as_wandbs_library_on_other_histories() -> None:
    for rule in RULES:
        for seed in range(100, 150):
            assert by_us(rule, seed, "minimize") == by_library(rule, seed, "minimize")


def test_bands_by_hand() -> None:
    assert hyperband.bands_from_min(3, 3, 100) == (3, 9, 27, 81)
    assert hyperband.bands_from_max(27, 2, 3) == (3, 9)
    assert hyperband.bands_from_max(4, 9, 3) == (1,)
    assert hyperband.bands_from_max(100, 2, 3, length=20) == (11,)
    assert hyperband.threshold([], 3) == math.inf
    assert hyperband.threshold([4, 1, 3, 2, 5, 6], 3) == 3  # the value at index int(6 / 3)
