"""Read a job spec or a W&B sweep file, check every key of job_details, and recognise the files of other tools."""
from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from src.config import TRACKER_FIELDS
from src.errors import JobSpecError
from src.io import yaml_io
from src.submission.spec import container_spec, grammar, notify_spec
from src.submission.spec.job_spec import AUTO, DRAW_MODES, JobSpec, check_name, check_output_dir

if TYPE_CHECKING:
    from src.metrics import Metric
    from src.search.settings import SearchSettings
    from src.submission.spec.resources import Resources


def is_job_spec(document: Any) -> bool:
    """Return whether a YAML document is a job spec or a W&B sweep, and not the spec of one run."""
    return isinstance(document, dict) and ("job_details" in document or _is_sweep(document))


def _is_sweep(document: Mapping[str, Any]) -> bool:
    return "job_details" not in document and ("method" in document or "program" in document)


def read_job_spec(path: str | os.PathLike[str]) -> JobSpec:
    """Read the job spec in a file. JobSpecError if it is invalid."""
    return parse_job_spec(yaml_io.read_user_file(path), os.fspath(path))


def parse_job_spec(text: str, source: str) -> JobSpec:
    """Parse the text of a job spec or a W&B sweep. JobSpecError if it is invalid.

    source: the name of the file, for messages. A misspelled key is an error; other unknown keys give a warning.
    """
    document = _check_mapping(yaml_io.load(text, source), source, "a job spec")
    if "job_details" not in document:
        _refuse_other_tools(document, source)
        if _is_sweep(document):
            from src.submission.spec import wandb_sweep  # imported on demand: start-up time on a login node

            return wandb_sweep.parse_sweep(document, text, source)
    warnings = [f"{source}: '{key}' beside job_details and parameters is ignored"
                for key in grammar.unknown_keys(document, ("job_details", "parameters"), source)]
    details, parameters = (_section(document, key, source) for key in ("job_details", "parameters"))
    where = f"{source}, job_details"
    if details.get("name") is None:
        raise JobSpecError("name is required", where=where, hint="add a line such as `name: my-first-grid`")
    if details.get("script") is not None and details.get("resources") is not None:
        raise JobSpecError("script and resources exclude each other", where=where, hint="keep one of them")
    # `comment` resembles `comet`, and is common
    unknown = grammar.unknown_keys(details, (*_PARSERS, *TRACKER_FIELDS), where, never_typos=("comment",))
    warnings += [f"{where}: '{key}' is not one of {', '.join(_PARSERS)}; it is stored and otherwise ignored"
                 for key in unknown]
    # tracker settings are axes of one value, so that a list or an expression is taken literally
    settings = {key: [value] for key, value in details.items() if key in TRACKER_FIELDS}
    values = {key: parse(details[key], f"{where}, {key}") for key, parse in _PARSERS.items()
              if details.get(key) is not None}
    return JobSpec(**values, parameters={**settings, **parameters}, extra={key: details[key] for key in unknown},
                   text=text, source=source, warnings=warnings)


