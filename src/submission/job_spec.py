"""A job spec as it stands in its file: what its job_details say, and the parameters of its grid, not yet expanded."""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from src import yaml_io
from src.config import WATCHING
from src.errors import JobSpecError, nearest

if TYPE_CHECKING:
    from src.metrics import Metric
    from src.submission.container import Container
    from src.submission.notify import Notify
    from src.submission.resources import Resources

DEFAULT_OUTPUT_DIR = "results"
DRAWS = ("per_point", "shared")
MAX_NAME_BYTES = 100  # a run's name begins with it and has at most twice as many

_KNOWN = ("name", "output_dir", "command", "script", "sbatch", "resources", "tags", "description", "snapshot",
          "notify", "metric", "samples", "seed", "draw", "container")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]*")


@dataclass(frozen=True)
class JobSpec:
    """A job spec, checked but for its parameters.

    parameters: as the file has them, after the tracker settings of job_details (such as wandb_project_name), which hold
    for every run unless `parameters` gives them too; command: a foreign program, as one string or a list of arguments;
    sbatch: options by name; resources: instead of a script; snapshot: runs start from a copy of the sources; notify:
    where messages go; metric: what runs are ranked by; samples, seed, draw: how many random points, and how they are
    drawn; max_runs: only the first; container: what runs start in; extra: a group's own keys of job_details; text,
    source: the file and its name; warnings: sentences for the user.
    """

    name: str
    parameters: dict[str, Any]
    output_dir: str = DEFAULT_OUTPUT_DIR
    command: str | list[str] | None = None
    script: str | None = None
    sbatch: dict[str, Any] = field(default_factory=dict)
    resources: Resources | None = None
    tags: list[str] = field(default_factory=list)
    description: str | None = None
    snapshot: bool = False
    notify: Notify | None = None
    metric: Metric | None = None
    samples: int | None = None
    seed: int = 0
    draw: str = "per_point"
    max_runs: int | None = None
    container: Container | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    source: str = ""
    warnings: list[str] = field(default_factory=list)


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
        from src.submission import sweep_file  # few are

        return sweep_file.read(document, text, source)
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


def check_name(value: Any, where: str) -> str:
    """A job spec's name, which is part of the names of folders and Slurm jobs. JobSpecError if that is unsafe."""
    if not isinstance(value, str):
        raise JobSpecError(f"the name {value!r} is not a string", where=where, hint=f'put it in quotes: "{value}"')
    if not _NAME.fullmatch(value) or ".." in value:
        better = safe_name(value)
        raise JobSpecError(f"the name {value!r} is not safe for folders, shells and Slurm", where=where,
                           allowed="letters a-z, digits and _ . - + = , @, with a letter, digit or _ first and no '..'",
                           hint=f"for instance name: {better}" if better else None)
    if len(value) > MAX_NAME_BYTES:
        raise JobSpecError(f"the name has {len(value)} characters", where=where, allowed=f"at most {MAX_NAME_BYTES}")
    return value


def safe_name(text: str) -> str:
    """A name that check_name takes, as much like `text` as can be; empty if nothing is left of it."""
    return re.sub(r"[^A-Za-z0-9_.+=,@]+", "-", re.sub(r"\.\.+", ".", text)).strip(".-+=,@")[:MAX_NAME_BYTES]


def check_output_dir(value: Any, where: str) -> str:
    """The folder of batches; `~` and `$VAR` stay as they are. JobSpecError if Slurm or a file system cannot take it."""
    if not isinstance(value, str) or not value.strip():
        raise JobSpecError(f"the output_dir {value!r} is not the path of a folder", where=where,
                           hint=f"leave it out for '{DEFAULT_OUTPUT_DIR}'")
    if "%" in value or not value.isprintable():
        raise JobSpecError(f"the output_dir {value!r} has a '%', which Slurm would replace, or a control character",
                           where=where, hint="choose a plainer path")
    return value


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
    if value not in DRAWS:
        raise JobSpecError(f"unknown value {value!r}", where=where, allowed=DRAWS, hint="per_point: each listed point "
                           "has draws of its own; shared: all have the same")
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
    from src.submission import resources  # few job specs have them

    return resources.check(value, where)


def _notify(value: Any, where: str) -> Notify | None:
    from src.submission import notify  # likewise

    return notify.check(value, where)


def _metric(value: Any, where: str) -> Metric:
    from src import metrics  # likewise

    return metrics.read(value, where)


def _container(value: Any, where: str) -> Container:
    from src.submission import container  # likewise

    return container.check(value, where)


def _tags(value: Any, where: str) -> list[str]:
    tags = value if isinstance(value, list) else [value]
    if not all(isinstance(tag, str) for tag in tags):
        raise JobSpecError(f"{value!r} are not tags", where=where, allowed="a string or a list of strings")
    return tags
