"""File names of batches and runs, and reading a run folder."""
from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from src.archive import contents, run_files
from src.errors import BatchError, UserError
from src.io import deletion, files, records, yaml_io

# in a batch folder
JOB_SPEC = "job.yaml"
SUBMISSIONS = "submissions"
FIRST_NAME = "first-name"  # in submissions/: the batch's name before it was renamed
EXTENSION = "extension.json"  # in a folder of submissions/: the run of each grid point as of that extension
TASKS_SUFFIX = ".tasks.json"
SLOTS_SUFFIX = ".slots.json"  # what a worker found with --slots auto
SCRIPT_SUFFIX = ".sh"  # of a submit script that was generated from resources
CODE = "code"  # a folder for each submission: the code that it was submitted from
NOTES = "notes.jsonl"  # of the user
SEARCH = "search"  # of a batch that is a search: its definition and its decisions
CANARY = "canary"  # the run folders and journals of its canaries, laid out as a batch
USAGE_INDEX = ".usage.json"  # what a sample of its runs used; may be deleted at any time
ARCHIVE = contents.FOLDER  # ended runs, packed by `experiments.py archive`
READ_CACHE = ".read"  # cached results of its runs; may be deleted at any time
# in a folder of code/
CODE_RECORD = "code.json"
DIFF = "uncommitted.diff"
UNTRACKED = "untracked"
ENVIRONMENT = "environment.txt"
SNAPSHOT = "snapshot"  # a copy of the project's sources, from which runs start
SOURCES = "sources.json"  # hashes of the code at submission
COMMIT = "COMMIT"  # in a snapshot: its commit
# in a run folder
SPEC = contents.SPEC
CONFIG = "config.yaml"
STATS = "stats.csv"
STEPS = "steps.csv"  # a row every log_steps optimizer steps: these columns, and those that a task logs
STEP_COLUMNS = ("step", "epoch", "timestamp", "loss", "learning_rate", "grad_norm", "examples_per_second")
LOG = "training.log"
TENSORBOARD = "tensorboard"
COMET = "comet"  # archives of Comet when it is offline
GPU_INFO = "gpu-info.txt"  # output of nvidia-smi
ARTIFACTS = "artifacts"  # files that user code stores with the run
SYSTEM = "system.csv"  # samples of CPU, memory, disk, network and GPU
GPU_IDLE = "gpu-idle.json"  # while it runs and its GPU is idle: how idle, and why
DONE = "done"
BEST_CHECKPOINT = "best_checkpoint.pt"
PROFILE = "profile.txt"
TRACE = "trace.json.gz"
ARRAYS = "arrays"  # results that are not numbers: a file of arrays for each epoch
SWEEP_CONFIG = "sweep.yaml"  # the parameters for an external program, in the format of W&B's agent
ARGUMENTS = "arguments.json"  # the same as JSON
FACTS = "facts.json"  # of an external program: host, duration, commit, command, hashes of its scripts
LOCAL_LOG = "local.out"  # output of a run that a worker runs without Slurm
ARCHIVES = "archives"  # key of the claim of a process that does not run the run, but moves it into an archive

COMPLETED, EARLY_STOPPED, DIVERGED = "completed", "early_stopped", "diverged"
ENDS = (COMPLETED, EARLY_STOPPED, DIVERGED)  # the possible contents of `done`
# other ends of an attempt, after which the run is not done; after the last three no start was requested.
# REQUEUED: the attempt has requested another start, which resumes the run. PREEMPTED: Slurm preempted the job, and may
# requeue it by itself. PAUSED: a trial that waits at a rung of its search, and resumes if the search promotes it.
REQUEUED, PREEMPTED, PAUSED = "requeued", "preempted", "paused"
CANCELLED, TIMEOUT, FAILED = "cancelled", "timeout", "failed"

_NOT_RUNS = (SUBMISSIONS, CODE, CANARY, SEARCH, ARCHIVE)  # folders of a batch
_NOT_STARTED = frozenset((SPEC,))
_CLAIM = re.compile(r"claim-([0-9]{1,15})\Z")
_ATTEMPT = re.compile(r"attempt-([0-9]{1,15})-([0-9]{1,15})\.json\Z")
_RESUME = re.compile(r"resume-\d+\.pt\Z")
_MAX_DONE = 1000  # bytes of `done` that are read
_MAX_TAGS, _MAX_TAG = 100, 200  # number and characters


