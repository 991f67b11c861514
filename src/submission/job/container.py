"""Containers: what a job spec asks for, checked, and the command of Apptainer or Singularity that starts a run"""
from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from src import run_folder
from src.config import Config
from src.errors import JobSpecError, UserError
from src.io import files, slurm_environment
from src.submission.batch import journal, task_files
from src.submission.spec.container_spec import Container, check_image
from src.submission.system.process import RELAY_SOCKET

RUNTIMES = ("apptainer", "singularity")
NONE = "none"  # as --container: without one, whatever was asked for before

# what a run, its libraries and its trackers are told by their environment; all else of the node's stays outside. No
# pattern is compiled before it is wanted, since most runs have no container
_PASSED = (
    r"(SLURMD?|GRIDIRON|WANDB|COMET|MLFLOW|HF|TORCH(ELASTIC|INDUCTOR)?|TRITON|NCCL|GLOO|CUBLAS)_\w+|"
    r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|CUDA_(VISIBLE_DEVICES|DEVICE_ORDER|LAUNCH_BLOCKING)|"
    r"(NVIDIA|ROCR|HIP)_VISIBLE_DEVICES|(OMP|MKL|OPENBLAS|NUMEXPR)_NUM_THREADS|LIBSVMDATA_HOME|XDG_CACHE_HOME|TMPDIR|TZ|"
    r"PYTHON(HASHSEED|UNBUFFERED|DONTWRITEBYTECODE)|MPLBACKEND")
_FOLDER = r"\w+_(HOME|CACHE|DIR)|TMPDIR"  # of these, what names a folder that is to be seen inside too
_VARIABLE = r"\$\{?(\w+)"
_SYSTEM = ("/", "/usr", "/usr/local")  # the container has its own


def data_folders(specs: Iterable[Mapping[str, Any]]) -> set[str]:
    """Where the grid points have their data, as they say it."""
    return {str(spec.get("data_dir", Config.data_dir)) for spec in specs}


def choose_container(given: str | None, asked: Container | None, kept: Mapping[str, Any] | None, folders: Iterable[str],
           here: bool) -> Container | None:
    """The container of a submission: --container over that of the job spec, or of the last submission; None if there is
    none. UserError if this machine has no such image, or lacks what it binds.

    folders: that the runs need, as the job spec has them; here: they run on this machine.
    """
    container = asked or (Container(**kept) if kept else None)
    if given == NONE:
        return None
    if given:
        image = check_image(given, "--container")
        container = replace(container, image=image) if container else Container(image)
    if container is None:
        return None
    if here and find_runtime() is None:
        raise UserError(f"neither {' nor '.join(RUNTIMES)} is on this machine", where="container",
                        hint=f"put one on the PATH, as by `module load apptainer`, or give --container {NONE}")
    image = os.path.abspath(files.expand_path(container.image, "container"))
    if not os.path.exists(image):
        raise JobSpecError("there is no such image", where=image,
                           hint="`apptainer build image.sif container.def` makes one; docs/containers.md tells how")
    binds = [_absolute(bind) for bind in container.binds]
    for bind in binds:
        source = bind.partition(":")[0]
        if source[0] == "/" and not os.path.exists(source):
            raise JobSpecError(f"{source} is not there, and a container is to see it", where="container, binds", hint=(
                "what nodes alone have is looked at there if it is written with a variable, as $TMPDIR"))
    return replace(container, image=image, binds=binds, folders=sorted(set(folders)))


def _absolute(bind: str) -> str:
    """The bind with an absolute source, unless that begins with what the node fills in."""
    source, colon, rest = bind.partition(":")
    return bind if source[:1] in ("$", "~") else f"{os.path.abspath(source)}{colon}{rest}"


def find_runtime() -> str | None:
    """The path of Apptainer or Singularity, whichever is here."""
    from shutil import which

    return next(filter(None, map(which, RUNTIMES)), None)


class ContainerRequest(NamedTuple):
    """A container for the run `name` of a batch; of a worker's, None."""

    container: Container
    batch: str
    name: str | None
    ticket: int | None


def requested_container(path: str, ticket: int | None) -> ContainerRequest | None:
    """The container that the runs of a spec or task file were submitted with; None in a container, or without one."""
    if RELAY_SOCKET in os.environ:
        return None
    folder, file = os.path.split(os.path.abspath(path))
    batch, name = os.path.split(folder)
    is_list = file.endswith(run_folder.TASKS_SUFFIX)
    if not (is_list or file == run_folder.SPEC) or not (plans := journal.plans_with_mapping("container", batch)):
        return None
    alone = True
    if is_list:
        listed = task_files.read(path)
        names, task = list(listed.tickets), slurm_environment.array_task()
        alone = listed.kind == task_files.ARRAY and task is not None and task < len(names)
        name = names[task if task is not None and alone else 0]
        ticket = listed.tickets[name]
    kept = journal.plan_of(plans, name, ticket).get("container")
    return ContainerRequest(Container(**kept), batch, name if alone else None, ticket) if kept else None


