"""The definition of a search: its method, space, rungs and limits, in search/search.json of the batch."""
from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any

from src import run_folder
from src.errors import BatchError
from src.io import files
from src.search.space import Space

FILE = f"{run_folder.SEARCH}/search.json"
TPE, GP, CMAES, RANDOM = "tpe", "gp", "cmaes", "random"
METHODS = (TPE, GP, CMAES, RANDOM)
ASHA, HYPERBAND = "asha", "hyperband"
EPOCHS, VALUES = "epochs", "values"
MAX_RUNGS = 100


@dataclass(frozen=True)
class EarlyStop:
    """The rules by which trials that are not promising end early.

    method: ASHA, or HYPERBAND as W&B means it
    rungs: ascending, without the full length of a trial, which is the top rung
    eta: ASHA promotes the best 1/eta of a rung
    strict: of HYPERBAND: the value at a band counts, instead of the best one up to it
    resume: a trial pauses at each rung; if not, it runs on until it is stopped
    counts: what rungs count: EPOCHS, or VALUES that the trial has logged
    """

    method: str
    rungs: tuple[int, ...]
    eta: float
    strict: bool = False
    resume: bool = True
    counts: str = EPOCHS


@dataclass(frozen=True)
class Search:
    """A search.

    method: one of METHODS
    trials: number of trials
    parallel: trials at a time
    metric: the name of a stats column, or a regular expression as in job_details.metric
    maximize: whether more is better
    length: epochs of a whole trial
    name, varying: of the job spec, and the parameters that names of runs show
    max_trial_failures: a trial that failed more often is given up
    """

    method: str
    trials: int
    parallel: int
    seed: int
    metric: str
    maximize: bool
    length: int
    space: Space
    name: str
    varying: tuple[str, ...] = ()
    early_stop: EarlyStop | None = None
    max_trial_failures: int = 2

    @property
    def rungs(self) -> tuple[int, ...]:
        """All rungs, the length of a whole trial last."""
        return (*(self.early_stop.rungs if self.early_stop else ()), self.length)

    @property
    def pauses(self) -> bool:
        """Whether trials pause at rungs."""
        return self.early_stop is not None and self.early_stop.resume

    def loss(self, value: float) -> float:
        """Return a value of the metric so that less is better."""
        return -value if self.maximize else value

    def to_json(self) -> dict[str, Any]:
        """Return the search as a JSON value."""
        return {**vars(self), "space": self.space.to_json(),
                "early_stop": vars(self.early_stop) if self.early_stop else None}

    @classmethod
    def from_json(cls, value: Any) -> Search:
        """Return the search of a JSON value. KeyError, TypeError or ValueError if it is not one."""
        names = {item.name for item in fields(cls)}
        values = {key: item for key, item in value.items() if key in names}  # a newer version may have others
        if stop := values["early_stop"]:
            values["early_stop"] = EarlyStop(**{**stop, "rungs": tuple(map(int, stop["rungs"]))})
        search = cls(**{**values, "space": Space.from_json(values["space"]), "varying": tuple(values["varying"])})
        rungs = search.rungs
        if search.method not in METHODS or list(rungs) != sorted({*rungs}) or min(rungs) < 1 or (
                min(search.trials, search.parallel) < 1):
            raise ValueError("invalid search")
        return search


def asha_rungs(minimum: int, eta: float, length: int) -> tuple[int, ...]:
    """Return the rungs of ASHA below the full length: minimum · eta^k epochs."""
    rungs = {int(minimum * eta**power) for power in range(MAX_RUNGS) if minimum * eta**power < length}
    return tuple(sorted(rungs))


def is_search(batch: str | os.PathLike[str]) -> bool:
    """Return whether a batch is a search."""
    return os.path.exists(os.path.join(batch, FILE))


def write(folder: str | os.PathLike[str], search: Search) -> None:
    """Write the definition into a batch, or replace it."""
    files.make_folder(os.path.join(folder, run_folder.SEARCH))
    files.write_json(os.path.join(folder, FILE), search.to_json())


def read(batch: str | os.PathLike[str]) -> Search | None:
    """Read the definition of a batch's search; None if it is none. BatchError if it is damaged."""
    path = os.path.join(batch, FILE)
    if not os.path.exists(path):
        return None
    try:
        return Search.from_json(files.read_json(path))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise BatchError("this definition of a search is damaged", where=path,
                         hint="repeat the submit_multiple.py command of the batch") from None
