"""The block `search` of job_details: how trials are chosen, how many there are, and how they end early."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from src.errors import JobSpecError, did_you_mean
from src.search.definition import ASHA, HYPERBAND, METHODS, TPE

UNKNOWN_LENGTH = 10**9  # epochs of a trial whose length is not known before it has ended
FULL_LENGTH = "full"  # the schedule of a trial is that of its whole length, wherever it pauses


@dataclass(frozen=True)
class EarlyStopSettings:
    """The rules by which trials end early, as a job spec or a sweep file gives them.

    method: ASHA or HYPERBAND of definition.py;
    first: the first rung; None for bands that are counted down from `last`;
    last: length of a whole trial, None for train_length; of Hyperband, that from which bands are counted down;
    bands: number of bands below `last`, for Hyperband without `first`;
    eta: each rung is so many times the one before;
    strict, resume: as in definition.EarlyStop.
    """

    method: str
    first: int | None
    eta: float
    last: int | None = None
    bands: int | None = None
    strict: bool = False
    resume: bool = True


@dataclass(frozen=True)
class SearchSettings:
    """The block `search` of a job spec.

    trials: None if the command line has to give their number;
    parallel: trials at a time; None: as many as there are workers times slots;
    seed: None: that of job_details;
    max_trial_failures: a trial that has failed more often is given up;
    early_stop: None: every trial runs to its end.
    """

    method: str
    trials: int | None
    parallel: int | None = None
    seed: int | None = None
    max_trial_failures: int = 2
    early_stop: EarlyStopSettings | None = None


def parse_search(value: Any, where: str) -> SearchSettings:
    """Parse the block `search`. JobSpecError for an unknown key or an invalid value."""
    values = _parse_keys(value, _KEYS, where, "for example search: {method: tpe, trials: 60}")
    if "trials" not in values:
        raise JobSpecError("trials is required", where=where, hint="add the number of trials, as `trials: 60`")
    return SearchSettings(**{"method": TPE, **values})


def parse_early_terminate(value: Any, where: str) -> EarlyStopSettings:
    """Parse `early_terminate` of a W&B sweep file, with the defaults of W&B's library `sweeps` 0.3.

    JobSpecError for what W&B would not accept either.
    """
    values = _parse_keys(value, _EARLY_TERMINATE_KEYS, where, "for example {type: hyperband, min_iter: 3}")
    values.pop("type", None)
    if ("min_iter" in values) == ("max_iter" in values):
        raise JobSpecError("hyperband takes either min_iter, or max_iter and s", where=where,
                           hint="for example {type: hyperband, min_iter: 3}")
    if "max_iter" in values and "s" not in values:
        raise JobSpecError("s is required with max_iter: the number of bands", where=where, hint="for example s: 2")
    return EarlyStopSettings(HYPERBAND, values.get("min_iter"), values.get("eta", 3.0), values.get("max_iter"),
                             values.get("s"), values.get("strict", True), resume=False)


def _parse_keys(value: Any, parsers: Mapping[str, Callable[[Any, str], Any]], where: str, hint: str) -> dict[str, Any]:
    """Return the values of a mapping, each parsed. JobSpecError if it is not a mapping of these keys."""
    if not isinstance(value, dict):
        raise JobSpecError(f"{value!r} is not a mapping", where=where, allowed=tuple(parsers), hint=hint)
    for key in value:
        if key not in parsers:
            raise JobSpecError(f"unknown key {key!r}", where=where, allowed=tuple(parsers),
                               hint=did_you_mean(str(key), parsers))
    return {_FIELDS.get(key, key): parse(value[key], f"{where}, {key}") for key, parse in parsers.items()
            if value.get(key) is not None}


def _parse_early_stop(value: Any, where: str) -> EarlyStopSettings:
    values = _parse_keys(value, _EARLY_STOP_KEYS, where, "for example early_stop: {method: asha, min: 2, eta: 3}")
    if "first" not in values:
        raise JobSpecError("min is required: the epochs of the first rung", where=where, hint="for example min: 2")
    values.pop("schedule", None)
    return EarlyStopSettings(**{"method": ASHA, "eta": 3, **values})


def _parse_whole(minimum: int) -> Callable[[Any, str], int]:
    def parse(value: Any, where: str) -> int:
        if type(value) is not int or value < minimum:
            raise JobSpecError(f"invalid value {value!r}", where=where, allowed=f"an integer from {minimum}")
        return value

    return parse


def _parse_one_of(*allowed: str, hint: str | None = None) -> Callable[[Any, str], str]:
    def parse(value: Any, where: str) -> str:
        if value not in allowed:
            raise JobSpecError(f"unknown value {value!r}", where=where, allowed=allowed,
                               hint=did_you_mean(str(value), allowed) or hint)
        return str(value)

    return parse


def _parse_eta(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not 1 < value < 1e6:
        raise JobSpecError(f"invalid value {value!r}", where=where, allowed="a number above 1, as 3")
    return float(value)


def _parse_bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise JobSpecError(f"{value!r} is not true or false", where=where)
    return value


_EARLY_STOP_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "method": _parse_one_of(ASHA), "min": _parse_whole(1), "max": _parse_whole(1), "eta": _parse_eta,
    "resume": _parse_bool,
    "schedule": _parse_one_of(FULL_LENGTH, hint="with the schedule of a rung, a trial that is continued would not "
                              "equal one that was never paused")}
_EARLY_TERMINATE_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "type": _parse_one_of(HYPERBAND), "min_iter": _parse_whole(1), "max_iter": _parse_whole(1), "s": _parse_whole(1),
    "eta": _parse_eta, "strict": _parse_bool}
_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "method": _parse_one_of(*METHODS), "trials": _parse_whole(1), "parallel": _parse_whole(1), "seed": _parse_whole(0),
    "max_trial_failures": _parse_whole(0), "early_stop": _parse_early_stop}
_FIELDS = {"min": "first", "max": "last"}  # keys whose field has another name
