"""Find the points of a grid that another batch has completed, by a hash of everything that determines their result."""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from src import config, run_folder
from src.archive import run_files
from src.config import NOT_PARAMETERS, OUTPUT_FIELDS, Config
from src.errors import UserError
from src.submission.batch import batch_folder
from src.submission.spec import command_template, grid, naming
from src.submission.spec.job_spec import JobSpec


def canonical_hash(spec: Mapping[str, Any]) -> str:
    """Return a hash of everything that determines the result of a run, independent of the order of keys.

    Defaults are filled in, and 1 equals 1.0 where a float is declared; output and logging are left out. The parameters
    of an external program are hashed as they are, with its command. ConfigError if Config rejects the spec.
    """
    if "COMMAND" in spec:
        values = {key: value for key, value in spec.items() if key not in NOT_PARAMETERS or key == "COMMAND"}
    else:
        values = {key: value + 0.0 if isinstance(value, float) else value  # -0.0 is 0.0
                  for key, value in Config.from_dict(spec).to_dict().items() if key not in OUTPUT_FIELDS}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def done_points(output_dir: str, excluding: Collection[str] = ()) -> dict[str, str]:
    """Map the hash of every run that has ended under `output_dir` to its folder.

    Diverged runs have ended too: the same config would diverge again. Runs whose spec cannot be read are left out.
    excluding: batches that are left out.
    """
    done: dict[str, str] = {}
    skipped = set(map(os.path.realpath, excluding))
    for path in batch_folder.all_batches(output_dir):
        if os.path.realpath(path) not in skipped:
            for folder in _ended_runs(path):
                try:
                    spec = run_folder.read_spec(os.path.join(folder, run_folder.SPEC))
                    done.setdefault(canonical_hash(spec), folder)
                except UserError:  # of another version of the project: equal to no point of this one
                    continue
    return done


def _ended_runs(path: str) -> Iterator[str]:
    for name in run_folder.run_names(path):
        folder = f"{path}/{name}"
        if run_files.exists(folder, run_folder.DONE):
            yield folder


def missing_points(job_spec: JobSpec, overrides: Mapping[str, Any], output_dir: str, samples: int | None = None,
                   seed: int | None = None) -> list[str]:
    """Return the names of the points of a job spec that no batch under `output_dir` has done.

    samples, seed: of random points, in place of the job spec's own.
    """
    check = None if job_spec.command else config.check_parameters
    expanded = grid.expand_job_spec(job_spec, overrides, check, samples, seed)
    points = expanded.specs
    if job_spec.command:
        command = command_template.parse_command(job_spec.command, job_spec.source)
        points = [{**point, "COMMAND": command} for point in points]
    done = done_points(output_dir)
    names = naming.run_names(job_spec.name, points, expanded.varying)
    named_points = list(zip(names, points, strict=True))[:job_spec.max_runs]
    return [name for name, point in named_points if canonical_hash(point) not in done]
