"""W&B sweep files as job specs: their grid in their order, their distributions, their command"""
from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from src import metrics
from src.errors import JobSpecError, did_you_mean
from src.io import yaml_io
from src.io.yaml_io import Tagged
from src.submission.spec import command_template, expressions, subtests
from src.submission.spec.grammar import MAX_POINTS, RESERVED_WORDS, comparison_key
from src.submission.spec.job_spec import JobSpec, safe_name
from src.submission.spec.sampling import is_finite_number

GRID, RANDOM = "grid", "random"
OWN_PROGRAM = "train.py"

_READ = ("name", "description", "project", "entity", "program", "command", "method", "metric", "parameters", "run_cap")
_FORMAL = ("apiVersion", "kind")  # they say that it is a sweep file
_NOT_DONE = {  # what a sweep file may have, too, and what comes of it here
    "early_terminate": "every run goes to its end; early_stopping_patience ends those that get no better",
    "metrics": "runs are ranked by one `metric`",
    "scheduler": "points come from `method` alone",
    "controller": "no controller is needed",
    "job": "program and command say what is run",
    "image_uri": "program and command say what is run",
}
_OF_METRIC = {"target": "no run ends the sweep", "impute": "a run without the metric is ranked last",
              "impute_while_running": "a run is ranked by what it has reached"}

_DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
# words of a command that starts our own train.py, which is given its spec whatever they are
_OF_OURS = frozenset((*_DEFAULT_COMMAND, "${args_no_hyphens}", "${args_no_boolean_flags}", "${args_no_equals}",
                      "/usr/bin/env", "python", "python3", "-u"))

# The distributions and the tags that draw from them, with the keys that each takes beside q, which q_… takes.
# "inv" is the reciprocal of a log-uniform number, and so log-uniform itself.
_LIMITS = ("min", "max")
DISTRIBUTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "uniform": ("uniform", _LIMITS), "int_uniform": ("int_uniform", _LIMITS),
    "log_uniform": ("loguniform", _LIMITS), "inv_log_uniform": ("loguniform", _LIMITS),
    "log_uniform_values": ("loguniform", _LIMITS), "inv_log_uniform_values": ("loguniform", _LIMITS),
    "normal": ("normal", ("mu", "sigma")), "log_normal": ("lognormal", ("mu", "sigma")), "beta": ("beta", ("a", "b")),
}
_QUANTIZED = ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal", "beta")
_LISTED = {"constant": ("value",), "categorical": ("values",), "categorical_w_probabilities": ("values",
                                                                                              "probabilities")}
_NAMES = (*_LISTED, *DISTRIBUTIONS, *(f"q_{name}" for name in _QUANTIZED))
_DEFAULTS = {"mu": 0.0, "sigma": 1.0, "a": 1, "b": 1, "q": 1.0}


def parse_sweep(document: Mapping[str, Any], text: str, source: str) -> JobSpec:
    """The job spec that a sweep file stands for. document: its YAML; text, source: the file and its name.

    grid: axes in the order of W&B, which sorts the names; at most run_cap runs. random: an axis is drawn, run_cap times
    (in each subtest) unless --samples is given. A program other than our train.py becomes a foreign command.
    JobSpecError for what cannot be done; what is left out is in `warnings`.
    """
    warnings = [*_left_out(document, source), *_read_otherwise(text, document, source)]
    method = _method(document, source)
    cap = document.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        raise JobSpecError(f"{cap!r} is no number of runs", where=f"{source}, run_cap", allowed="1 or more")
    parameters = _composite(document.get("parameters"), method == RANDOM, f"{source}, parameters", warnings)
    command = _command(document, source)
    project, entity = (_name_of(document, key, source) for key in ("project", "entity"))
    if command is None:
        tracked = {"wandb_project_name": project, "wandb_entity": entity}
        parameters = {**{key: [value] for key, value in tracked.items() if value}, **parameters}
        if any(tracked.values()) and "wandb" not in parameters:
            warnings.append(f"{source}: project and entity are kept; `--set wandb=true` tells W&B of the runs")
    else:
        command = _with_environment(command, project, entity)
    given = _name_of(document, "name", source)
    name = safe_name(given or os.path.splitext(os.path.basename(source))[0]) or "sweep"
    if given not in (None, name):
        warnings.append(f"{source}: the sweep {given!r} is called {name} here")
    return JobSpec(name, parameters, command=command, description=_name_of(document, "description", source),
                   metric=_metric(document, f"{source}, metric"), samples=cap if method == RANDOM else None,
                   max_runs=cap if method == GRID else None, text=text, source=source, warnings=warnings)


