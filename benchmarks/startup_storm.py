"""Starts of train.py from a disk with 5 ms per request, 1 and 20 at once: environment as it is, mounted, unpacked."""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.slow_files import METADATA
from benchmarks.startup import toy
from src.submission.packing import environment, pack

AT_ONCE = 20
RUN = """\
dataset: libsvm/toy
data_dir: {folder}
data_splits_map: {{train: train, traineval: train}}
model: linear
batch_size: 500
train_length: 1
output_dir: {folder}/run-{number}
"""
# $GRIDIRON_PACKED and number of starts at once; the first of those that unpack makes the copy that the others use
STARTS = (("off", 1), ("off", AT_ONCE), ("mount", 1), ("mount", AT_ONCE), ("unpack", 1), ("unpack", 1),
          ("unpack", AT_ONCE))
START = 'set -euo pipefail; source ./activate.sh; exec python train.py "$1"'


class Measured(NamedTuple):
    """Starts at the same time: seconds until the last one has ended, and numbers of requests of the slow disk."""

    seconds: float
    metadata: int
    reads: int


def measure() -> list[tuple[str, float, float | None]]:
    """Return (label, value, limit). Requires /dev/fuse, fusepy, squashfuse and squashfs-tools."""
    with tempfile.TemporaryDirectory() as folder:
        this = environment.this_environment("/nonexistent")
        packed = Path(folder, "packed")
        start = time.perf_counter()
        size = os.path.getsize(pack.pack(this, [], "squashfs", str(packed)).path)
        seconds = time.perf_counter() - start
        disk = SlowDisk(Path(folder), this, packed)
        measured = [disk.starts(number, mode) for mode, number in STARTS]
    return [("pack the environment, in seconds", seconds, None), ("size of its image, in GB", size / 1e9, None),
            *rows(*measured)]


def rows(plain: Measured, plain_many: Measured, mounted: Measured, mounted_many: Measured, first: Measured,
         unpacked: Measured, unpacked_many: Measured) -> list[tuple[str, float, float | None]]:
    """Return the rows of the table for what was measured, in the order of STARTS."""
    return [
        *_rows("environment as it is", plain, plain_many), *_rows("mounted", mounted, mounted_many),
        *_rows("unpacked earlier", unpacked, unpacked_many),
        ("first start, which unpacks, in seconds", first.seconds, None),
        ("metadata requests of a start: mounted / as it is", mounted.metadata / plain.metadata, 0.1),
        ("metadata requests of a start: unpacked / as it is", unpacked.metadata / plain.metadata, 0.1),
        (f"{AT_ONCE} starts: mounted / as it is", mounted_many.seconds / plain_many.seconds, None),
        (f"{AT_ONCE} starts: unpacked / as it is", unpacked_many.seconds / plain_many.seconds, None)]


def _rows(label: str, single: Measured, many: Measured) -> list[tuple[str, float, float | None]]:
    return [(f"{label}: metadata requests of a start", single.metadata, None),
            (f"{label}: reads of a start", single.reads, None),
            (f"{label}: a start, in seconds", single.seconds, None),
            (f"{label}: {AT_ONCE} starts at once, in seconds", many.seconds, None),
            (f"{label}: metadata requests of {AT_ONCE} starts", many.metadata, None)]


class SlowDisk:
    """A slow disk with the project, the environment, its image, and the Python that the environment was made from."""

    def __init__(self, folder: Path, this: environment.Environment, packed: Path) -> None:
        self._folder, self._mount, self._numbers = folder, folder / "slow", iter(range(1_000))
        self._local, self._project = folder / "local", folder / "project"
        for path in (self._mount, self._local, self._project):
            path.mkdir()
        (folder / "toy").write_text(toy(1_000, 54))
        for name in ("activate.sh", "train.py", "tools", "src"):
            (shutil.copytree if os.path.isdir(name) else shutil.copy)(name, self._project / name)
        settings = Path(this.folder, "pyvenv.cfg").read_text().replace(this.base, f"{self._mount}/python")
        (folder / "pyvenv.cfg").write_text(settings)
        shutil.copystat(Path(this.folder, "pyvenv.cfg"), folder / "pyvenv.cfg")  # its time shows changes
        self._description = {
            "folders": {"/project": str(self._project), "/project/.venv": this.folder,
                        "/project/.venv.packed": str(packed), "/python": this.base},
            "files": {"/project/.venv/pyvenv.cfg": str(folder / "pyvenv.cfg")},
            "links": {this.base: f"{self._mount}/python"}, "counts": str(folder / "counts")}

    def starts(self, number: int, packed: str) -> Measured:
        """Start train.py a number of times at once, with an empty cache. packed: of $GRIDIRON_PACKED."""
        variables = {**os.environ, "GRIDIRON_PACKED": packed, "GRIDIRON_LOCAL": str(self._local),
                     "OMP_NUM_THREADS": "1"}
        with self._mounted():
            start = time.perf_counter()
            processes = [subprocess.Popen(
                ["bash", "-c", START, "job", self._write_run()], env=variables, cwd=self._mount / "project",
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(number)]
            for process in processes:
                _, errors = process.communicate()
                if process.returncode or b"note:" in errors:
                    raise RuntimeError(errors.decode())
            seconds = time.perf_counter() - start
            for mount in filter(os.path.ismount, self._local.glob("*/*.mount.*")):
                subprocess.run(["fusermount3", "-u", mount], check=True)
        counts = json.loads((self._folder / "counts").read_text())
        measured = Measured(seconds, sum(counts.get(name, 0) for name in METADATA), counts.get("read", 0))
        print(number, packed, measured, counts, file=sys.stderr, flush=True)
        return measured

    def _write_run(self) -> str:
        number = next(self._numbers)
        path = self._folder / f"run-{number}.yaml"
        path.write_text(RUN.format(folder=self._folder, number=number))
        return str(path)

    @contextlib.contextmanager
    def _mounted(self) -> Iterator[None]:
        description = self._folder / "description"
        description.write_text(json.dumps(self._description))
        server = subprocess.Popen(["/usr/bin/python3", "benchmarks/slow_files.py", self._mount, description])
        try:
            while not os.path.ismount(self._mount):
                if server.poll() is not None:
                    raise RuntimeError("benchmarks/slow_files.py does not start: install python3-fusepy")
                time.sleep(0.05)
            yield
        finally:
            subprocess.run(["fusermount3", "-u", self._mount], check=False)
            server.wait()
