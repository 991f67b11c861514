"""scancel: cancel jobs, or send a signal to them."""
from __future__ import annotations

import os

from tests.fake_slurm import lifecycle
from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.commands.options import defaults_of_user, parse_options
from tests.fake_slurm.errors import CommandExit, unsupported
from tests.fake_slurm.formats import parse_indices
from tests.fake_slurm.jobs import ENDED, Job, in_states

OPTIONS = "b:batch f:full s:signal= Q:quiet n:name= jobname= u:user= t:state= me v:verbose p:partition= A:account="
FILTERS = {"name": "JobName", "jobname": "JobName", "user": "User", "partition": "Partition", "account": "Account"}


def run(cluster: Cluster, arguments: list[str], call_number: int) -> str:
    options, operands = parse_options("scancel", OPTIONS, arguments)
    options = {**defaults_of_user("SCANCEL", partition="PARTITION", account="ACCOUNT", name="NAME", state="STATE"),
               **options}
    signal_name = options.get("signal", "KILL").upper().removeprefix("SIG")
    for job in selected(cluster, options, operands):
        if job["State"] in ENDED:
            continue
        if signal_name in ("KILL", "9"):
            lifecycle.cancel(cluster, job)
        else:
            send_signal(job, signal_name, options)
    return ""


def selected(cluster: Cluster, options: dict[str, str], operands: list[str]) -> list[Job]:
    """Return the jobs with these ids, or all jobs, that pass the filters."""
    job_ids = split_job_ids(operands)
    for job_id in job_ids:
        if not job_id.replace("_", "", 1).isdigit():
            raise CommandExit(f"scancel: error: Invalid job id {job_id}")
    if job_ids:
        jobs = [task for job_id in job_ids for task in cluster.tasks(job_id)]
    elif set(options) & {"me", "state", *FILTERS}:
        jobs = [job for job in cluster.jobs() if not job.get("Purged")]
    else:
        raise CommandExit("scancel: error: No job identification provided")
    for option, key in FILTERS.items():
        if option in options:
            jobs = [job for job in jobs if job[key] == options[option]]
    return in_states(jobs, options.get("state", "all"))


def split_job_ids(operands: list[str]) -> list[str]:
    """Return the single ids of operands such as 12, 12_3, 12,13 and 12_[1-3,5]."""
    job_ids: list[str] = []
    for operand in operands:
        array_id, _, tasks = operand.partition("_[")
        if tasks:
            job_ids += [f"{array_id}_{task}" for task in parse_indices(tasks.rstrip("]"))]
        else:
            job_ids += operand.split(",")
    return job_ids


def send_signal(job: Job, name: str, options: dict[str, str]) -> None:
    """Send a signal to the batch script alone (--batch), or to all processes of the job (--full)."""
    import signal

    number = int(name) if name.isdigit() else int(getattr(signal, f"SIG{name}"))
    if "batch" not in options and "full" not in options:
        raise unsupported("scancel --signal without --batch or --full")
    if job["Pid"]:
        (os.killpg if "full" in options else os.kill)(int(job["Pid"]), number)
