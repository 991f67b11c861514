"""Read W&B sweep files as job specs: grids in W&B's order, distributions, commands."""
from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src import metrics
from src.errors import JobSpecError, did_you_mean
from src.io import yaml_io
from src.io.yaml_io import Tagged
from src.submission.spec import command_template, expressions, grammar, subtests
from src.submission.spec.grammar import MAX_POINTS, RESERVED_WORDS, comparison_key
from src.submission.spec.job_spec import JobSpec, safe_name
from src.submission.spec.sampling import QUANTIZED, integer_if_whole, is_finite_number

if TYPE_CHECKING:
    from src.search.settings import SearchSettings

GRID, RANDOM, BAYES = "grid", "random", "bayes"
_MAX_GP_TRIALS = 100  # a Gaussian process, which W&B uses, takes too long for more
OWN_PROGRAM = "train.py"

_KEYS = ("name", "description", "project", "entity", "program", "command", "method", "metric", "parameters", "run_cap",
         "early_terminate")
_FILE_TYPE_KEYS = ("apiVersion", "kind")
_UNSUPPORTED = {  # keys of a sweep file, and what happens instead
    "metrics": "runs are ranked by one `metric`",
    "scheduler": "points come from `method` alone",
    "controller": "no controller is needed",
    "job": "program and command define what runs",
    "image_uri": "program and command define what runs",
}
_UNSUPPORTED_METRIC_KEYS = {
    "target": "no value ends the sweep", "impute": "a run without the metric is ranked last",
    "impute_while_running": "a run is ranked by its best value so far"}

_DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
# words of a command that starts this project's train.py, which reads its spec instead of arguments
_WORDS_OF_OWN_PROGRAM = frozenset((*_DEFAULT_COMMAND, "${args_no_hyphens}", "${args_no_boolean_flags}",
                                   "${args_no_equals}", "/usr/bin/env", "python", "python3", "-u"))

# Distributions: the tag that draws from them, and their keys; those with the prefix q_ have the key q too.
# "inv" is the reciprocal of a log-uniform number, and so log-uniform itself.
_LIMITS = ("min", "max")
DISTRIBUTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "uniform": ("uniform", _LIMITS), "int_uniform": ("int_uniform", _LIMITS),
    "log_uniform": ("loguniform", _LIMITS), "inv_log_uniform": ("loguniform", _LIMITS),
    "log_uniform_values": ("loguniform", _LIMITS), "inv_log_uniform_values": ("loguniform", _LIMITS),
    "normal": ("normal", ("mu", "sigma")), "log_normal": ("lognormal", ("mu", "sigma")), "beta": ("beta", ("a", "b")),
}
_QUANTIZABLE = ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal", "beta")
_LISTED: dict[str, tuple[str, ...]] = {
    "constant": ("value",), "categorical": ("values",), "categorical_w_probabilities": ("values", "probabilities")}
_NAMES = (*_LISTED, *DISTRIBUTIONS, *(f"q_{name}" for name in _QUANTIZABLE))
_DEFAULTS = {"mu": 0.0, "sigma": 1.0, "a": 1, "b": 1, "q": 1}


def parse_sweep(document: Mapping[str, Any], text: str, source: str) -> JobSpec:
    """Return the job spec that is equivalent to a sweep file. JobSpecError if the file is invalid or unsupported.

    document: the file's YAML value;
    text, source: the file's content and name.

    A grid has its axes in W&B's order, sorted by name, and at most run_cap points. With method random, each axis is
    drawn run_cap times (in each subtest) unless --samples is given. Method bayes, and random with early_terminate, are
    searches. A program other than this project's train.py becomes an external command. Ignored keys are listed in
    `warnings`.
    """
    warnings = [*_ignored_keys(document, source), *_different_in_yaml_1_1(text, document, source)]
    method = _parse_method(document, source)
    cap = document.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        raise JobSpecError(f"invalid number of runs {cap!r}", where=f"{source}, run_cap", allowed="an integer from 1")
    search = _parse_search(document, method, cap, source)
    if method == GRID and "early_terminate" in document:
        warnings.append(f"{source}: early_terminate is not supported with method grid: no run is terminated early")
    parameters = _Parameters(method != GRID, warnings).parse(document.get("parameters"), f"{source}, parameters")
    command = _parse_command(document, source)
    project, entity = (_parse_name(document, key, source) for key in ("project", "entity"))
    if command is None:
        settings = {"wandb_project_name": project, "wandb_entity": entity}
        parameters = {**{key: [value] for key, value in settings.items() if value}, **parameters}
        if any(settings.values()) and "wandb" not in parameters:
            warnings.append(f"{source}: project and entity are stored; `--set wandb=true` sends the runs to W&B")
    else:
        command = _add_environment(command, project, entity)
    sweep_name = _parse_name(document, "name", source)
    name = safe_name(sweep_name or os.path.splitext(os.path.basename(source))[0]) or "sweep"
    if sweep_name not in (None, name):
        warnings.append(f"{source}: the batch of sweep {sweep_name!r} is named {name}")
    metric = None if document.get("metric") is None else metrics.parse(
        document["metric"], f"{source}, metric", default_goal=metrics.MINIMIZE)  # W&B's default
    program = document.get("program") if command is None else None
    return JobSpec(name, parameters, command=command, program=program,
                   description=_parse_name(document, "description", source), metric=metric,
                   samples=cap if method == RANDOM and not search else None,
                   max_runs=cap if method == GRID else None, search=search,
                   text=text, source=source, warnings=warnings)


