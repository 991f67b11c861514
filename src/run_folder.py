"""The names of all files of a batch and of a run, once; and what a run folder says of itself."""
from __future__ import annotations

import contextlib
import os
import re
from typing import Any, NamedTuple

from src.errors import BatchError, UserError
from src.io import files, yaml_io

# in a batch folder
JOB_SPEC = "job.yaml"
SUBMISSIONS = "submissions"
EXTENSION = "extension.json"  # in a folder of submissions/: the name of each grid point's run, since that extension
TASKS_SUFFIX = ".tasks.json"
SCRIPT_SUFFIX = ".sh"  # of a submit script that was made from resources
CODE = "code"  # a folder for each submission: what it was submitted from
NOTES = "notes.jsonl"  # conclusions that somebody wrote down
CANARY = "canary"  # run folders and journals of its canaries, as in a batch
READ_CACHE = ".read"  # what was read of its runs, in columns; can be deleted at any time
# in a folder of code/
CODE_RECORD = "code.json"
DIFF = "uncommitted.diff"
UNTRACKED = "untracked"
ENVIRONMENT = "environment.txt"
SNAPSHOT = "snapshot"  # the project's sources themselves, from which runs start
COMMIT = "COMMIT"  # in a snapshot: the commit that it was taken at
# in a run folder
SPEC = "spec.yaml"
CONFIG = "config.yaml"
STATS = "stats.csv"
LOG = "training.log"
TENSORBOARD = "tensorboard"
COMET = "comet"  # archives of an offline run
GPU_INFO = "gpu-info.txt"  # what nvidia-smi says
ARTIFACTS = "artifacts"  # what somebody keeps with a run
SYSTEM = "system.csv"  # samples of CPU, memory, disk, network and GPU
DONE = "done"
BEST_CHECKPOINT = "best_checkpoint.pt"
PROFILE = "profile.txt"
TRACE = "trace.json.gz"
ARRAYS = "arrays"  # what is no number: a file of arrays for each epoch
SWEEP_CONFIG = "sweep.yaml"  # the parameters, as W&B's agent leaves them to programs
ARGUMENTS = "arguments.json"  # likewise, in JSON form
LOCAL_LOG = "local.out"  # what a run prints that a worker runs without Slurm

COMPLETED, EARLY_STOPPED, DIVERGED = "completed", "early_stopped", "diverged"
ENDS = (COMPLETED, EARLY_STOPPED, DIVERGED)  # the words that `done` may hold
# how an attempt ended whose run goes on in a later start: that it asked for, or that Slurm gives it anyway
REQUEUED, PREEMPTED = "requeued", "preempted"
CANCELLED, TIMEOUT, FAILED = "cancelled", "timeout", "failed"  # and one whose run does not

_NOT_BEGUN = frozenset((SPEC,))
_CLAIM = re.compile(r"claim-(\d+)\Z")
_ATTEMPT = re.compile(r"attempt-(\d+)-(\d+)\.json\Z")
_RESUME = re.compile(r"resume-\d+\.pt\Z")


def extension_name(number: int) -> str:
    """The folder of an extension of a batch: its job spec, and what is not yet moved in."""
    return f"{SUBMISSIONS}/extension-{number}"


def old_job_spec_name(number: int) -> str:
    """The job spec as it was before an extension."""
    return f"job.old.{number}.yaml"


def checkpoint_name(epoch: int) -> str:
    """The file of the checkpoint after `epoch`."""
    return f"checkpoint-{epoch:05d}.pt"


def resume_name(step: int) -> str:
    """The file of the state after optimizer step `step`, from which another start goes on."""
    return f"resume-{step:010d}.pt"


def is_resume_checkpoint(name: str) -> bool:
    """Whether a file is such a state; their names sort by step."""
    return _RESUME.match(name) is not None


def resume_checkpoints_size(folder: str) -> int:
    """How many bytes the states in a run folder take."""
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder) if is_resume_checkpoint(name))


def remove_resume_checkpoints(folder: str) -> int:
    """Remove the states of a run that has ended; how many bytes that frees."""
    freed = resume_checkpoints_size(folder)
    for name in filter(is_resume_checkpoint, os.listdir(folder)):
        os.unlink(os.path.join(folder, name))
    return freed