def _left_out(document: Mapping[str, Any], source: str) -> Iterator[str]:
    """A sentence for each key at the top, or of the metric, by which nothing is done."""
    for key in document:
        if key in _NOT_DONE:
            yield f"{source}: {key} is not done here: {_NOT_DONE[key]}"
        elif key not in (*_READ, *_FORMAL):
            known = (*_READ, *_NOT_DONE)
            hint = did_you_mean(str(key), known)
            if hint:
                raise JobSpecError(f"unknown key '{key}'", where=source, hint=hint)
            yield f"{source}: '{key}' is nothing that a sweep file has, and is not used"
    metric = document.get("metric")
    for key in _OF_METRIC.keys() & (metric if isinstance(metric, dict) else {}):
        yield f"{source}: metric.{key} is not done here: {_OF_METRIC[key]}"


def _method(document: Mapping[str, Any], source: str) -> str:
    method = document.get("method")
    if method == "bayes":
        raise JobSpecError("method bayes needs the results of earlier runs for each next one, and all are submitted at "
                           "once here", where=source, allowed=(GRID, RANDOM), hint="write `method: random`, with the "
                           "same distributions, and give --samples 50; then narrow them around the best runs")
    if method not in (GRID, RANDOM):
        raise JobSpecError(f"unknown method {method!r}" if method else "there is no method", where=source,
                           allowed=(GRID, RANDOM))
    return str(method)


def _name_of(document: Mapping[str, Any], key: str, source: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, (str, int)):
        raise JobSpecError(f"{value!r} is no name", where=f"{source}, {key}")
    return None if value is None else str(value)


def _metric(document: Mapping[str, Any], where: str) -> metrics.Metric | None:
    raw = document.get("metric")
    return None if raw is None else metrics.parse(raw, where)


def _composite(raw: Any, draws: bool, where: str, warnings: list[str]) -> dict[str, Any]:
    """The parameters; or, if `subtests` are among them, these, each with all of its parameters, so that each has the
    order of a sweep of its own."""
    key = next((key for key in subtests.KEYS if isinstance(raw, dict) and isinstance(raw.get(key), dict) and raw[key]
                and all(isinstance(own, dict | None) for own in raw[key].values())), None)
    if key is None:
        return _parameters(raw, draws, where, warnings)
    base = {name: value for name, value in raw.items() if name != key}
    found = {}
    for name, own in raw[key].items():
        numbers = {word: value for word, value in (own or {}).items()
                   if word in subtests.WORKERS_KEYS and type(value) is int}
        own = {word: value for word, value in (own or {}).items() if word not in numbers}
        found[name] = {**_parameters({**base, **own}, draws, f"{where}, {key}, {name}", warnings), **numbers}
    return {key: found}


def _parameters(raw: Any, draws: bool, where: str, warnings: list[str]) -> dict[str, list[Any]]:
    """An axis for each parameter, in the order of their names: its values, or one that is drawn."""
    if not isinstance(raw, dict) or not raw:
        raise JobSpecError("there are no parameters", where=where, hint="as base_lr: {values: [0.1, 0.2]}")
    for key in raw:
        if not isinstance(key, str) or key in RESERVED_WORDS or key.startswith(("LIST", "ZIP")):
            raise JobSpecError(f"the parameter {key!r} would be a word of the grammar", where=where,
                               hint="call it otherwise")
    return {key: _values(raw[key], draws, f"{where}, {key}", warnings) for key in sorted(raw)}


