"""Smoke test: one batch of data of each distinct model and data set, on this machine, before anything is submitted."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from src import metrics, run_folder
from src.config import TRACKER_FIELDS
from src.errors import BatchError
from src.io import files, yaml_io
from src.submission.batch.journal import WRITE_ONLY, Journal
from src.submission.spec.grammar import Spec

if TYPE_CHECKING:
    from src.submission.spec.container_spec import Container

# keys that decide which code runs; learning rates, lengths and seeds do not
_DISTINGUISHING = (
    "task", "model", "model_kwargs", "model_pretrained", "model_head_init", "dataset", "data_dir", "data_splits_map",
    "eval_datasets", "eval_class_maps", "loss", "targets", "tokenizer", "max_length", "text_column", "label_column")
_RUN = "run"
_CPU_PRECISION = {"fp16": "bf16", "tf32": "float32"}


def distinct_specs(specs: Iterable[Mapping[str, Any]], goal: str | None = None) -> list[Spec]:
    """Return the first spec of each model and data set, changed to a run of one batch of data on this machine.

    goal: of the metric of the job spec, which the run cannot read.
    """
    distinct: dict[str, Spec] = {}
    for spec in specs:
        untracked = {key: value for key, value in spec.items() if key not in TRACKER_FIELDS}
        if goal and metrics.direction(spec.get("best_checkpoint_metric", "accuracy")) is None:
            untracked.setdefault("best_checkpoint_goal", goal)
        distinct.setdefault(repr([spec.get(key) for key in _DISTINGUISHING]), {**untracked, "fast_dev_run": True})
    if shutil.which("nvidia-smi") is None:  # on a login node, try runs for GPUs as far as its CPUs can
        for spec in distinct.values():
            precision = spec.get("precision", "float32")
            spec.update(precision=_CPU_PRECISION.get(precision, precision), device="auto")
    return list(distinct.values())


def run_smoke_test(specs: Iterable[Mapping[str, Any]], project: str, container: Container | None = None,
                   goal: str | None = None) -> Iterator[str]:
    """Run each distinct spec and yield a line for each that works. BatchError, with its last line, if one fails.

    container: the container of the batch, in which the specs are run too
    goal: of the metric of the job spec
    """
    for spec in distinct_specs(specs, goal):
        label = f"{spec.get('model', 'the default model')} on {spec.get('dataset', 'the default data set')}"
        process = _run(spec, project, container)
        if process.returncode:
            lines = [line for line in process.stderr.splitlines() if line.strip()] or ["nothing on stderr"]
            raise BatchError(f"{label} fails in its first batch: {lines[-1].removeprefix('error: ').strip()}",
                             where="smoke", hint="nothing was written or submitted")
        yield f"smoke      {label}: one batch works"


def _run(spec: Spec, project: str, container: Container | None) -> subprocess.CompletedProcess[str]:
    """Run train.py on a spec in a temporary batch folder."""
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, _RUN))
        path = os.path.join(folder, _RUN, run_folder.SPEC)
        if container:  # train.py looks it up in the journal of the batch
            os.mkdir(os.path.join(folder, run_folder.SUBMISSIONS))
            Journal(folder, "smoke").record_plan(WRITE_ONLY, {_RUN: 1}, container=vars(container))
        files.write_atomic(path, yaml_io.dump_flat(spec), sync=False)
        return subprocess.run([sys.executable, os.path.join(project, "train.py"), path], cwd=project, text=True,
                              capture_output=True, check=False)
