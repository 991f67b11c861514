"""A run of some seconds that shows whether jobs work here: submitted, waited for, and explained if it fails."""
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from src.submission.batch import batch_folder
from src.submission.status import failures, states
from src.submission.status.observation import Run
from src.submission.status.observe import observe
from src.submission.status.wait import watch
from src.submission.system import process

_JOB_SPEC = """\
# made by experiments.py setup: a linear model of scikit-learn's digits, trained for one epoch
job_details: {name: setup-test}
parameters:
  dataset: sklearn/digits
  data_splits_map: {train: "train[:80%]", val: "train[80%:]"}
  model: linear
  train_length: 1
"""


class TrialRun(NamedTuple):
    """The end of the test run. seconds: from the submission on; problem: None if it is done."""

    batch: str
    seconds: float
    problem: str | None


def submit_and_wait(project: str, results: str, options: Sequence[str], patience: float,
                    show: Callable[[Run], object] = lambda _: None) -> TrialRun:
    """Submit the run and wait for its end, at most `patience` seconds.

    results: folder of its batch; options: of submit_multiple.py, which choose where it runs; show: called every second
    with the run as it was observed.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        spec = os.path.join(folder, "setup-test.yaml")
        with open(spec, "w", encoding="utf-8") as file:
            file.write(_JOB_SPEC)
        answer = subprocess.run([sys.executable, "submit_multiple.py", spec, "--yes", "--overwrite", "--output-dir",
                                 results, *options], check=False, cwd=project, text=True, capture_output=True,
                                env=process.environment_outside_slurm())
    lines = (answer.stderr or answer.stdout).strip().splitlines()
    batches = [path for path in batch_folder.all_batches(results) if path.endswith("-setup-test")]
    if answer.returncode not in (0, 1) or not batches:
        return TrialRun("", time.monotonic() - start, lines[-1] if lines else f"exit code {answer.returncode}")
    run = _wait(batches[-1], start + patience, show)
    return TrialRun(batches[-1], time.monotonic() - start, _problem(run))


def _wait(batch: str, deadline: float, show: Callable[[Run], object]) -> Run:
    for (observation, ), _ in watch(lambda slurm: observe([batch], slurm), 1.0):
        run, = observation.runs.values()
        show(run)
        if time.monotonic() > deadline:
            break
    return run


def _problem(run: Run) -> str | None:
    """Why the run is not done: its error and log, or what it waits for; None if it is done."""
    if run.state.name == states.DONE:
        return None
    group = next(iter(failures.group_failures([run])), None)
    return group.line() if group else ": ".join(filter(None, (states.shown(run.state.name), run.state.why)))