def _ignored_keys(document: Mapping[str, Any], source: str) -> Iterator[str]:
    """Yield a sentence for each key, at the top or of the metric, that is ignored."""
    for key in grammar.unknown_keys(document, (*_KEYS, *_FILE_TYPE_KEYS, *_UNSUPPORTED), source):
        yield f"{source}: '{key}' is not a key of sweep files, and is ignored"
    for key in filter(_UNSUPPORTED.get, document):
        yield f"{source}: {key} is not supported: {_UNSUPPORTED[key]}"
    metric = document.get("metric")
    for key in _UNSUPPORTED_METRIC_KEYS.keys() & (metric if isinstance(metric, dict) else {}):
        yield f"{source}: metric.{key} is not supported: {_UNSUPPORTED_METRIC_KEYS[key]}"


def _parse_method(document: Mapping[str, Any], source: str) -> str:
    method = document.get("method")
    if method not in (GRID, RANDOM, BAYES):
        raise JobSpecError(f"unknown method {method!r}" if method else "method is required", where=source,
                           allowed=(GRID, RANDOM, BAYES))
    return str(method)


def _parse_search(document: Mapping[str, Any], method: str, cap: int | None, source: str) -> SearchSettings | None:
    """Return the search of a sweep that needs the results of its runs; None if all its points are known."""
    if method == GRID or method == RANDOM and document.get("early_terminate") is None:
        return None
    from src.search import definition, settings  # few sweeps are searches

    sampler = definition.RANDOM if method == RANDOM else (
        definition.GP if cap is not None and cap <= _MAX_GP_TRIALS else definition.TPE)
    stop = document.get("early_terminate")
    early_stop = None if stop is None else settings.parse_early_terminate(stop, f"{source}, early_terminate")
    return settings.SearchSettings(sampler, cap, early_stop=early_stop)


def _parse_name(document: Mapping[str, Any], key: str, source: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, (str, int)):
        raise JobSpecError(f"invalid {key} {value!r}", where=f"{source}, {key}", allowed="a string")
    return None if value is None else str(value)


