"""Containers: choose that of a submission, and build the Apptainer or Singularity command that starts a run in it."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from src import run_folder
from src.config import Config
from src.errors import JobSpecError, UserError
from src.io import files, nvml, packed_copy, slurm_environment
from src.submission.batch import journal, task_files
from src.submission.spec.container_spec import Container, check_image
from src.submission.system.process import RELAY_SOCKET

RUNTIMES = ("apptainer", "singularity")
NONE = "none"  # value of --container: run without one

# Variables that a run, its libraries and its trackers get from the node's environment; all others stay outside. The
# patterns are compiled when they are used, since most runs have no container.
_PASSED = (
    r"(SLURMD?|GRIDIRON|WANDB|COMET|MLFLOW|HF|TORCH(ELASTIC|INDUCTOR)?|TRITON|NCCL|GLOO|CUBLAS)_\w+|"
    r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|CUDA_(VISIBLE_DEVICES|DEVICE_ORDER|LAUNCH_BLOCKING)|"
    r"(NVIDIA|ROCR|HIP)_VISIBLE_DEVICES|(OMP|MKL|OPENBLAS|NUMEXPR)_NUM_THREADS|LIBSVMDATA_HOME|XDG_CACHE_HOME|TMPDIR|TZ|"
    r"PYTHON(HASHSEED|UNBUFFERED|DONTWRITEBYTECODE)|MPLBACKEND")
_FOLDER_VARIABLE = r"\w+_(HOME|CACHE|DIR)|TMPDIR"  # of these, those that name a folder to be mounted
_VARIABLE = r"\$\{?(\w+)"
_SYSTEM = ("/", "/usr", "/usr/local")  # the container has its own


def data_folders(specs: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the data_dir of all grid points, as written."""
    return {str(spec.get("data_dir", Config.data_dir)) for spec in specs}


def choose_container(option: str | None, requested: Container | None, earlier: Mapping[str, Any] | None,
                     folders: Iterable[str], here: bool) -> Container | None:
    """Return the container of a submission, checked; None if there is none.

    option: the value of --container, which replaces the image of the other two; `none` for no container.
    requested: the container of the job spec.
    earlier: the container of the last submission, used if the job spec has none.
    folders: folders that the runs need, as they are written in the job spec.
    here: whether the runs run on this machine.
    UserError if this machine lacks the image, a folder that it binds, or (if here) a runtime.
    """
    container = requested or (Container(**earlier) if earlier else None)
    if option == NONE:
        return None
    if option:
        image = check_image(option, "--container")
        container = container._replace(image=image) if container else Container(image)
    if container is None:
        return None
    if here and find_runtime() is None:
        raise UserError(f"neither {' nor '.join(RUNTIMES)} is on this machine", where="container",
                        hint=f"put one on the PATH, as by `module load apptainer`, or pass --container {NONE}")
    image = os.path.abspath(files.expand_path(container.image, "container"))
    if not os.path.exists(image):
        raise JobSpecError("no such image", where=image,
                           hint="`apptainer build image.sif container.def` builds one; see docs/containers.md")
    binds = [_absolute(bind) for bind in container.binds]
    for bind in binds:
        source = bind.partition(":")[0]
        if source[0] == "/" and not os.path.exists(source):
            raise JobSpecError(f"the container binds {source}, which does not exist here", where="container, binds",
                               hint="a path that only nodes have is written with a variable, as $TMPDIR")
    return container._replace(image=image, binds=binds, folders=sorted(set(folders)))


def _absolute(bind: str) -> str:
    """Make the source of a bind absolute, unless it begins with what only the node can expand."""
    source, colon, rest = bind.partition(":")
    return bind if source[:1] in ("$", "~") else f"{os.path.abspath(source)}{colon}{rest}"


def find_runtime() -> str | None:
    """Return the path of Apptainer or Singularity on this machine; None if it has neither."""
    from shutil import which

    return next(filter(None, map(which, RUNTIMES)), None)


class ContainerRequest(NamedTuple):
    """A container that train.py must start for a spec or task file.

    batch: the folder of the batch
    name, ticket: of the run; the name is None for a worker, which runs several
    """

    container: Container
    batch: str
    name: str | None
    ticket: int | None


def requested_container(path: str, ticket: int | None) -> ContainerRequest | None:
    """Return the container that runs of a spec or task file were submitted with; None without or inside one."""
    if RELAY_SOCKET in os.environ:
        return None
    folder, file = os.path.split(os.path.abspath(path))
    batch, name = os.path.split(folder)
    is_task_file = file.endswith(run_folder.TASKS_SUFFIX)
    if not (is_task_file or file == run_folder.SPEC) or not (plans := journal.plans_with_mapping("container", batch)):
        return None
    is_one_run = True
    if is_task_file:
        tasks = task_files.read(path)
        names, index = list(tasks.tickets), slurm_environment.array_task()
        is_one_run = tasks.kind == task_files.ARRAY and index is not None and index < len(names)
        name = names[index if is_one_run and index is not None else 0]
        ticket = tasks.tickets[name]
    container = journal.plan_of(plans, name, ticket).get("container")
    return ContainerRequest(Container(**container), batch, name if is_one_run else None, ticket) if container else None


def may_use_gpus(environment: Mapping[str, str]) -> bool:
    """Return whether this process may use a GPU: as Slurm assigned them, or without Slurm if the machine has one."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if slurm_environment.raw_job_id(environment) is None and visible is None:
        return os.path.exists(nvml.DEVICE)
    values = (visible, *slurm_environment.gpus(environment))
    return any(gpus not in (None, "", "-1", "NoDevFiles") for gpus in values)


def inside_environment(container: Container, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a run has inside: those of _PASSED, and those that the job spec names."""
    in_paths = {name for text in container.folders for name in re.findall(_VARIABLE, text)}
    passed = {name: value for name, value in environment.items()
              if name in in_paths or name in container.env or re.fullmatch(_PASSED, name)}
    values = {name: value for name, value in container.env.items() if value is not None}
    # packages in ~/.local/lib were built for the Python outside
    return {"PYTHONNOUSERSITE": "1", **passed, **values}


