"""Changes of a job's state that end its process: cancel, requeue, and the states that tests set."""
from __future__ import annotations

import os
import time

from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.jobs import ENDED, Job, job_id_of

SIGTERM, SIGKILL, SIGCONT = 15, 9, 18  # without the `signal` module, which takes a millisecond to import


def terminate(pid: int) -> None:
    """Send CONT and TERM to a job's process group, as Slurm does. JobRunner, which started it, sends KILL later."""
    for number in (SIGCONT, SIGTERM):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            return


def cancel(cluster: Cluster, job: Job) -> None:
    """End a job, pending or running, as scancel does."""
    cluster.update(job_id_of(job), State="CANCELLED", End=str(time.time()), Reason="",
                   ExitCode="0:15" if job["Start"] else "0:0")
    if job["Pid"]:
        terminate(int(job["Pid"]))


def requeue(cluster: Cluster, job: Job, reason: str = "", kill: bool = True) -> None:
    """Put a job back into the queue; its process is terminated if `kill`."""
    cluster.update(job_id_of(job), State="PENDING", Reason=reason, Start="", End="", Pid="", NodeList="",
                   ExitCode="0:0", PreemptTime="", Restarts=str(int(job["Restarts"]) + 1))
    if kill and job["Pid"]:
        terminate(int(job["Pid"]))


def preempt(cluster: Cluster, job: Job) -> None:
    """End a running job in favor of another, as PreemptMode=CANCEL does."""
    now = str(time.time())
    cluster.update(job_id_of(job), State="PREEMPTED", PreemptTime=now, End=now)
    terminate(int(job["Pid"]))


def set_state(cluster: Cluster, job: Job, state: str, reason: str = "", **record: str) -> None:
    """Set any state and other values of the record; end the process as Slurm would in that state."""
    now = str(time.time())
    times = {"End": job["End"] or now, "Start": job["Start"] or now} if state in ENDED else {}
    cluster.update(job_id_of(job), **{"State": state, "Reason": reason, **times, **record})
    if job["Pid"] and state in ("OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL"):
        os.killpg(int(job["Pid"]), SIGKILL)
    elif job["Pid"] and state != "RUNNING":
        terminate(int(job["Pid"]))
