"""A job spec as it stands in its file: what its job_details say, and the parameters of its grid, not yet expanded."""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from src.errors import JobSpecError

if TYPE_CHECKING:
    from src.metrics import Metric
    from src.submission.spec.container_spec import Container
    from src.submission.spec.notify_spec import Notify
    from src.submission.spec.resources import Resources

DEFAULT_OUTPUT_DIR = "results"
DRAW_MODES = ("per_point", "shared")
MAX_NAME_BYTES = 100  # a run's name begins with it and has at most twice as many

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
