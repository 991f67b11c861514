"""Pack the environment of this Python into an image beside it, make it the current one, and remove older ones."""
from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from src.errors import PackError
from src.io import files, slurm_environment
from src.submission.packing import image, tree
from src.submission.packing.environment import Environment, editable_packages, stamp
from src.submission.slurm import client

FOLDER_ENDING = ".packed"  # ENVIRONMENT.packed holds the images of ENVIRONMENT
CURRENT = "current"  # file in it that describes the image to use, for tools/packed_env.sh


class Packed(NamedTuple):
    """The content of the file `current`: an image, its size when unpacked, and the stamp of what it was made from."""

    image: str
    kibibytes: int
    stamp: str
    watched: tuple[str, ...]

    @property
    def has_base(self) -> bool:
        """Whether the image contains the Python that the environment was made from."""
        return any(name.startswith("/") and "/bin/python" in name for name in self.watched)


class Result(NamedTuple):
    """The result of packing. entries: number of files, folders and links; removed, kept: older images."""

    path: str
    entries: int
    kibibytes: int
    removed: list[str]
    kept: list[str]


def packed_folder(environment: str) -> str:
    """Return the folder that holds the images of an environment."""
    return f"{environment}{FOLDER_ENDING}"


def read_current(environment: str) -> Packed | None:
    """Return what its owner has packed of an environment; None if nothing, or if the environment has changed since."""
    folder = packed_folder(environment)
    if not os.path.isdir(folder) or os.stat(folder).st_uid != os.stat(environment).st_uid:
        return None
    lines = (files.read_text(os.path.join(folder, CURRENT)) or "").splitlines()
    if len(lines) < 4 or not lines[1].isdecimal():
        return None
    packed = Packed(lines[0], int(lines[1]), lines[2], tuple(lines[3:]))
    is_usable = os.path.isfile(os.path.join(folder, os.path.basename(packed.image)))
    return packed if is_usable and stamp(environment, packed.watched) == packed.stamp else None


def state(environment: str) -> bool | None:
    """Return whether jobs can use the image of an environment; None if it was never packed."""
    if not os.path.exists(os.path.join(packed_folder(environment), CURRENT)):
        return None
    return read_current(environment) is not None


def pack(environment: Environment, data: Sequence[str], form: str | None, folder: str | None = None) -> Result:
    """Pack an environment and data folders. PackError if that is impossible, or if they change meanwhile.

    form: squashfs, tar, or None for what is possible here; folder: of the image, by default beside the environment.
    """
    folder = folder or packed_folder(environment.folder)
    with files.report_os_errors(folder, "only a user who can write beside the environment can pack it"):
        files.make_folder(folder)
        files.write_atomic(os.path.join(folder, ".gitignore"), "*\n", sync=False)
        compile_modules(environment)
        watched = (*environment.watched, *data)
        before = stamp(environment.folder, watched)
        entries = tree.entries(environment, data)
        name = hashlib.sha256(os.fsencode(environment.folder)).hexdigest()[:8]
        written = image.write_image(folder, name, entries, form)
        path = os.path.join(folder, written)
        if stamp(environment.folder, watched) != before:
            raise PackError("it changed while it was packed", where=environment.folder, hint="pack it again")
        os.utime(path)  # it may have been packed before: the order of their times is that of their use
        packed = Packed(written, tree.kibibytes(entries), before, watched)
        files.write_atomic(os.path.join(folder, CURRENT), "\n".join(
            (packed.image, str(packed.kibibytes), packed.stamp, *packed.watched)) + "\n")
        return Result(path, len(entries), packed.kibibytes, *_remove_superseded(folder, written))


def compile_modules(environment: Environment) -> None:
    """Compile the modules of an environment where that was not done: no start is to do it, and copies are read-only."""
    folders = [os.path.join(environment.folder, name) for name in environment.watched
               if os.path.isdir(os.path.join(environment.folder, name))]
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-j", str(len(os.sched_getaffinity(0))), *folders],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)  # some are for other versions


def notes(environment: Environment) -> list[str]:
    """Return what stays outside of the image, for the user."""
    lines = []
    if packages := editable_packages(environment.folder):
        lines.append(f"note: installed in editable mode, so their sources are not packed: {', '.join(packages)}")
    if not (environment.packs_base or environment.base.startswith("/usr") or environment.base == environment.prefix):
        lines.append(f"note: not packed, since it needs more than its own folder: the Python in {environment.base}, "
                     "with the standard library")
    return lines


def _remove_superseded(folder: str, current: str) -> tuple[list[str], list[str]]:
    """Remove images that no job can use, and return their names, and those of the images that were kept.

    A job that started before an image was superseded may have it mounted. Without Slurm, all are removed.
    """
    prefix = current.partition("-")[0] + "-"
    images = sorted((os.stat(os.path.join(folder, name)).st_mtime, name) for name in os.listdir(folder)
                    if name.startswith(prefix))
    oldest_start = _oldest_start()
    removed, kept = [], []
    for (_, name), (superseded, _) in itertools.pairwise(images):
        if superseded < oldest_start:
            os.unlink(os.path.join(folder, name))
            removed.append(name)
        else:
            kept.append(name)
    return removed, kept


def _oldest_start() -> float:
    """Return when the oldest running job of this user started: infinity without any, 0 if squeue does not answer."""
    if not shutil.which("squeue"):
        return float("inf")
    queue = client.squeue({"", *str(slurm_environment.sbatch_defaults().get("clusters", "")).split(",")})
    now = time.time()
    starts = [job.start for job in queue.jobs.values() if job.state != "PENDING" and job.start and job.start <= now]
    return min(starts, default=float("inf")) if queue.answered else 0.0
