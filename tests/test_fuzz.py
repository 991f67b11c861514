"""No file, whatever is in it, stops a reader: no crash, no traceback, at most 2 s and 200 MiB.

A minute of mutated real files, the same each time; an hour of other ones in `make chaos`. GRIDIRON_FUZZ_SEED repeats a
failure.
"""
from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src import notes, run_folder
from src.config import Config
from src.io import files, yaml_io
from tests import fuzzing
from tests.analysis.make_batch import DIGITS, curves
from tests.submission.conftest import Project, project

__all__ = ["project"]  # the fixture

CHAOS = os.environ.get("GRIDIRON_CHAOS") == "1"
SECONDS = 3600.0 if CHAOS else float(os.environ.get("GRIDIRON_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("GRIDIRON_FUZZ_SEED", "0")) or (random.randrange(1, 2**31) if CHAOS else 1)
JOB_SPEC = """\
job_details:
  name: tiny
  output_dir: results
  metric: {name: "val/(last|av)/accuracy", goal: maximize}
  tags: [a, b]
  samples: 2
  sbatch: {mem: 4G, time: 2:00:00}
parameters:
  batch_size: [8, 13, 14]
  base_lr: "[x / 10 for x in range(2)]"
  weight_decay: {LIST: [{momentum: 0.9}, {momentum: [0.1, 0.2]}]}
  model_kwargs: &kwargs {width: 3}
  seed_model: !int_uniform [0, 9]
"""
FACTS = {"host": "node1", "threads": 2, "epochs": 12, "input_shape": [1, 8, 8], "output_dim": 10, "commit": "0" * 40}


@pytest.fixture
def batch(project: Project) -> Path:
    """A batch that was submitted and run, with the files of a training added to its runs."""
    project.spec.write_text("job_details: {name: tiny, output_dir: re sults, metric: val/.*/accuracy}\n"
                            "parameters: {batch_size: [8, 13, 14], base_lr: 0.1}\n")
    assert project.submit(project.spec, "--local", "-y") == 1, "runs with batch_size 13 fail"
    folder = project.batch
    for index, run in enumerate(project.runs()):
        config = {**Config.from_dict({**DIGITS, "batch_size": 8}).to_dict(), "output_dir": str(run), "facts": FACTS}
        files.write_atomic(run / "config.yaml", yaml_io.dump_flat(config))
        files.write_atomic(run / "stats.csv", curves({"base_lr": 0.1}, 12, index))
        files.write_atomic(run / "steps.csv", "step,epoch,timestamp,loss\n5,1,1.5,0.25\n10,1,2.5,0.125\n")
        (run / "arrays").mkdir()
        np.savez_compressed(run / "arrays" / "epoch-00012.npz", **{"val/last/matrix": np.eye(3)})
    notes.add(str(folder), "a note", None)
    files.write_json(folder / "submissions" / "from-far.json", {
        "host": "far", "time": 1.8e9, "journals": ["t"], "states": {project.runs()[0].name: ["done", ""]}})
    (folder / run_folder.extension_name(0)).mkdir()
    files.write_json(folder / run_folder.extension_name(0) / run_folder.EXTENSION,
                     {"names": [run.name for run in project.runs()], "identity": {}})
    files.write_atomic(folder.parent / "x.yaml", JOB_SPEC)
    record, = folder.glob("code/*/code.json")
    files.write_json(record, {**json.loads(record.read_text()), "snapshot": True})
    return folder


def test_mutated_files_stop_no_reader(batch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    counts, left, seed = Counter[str](), SECONDS, SEED
    while left > 0:
        seconds = min(left, 60.0)
        answer: dict[str, Any] = fuzzing.run_in_process(batch, seconds, seed)
        assert answer["failures"] == [], f"GRIDIRON_FUZZ_SEED={seed}\n" + "\n".join(answer["failures"])
        counts.update(answer["counts"])
        left, seed = left - seconds, seed + 1
    with capfd.disabled():
        print(f"\nfuzzing from seed {SEED}: {counts.total():,} files, each read by {answer['readers']} readers: "
              f"{json.dumps(dict(counts.most_common()))}")
    assert counts.total() > SECONDS / 10