def extension_name(number: int) -> str:
    """Return the folder of an extension of a batch: its job spec, and files not yet moved into the batch."""
    return f"{SUBMISSIONS}/extension-{number}"


def old_job_spec_name(number: int) -> str:
    """Return the name of the job spec before an extension."""
    return f"job.old.{number}.yaml"


def checkpoint_name(epoch: int) -> str:
    """Return the name of the model checkpoint after `epoch`."""
    return f"checkpoint-{epoch:05d}.pt"


def resume_name(step: int) -> str:
    """Return the name of the resume checkpoint after optimizer step `step`; the names sort by step."""
    return f"resume-{step:010d}.pt"


def is_resume_checkpoint(name: str) -> bool:
    """Return whether a file is a resume checkpoint."""
    return _RESUME.match(name) is not None


def newest_resume_step(folder: str) -> int | None:
    """Return the optimizer step of the newest resume checkpoint in a run folder; None if there is none."""
    name = max(filter(is_resume_checkpoint, os.listdir(folder)), default=None)
    return int(name.removeprefix("resume-").removesuffix(".pt")) if name else None


def resume_checkpoints_size(folder: str) -> int:
    """Return the size of the resume checkpoints in a run folder, in bytes; 0 if the folder is a link, or archived."""
    if os.path.islink(folder) or not os.path.isdir(folder):
        return 0
    return sum(os.lstat(os.path.join(folder, name)).st_size for name in os.listdir(folder)
               if is_resume_checkpoint(name))


def remove_resume_checkpoints(folder: str, attempts: Sequence[tuple[int, int]] | None = None) -> int:
    """Remove the resume checkpoints of a run that has ended. Return the bytes that this frees.

    attempts: those of the run when it was looked at; nothing is removed if there are others now, or if the folder has
    been replaced by a link.
    """
    with contextlib.suppress(NotADirectoryError, FileNotFoundError), deletion.folder_descriptor(folder) as descriptor:
        if attempts is None or _attempts(os.listdir(descriptor)) == list(attempts):
            return deletion.remove_files(descriptor, is_resume_checkpoint)
    return 0


def remove_partial_files(folder: str) -> None:
    """Remove temporary files of starts that were killed while they wrote."""
    prefixes = (".resume-", ".checkpoint-", ".epoch-", *(f".{name}." for name in (
        BEST_CHECKPOINT, STATS, STEPS, CONFIG)))
    for directory in (folder, os.path.join(folder, ARRAYS)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), deletion.folder_descriptor(
                directory) as descriptor:
            deletion.remove_files(descriptor, lambda name: name.endswith(".tmp") and name.startswith(prefixes))


def set_aside(folder: str) -> str:
    """Move the results of a run into a new subfolder `before-N`, and return it. Spec, claims and attempts stay."""
    names = os.listdir(folder)
    numbers = [int(match[1]) for name in names if (match := re.fullmatch(r"before-(\d+)", name))]
    target = f"before-{max(numbers, default=0) + 1}"
    with deletion.folder_descriptor(folder) as descriptor:
        os.mkdir(target, files.FOLDER_MODE, dir_fd=descriptor)
        for name in (CONFIG, STATS, STEPS, LOG, DONE, BEST_CHECKPOINT, PROFILE, TRACE, ARRAYS, SYSTEM, TENSORBOARD,
                     COMET, *filter(re.compile(r"(checkpoint|resume)-\d+\.pt|mlflow-.*\.json").fullmatch, names)):
            if name in names:
                os.rename(name, f"{target}/{name}", src_dir_fd=descriptor, dst_dir_fd=descriptor)
    return os.path.join(folder, target)


def started_code_name(code: str) -> str:
    """Return the name of the folder of the files in which the code of a start differs from the submission's.

    code: the id of the code of the start. The folder is in that of the submission in code/.
    """
    return f"started-{code}"


def is_repeat(name: str) -> bool:
    """Return whether a run folder is a repeat of another one, by its name."""
    return re.search(r"-repeat-\d+\Z", name) is not None


def free_repeat_name(folder: str) -> str:
    """Return the path of a new folder for a repeat of the run in `folder`."""
    number = 1
    while os.path.exists(repeat := f"{folder}-repeat-{number}") or run_files.is_archived(repeat):
        number += 1
    return f"{folder}-repeat-{number}"