def _values(raw: Any, draws: bool, where: str, warnings: list[str]) -> list[Any]:
    """The values of a parameter, or, as their only one, what is drawn instead."""
    if isinstance(raw, list):
        raw = {"values": raw}
    elif not isinstance(raw, dict):
        raw = {"value": raw}
    if raw.keys() == {"parameters"}:
        return _nested(raw["parameters"], draws, where, warnings)
    distribution = raw["distribution"] if "distribution" in raw else _implied(raw, where)
    if distribution not in _NAMES:
        raise JobSpecError(f"unknown distribution {distribution!r}", where=where, allowed=_NAMES,
                           hint=did_you_mean(str(distribution), _NAMES))
    base = distribution.removeprefix("q_")
    keys = _LISTED.get(distribution) or (*DISTRIBUTIONS[base][1], *(("q",) if base != distribution else ()))
    _check_keys(raw, keys, distribution, where)
    numbers = {key: raw.get(key, _DEFAULTS.get(key)) for key in keys}
    if distribution == "constant":
        return [raw["value"]]
    if distribution == "categorical":
        different = _different(raw["values"], where)
        # what stands twice is drawn twice as often
        return [Tagged("choice", raw["values"])] if draws and len(different) > 1 else different
    if not draws:
        return _all_of(distribution, numbers, where)
    if distribution == "categorical_w_probabilities":
        return [Tagged("choice", numbers)]
    return [Tagged(DISTRIBUTIONS[base][0], _in_values(base, numbers, where, warnings))]


def _implied(raw: Mapping[str, Any], where: str) -> str:
    """The distribution of a parameter that names none."""
    if "values" in raw:
        return "categorical_w_probabilities" if "probabilities" in raw else "categorical"
    if "value" in raw:
        return "constant"
    if "min" in raw and "max" in raw:
        return "int_uniform" if type(raw["min"]) is int and type(raw["max"]) is int else "uniform"
    raise JobSpecError("it has neither a value, nor values, nor a range", where=where, allowed="value, values, min and "
                       "max, distribution with its numbers, or parameters")


def _check_keys(raw: Mapping[str, Any], keys: tuple[str, ...], distribution: str, where: str) -> None:
    for key in raw:
        if key not in (*keys, "distribution"):
            raise JobSpecError(f"{distribution} has no '{key}'", where=where, allowed=keys)
    for key in keys:
        if key not in raw and key not in _DEFAULTS:
            raise JobSpecError(f"{distribution} needs '{key}'", where=where, allowed=keys)
        if distribution not in _LISTED and not is_finite_number(raw.get(key, 0)):
            raise JobSpecError(f"{key} is {raw[key]!r}", where=where, allowed="a number")


def _different(values: Any, where: str) -> list[Any]:
    """The values without repetitions, as W&B sees them: to it 1 and 1.0 are the same."""
    if not isinstance(values, list) or not values:
        raise JobSpecError(f"{values!r} are no values", where=where, allowed="a list with at least one")
    found: dict[object, Any] = {}
    for value in values:
        whole = isinstance(value, float) and value.is_integer()
        found.setdefault(comparison_key(int(value) if whole else value), value)
    return list(found.values())


def _all_of(distribution: str, numbers: Mapping[str, Any], where: str) -> list[Any]:
    """What a grid has of a distribution: all whole numbers, or the multiples of q below max."""
    if distribution not in ("int_uniform", "q_uniform"):
        raise JobSpecError(f"method grid goes through lists, and this is drawn ({distribution})", where=where,
                           allowed="value, values, int_uniform, q_uniform", hint="list its values, or write `method: "
                           "random`")
    low, high, q = numbers["min"], numbers["max"], numbers.get("q")
    text = f"range({low!r}, {high!r} + 1)" if q is None else f"np.arange({low!r}, {high!r}, {q!r})"
    values = expressions.evaluate(text, where)
    if not isinstance(values, list) or not values:
        raise JobSpecError("there is nothing from min to max", where=where, allowed="min below max")
    return values


