"""Decisions of a search: files search/decision-0000.json, …, each created by exactly one process and never changed.

A decision has everything that it was made from: all earlier decisions, and in `results` what was read from the trials'
files in addition. So the decisions alone are the history of a search, and any of them can be computed again.
"""
from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from src import run_folder
from src.errors import BatchError
from src.io import files, records
from src.search.space import Point

NEW, PROMOTE, STOP = "new", "promote", "stop"  # kinds
GIVEN_UP = run_folder.FAILED  # the end of a trial that failed too often


@dataclass(frozen=True)
class Result:
    """The result of a trial at one rung.

    rung: index
    value: of the metric at the rung's epoch, or at the end of the trial; None if there is none, or it is not finite
    best: the best value until then; None like `value`
    end: None if the trial may continue; otherwise one of run_folder.ENDS, or GIVEN_UP
    """

    trial: int
    rung: int
    value: float | None
    best: float | None = None
    end: str | None = None


@dataclass(frozen=True)
class Decision:
    """One decision.

    kind: NEW starts a trial; PROMOTE lets a trial go on to its next rung; STOP ends it at its rung
    trial, rung: the number of the trial, and the index of the rung that it is to reach; of STOP, the one it has reached
    run, point, parameters: of NEW: the run folder, the coordinates in the space, and the spec; otherwise empty
    results: what was not known to earlier decisions
    sampler, seed, versions: how the point was chosen; empty unless NEW
    time, who: when and by which process it was made; nothing follows from them
    """

    number: int
    kind: str
    trial: int
    rung: int
    run: str = ""
    point: Point = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    results: tuple[Result, ...] = ()
    sampler: str = ""
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    time: float = 0.0
    who: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the decision as a JSON value."""
        return {**vars(self), "results": [vars(result) for result in self.results]}


_is_metric = records.optional(lambda value: type(value) in (int, float))
_RESULT: records.Forms = {
    "trial": records.is_count, "rung": records.is_count, "value": _is_metric, "best": _is_metric,
    "end": lambda value: value in (None, *run_folder.ENDS, GIVEN_UP)}
_is_point = records.mapping_of(records.is_text, lambda value: type(value) in (int, float))
_DECISION: records.Forms = {
    "number": records.is_count, "kind": lambda value: value in (NEW, PROMOTE, STOP), "trial": records.is_count,
    "rung": records.is_count, "run": lambda value: value == "" or records.is_name(value) and value[0] != ".",
    "point": _is_point, "parameters": records.is_mapping,
    "results": records.list_of(lambda value: records.fields(value, _RESULT).keys() == _RESULT.keys()),
    "sampler": records.is_text, "seed": records.is_count, "versions": records.mapping_of(
        records.is_text, records.is_text), "time": records.is_time, "who": records.is_mapping}


def path(batch: str | os.PathLike[str], number: int) -> str:
    """Return the file of a decision."""
    return os.path.join(batch, run_folder.SEARCH, f"decision-{number:04d}.json")


def create(batch: str, decision: Decision) -> bool:
    """Create the file of a decision; False if another process has made the decision of this number.

    The file is complete, and on disk, before it is visible.
    """
    return files.create_exclusive(path(batch, decision.number), json.dumps(decision.to_json()) + "\n")


def read(batch: str, number: int) -> Decision | None:
    """Return a decision; None if it is not made yet. BatchError if its file is damaged."""
    file = path(batch, number)
    if not os.path.exists(file):  # asked first: once it exists, it is complete
        return None
    value = files.read_json(file)
    checked = records.fields(value, _DECISION)
    if not checked.keys() >= _DECISION.keys() or checked["number"] != number or (
            checked["kind"] == NEW and not checked["run"]):
        raise BatchError("this decision of a search is damaged, so that nothing can be decided after it", where=file,
                         hint="restore the file from a backup, or submit the search anew")
    results = tuple(Result(**item) for item in checked["results"])
    return Decision(**{key: checked[key] for key in _DECISION if key != "results"}, results=results)
