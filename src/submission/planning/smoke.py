"""A first batch of each distinct model and data set of a grid, run here, before anything is written or submitted."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from src import run_folder
from src.errors import BatchError
from src.io import files, yaml_io
from src.submission.batch.journal import WRITE_ONLY, Journal

if TYPE_CHECKING:
    from src.submission.spec.container_spec import Container

# what decides which code runs; rates, lengths and seeds do not
BUILDS = ("task", "model", "model_kwargs", "model_pretrained", "model_head_init", "dataset", "data_dir",
          "data_splits_map", "eval_datasets", "eval_class_maps", "loss", "targets", "tokenizer", "max_length",
          "text_column", "label_column")
_RUN = "run"
_ON_CPU = {"fp16": "bf16", "tf32": "float32"}


def distinct(specs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The first spec of each model and data set, as a run of one batch on this machine."""
    found: dict[str, dict[str, Any]] = {}
    for spec in specs:
        watched = {key: value for key, value in spec.items() if not key.startswith("wandb")}  # nobody looks on
        found.setdefault(repr([spec.get(key) for key in BUILDS]), {**watched, "fast_dev_run": True})
    if shutil.which("nvidia-smi") is None:  # what needs a GPU is tried as far as a login node can
        for spec in found.values():
            spec["precision"] = _ON_CPU.get(spec.get("precision", "float32"), spec.get("precision", "float32"))
            spec["device"] = "auto"
    return list(found.values())


def run(specs: Iterable[Mapping[str, Any]], project: str, container: Container | None = None) -> Iterator[str]:
    """Run each of them; a line for each that works. BatchError, with what it said last, at the first that does not.
    container: that of the batch, which they run in too.
    """
    for spec in distinct(specs):
        name = f"{spec.get('model', 'the default model')} on {spec.get('dataset', 'the default data set')}"
        with tempfile.TemporaryDirectory() as folder:
            os.mkdir(os.path.join(folder, _RUN))
            path = os.path.join(folder, _RUN, run_folder.SPEC)
            if container:  # train.py finds it as that of any batch
                os.mkdir(os.path.join(folder, run_folder.SUBMISSIONS))
                Journal(folder, "smoke").record_plan(WRITE_ONLY, {_RUN: 1}, container=vars(container))
            files.write_atomic(path, yaml_io.dump_flat(spec), sync=False)
            done = subprocess.run([sys.executable, os.path.join(project, "train.py"), path], cwd=project, text=True,
                                  capture_output=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing on stderr"]
            raise BatchError(f"{name} fails in its first batch: {said[-1].removeprefix('error: ').strip()}",
                             where="smoke", hint="nothing was written or submitted")
        yield f"smoke      {name}: one batch works"