def arrays_name(epoch: int) -> str:
    """Return the name of the file of arrays after `epoch`."""
    return f"{ARRAYS}/epoch-{epoch:05d}.npz"


def report_name(batches: Sequence[str]) -> str:
    """Return the name of the report on batches, in the folder of the first; it names the second one if there are more.

    batches: paths, without repetitions.
    """
    more = f"-and-{len(batches) - 2}-more" if len(batches) > 2 else ""
    return f"report-with-{os.path.basename(batches[1])}{more}.html" if len(batches) > 1 else "report.html"


def notified_name(token: str, kind: str) -> str:
    """Return the name of the marker that a message of this kind was sent for a submission."""
    return f"{token}.{kind}.notified"


def sync_marker_name(host: str) -> str:
    """Return the name of the sync marker in submissions/ of a download from another machine."""
    return f"from-{host}.json"


def is_sync_marker(name: str) -> bool:
    """Return whether a file is a sync marker."""
    return name.startswith("from-") and name.endswith(".json")


def notify_script_name(token: str) -> str:
    """Return the name of the script of the Slurm jobs that send messages."""
    return f"{token}.notify{SCRIPT_SUFFIX}"


def mlflow_name(key: str) -> str:
    """Return the file with the id of a batch or run in MLflow. key: hash of the experiment's name and the server."""
    return f"mlflow-{key}.json"


def identity(folder: str) -> str:
    """Return a unique id of a run or batch, which stays when the batch is moved or renamed or the run resumes.

    It is a hash of the name and of the first start or submission; a run that was started with --fresh gets another.
    """
    import hashlib  # loads OpenSSL, which few commands need

    folder = os.path.abspath(folder)
    parts = [_first_name(os.path.dirname(folder)), os.path.basename(folder)]
    if is_batch_folder(folder):
        parts = ["", _first_name(folder)]
        parts += sorted(os.listdir(os.path.join(folder, SUBMISSIONS)))[:1]
    else:
        run = RunFolder.read(folder)
        first = run.attempt(*run.attempts[0]) if run.attempts else {}
        parts += [str(first.get("start")), *sorted(name for name in run.names if name.startswith("before-"))]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _first_name(batch: str) -> str:
    """Return the name that a batch was created with."""
    return (files.read_text(os.path.join(batch, SUBMISSIONS, FIRST_NAME)) or os.path.basename(batch)).rstrip("\n")


def slurm_log_name(slurm_job: str) -> str:
    """Return the name of the output of a Slurm job, which Slurm writes (`%j` in an sbatch option is the job's id)."""
    return f"{slurm_job.partition(';')[0]}.out"


def claim_name(ticket: int) -> str:
    """Return the name of a ticket's claim file; src/submission/batch/claims.py describes this and the files below."""
    return f"claim-{ticket}"


def attempt_name(ticket: int, number: int) -> str:
    """Return the name of the record of one start of a run. A later (ticket, number) supersedes an earlier one."""
    return f"attempt-{ticket}-{number}.json"


def no_attempt_name(start: str) -> str:
    """Return the name of the marker that the first process of a start began no attempt."""
    return f"left-{start}"


def failed_name(start: str) -> str:
    """Return the name of the file with the first failure of the processes of a start."""
    return f"failed-{start}"


def rendezvous_name(start: str) -> str:
    """Return the name of the file by which the processes of a start find each other; it is removed afterwards."""
    return f"meeting-{start}"