def remove_partial_files(folder: str) -> None:
    """Remove what starts that were killed while they wrote have left of their artefacts."""
    for name in os.listdir(folder):
        if name.endswith(".tmp") and name.startswith((".resume-", ".checkpoint-", f".{BEST_CHECKPOINT}.", f".{STATS}.",
                                                      f".{CONFIG}.")):
            os.unlink(os.path.join(folder, name))


def set_aside(folder: str) -> str:
    """Move what a run has made into a new folder `before-N` of its own, which it gives; its spec, its claims and the
    records of its attempts stay."""
    numbers = [int(match[1]) for name in os.listdir(folder) if (match := re.fullmatch(r"before-(\d+)", name))]
    aside = os.path.join(folder, f"before-{max(numbers, default=0) + 1}")
    os.mkdir(aside)
    for name in (CONFIG, STATS, LOG, DONE, BEST_CHECKPOINT, PROFILE, TRACE, ARRAYS, SYSTEM,
                 TENSORBOARD, COMET, *filter(
            re.compile(r"(checkpoint|resume)-\d+\.pt|mlflow-.*\.json").fullmatch, os.listdir(folder))):
        if os.path.lexists(os.path.join(folder, name)):
            os.rename(os.path.join(folder, name), os.path.join(aside, name))
    return aside


def arrays_name(epoch: int) -> str:
    """The file of the arrays that were measured after `epoch`."""
    return f"{ARRAYS}/epoch-{epoch:05d}.npz"


def notified_name(token: str, kind: str) -> str:
    """The mark in submissions/ that a message of a kind was sent for a submission; also of its Slurm job's output."""
    return f"{token}.{kind}.notified"


def sync_marker_name(host: str) -> str:
    """The mark in submissions/ of what was fetched from another machine."""
    return f"from-{host}.json"


def is_sync_marker(name: str) -> bool:
    """Whether a file is such a mark."""
    return name.startswith("from-") and name.endswith(".json")


def notify_script_name(token: str) -> str:
    """The script of the Slurm jobs that send messages."""
    return f"{token}.notify{SCRIPT_SUFFIX}"


def mlflow_name(key: str) -> str:
    """What a batch or a run is called in the MLflow experiment `key`, the hash of its name and server."""
    return f"mlflow-{key}.json"