def may_use_gpus(environment: Mapping[str, str]) -> bool:
    """Whether this process may use a GPU: Slurm says so, or, without Slurm, there is one."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if slurm_environment.raw_job_id(environment) is None and visible is None:
        return os.path.exists("/dev/nvidiactl")
    listed = (visible, *slurm_environment.gpus(environment))
    return any(gpus not in (None, "", "-1", "NoDevFiles") for gpus in listed)


def inside_environment(container: Container, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a run has inside: those that it is known by, and those that the job spec names."""
    wanted = {name for text in container.folders for name in re.findall(_VARIABLE, text)}
    passed = {name: value for name, value in environment.items()
              if name in wanted or name in container.env or re.fullmatch(_PASSED, name)}
    told = {name: value for name, value in container.env.items() if value is not None}
    # packages in ~/.local/lib were made for the Python outside
    return {"PYTHONNOUSERSITE": "1", **passed, **told}


def runtime_environment(runtime: str, inside: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of the runtime itself, which hands on what has its prefix: neither its arguments nor a file has
    any of it. NO_EVAL: it takes values as they are, and does not read them as a shell does.
    """
    prefix = RUNTIMES[os.path.basename(runtime) != RUNTIMES[0]].upper()
    return {**environment, **{f"{prefix}ENV_{name}": value for name, value in inside.items()}, f"{prefix}_NO_EVAL": "1"}


def python_environment_folders() -> list[str]:
    """The folder of the Python environment that this process is of, and that of the Python that it was made from; none
    if it is of the system's."""
    if sys.prefix == sys.base_prefix and not os.path.isdir(os.path.join(sys.prefix, "conda-meta")):
        return []
    return [folder for folder in dict.fromkeys((sys.prefix, sys.base_prefix)) if folder not in _SYSTEM]


def python_inside(container: Container) -> str:
    """The Python that starts train.py: as asked for, else that of the environment outside, else the image's."""
    return container.python or (sys.executable if python_environment_folders() else "python3")


def topmost_folders(folders: Iterable[str]) -> list[str]:
    """The folders to bind so that all of these are seen at their paths, whatever links lead there; none in another."""
    paths = {path for folder in folders for path in (os.path.abspath(folder), os.path.realpath(folder))} - set(_SYSTEM)
    topmost: list[str] = []
    for path in sorted(paths, key=lambda path: path.split("/")):
        if not topmost or not path.startswith(f"{topmost[-1]}/"):
            topmost.append(path)
    return topmost


def mount_options(container: Container, batch: str, program: str, inside: Mapping[str, str],
                  start_in: str) -> list[str]:
    """The --mount options of a run, with what is known where this is called; see `filled_in`.

    batch: its folder; program: the path of train.py; start_in: the folder in which it starts.
    """
    needed = [batch, os.path.dirname(program), start_in, *python_environment_folders(),
              *(_existing(os.path.join(start_in, folder)) for folder in container.folders if "$" not in folder),
              *(value for name, value in inside.items() if re.fullmatch(_FOLDER, name) and os.path.isdir(value))]
    made = [mount_option(path, path) for path in [*topmost_folders(needed), *(
        folder for folder in container.folders if "$" in folder)]]
    for bind in container.binds:
        source, _, rest = bind.partition(":")
        destination, _, how = rest.partition(":")
        made.append(mount_option(source, destination or source, how))
    return made


def _existing(folder: str) -> str:
    """The folder, or the one above in which the run will make it."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return folder


def expand_on_node(container: Container) -> Container:
    """The container with what `~` and variables stand for on this node. UserError if a variable is not set, or if the
    source of a bind is not there."""
    binds = [files.expand_path(bind, "container, binds") for bind in container.binds]
    for source in (bind.partition(":")[0] for bind in binds):
        if not os.path.exists(source):
            raise UserError(f"{source} is not on {os.uname().nodename}, and the container is to see it",
                            where="container, binds", hint="correct `binds`, or leave out this node")
    return replace(container, binds=binds, folders=[files.expand_path(name, "data_dir") for name in container.folders])


def mount_option(source: str, destination: str, how: str = "") -> str:
    """A --mount option, which takes any path: it is a row of CSV. how: ro, or anything else."""
    parts = ("type=bind", f"source={source}", f"destination={destination}", *(["ro"] if how == "ro" else []))
    return "--mount=" + ",".join('"' + part.replace('"', '""') + '"' if set(part) & set(',"\r\n') else part
                                 for part in parts)


def summary(container: Container) -> str:
    """`/images/x.sif, by apptainer`, and what is not known yet."""
    here = find_runtime()
    return f"{container.image}, by {os.path.basename(here)}" if here else (
        f"{container.image}; neither {' nor '.join(RUNTIMES)} is here, so nodes must have one")


def preview_command(container: Container, batch: str, project: str, path: str, gpus: bool) -> list[str]:
    """The command that a node will give, as far as this machine knows it: variables that only nodes have stay as they
    are. path: of the spec or task file."""
    program, inside = os.path.join(project, "train.py"), inside_environment(container, os.environ)
    known = replace(container, binds=list(map(_as_known, container.binds)),
                    folders=list(map(_as_known, container.folders)))
    return exec_command(container, os.path.basename(find_runtime() or RUNTIMES[0]),
                   mount_options(known, batch, program, inside, project), gpus, [python_inside(container), program,
                                                                                 path],
                   project)


def _as_known(path: str) -> str:
    return os.path.expanduser(os.path.expandvars(path))


def exec_command(container: Container, runtime: str, mounted: Iterable[str], gpus: bool, words: Iterable[str],
            start_in: str) -> list[str]:
    """The runtime's argument list that starts `words` in the container, in the folder `start_in`."""
    return [runtime, "exec", "--cleanenv", *(["--nv"] if gpus else []), f"--pwd={start_in}", *mounted,
            *container.options, container.image, *words]
