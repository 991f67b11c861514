"""Job records: states, and values that several commands derive from a record."""
from __future__ import annotations

import os
import time

from tests.fake_slurm.errors import CommandExit
from tests.fake_slurm.formats import format_time

Job = dict[str, str]  # the keys are those that `commands/sbatch.py` writes

ABBREVIATIONS = {
    "PENDING": "PD", "RUNNING": "R", "SUSPENDED": "S", "COMPLETING": "CG", "COMPLETED": "CD", "CONFIGURING": "CF",
    "CANCELLED": "CA", "FAILED": "F", "TIMEOUT": "TO", "PREEMPTED": "PR", "NODE_FAIL": "NF", "BOOT_FAIL": "BF",
    "OUT_OF_MEMORY": "OOM", "DEADLINE": "DL", "REQUEUED": "RQ", "REQUEUE_HOLD": "RH", "SPECIAL_EXIT": "SE",
    "REVOKED": "RV", "STOPPED": "ST", "RESV_DEL_HOLD": "RD", "REQUEUE_FED": "RF", "RESIZING": "RS", "SIGNALING": "SI",
    "STAGE_OUT": "SO"}
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL",
         "DEADLINE", "REVOKED")
_LONG_STATES = {abbreviation: state for state, abbreviation in ABBREVIATIONS.items()}


def job_id_of(job: Job) -> str:
    """Return 12, 12_3, or 12_[4-9%2] for the unstarted tasks of an array."""
    if job.get("UnstartedTasks"):
        return f"{job['JobId']}_[{job['UnstartedTasks']}]"
    return f"{job['JobId']}_{job['Task']}" if job["Task"] else job["JobId"]


def raw_id_of(job: Job) -> str:
    """Return the id without underscore; a started task of an array has one of its own."""
    return job.get("RawId") or job["JobId"]


def matches_id(job: Job, job_ids: list[str]) -> bool:
    """Whether one of the ids, also that of its array, means this job."""
    return any(job_id in job_ids for job_id in (job_id_of(job), job["JobId"], job.get("RawId")))


def in_states(jobs: list[Job], states: str) -> list[Job]:
    """Return the jobs in one of the states, given as names or abbreviations with commas between; "all" for all."""
    names = states.upper().split(",")
    for name in names:
        if name not in (*ABBREVIATIONS, *_LONG_STATES, "ALL"):
            raise CommandExit(f"squeue: error: Invalid job state specified: {name}")
    long_names = [_LONG_STATES.get(name, name) for name in names]
    return [job for job in jobs if "ALL" in names or job["State"] in long_names]


def elapsed_seconds(job: Job) -> float:
    """Return the run time so far, or in all."""
    return float(job["End"] or time.time()) - float(job["Start"]) if job["Start"] else 0.0


def end_time(job: Job) -> str:
    """Return the end of a job as squeue prints it; that of a running one follows from its time limit."""
    if job["End"] or not job["Start"]:
        return format_time(job["End"])
    return format_time(str(float(job["Start"]) + int(job["TimeLimit"]))) if job["TimeLimit"] else "NONE"


def command_line(job: Job) -> str:
    """Return the script and its arguments."""
    return " ".join([job["Command"] or "(null)", *filter(None, job["Args"].split("\0"))])


def output_path(job: Job, stream: str = "Output") -> str:
    """Return the file that a stream, "Output" or "Error", is written to; by default both are written to one file."""
    pattern = job[stream] or job["Output"] or ("slurm-%A_%a.out" if job["Tasks"] else "slurm-%j.out")
    if "\\" in pattern:  # then Slurm replaces nothing
        return os.path.join(job["WorkDir"], pattern.replace("\\", ""))
    raw_id = raw_id_of(job)
    values = {"j": raw_id, "J": raw_id, "A": job["JobId"], "a": job["Task"] or "4294967294", "x": job["JobName"],
              "u": job["User"], "N": job["NodeList"].partition(",")[0], "n": "0", "t": "0", "s": "batch", "%": "%"}
    path, rest = "", pattern
    while "%" in rest:
        before, _, rest = rest.partition("%")
        tail = rest.lstrip("0123456789")
        width, letter = rest[:len(rest) - len(tail)], tail[:1]
        path += before + (values[letter].zfill(int(width or 0)) if letter in values else f"%{width}{letter}")
        rest = tail[1:]
    return os.path.join(job["WorkDir"], path + rest)


def user_name() -> str:
    """Return the user's name as squeue and sacct show it."""
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