def runtime_environment(runtime: str, inside: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the runtime itself. It passes on variables with its prefix, so that their values appear
    neither in its arguments nor in a file. NO_EVAL: it does not evaluate values as a shell does.
    """
    prefix = "APPTAINER" if os.path.basename(runtime) == "apptainer" else "SINGULARITY"
    return {**environment, **{f"{prefix}ENV_{name}": value for name, value in inside.items()}, f"{prefix}_NO_EVAL": "1"}


def python_environment_folders() -> list[str]:
    """Return the folders of this process's Python environment and of the Python it is based on; none for the system's.

    A packed copy of this node is not used inside: a runtime may not see what this user has mounted.
    """
    prefix, base_prefix, _ = packed_copy.environment()
    if prefix == base_prefix and not os.path.isdir(os.path.join(prefix, "conda-meta")):
        return []
    return [folder for folder in dict.fromkeys((prefix, base_prefix)) if folder not in _SYSTEM]


def python_inside(container: Container) -> str:
    """Return the Python that starts train.py: the job spec's, that of this environment, or the image's."""
    return container.python or (packed_copy.environment()[2] if python_environment_folders() else "python3")


def topmost_folders(folders: Iterable[str]) -> list[str]:
    """Return the folders to mount so that these paths are the same inside, also behind links; none within another."""
    paths = {path for folder in folders for path in (os.path.abspath(folder), os.path.realpath(folder))} - set(_SYSTEM)
    topmost: list[str] = []
    for path in sorted(paths, key=lambda path: path.split("/")):
        if not topmost or not path.startswith(f"{topmost[-1]}/"):
            topmost.append(path)
    return topmost


def mount_options(container: Container, batch: str, program: str, inside: Mapping[str, str],
                  working_dir: str) -> list[str]:
    """Return the --mount options of a run; variables in them stay unless expand_on_node has replaced them.

    batch: the batch folder. program: the path of train.py. inside: the environment of the run.
    """
    needed = [batch, os.path.dirname(program), working_dir, *python_environment_folders(),
              *(_nearest_existing(os.path.join(working_dir, folder)) for folder in container.folders
                if "$" not in folder),
              *(value for name, value in inside.items()
                if re.fullmatch(_FOLDER_VARIABLE, name) and os.path.isdir(value))]
    folders = [*topmost_folders(needed), *(folder for folder in container.folders if "$" in folder)]
    mounts = [mount_option(folder, folder) for folder in folders]
    for bind in container.binds:
        source, _, rest = bind.partition(":")
        destination, _, mode = rest.partition(":")
        mounts.append(mount_option(source, destination or source, mode))
    return mounts


def _nearest_existing(folder: str) -> str:
    """Return the folder, or the nearest one above that exists, in which the run will create it."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return folder


def expand_on_node(container: Container) -> Container:
    """Expand `~` and variables on this node. UserError for an unset variable, or a bind whose source is missing."""
    binds = [files.expand_path(bind, "container, binds") for bind in container.binds]
    for source in (bind.partition(":")[0] for bind in binds):
        if not os.path.exists(source):
            raise UserError(f"the container binds {source}, which does not exist on {os.uname().nodename}",
                            where="container, binds", hint="correct `binds`, or exclude this node")
    return container._replace(binds=binds, folders=[files.expand_path(name, "data_dir") for name in container.folders])


def mount_option(source: str, destination: str, mode: str = "") -> str:
    """Return a --mount option, a row of CSV, which allows any path. mode: `ro`; anything else is read-write."""
    parts = ("type=bind", f"source={source}", f"destination={destination}", *(["ro"] if mode == "ro" else []))
    return "--mount=" + ",".join('"' + part.replace('"', '""') + '"' if set(part) & set(',"\r\n') else part
                                 for part in parts)


def summary(container: Container) -> str:
    """Describe the container, as `/images/x.sif, by apptainer`."""
    runtime = find_runtime()
    return f"{container.image}, by {os.path.basename(runtime)}" if runtime else (
        f"{container.image}; neither {' nor '.join(RUNTIMES)} is here, so nodes must have one")


def preview_command(container: Container, batch: str, project: str, path: str, gpus: bool) -> list[str]:
    """Return the command that a node will execute. Variables that only nodes define stay as they are.

    path: of the spec or task file.
    """
    program, inside = os.path.join(project, "train.py"), inside_environment(container, os.environ)
    expanded = container._replace(binds=list(map(_expand_if_set, container.binds)),
                                  folders=list(map(_expand_if_set, container.folders)))
    return exec_command(container, os.path.basename(find_runtime() or RUNTIMES[0]),
                        mount_options(expanded, batch, program, inside, project), gpus,
                        [python_inside(container), program, path], project)


def _expand_if_set(path: str) -> str:
    return os.path.expanduser(os.path.expandvars(path))


def exec_command(container: Container, runtime: str, mounts: Iterable[str], gpus: bool, arguments: Iterable[str],
                 working_dir: str) -> list[str]:
    """Return the runtime's argument list that executes `arguments` in the container, in `working_dir`."""
    return [runtime, "exec", "--cleanenv", *(["--nv"] if gpus else []), f"--pwd={working_dir}", *mounts,
            *container.options, container.image, *arguments]
