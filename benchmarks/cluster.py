"""A temporary one-machine Slurm, the same as in the tests."""
from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

CLUSTER = Path(__file__).parent.parent / "tests" / "cluster"


def is_possible() -> bool:
    """Return whether a cluster can be started on this machine."""
    return os.geteuid() == 0 and all(map(shutil.which, ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd")))


@contextlib.contextmanager
def one_machine_slurm() -> Iterator[None]:
    """Direct Slurm's commands to a new cluster within the block."""
    folder = tempfile.mkdtemp(prefix="gridiron-slurm-")
    try:
        subprocess.run([CLUSTER / "up.sh", folder], check=True, stdout=subprocess.DEVNULL)
        os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
        yield
    finally:
        os.environ.pop("SLURM_CONF", None)
        subprocess.run([CLUSTER / "down.sh", folder], check=True, stdout=subprocess.DEVNULL)