def _in_values(base: str, numbers: dict[str, Any], where: str, warnings: list[str]) -> dict[str, Any]:
    """The numbers of a tag: those that are exponents of e to W&B as what they stand for."""
    if base not in ("log_uniform", "inv_log_uniform"):
        return numbers
    limits = (numbers["min"], numbers["max"]) if base == "log_uniform" else (numbers["max"], numbers["min"])
    sign = 1 if base == "log_uniform" else -1
    try:
        low, high = (math.exp(sign * limit) for limit in limits)
    except (TypeError, OverflowError):
        raise JobSpecError(f"min and max of {base} are exponents of e, and {limits} cannot be", where=where, hint=(
            f"{base}_values takes the values themselves")) from None
    warnings.append(f"{where}: {base} takes exponents of e: this draws from {low:.6g} to {high:.6g}; {base}_values "
                    "takes the values themselves")
    return {**numbers, "min": low, "max": high}


def _nested(raw: Any, draws: bool, where: str, warnings: list[str]) -> list[Any]:
    """The values of a parameter that has parameters: mappings, in the order of their product."""
    axes = _parameters(raw, draws, where, warnings)
    if math.prod(map(len, axes.values())) > MAX_POINTS:
        raise JobSpecError(f"more than {MAX_POINTS:,} grid points", where=where)
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _command(document: Mapping[str, Any], source: str) -> list[str] | None:
    """The words of the command, with ${program} filled in; None if it is our own train.py."""
    program, given = document.get("program"), document.get("command")
    if given is not None and (not isinstance(given, list) or not given):
        raise JobSpecError(f"{given!r} is no command", where=f"{source}, command", allowed="a list of words",
                           hint="as command: [python3, '${program}', '${args}']")
    words = [str(word) for word in given or _DEFAULT_COMMAND]
    known = ("${env}", "${program}", *command_template.MACROS)
    for word in words:
        if word.startswith("${") and word.endswith("}") and word not in known and (
                not command_template.ENVIRONMENT_VARIABLE.search(word)):
            raise JobSpecError(f"unknown word '{word}'", where=f"{source}, command", allowed=known,
                               hint=did_you_mean(word, known))
    if program is None and given is None:
        return None
    if program is not None and os.path.normpath(str(program)) == OWN_PROGRAM:
        if strange := [word for word in words if word not in _OF_OURS]:
            raise JobSpecError(f"{OWN_PROGRAM} of this project is given its spec and takes no '{strange[0]}'",
                               where=f"{source}, command", hint="leave `command` out; for a program of your own, write "
                               "its path as `program`")
        return None
    if program is None and "${program}" in words:
        raise JobSpecError("there is no program", where=source, hint="as program: train.py")
    return [str(program) if word == "${program}" else word for word in words]


def _with_environment(words: Iterable[str], project: str | None, entity: str | None) -> list[str]:
    """The command with what `wandb.init` in it looks for: where to log, and a file of the parameters for wandb.config.
    """
    assigned = {"WANDB_PROJECT": project, "WANDB_ENTITY": entity,
                "WANDB_SWEEP_PARAM_PATH": command_template.SWEEP_CONFIG}
    return ["/usr/bin/env", *(f"{key}={value}" for key, value in assigned.items() if value),
            *(word for word in words if word != "${env}")]


def _read_otherwise(text: str, document: Mapping[str, Any], source: str) -> Iterator[str]:
    """A sentence for each value that W&B, which reads YAML 1.1, takes for something else; not for 1e-3, a string to it.
    """
    def walk(theirs: Any, ours: Any, place: str) -> Iterator[str]:
        if isinstance(theirs, dict) and isinstance(ours, dict) and theirs.keys() == ours.keys():
            for key in ours:
                yield from walk(theirs[key], ours[key], f"{place}, {key}")
        elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
            for one, other in zip(theirs, ours, strict=True):
                yield from walk(one, other, place)
        elif type(theirs) is not type(ours) and not (isinstance(theirs, str) and isinstance(ours, (int, float))):
            yield f"{place}: to W&B this is {theirs!r}, and here it is {ours!r}: write it so that it is clear"

    theirs = yaml_io.load_1_1(text)
    if theirs is not None:
        yield from walk(theirs, document, source)