def _check_mapping(value: Any, where: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise JobSpecError(f"{what} must be a mapping of keys to values" + ("; this is empty" * (value is None)),
                           where=where, hint="docs/job-spec.md has an example")
    for key in value:
        if not isinstance(key, str):
            raise JobSpecError(f"invalid key {key!r}: names are strings", where=where,
                               hint=f"put it in quotes: '{key}'")
    return value


def _section(document: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    if document.get(key) is None:
        example = "name: my-first-grid" if key == "job_details" else "base_lr: [0.1, 0.2]"
        raise JobSpecError(f"{key} is required", where=source,
                           hint=f"add `{key}:` and, indented below it, `{example}`")
    return _check_mapping(document[key], f"{source}, {key}", key)


def _parse_text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise JobSpecError(f"{value!r} is not a string", where=where)
    return value


def _parse_bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise JobSpecError(f"{value!r} is not true or false", where=where)
    return value


def _parse_integer(minimum: int) -> Callable[[Any, str], int]:
    def parse(value: Any, where: str) -> int:
        if type(value) is not int or value < minimum:
            raise JobSpecError(f"invalid value {value!r}", where=where, allowed=f"an integer from {minimum}")
        return value

    return parse


def _parse_draw(value: Any, where: str) -> str:
    if value not in DRAW_MODES:
        raise JobSpecError(f"unknown value {value!r}", where=where, allowed=DRAW_MODES, hint="per_point: each listed "
                           "point has its own random values; shared: all have the same")
    return str(value)


def _parse_stack(value: Any, where: str) -> int | str:
    if value == AUTO:
        return str(value)
    if type(value) is not int or value < 1:
        raise JobSpecError(f"invalid value {value!r}", where=where, allowed="auto, or an integer from 1 (1: off)")
    return value


def _parse_command(value: Any, where: str) -> str | list[str]:
    if isinstance(value, list) and value and all(isinstance(part, (str, int, float)) for part in value):
        return [str(part) for part in value]
    if isinstance(value, str) and value.strip():
        return value
    raise JobSpecError(f"invalid command {value!r}", where=where,
                       allowed="a string, or a list of words, as [python, mine.py, --fast]")


def _parse_tags(value: Any, where: str) -> list[str]:
    tags = value if isinstance(value, list) else [value]
    if not all(isinstance(tag, str) for tag in tags):
        raise JobSpecError(f"invalid tags {value!r}", where=where, allowed="a string or a list of strings")
    return tags


def _parse_resources(value: Any, where: str) -> Resources:
    from src.submission.spec import resources  # imported on demand: few job specs have them

    return resources.parse_resources(value, where)


def _parse_metric(value: Any, where: str) -> Metric:
    from src import metrics  # likewise

    return metrics.parse(value, where)


def _parse_search(value: Any, where: str) -> SearchSettings:
    from src.search import settings  # likewise

    return settings.parse_search(value, where)


# the keys of job_details that are fields of JobSpec, each with the function that checks its value
_PARSERS: dict[str, Callable[[Any, str], Any]] = {
    "name": check_name, "output_dir": check_output_dir, "command": _parse_command, "cwd": _parse_text,
    "script": _parse_text, "sbatch": grammar.check_sbatch, "resources": _parse_resources, "tags": _parse_tags,
    "description": _parse_text,
    "snapshot": _parse_bool, "notify": notify_spec.parse_notify,
    "idle_gpu": notify_spec.parse_idle_gpu, "metric": _parse_metric,
    "samples": _parse_integer(1), "seed": _parse_integer(0), "draw": _parse_draw, "stack": _parse_stack,
    "container": container_spec.parse_container, "search": _parse_search}
KEYS = tuple(_PARSERS)

# top-level keys of which one is enough, and of which two are
_OPTUNA_KEYS = frozenset(("study_name", "n_trials"))
_OPTUNA_HINTS = frozenset(("search_space", "sampler", "pruner", "directions", "direction", "storage"))
_TUNE_KEYS = frozenset(("param_space", "tune_config", "search_alg", "resources_per_trial"))
_TUNE_HINTS = frozenset(("run_config", "num_samples", "scheduler"))


def _refuse_other_tools(document: Mapping[str, Any], source: str) -> None:
    """Raise JobSpecError if a document without job_details is recognisably a file of another tool."""
    for tool, matches in _OTHER_TOOLS.items():
        if matches(document):
            anchor = tool.lower().replace(" ", "-")
            raise JobSpecError(f"this is a file of {tool}, not a job spec", where=source,
                               hint=f"docs/coming-from.md#{anchor} shows its translation")


def _is_seml(document: Mapping[str, Any]) -> bool:
    """Return whether it has a block `seml`, one for Slurm and parameters, or parameters with a `type`."""
    blocks = [block for key in ("fixed", "grid", "random") if isinstance(block := document.get(key), dict)]
    return isinstance(document.get("seml"), dict) or bool(blocks) and (
        isinstance(document.get("slurm"), (dict, list)) or any(
            isinstance(item, dict) and "type" in item for block in blocks for item in block.values()))


def _is_hydra(document: Mapping[str, Any]) -> bool:
    return isinstance(document.get("hydra"), dict) or (
        isinstance(document.get("defaults"), list) and "parameters" not in document)


def _is_optuna(document: Mapping[str, Any]) -> bool:
    return "parameters" not in document and _has_keys(document, _OPTUNA_KEYS, _OPTUNA_HINTS)


def _is_ray_tune(document: Mapping[str, Any]) -> bool:
    """Return whether it has keys of tune.Tuner, grid_search, or experiments in the form of RLlib."""
    if "parameters" in document:
        return False
    return _has_keys(document, _TUNE_KEYS, _TUNE_HINTS) or _has_grid_search(document) or any(
        isinstance(item, dict) and "run" in item and item.keys() & {"config", "env", "stop"}
        for item in document.values())


def _has_keys(document: Mapping[str, Any], keys: frozenset[str], hints: frozenset[str]) -> bool:
    """Return whether it has one of `keys`, or two of `hints`."""
    return not keys.isdisjoint(document) or len(hints & document.keys()) > 1


def _has_grid_search(value: Any, depth: int = 4) -> bool:
    return isinstance(value, dict) and (isinstance(value.get("grid_search"), list) or depth > 0 and any(
        _has_grid_search(item, depth - 1) for item in value.values()))


_OTHER_TOOLS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "SEML": _is_seml, "Hydra": _is_hydra, "Ray Tune": _is_ray_tune, "Optuna": _is_optuna}
