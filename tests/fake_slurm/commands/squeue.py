"""squeue: list the jobs that the controller has."""
from __future__ import annotations

import os

from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.commands.options import defaults_of_user, parse_options
from tests.fake_slurm.commands.tables import Columns, format_line
from tests.fake_slurm.dependencies import pending_reason
from tests.fake_slurm.errors import CommandExit
from tests.fake_slurm.formats import format_duration, format_time
from tests.fake_slurm.jobs import (
    ABBREVIATIONS,
    Job,
    command_line,
    elapsed_seconds,
    end_time,
    in_states,
    job_id_of,
    matches_id,
    raw_id_of,
    user_name,
)

OPTIONS = ("h:noheader me u:user= o:format= r:array j:jobs= t:states= start n:name= p:partition= A:account= a:all"
           " l:long S:sort=")
FORMAT = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
START_FORMAT = "%.18i %.9P %.8j %.8u %.2t %.19S %.6D %20Y %R"
STATES = "RUNNING,PENDING,SUSPENDED,COMPLETING,CONFIGURING,REQUEUED,REQUEUE_HOLD,STOPPED,SPECIAL_EXIT"


def run(cluster: Cluster, arguments: list[str], call_number: int) -> str:
    options, _ = parse_options("squeue", OPTIONS, arguments)
    options = {**defaults_of_user("SQUEUE", partition="PARTITION", account="ACCOUNT", states="STATES", name="NAMES",
                                  user="USERS"), **options}
    jobs = selected(cluster, options)
    pattern = options.get("format", START_FORMAT if "start" in options else FORMAT)
    rows = jobs if "noheader" in options else [None, *jobs]
    columns = columns_of(cluster)
    return "".join(format_line("squeue", pattern, columns, row) + "\n" for row in rows)


def selected(cluster: Cluster, options: dict[str, str]) -> list[Job]:
    """Return the jobs that the options select."""
    jobs = [job for job in cluster.jobs("array" in options) if not job.get("Purged")]
    if "jobs" in options:
        job_ids = options["jobs"].split(",")
        jobs = [job for job in jobs if matches_id(job, job_ids)]
        if not jobs and len(job_ids) == 1:
            raise CommandExit("slurm_load_jobs error: Invalid job id specified")
    jobs = in_states(jobs, options.get("states", "PENDING" if "start" in options else STATES))
    if "all" not in options:
        hidden = cluster.settings["HiddenPartitions"].split(",")
        jobs = [job for job in jobs if job["Partition"] not in hidden]
    if options.get("user", "").isdigit():
        options["user"] = user_name() if options["user"] == str(os.getuid()) else ""
    for option, key in (("user", "User"), ("name", "JobName"), ("partition", "Partition"), ("account", "Account")):
        if option in options:
            jobs = [job for job in jobs if job[key] in options[option].split(",")]
    return [job for job in jobs if job["User"] == user_name()] if "me" in options else jobs


def columns_of(cluster: Cluster) -> Columns:
    """Return header and value of each letter of --format."""
    def nodes_or_reason(job: Job) -> str:
        return job["NodeList"] if job["State"] == "RUNNING" else f"({pending_reason(cluster, job)})"

    return {
        "i": ("JOBID", job_id_of), "A": ("JOBID", raw_id_of), "F": ("ARRAY_JOB_ID", lambda job: job["JobId"]),
        "K": ("ARRAY_TASK_ID", lambda job: job.get("UnstartedTasks") or job["Task"] or "N/A"),
        "T": ("STATE", lambda job: job["State"]), "t": ("ST", lambda job: ABBREVIATIONS[job["State"]]),
        "r": ("REASON", lambda job: pending_reason(cluster, job)), "R": ("NODELIST(REASON)", nodes_or_reason),
        "k": ("COMMENT", lambda job: job["Comment"] or "(null)"), "j": ("NAME", lambda job: job["JobName"]),
        "V": ("SUBMIT_TIME", lambda job: format_time(job["Submit"])),
        "S": ("START_TIME", lambda job: format_time(job["Start"] or job.get("ExpectedStart", ""))),
        "e": ("END_TIME", end_time), "M": ("TIME", lambda job: format_duration(elapsed_seconds(job))),
        "L": ("TIME_LEFT", time_left), "l": ("TIME_LIMIT", time_limit),
        "P": ("PARTITION", lambda job: job["Partition"]), "u": ("USER", lambda job: job["User"]),
        "a": ("ACCOUNT", lambda job: job["Account"]), "q": ("QOS", lambda job: job["QOS"]),
        "N": ("NODELIST", lambda job: job["NodeList"]), "B": ("EXEC_HOST", lambda job: job["NodeList"] or "n/a"),
        "D": ("NODES", lambda job: job["Nodes"]), "C": ("CPUS", lambda job: job["CPUs"]),
        "E": ("DEPENDENCY", lambda job: job["Dependency"] or "(null)"), "Z": ("WORK_DIR", lambda job: job["WorkDir"]),
        "o": ("COMMAND", command_line), "f": ("FEATURES", lambda job: job["Features"] or "(null)"),
        "Q": ("PRIORITY", lambda job: "1"), "Y": ("SCHEDNODES", lambda job: "(null)"),
        "b": ("TRES_PER_NODE", lambda job: job["Gres"] or "N/A")}


def time_limit(job: Job) -> str:
    return format_duration(int(job["TimeLimit"])) if job["TimeLimit"] else "UNLIMITED"


def time_left(job: Job) -> str:
    return format_duration(max(0, int(job["TimeLimit"]) - elapsed_seconds(job))) if job["TimeLimit"] else "UNLIMITED"
