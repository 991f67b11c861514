"""Read a job spec or a W&B sweep file, and check every key of job_details."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from src.config import WATCHING
from src.errors import JobSpecError, nearest
from src.io import yaml_io
from src.submission.spec import container_spec, notify_spec
from src.submission.spec.job_spec import DRAW_MODES, JobSpec, check_name, check_output_dir

if TYPE_CHECKING:
    from src.metrics import Metric
    from src.submission.spec.container_spec import Container
    from src.submission.spec.notify_spec import Notify
    from src.submission.spec.resources import Resources


def is_job_spec(document: Any) -> bool:
    """Whether a YAML document is a job spec or a W&B sweep, and not the spec of one run."""
    return isinstance(document, dict) and ("job_details" in document or _is_sweep(document))


def _is_sweep(document: Mapping[str, Any]) -> bool:
    return "job_details" not in document and ("method" in document or "program" in document)


def read_job_spec(path: str | os.PathLike[str]) -> JobSpec:
    """The job spec in a file. JobSpecError says what is wrong with it, and where."""
    return parse_job_spec(yaml_io.read_user_file(path), os.fspath(path))


def parse_job_spec(text: str, source: str) -> JobSpec:
    """The job spec, or the W&B sweep, in `text`. JobSpecError, led by `source`, if it is none.

    A near-miss of a known key is an error; another unknown key is kept, with a warning.
    """
    warnings: list[str] = []
    document = _mapping(yaml_io.load(text, source), source, "a job spec")
    if _is_sweep(document):
        from src.submission.spec import wandb_sweep  # few are

        return wandb_sweep.parse_sweep(document, text, source)
    for key in _unknown(document, ("job_details", "parameters"), source):
        warnings.append(f"{source}: '{key}' beside job_details and parameters is not used")
    details, parameters = (_section(document, key, source) for key in ("job_details", "parameters"))

    where = f"{source}, job_details"
    if details.get("name") is None:
        raise JobSpecError("there is no name", where=where, hint="add a line such as `name: my-first-grid`")
    extra, settings = {}, {}
    for key in _unknown(details, _KNOWN, where, WATCHING):
        if key in WATCHING:
            settings[key] = [details[key]]  # an axis of one, so that a list or a string is taken as it stands
        else:
            extra[key] = details[key]
            warnings.append(f"{where}: '{key}' is not one of {', '.join(_KNOWN)}; it is kept and not used")
    readers: dict[str, Callable[[Any, str], Any]] = {
        "name": check_name, "output_dir": check_output_dir, "command": _command, "script": _text,
        "sbatch": _sbatch, "resources": _resources, "tags": _tags, "description": _text, "snapshot": _bool,
        "notify": _notify, "metric": _metric, "samples": _samples, "seed": _seed, "draw": _draw,
        "container": _container}
    if details.get("script") is not None and details.get("resources") is not None:
        raise JobSpecError("script and resources both say what a job gets", where=where, hint="give one of them")
    known = {key: readers[key](details[key], f"{where}, {key}") for key in _KNOWN if details.get(key) is not None}
    return JobSpec(**known, parameters={**settings, **parameters}, extra=extra, text=text, source=source,
                   warnings=warnings)

_KNOWN = ("name", "output_dir", "command", "script", "sbatch", "resources", "tags", "description", "snapshot",
          "notify", "metric", "samples", "seed", "draw", "container")


def _mapping(value: Any, where: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise JobSpecError(f"{what} is a mapping of keys, each with a value" + ("; this is empty" * (value is None)),
                           where=where, hint="docs/job-spec.md has an example")
    for key in value:
        if not isinstance(key, str):
            raise JobSpecError(f"the key {key!r} is not a name", where=where, hint=f"put it in quotes: '{key}'")
    return value


def _section(document: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    if document.get(key) is None:
        example = "name: my-first-grid" if key == "job_details" else "base_lr: [0.1, 0.2]"
        raise JobSpecError(f"there are no {key}", where=source,
                           hint=f"add `{key}:` and, indented below it, `{example}`")
    return _mapping(document[key], f"{source}, {key}", key)


def _unknown(mapping: Mapping[str, Any], known: tuple[str, ...], where: str, others: Iterable[str] = ()) -> list[str]:
    """The keys that are not known. JobSpecError if one of them looks like a misspelling."""
    unknown = [key for key in mapping if key not in known]
    for key in unknown:
        # a group's `comment` is not meant as `comet`
        meant = key not in others and key != "comment" and nearest(key, [*known, *others], cutoff=0.8)
        if meant:
            raise JobSpecError(f"unknown key '{key}'", where=where, hint=f"did you mean '{meant}'?")
    return unknown


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise JobSpecError(f"{value!r} is not a string", where=where)
    return value


def _bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise JobSpecError(f"{value!r} is not true or false", where=where)
    return value


def _samples(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise JobSpecError(f"{value!r} is no number of samples", where=where, allowed="a whole number from 1 on")
    return value


def _seed(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise JobSpecError(f"{value!r} is no seed", where=where, allowed="a whole number from 0 on")
    return value


def _draw(value: Any, where: str) -> str:
    if value not in DRAW_MODES:
        raise JobSpecError(f"unknown value {value!r}", where=where, allowed=DRAW_MODES,
                           hint="per_point: each listed point has draws of its own; shared: all have the same")
    return str(value)


def _command(value: Any, where: str) -> str | list[str]:
    if isinstance(value, list) and value and all(isinstance(part, (str, int, float)) for part in value):
        return [str(part) for part in value]
    if isinstance(value, str) and value.strip():
        return value
    raise JobSpecError(f"{value!r} is not a command", where=where,
                       allowed="a string, or a list of its words, as [python, mine.py, --fast]")


def _sbatch(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or any(
            not isinstance(key, str) or isinstance(item, (list, dict)) for key, item in value.items()):
        raise JobSpecError("sbatch is a mapping of sbatch's options", where=where, hint="as {mem: 16G, gpus: 1}")
    return value


def _resources(value: Any, where: str) -> Resources:
    from src.submission.spec import resources  # few job specs have them

    return resources.parse_resources(value, where)


def _notify(value: Any, where: str) -> Notify | None:

    return notify_spec.parse_notify(value, where)


def _metric(value: Any, where: str) -> Metric:
    from src import metrics  # likewise

    return metrics.parse(value, where)


def _container(value: Any, where: str) -> Container:

    return container_spec.parse_container(value, where)


def _tags(value: Any, where: str) -> list[str]:
    tags = value if isinstance(value, list) else [value]
    if not all(isinstance(tag, str) for tag in tags):
        raise JobSpecError(f"{value!r} are not tags", where=where, allowed="a string or a list of strings")
    return tags