def identity(folder: str) -> str:
    """A name for a run, or for a batch, that no other has, and that stays when its folder is moved or it goes on.

    By its name and its first start or submission; a run that was begun anew is another.
    """
    import hashlib  # loads OpenSSL, which few commands want

    folder = os.path.abspath(folder)
    marks = [os.path.basename(os.path.dirname(folder)), os.path.basename(folder)]
    if is_batch_folder(folder):
        marks[0] = ""
        marks += sorted(os.listdir(os.path.join(folder, SUBMISSIONS)))[:1]
    else:
        run = RunFolder.read(folder)
        first = _mapping(run.file(attempt_name(*run.attempts[0]))) if run.attempts else {}
        marks += [str(first.get("start")), *sorted(name for name in run.names if name.startswith("before-"))]
    return hashlib.sha256("\n".join(marks).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def slurm_log_name(slurm_job: str) -> str:
    """What a Slurm job prints: Slurm writes it, named by the job's id (`%j` in an sbatch option)."""
    return f"{slurm_job}.out"


def claim_name(ticket: int) -> str:
    """The file whose creator runs the run for this ticket."""
    return f"claim-{ticket}"


def attempt_name(ticket: int, number: int) -> str:
    """The record of one start of a run. A later (ticket, number) fences an earlier one."""
    return f"attempt-{ticket}-{number}.json"


def no_attempt_name(start: str) -> str:
    """The sign of a start of several processes that found the run taken; only then is it made."""
    return f"left-{start}"


def failed_name(start: str) -> str:
    """What the first process to fail, of a start of several, says of it; only then is it made."""
    return f"failed-{start}"


def rendezvous_name(start: str) -> str:
    """Where the processes of a start find each other; gone once they have."""
    return f"meeting-{start}"


class RunFolder(NamedTuple):
    """One run on disk, read by a single listing of its folder.

    claims: tickets that somebody claimed; attempts: (ticket, number) of each start, in order; ended: the word in
    `done`, None before there is one.
    """

    path: str
    names: frozenset[str]
    claims: tuple[int, ...] = ()
    attempts: tuple[tuple[int, int], ...] = ()
    ended: str | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Raises FileNotFoundError if there is no such folder."""
        path = os.fspath(path)
        names = os.listdir(path)
        if names == [SPEC]:  # not begun, as most are while a batch waits
            return cls(path, _NOT_BEGUN)
        claims = sorted([int(match[1]) for name in names if name[:6] == "claim-" and (match := _CLAIM.match(name))])
        attempts = sorted([(int(match[1]), int(match[2])) for name in names
                           if name[:8] == "attempt-" and (match := _ATTEMPT.match(name))])
        ended = (files.read_text(os.path.join(path, DONE)) or "").strip() or COMPLETED if DONE in names else None
        return cls(path, frozenset(names), tuple(claims), tuple(attempts), ended)

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def file(self, name: str) -> str:
        """The path of one of the run's files."""
        return os.path.join(self.path, name)

    def claim(self, ticket: int) -> dict[str, Any]:
        """Who claimed the ticket: host, boot_id, pid, pid_start, slurm_job, time. Empty if unreadable."""
        return _mapping(self.file(claim_name(ticket)))

    def last_attempt(self) -> dict[str, Any] | None:
        """The record of the latest start: ticket, number, host, slurm_job, start, end, how, error. None before any."""
        if not self.attempts:
            return None
        ticket, number = self.attempts[-1]
        return {"ticket": ticket, "number": number, **_mapping(self.file(attempt_name(ticket, number)))}


def _mapping(path: str) -> dict[str, Any]:
    value = files.read_json(path)
    return value if isinstance(value, dict) else {}


def read_spec(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The grid point in a spec file. JobSpecError if it cannot be read, BatchError if its run folder has lost it."""
    if os.path.basename(path) == SPEC and not files.read_text(path):  # defaults are not what was meant
        what = "is empty" if os.path.exists(path) else "is gone, or its run folder"
        raise BatchError(f"this spec {what}: nothing is run", where=os.fspath(path),
                         hint="the submit_multiple.py command that made the batch writes it again, and submits it")
    return yaml_io.load_flat(yaml_io.read_user_file(path), os.fspath(path))


def tags(folder: str | os.PathLike[str]) -> list[str]:
    """The TAGS in the spec of a run; none if it has no spec that can be read."""
    path = os.path.join(folder, SPEC)
    try:
        text = files.read_text(path) or ""
        found = yaml_io.load_flat(text, path).get("TAGS") if "TAGS" in text else None  # most have none
    except (UserError, OSError):
        return []
    return [str(tag) for tag in found] if isinstance(found, list) else []


def is_run_folder(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is the folder of a run."""
    return os.path.isfile(os.path.join(path, SPEC))


def is_batch_folder(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is the folder of a batch."""
    return os.path.isfile(os.path.join(path, JOB_SPEC))


def run_names(batch: str | os.PathLike[str]) -> list[str]:
    """The names of a batch's run folders, in order. Files, hidden folders and the batch's own folders are left out."""
    with os.scandir(batch) as entries:
        names = sorted(entry.name for entry in entries
                       if entry.name[0] != "." and entry.name not in (SUBMISSIONS, CODE, CANARY) and entry.is_dir())
    names.sort(key=_sort_key)  # stable; quicker than pairs
    return names


def _sort_key(name: str) -> int:
    index = run_index(name)
    return -1 if index is None else index


def run_index(name: str) -> int | None:
    """Return the index of a run in its batch: 7 for `007_lr=0.1`; None for a name that does not begin with one."""
    index = name.partition("_")[0]
    return int(index) if index.isascii() and index.isdigit() else None


def last_stats_row(path: str, block: int = 8192) -> tuple[list[str], list[str]]:
    """Header and last whole row of a stats.csv as lists of cells; both empty if there is no row yet.

    Reads the head and the tail of the file only, so that status is quick whatever the number of epochs.
    """
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        header = file.readline()
        start = file.tell()
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - block))
        whole = file.read().rpartition(b"\n")[0]  # what follows the last line break is torn
        if whole and header.endswith(b"\n"):
            return header.decode().rstrip("\r\n").split(","), whole.rpartition(b"\n")[2].decode().strip().split(",")
    return [], []
