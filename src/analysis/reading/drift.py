"""Defaults that were others when runs were made: what a spec leaves out does not mean the same in all of them."""
from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src import run_folder
from src.analysis.reading.filters import cells_equal, is_missing, to_python
from src.config import Config, defaults_version
from src.errors import UserError

VERSION_COLUMN = "facts/defaults"
_MOST_LOOKED_AT = 16  # runs of a batch: of one version, any run that leaves a parameter out tells its default
_NEVER_DEFAULTS = ("output_dir", "seed_model", "seed_training")  # filled in by the run itself


class Drift(NamedTuple):
    """A parameter whose default was another one in some runs than it is now."""

    parameter: str
    then: Any
    now: Any
    batch: str
    runs: int  # of the batch that were made under the defaults of then

    def __str__(self) -> str:
        return (f"the default of {self.parameter} was {self.then!r} for {self.runs} run{'s' * (self.runs > 1)} of "
                f"{self.batch}, and is {self.now!r} now: where a spec leaves it out, runs differ in it")


def find_drift(config: pd.DataFrame) -> list[Drift]:
    """What has changed since runs were made. config: a row per run, as in `Results`.

    Each config.yaml says under which defaults it was made (facts/defaults). Runs that were made under today's are not
    looked at; of others, a parameter that spec.yaml leaves out and config.yaml has tells its default of then.
    """
    versions = config.get(VERSION_COLUMN, pd.Series([None] * len(config), index=config.index, dtype=object))
    today, defaults = defaults_version(), Config().to_dict()
    found: dict[tuple[str, str], Drift] = {}
    for (batch, _), runs in config[versions != today].groupby([config["batch"], versions], dropna=False, sort=False):
        for position in np.unique(np.linspace(0, len(runs) - 1, _MOST_LOOKED_AT).astype(int)):
            for name, then, now in _differences(runs.iloc[position].to_dict(), defaults):
                found.setdefault((name, f"{batch} {then!r}"), Drift(name, then, now, batch, len(runs)))
    return list(found.values())


def _differences(run: dict[Any, Any], defaults: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(parameter, default then, default now) of the parameters that the run's spec leaves out. defaults: today's."""
    try:
        spec = run_folder.read_spec(os.path.join(run["folder"], run_folder.SPEC))
    except UserError:  # a spec that was lost tells nothing
        return []
    if not os.path.exists(os.path.join(run["folder"], run_folder.CONFIG)):
        return []  # a foreign program: there are no defaults
    return [(name, None if is_missing(run[name]) else to_python(run[name]), now) for name, now in defaults.items()
            if name not in spec and name not in _NEVER_DEFAULTS and name in run
            and not cells_equal(to_python(run[name]), now)]
