"""Find defaults that have changed since runs were made: parameters that specs leave out then differ between runs."""
from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src import run_folder
from src.analysis.reading.filters import cells_equal, is_missing, key_column, to_python
from src.config import Config, defaults_version
from src.errors import UserError

VERSION_COLUMN = "facts/defaults"
_MAX_EXAMPLES = 16  # runs per batch and version: any run that leaves a parameter out reveals its default
_NEVER_DEFAULTS = ("output_dir", "seed_model", "seed_training")  # filled in by the run itself


class Drift(NamedTuple):
    """A parameter whose default has changed.

    then: the default when the runs were made;
    now: the default today;
    batch: name of their batch;
    runs: number of its runs that were made with the earlier default.
    """

    parameter: str
    then: Any
    now: Any
    batch: str
    runs: int

    def __str__(self) -> str:
        return (f"the default of {self.parameter} was {self.then!r} for {self.runs} run{'s' * (self.runs > 1)} of "
                f"{self.batch}, and is {self.now!r} now: where a spec leaves it out, runs differ in it")


def find_drift(config: pd.DataFrame) -> list[Drift]:
    """Return the defaults that have changed since runs were made. config: a row per run, as in `Results`.

    Each config.yaml records the version of the defaults (facts/defaults). Runs of today's version are skipped. In
    others, a parameter that is in config.yaml but not in spec.yaml has its earlier default.
    """
    versions = config.get(VERSION_COLUMN, pd.Series([None] * len(config), index=config.index, dtype=object))
    today, defaults = defaults_version(), Config().to_dict()
    changes: dict[tuple[str, str], Drift] = {}
    groups = [config["batch"], key_column(versions)]
    for (batch, _), runs in config[versions != today].groupby(groups, dropna=False, sort=False):
        for position in np.unique(np.linspace(0, len(runs) - 1, _MAX_EXAMPLES).astype(int)):
            for name, then, now in _differences(runs.iloc[position].to_dict(), defaults):
                changes.setdefault((name, f"{batch} {then!r}"), Drift(name, then, now, batch, len(runs)))
    return list(changes.values())


def _differences(run: dict[Any, Any], defaults: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(parameter, earlier default, default today) of the parameters that the run's spec leaves out."""
    try:
        spec = run_folder.read_spec(os.path.join(run["folder"], run_folder.SPEC))
    except UserError:  # without its spec, nothing is known about defaults
        return []
    if not os.path.exists(os.path.join(run["folder"], run_folder.CONFIG)):
        return []  # an external program, or not started
    return [(name, None if is_missing(run[name]) else to_python(run[name]), now) for name, now in defaults.items()
            if name not in spec and name not in _NEVER_DEFAULTS and name in run
            and not cells_equal(to_python(run[name]), now)]
