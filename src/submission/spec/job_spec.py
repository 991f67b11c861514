"""A job spec as it is in its file: the settings of job_details, and the parameters before their expansion to a grid."""
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from src.errors import JobSpecError
from src.frozen import Frozen, field

if TYPE_CHECKING:
    from src.metrics import Metric
    from src.monitoring.gpu_idle import Limits
    from src.search.settings import SearchSettings
    from src.submission.spec.container_spec import Container
    from src.submission.spec.notify_spec import Notify
    from src.submission.spec.resources import Resources

DEFAULT_OUTPUT_DIR = "results"
DRAW_MODES = ("per_point", "shared")
AUTO = "auto"  # a `stack` whose number of runs is found by measuring
MAX_NAME_BYTES = 100  # run names begin with the name, and have at most 200 bytes (naming.py)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]*")


class JobSpec(Frozen):
    """A job spec, checked except for its parameters.

    parameters: those of the file, after the tracker settings of job_details (such as wandb_project_name), which apply
        to every run unless `parameters` contains them too;
    command: of an external program, as one string or a list of words;
    cwd: its working directory, with placeholders; None: the project's folder;
    program: this project's train.py, as a sweep file names it;
    script: path of the submit script;
    sbatch: options by name;
    resources: from which a submit script is generated;
    snapshot: whether runs start from a copy of the sources;
    notify: where notifications are sent;
    idle_gpu: when a GPU counts as idle; None: by default;
    metric: by which runs are ranked;
    samples, seed, draw: number of random points, and how they are drawn;
    stack: number of runs to train at once, if they differ in numbers alone, or auto; None and 1: each by itself;
    max_runs: only the first runs of the grid; None: all;
    container: in which runs start;
    search: how trials are chosen; None: the job spec is a grid;
    extra: keys of job_details that Gridiron does not use;
    text, source: the content of the file, and its name;
    warnings: sentences for the user.
    """

    name: str
    parameters: dict[str, Any]
    output_dir: str = DEFAULT_OUTPUT_DIR
    command: str | list[str] | None = None
    cwd: str | None = None
    program: str | None = None
    script: str | None = None
    sbatch: dict[str, Any] = field(default_factory=dict)
    resources: Resources | None = None
    tags: list[str] = field(default_factory=list)
    description: str | None = None
    snapshot: bool = False
    notify: Notify | None = None
    idle_gpu: Limits | None = None
    metric: Metric | None = None
    samples: int | None = None
    seed: int = 0
    draw: str = "per_point"
    stack: int | str | None = None
    max_runs: int | None = None
    container: Container | None = None
    search: SearchSettings | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    source: str = ""
    warnings: list[str] = field(default_factory=list)


def check_name(value: Any, where: str) -> str:
    """Return a job spec's name, which is part of the names of folders and Slurm jobs. JobSpecError if it is unsafe."""
    if not isinstance(value, str):
        raise JobSpecError(f"the name {value!r} is not a string", where=where, hint=f'put it in quotes: "{value}"')
    if not _NAME.fullmatch(value) or ".." in value:
        proposal = safe_name(value)
        raise JobSpecError(f"the name {value!r} is not safe for folders, shells and Slurm", where=where,
                           allowed="letters a-z, digits and _ . - + = , @, with a letter, digit or _ first and no '..'",
                           hint=f"for example name: {proposal}" if proposal else None)
    if len(value) > MAX_NAME_BYTES:
        raise JobSpecError(f"the name has {len(value)} characters", where=where, allowed=f"at most {MAX_NAME_BYTES}")
    return value


def safe_name(text: str) -> str:
    """Return a name that check_name accepts, as similar to `text` as possible; empty if nothing remains."""
    return re.sub(r"[^A-Za-z0-9_.+=,@]+", "-", re.sub(r"\.\.+", ".", text)).strip(".-+=,@")[:MAX_NAME_BYTES]


def check_output_dir(value: Any, where: str) -> str:
    """Return the folder of batches, in which `~` and `$VAR` are not expanded yet.

    JobSpecError if Slurm or a file system cannot use it.
    """
    if not isinstance(value, str) or not value.strip():
        raise JobSpecError(f"invalid output_dir {value!r}", where=where, allowed="the path of a folder",
                           hint=f"leave it out for '{DEFAULT_OUTPUT_DIR}'")
    if "%" in value or not value.isprintable():
        raise JobSpecError(f"the output_dir {value!r} contains a '%', which Slurm would replace, or a control "
                           "character", where=where, hint="choose another path")
    return value