@dataclass
class _Parameters:
    """Parses the parameters of a sweep file.

    random: method is random, not grid;
    warnings: of the sweep file, to which this appends.
    """

    random: bool
    warnings: list[str]

    def parse(self, raw: Any, where: str) -> dict[str, Any]:
        """Return the parameters; if subtests are among them, each subtest with its own parameters.

        Base and subtest are merged first, so that each subtest has W&B's order.
        """
        key = next((key for key in subtests.KEYS if isinstance(raw, dict) and isinstance(raw.get(key), dict)
                    and raw[key] and all(isinstance(own, dict | None) for own in raw[key].values())), None)
        if key is None:
            return self.axes(raw, where)
        base = {name: value for name, value in raw.items() if name != key}
        merged = {}
        for name, own in raw[key].items():
            own = own or {}
            workers = {word: value for word, value in own.items()
                       if word in subtests.WORKERS_KEYS and type(value) is int}
            axes = {**base, **{word: value for word, value in own.items() if word not in workers}}
            merged[name] = {**self.axes(axes, f"{where}, {key}, {name}"), **workers}
        return {key: merged}

    def axes(self, raw: Any, where: str) -> dict[str, list[Any]]:
        """Return an axis for each parameter, sorted by name."""
        if not isinstance(raw, dict) or not raw:
            raise JobSpecError("parameters are required", where=where, hint="for example base_lr: {values: [0.1, 0.2]}")
        for key in raw:
            if not isinstance(key, str) or key in RESERVED_WORDS or key.startswith(("LIST", "ZIP")):
                raise JobSpecError(f"the parameter {key!r} would be a reserved word", where=where, hint="rename it")
        return {key: self.values(raw[key], f"{where}, {key}") for key in sorted(raw)}

    def values(self, raw: Any, where: str) -> list[Any]:
        """Return the values of a parameter, or the distribution it is drawn from as the only one."""
        if isinstance(raw, list):
            raw = {"values": raw}
        elif not isinstance(raw, dict):
            raw = {"value": raw}
        if raw.keys() == {"parameters"}:
            return self.nested(raw["parameters"], where)
        distribution = raw["distribution"] if "distribution" in raw else _implied_distribution(raw, where)
        if distribution not in _NAMES:
            raise JobSpecError(f"unknown distribution {distribution!r}", where=where, allowed=_NAMES,
                               hint=did_you_mean(str(distribution), _NAMES))
        base = distribution.removeprefix("q_")
        keys = _LISTED.get(distribution) or (*DISTRIBUTIONS[base][1], *(("q",) if base != distribution else ()))
        _check_keys(raw, keys, distribution, where)
        if distribution == "constant":
            return [raw["value"]]
        if distribution == "categorical":
            distinct = _distinct(raw["values"], where)
            # a repeated value is drawn more often
            return [Tagged("choice", raw["values"])] if self.random and len(distinct) > 1 else distinct
        numbers = {key: raw.get(key, _DEFAULTS.get(key)) for key in keys}
        if not self.random:
            return _all_values(distribution, numbers, where)
        if distribution == "categorical_w_probabilities":
            return [Tagged("choice", numbers)]
        tag = DISTRIBUTIONS[base][0]
        return [Tagged(tag if base == distribution else QUANTIZED + tag, self.limits(base, numbers, where))]

    def limits(self, base: str, numbers: dict[str, Any], where: str) -> dict[str, Any]:
        """Return the numbers of a tag: exponents of e are replaced by the values that they stand for."""
        if base not in ("log_uniform", "inv_log_uniform"):
            return numbers
        limits = (numbers["min"], numbers["max"]) if base == "log_uniform" else (-numbers["max"], -numbers["min"])
        try:
            low, high = map(math.exp, limits)
        except OverflowError:
            raise JobSpecError(f"min and max of {base} are exponents of e, and too large", where=where,
                               hint=f"{base}_values takes the values themselves") from None
        self.warnings.append(f"{where}: {base} takes exponents of e: this draws from {low:.6g} to {high:.6g}; "
                             f"{base}_values takes the values themselves")
        return {**numbers, "min": low, "max": high}

    def nested(self, raw: Any, where: str) -> list[Any]:
        """Return the values of a parameter that has parameters: mappings, in the order of their product."""
        axes = self.axes(raw, where)
        if math.prod(map(len, axes.values())) > MAX_POINTS:
            raise JobSpecError(f"more than {MAX_POINTS:,} grid points", where=where)
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _implied_distribution(raw: Mapping[str, Any], where: str) -> str:
    """Return the distribution of a parameter without the key `distribution`."""
    if "values" in raw:
        return "categorical_w_probabilities" if "probabilities" in raw else "categorical"
    if "value" in raw:
        return "constant"
    if "min" in raw and "max" in raw:
        return "int_uniform" if type(raw["min"]) is int and type(raw["max"]) is int else "uniform"
    raise JobSpecError("neither a value, nor values, nor a range", where=where, allowed="value, values, min and max, "
                       "distribution with its numbers, or parameters")


def _check_keys(raw: Mapping[str, Any], keys: tuple[str, ...], distribution: str, where: str) -> None:
    for key in raw:
        if key not in (*keys, "distribution"):
            raise JobSpecError(f"{distribution} has no key '{key}'", where=where, allowed=keys)
    for key in keys:
        if key not in raw and key not in _DEFAULTS:
            raise JobSpecError(f"{distribution} needs '{key}'", where=where, allowed=keys)
        if distribution not in _LISTED and not is_finite_number(raw.get(key, 0)):
            raise JobSpecError(f"invalid {key} {raw[key]!r}", where=where, allowed="a number")


