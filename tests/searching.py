"""What tests of searches share: a job spec, and the check that every decision was carried out exactly once."""
from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.search import decide, definition
from src.submission.spec.naming import name_run
from src.submission.status.observe import observe
from tests.submission.conftest import Project

JOB = """\
job_details:
  name: tiny
  output_dir: re sults
  metric: {{name: score, goal: maximize}}
  search: {search}
parameters:
  base_lr: !loguniform [1e-4, 1]
  batch_size: {batch_size}
  train_length: 9
"""
ASHA = "{method: random, trials: 18, parallel: 3, early_stop: {min: 1, eta: 3}}"


def write(project: Project, search: str = ASHA, batch_size: str = "8") -> None:
    project.spec.write_text(JOB.format(search=search, batch_size=batch_size))


def decisions_of(batch: Path) -> list[dict[str, Any]]:
    """The decisions, of which every number from 0 must be there."""
    paths = sorted((batch / "search").glob("decision-*.json"))
    records = [json.loads(path.read_text()) for path in paths]
    assert [record["number"] for record in records] == list(range(len(records)))
    return records


def assert_sound(batch: Path, trials: int) -> None:
    """Every decision is carried out once, and computing all of them again gives the same ones."""
    search = definition.read(batch)
    assert search is not None
    records = decisions_of(batch)
    made = Counter((record["kind"], record["trial"], record["rung"]) for record in records)
    assert set(made.values()) == {1}
    new = [record for record in records if record["kind"] == "new"]
    assert [record["trial"] for record in new] == list(range(trials))
    assert sorted(record["run"] for record in new) == sorted(path.name for path in batch.glob("[0-9]*"))
    for rung, epochs in enumerate(search.rungs):
        reached = [record for record in records if record["rung"] == rung]
        for record in reached:  # the last decision about a trial was carried out
            run = batch / next(item["run"] for item in new if item["trial"] == record["trial"])
            rows = len((run / "stats.csv").read_text().splitlines()) - 1
            assert rows >= epochs
        if rung:
            before = sum(1 for record in records if record["rung"] == rung - 1)
            # the rule is that of the paper: a trial that was promoted early may later not be among the best third
            assert before // 3 <= len(reached) <= max(0, before - 2)
    for run in batch.glob("[0-9]*"):
        assert not (run / "overlap").exists()
        epochs_trained = (run / "trained").read_text().split()
        assert len(epochs_trained) == len(set(epochs_trained)), f"{run.name} trained an epoch twice"
    count, differences = decide.replay(str(batch), search, name_run(search))
    assert (count, differences) == (len(records), [])


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def states_of(batch: Path) -> Counter[str]:
    return Counter(run.state.name for run in observe([str(batch)])[0].runs.values())


def processes_of(project: Project) -> list[int]:
    """The workers and runs of a project."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if str(project.folder / "train.py").encode() in words:
                found.append(int(entry))
    return found
