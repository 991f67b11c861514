"""The one-machine Slurm of tests/cluster: start, jobs, accounting, preemption, recovery, and removal."""
from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.conftest import CLUSTER, Slurm


def processes(variable: str) -> dict[int, str]:
    """Return pid and name of the processes that have NAME=VALUE in their environment."""
    names = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                names[int(folder.name)] = (folder / "comm").read_text().strip()
        except OSError:  # the process has ended meanwhile
            continue
    return names


def daemons(folder: Path) -> dict[int, str]:
    return processes(f"GRIDIRON_CLUSTER_DAEMON={folder}")


def test_a_job_runs_and_is_in_accounting(slurm: Slurm, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = slurm.run("sbatch", "--parsable", "--comment=ticket-1", f"--output={output}", "--gres=gpu:1",
                    "--wrap=echo $SLURM_JOB_PARTITION $CUDA_VISIBLE_DEVICES")
    assert slurm.wait(job) == "COMPLETED"
    assert output.read_text() == "cpu-killable 0\n"
    deadline = time.monotonic() + 300
    while "COMPLETED" not in (row := slurm.run("sacct", "-nPXj", job, "--format=state,comment")):
        assert time.monotonic() < deadline, f"sacct prints {row!r}"
        time.sleep(0.2)
    assert row == "COMPLETED|ticket-1"


def test_owner_partition_preempts_killable_jobs(slurm: Slurm, tmp_path: Path) -> None:
    def submit(partition: str) -> str:
        return slurm.run("sbatch", "--parsable", f"--partition={partition}", "--nodelist=node2", "--exclusive",
                         "--requeue", "--output=/dev/null", "--wrap=exec sleep 600", cwd=tmp_path)

    guest = submit("killable")
    slurm.wait(guest, "RUNNING")
    owner = submit("owner")
    slurm.wait(owner, "RUNNING")
    assert slurm.wait(guest, "PENDING") == "PENDING"
    assert "Restarts=1" in slurm.run("scontrol", "show", "job", guest)
    slurm.run("scancel", guest, owner)


def test_up_keeps_a_running_cluster(slurm: Slurm) -> None:
    before = daemons(slurm.folder)
    assert sorted(before.values()).count("slurmd") == 4
    assert slurm.run(CLUSTER / "up.sh", slurm.folder) == f"export SLURM_CONF={slurm.folder}/slurm.conf"
    assert daemons(slurm.folder) == before


def test_up_replaces_a_broken_cluster_and_down_removes_it(slurm: Slurm, tmp_path: Path) -> None:
    other = slurm.folder.with_name(f"{slurm.folder.name}-2")  # the path of tmp_path may be too long for a socket
    environment = os.environ | {"SLURM_CONF": f"{other}/slurm.conf"}
    try:
        slurm.run(CLUSTER / "up.sh", other)
        subprocess.run(["sbatch", "--output=/dev/null", "--wrap=trap '' TERM; sleep 600 & wait"], check=True,
                       env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while "sleep" not in processes(f"SLURM_CONF={other}/slurm.conf").values():
            assert time.monotonic() < deadline, "the job did not start"
            time.sleep(0.1)
        old = daemons(other)
        for pid, name in old.items():
            if name in ("slurmd", "munged"):
                os.kill(pid, signal.SIGKILL)
            elif name == "slurmctld":
                os.kill(pid, signal.SIGSTOP)
        slurm.run(CLUSTER / "up.sh", other)
        new = daemons(other)
        assert sorted(new.values()) == sorted(old.values())
        assert not new.keys() & old.keys()
    finally:
        slurm.run(CLUSTER / "down.sh", other)
    assert not other.exists()
    assert not daemons(other)
    assert not processes(f"SLURM_CONF={other}/slurm.conf")
    assert daemons(slurm.folder), "down.sh also stopped the cluster of the session"


def test_down_keeps_folders_that_are_not_clusters(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    slurm.run(CLUSTER / "down.sh", tmp_path)
    assert (tmp_path / "thesis.tex").exists()