def _distinct(values: Any, where: str) -> list[Any]:
    """Return the values without repetitions; as in W&B, 1 and 1.0 are the same."""
    if not isinstance(values, list) or not values:
        raise JobSpecError(f"invalid values {values!r}", where=where, allowed="a list with at least one value")
    distinct: dict[object, Any] = {}
    for value in values:
        distinct.setdefault(comparison_key(integer_if_whole(value)), value)
    return list(distinct.values())


def _all_values(distribution: str, numbers: Mapping[str, Any], where: str) -> list[Any]:
    """Return the values of a distribution in a grid: all integers, or the multiples of q below max."""
    if distribution not in ("int_uniform", "q_uniform"):
        raise JobSpecError(f"method grid needs lists of values, and {distribution} is continuous or weighted",
                           where=where, allowed="value, values, int_uniform, q_uniform",
                           hint="list its values, or write `method: random`")
    low, high, q = (integer_if_whole(numbers.get(key)) for key in (*_LIMITS, "q"))
    text = f"range({low!r}, {high!r} + 1)" if q is None else f"np.arange({low!r}, {high!r}, {q!r})"
    values = expressions.evaluate(text, where)
    if not isinstance(values, list) or not values:
        raise JobSpecError("no value from min to max", where=where, allowed="min below max")
    return list(map(integer_if_whole, values))


def _parse_command(document: Mapping[str, Any], source: str) -> list[str] | None:
    """Return the words of the command, with ${program} filled in; None for this project's train.py."""
    program, template = document.get("program"), document.get("command")
    if template is not None and (not isinstance(template, list) or not template):
        raise JobSpecError(f"invalid command {template!r}", where=f"{source}, command", allowed="a list of words",
                           hint="for example command: [python3, '${program}', '${args}']")
    words = [str(word) for word in template or _DEFAULT_COMMAND]
    macros = ("${env}", "${program}", *command_template.MACROS)
    for word in words:
        if word.startswith("${") and word.endswith("}") and word not in macros and (
                not command_template.ENVIRONMENT_VARIABLE.search(word)):
            raise JobSpecError(f"unknown macro '{word}'", where=f"{source}, command", allowed=macros,
                               hint=did_you_mean(word, macros))
    if program is None and template is None:
        return None
    if program is not None and os.path.normpath(str(program)) == OWN_PROGRAM:
        if other_words := [word for word in words if word not in _WORDS_OF_OWN_PROGRAM]:
            raise JobSpecError(f"{OWN_PROGRAM} of this project reads its spec, and takes no '{other_words[0]}'",
                               where=f"{source}, command", hint="leave `command` out; for a program of your own, write "
                               "its path as `program`")
        return None
    if program is None and "${program}" in words:
        raise JobSpecError("program is required", where=source, hint="for example program: train.py")
    return [str(program) if word == "${program}" else word for word in words]


def _add_environment(words: Iterable[str], project: str | None, entity: str | None) -> list[str]:
    """Prepend the variables that wandb.init reads: project, entity, and the file that fills wandb.config."""
    variables = {"WANDB_PROJECT": project, "WANDB_ENTITY": entity,
                 "WANDB_SWEEP_PARAM_PATH": command_template.SWEEP_CONFIG}
    return ["/usr/bin/env", *(f"{key}={value}" for key, value in variables.items() if value),
            *(word for word in words if word != "${env}")]


def _different_in_yaml_1_1(text: str, document: Mapping[str, Any], source: str) -> Iterator[str]:
    """Yield a sentence for each value that YAML 1.1, which W&B reads, parses differently.

    A number such as 1e-3, which YAML 1.1 parses as a string, is not reported: it is meant as a number.
    """
    def compare(theirs: Any, ours: Any, where: str) -> Iterator[str]:
        if isinstance(theirs, dict) and isinstance(ours, dict) and theirs.keys() == ours.keys():
            for key in ours:
                yield from compare(theirs[key], ours[key], f"{where}, {key}")
        elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
            for their_item, our_item in zip(theirs, ours, strict=True):
                yield from compare(their_item, our_item, where)
        elif type(theirs) is not type(ours) and not (isinstance(theirs, str) and isinstance(ours, (int, float))):
            yield f"{where}: W&B reads {theirs!r} and Gridiron reads {ours!r}; write it unambiguously"

    theirs = yaml_io.load_1_1(text)
    if theirs is not None:
        yield from compare(theirs, document, source)