class RunFolder(NamedTuple):
    """One run, read by a single listing of its folder, or from the archive of its batch.

    path: of the folder
    names: of its files
    claims: the tickets that are claimed
    attempts: (ticket, number) of each start, in order
    ended: the content of `done`; None if there is none
    """

    path: str
    names: frozenset[str]
    claims: tuple[int, ...] = ()
    attempts: tuple[tuple[int, int], ...] = ()
    ended: str | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Read a run. FileNotFoundError if there is none."""
        path = os.fspath(path)
        names = run_files.list_names(path)
        if names == [SPEC]:  # not started, as most are while a batch waits
            return cls(path, _NOT_STARTED)
        claims = sorted([int(match[1]) for name in names if name[:6] == "claim-" and (match := _CLAIM.match(name))])
        attempts = _attempts(names)
        ended = (run_files.read_text(path, DONE, _MAX_DONE) or "").strip() or COMPLETED if DONE in names else None
        return cls(path, frozenset(names), tuple(claims), tuple(attempts), ended)

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def file(self, name: str) -> str:
        """Return the path of one of the run's files, in its folder."""
        return os.path.join(self.path, name)

    def claim(self, ticket: int) -> dict[str, Any]:
        """Return the identity of the process that claimed the ticket (`process.identity`). Empty if unreadable."""
        return records.identity(run_files.read_json(self.path, claim_name(ticket)))

    def attempt(self, ticket: int, number: int) -> dict[str, Any]:
        """Return the record of a start: ticket, number, who, host, slurm_job, start, end, how, error; without fields
        that cannot be read.
        """
        record = records.attempt(run_files.read_json(self.path, attempt_name(ticket, number)))
        return {**record, "ticket": ticket, "number": number}

    def last_attempt(self) -> dict[str, Any] | None:
        """Return the record of the last start, as `attempt` does. None before any."""
        return self.attempt(*self.attempts[-1]) if self.attempts else None

    def pause_epoch(self) -> int | None:
        """Return the epoch after which the last start pauses, as a trial of a search does at a rung. None: never."""
        epoch: int | None = (self.last_attempt() or {}).get("pause_after")
        return epoch


def attempts_on_disk(folder: str) -> list[tuple[int, int]]:
    """Return (ticket, number) of each start that has a record in a run folder, in order; none without a folder."""
    return _attempts(files.list_folder(folder))


def _attempts(names: Iterable[str]) -> list[tuple[int, int]]:
    """Return (ticket, number) of the records of attempts among file names, in order."""
    return sorted([(int(match[1]), int(match[2])) for name in names
                   if name[:8] == "attempt-" and (match := _ATTEMPT.match(name))])


def read_spec(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the grid point in a spec file. JobSpecError if it is invalid, BatchError if a run has lost its spec."""
    folder, name = os.path.split(path)
    info = run_files.status(folder or ".", name) if name == SPEC else None
    if name == SPEC and not (info and info.st_size):  # do not run the defaults
        problem = "this spec is empty" if info else "this spec, or its run folder, is missing"
        raise BatchError(f"{problem}: nothing is run", where=os.fspath(path),
                         hint="repeat the submit_multiple.py command of the batch: it writes and submits it again")
    return yaml_io.load_flat(yaml_io.read_user_file(path, run_files.read_path), os.fspath(path))


def read_facts(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the facts of a run of an external program; empty if it recorded none."""
    value = run_files.read_json(folder, FACTS)
    return value if isinstance(value, dict) else {}


def tags(folder: str | os.PathLike[str]) -> list[str]:
    """Return the TAGS of a run; none if its spec cannot be read."""
    path = os.path.join(folder, SPEC)
    try:
        text = run_files.read_text(folder, SPEC, yaml_io.MAX_FILE) or ""
        value = yaml_io.load_flat(text, path).get("TAGS") if "TAGS" in text else None  # most have none
    except (UserError, OSError):
        return []
    return [str(tag)[:_MAX_TAG] for tag in value[:_MAX_TAGS]] if isinstance(value, list) else []


def is_run_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is a run folder, or where an archived run had its own."""
    return os.path.isfile(os.path.join(path, SPEC)) or run_files.is_archived(path)


def is_batch_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is a batch folder."""
    return os.path.isfile(os.path.join(path, JOB_SPEC))


def run_names(batch: str | os.PathLike[str]) -> list[str]:
    """List the runs of a batch, in order: folders and archived ones. Its other folders and hidden ones are left out."""
    archived = run_files.archived_names(batch)
    with os.scandir(batch) as entries:
        names = [entry.name for entry in entries
                 if entry.name[0] != "." and entry.name not in _NOT_RUNS and _is_dir(entry)]
    # looked up before and after: a run may be moved into the archive, or out of it, meanwhile
    names = sorted({*names, *archived, *run_files.archived_names(batch)})
    names.sort(key=_sort_key)  # stable, and faster than a key of index and name
    return names


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False


def _sort_key(name: str) -> int:
    index = run_index(name)
    return -1 if index is None else index


def run_index(name: str) -> int | None:
    """Return the index of a run in its batch: 7 for `007_lr=0.1`; None for a name that does not begin with one."""
    index = name.partition("_")[0]
    return int(index) if index.isascii() and index.isdigit() and len(index) < 16 else None
