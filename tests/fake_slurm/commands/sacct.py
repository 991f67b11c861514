"""sacct: list jobs and their batch steps from the accounting database, which may lag behind."""
from __future__ import annotations

import os
import time

from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.commands.options import parse_options
from tests.fake_slurm.commands.tables import Columns, format_table
from tests.fake_slurm.errors import CommandExit, unsupported
from tests.fake_slurm.formats import format_long_duration, format_time
from tests.fake_slurm.jobs import Job, elapsed_seconds, in_states, job_id_of, matches_id, raw_id_of

OPTIONS = ("X:allocations n:noheader P:parsable2 p:parsable o:format= j:jobs= S:starttime= E:endtime= u:user= s:state="
           " a:allusers D:duplicates name= units= noconvert")
FORMAT = "JobID,JobName,Partition,Account,AllocCPUS,State,ExitCode"
FIELDS: Columns = {
    "jobid": ("JobID", job_id_of), "jobidraw": ("JobIDRaw", raw_id_of),
    "jobname": ("JobName", lambda job: job["JobName"]),
    "state": ("State", lambda job: f"CANCELLED by {os.getuid()}" if job["State"] == "CANCELLED" else job["State"]),
    "partition": ("Partition", lambda job: job["Partition"]), "account": ("Account", lambda job: job["Account"]),
    "user": ("User", lambda job: job["User"]), "qos": ("QOS", lambda job: job["QOS"]),
    "exitcode": ("ExitCode", lambda job: job["ExitCode"]), "submit": ("Submit", lambda job: format_time(job["Submit"])),
    "start": ("Start", lambda job: format_time(job["Start"], "Unknown")),
    "end": ("End", lambda job: format_time(job["End"], "Unknown")),
    "elapsed": ("Elapsed", lambda job: format_long_duration(elapsed_seconds(job))),
    "elapsedraw": ("ElapsedRaw", lambda job: str(int(elapsed_seconds(job)))),
    "timelimit": ("Timelimit", lambda job: format_long_duration(
        int(job["TimeLimit"])) if job["TimeLimit"] else "UNLIMITED"),
    "timelimitraw": ("TimelimitRaw", lambda job: str(int(job["TimeLimit"]) // 60) if job["TimeLimit"] else ""),
    "alloctres": ("AllocTRES", lambda job: job.get("AllocTRES") or f"cpu={job['CPUs']},node={job['Nodes']}"),
    "tresusageintot": ("TRESUsageInTot", lambda job: job.get("TRESUsageInTot", "") if "Step" in job else ""),
    "maxrss": ("MaxRSS", lambda job: job["MaxRSS"] if "Step" in job else ""),
    "comment": ("Comment", lambda job: job["Comment"]), "nodelist": ("NodeList", lambda job: job["NodeList"] or (
        "None assigned")),
    "alloccpus": ("AllocCPUS", lambda job: job["CPUs"]), "reqcpus": ("ReqCPUS", lambda job: job["CPUs"]),
    "ncpus": ("NCPUS", lambda job: job["CPUs"]), "nnodes": ("NNodes", lambda job: job["Nodes"]),
    "reqmem": ("ReqMem", lambda job: job["Mem"]), "workdir": ("WorkDir", lambda job: job["WorkDir"]),
    "cputimeraw": ("CPUTimeRAW", lambda job: str(int(elapsed_seconds(job)) * int(job["CPUs"]))),
    "totalcpu": ("TotalCPU", lambda job: job.get("TotalCPU") or "00:00:00"),
    "admincomment": ("AdminComment", lambda job: job.get("AdminComment", "") if "Step" not in job else ""),
    "reason": ("Reason", lambda job: job["Reason"] or "None")}


def run(cluster: Cluster, arguments: list[str], call_number: int) -> str:
    options, _ = parse_options("sacct", OPTIONS, arguments)
    fields = checked_fields(options.get("format", FORMAT))
    rows = selected(cluster, options)
    if "allocations" not in options:
        rows = [row for job in rows for row in with_batch_step(job)]
    columns = [FIELDS[field.partition("%")[0]] for field in fields]
    return format_table([header for header, _ in columns], [[value_of(row) for _, value_of in columns] for row in rows],
                        fields, options)


def checked_fields(text: str) -> list[str]:
    """Return the fields of --format, which may end with %WIDTH."""
    fields = [field.strip().lower() for field in text.split(",") if field.strip()]
    for field in fields:
        if field.partition("%")[0] not in FIELDS:
            if field.isalpha() and field.startswith(("tres", "alloc", "ave", "max", "min", "cons", "req", "cpu")):
                raise unsupported(f"sacct's field {field}")
            raise CommandExit(f'sacct: error: Invalid field requested: "{field}"')
    return fields


def selected(cluster: Cluster, options: dict[str, str]) -> list[Job]:
    """Return the jobs that the options select, as the accounting database has them."""
    now = time.time() - float(cluster.settings["AccountingDelay"])
    jobs = [past for job in cluster.jobs(expand_arrays=False) if (past := as_of(job, now))]
    if "jobs" in options:
        jobs = [job for job in jobs if matches_id(job, options["jobs"].split(","))]
    since = start_of_period(options.get("starttime", ""))
    jobs = [job for job in jobs if not job["End"] or format_time(job["End"]) >= since]
    if "state" in options:
        jobs = in_states(jobs, options["state"])
    elif "jobs" not in options:  # real sacct lists jobs that were cancelled for their dependencies only by id or state
        jobs = [job for job in jobs if job["State"] != "CANCELLED" or job["Start"] or not job["Dependency"]]
    if "name" in options:
        jobs = [job for job in jobs if job["JobName"] in options["name"].split(",")]
    return jobs


def as_of(job: Job, unix_seconds: float) -> Job | None:
    """Return a job as it was at a time; None before it was submitted."""
    if float(job["Submit"]) > unix_seconds:
        return None
    if job["Start"] and float(job["Start"]) > unix_seconds:
        return {**job, "State": "PENDING", "Start": "", "End": "", "ExitCode": "0:0", "NodeList": ""}
    if job["End"] and float(job["End"]) > unix_seconds:
        return {**job, "State": "RUNNING" if job["Start"] else "PENDING", "End": "", "ExitCode": "0:0"}
    return job


def with_batch_step(job: Job) -> list[Job]:
    """Return the rows of a job: its own, and that of its batch step once it has started."""
    if not job["Start"]:
        return [job]
    step = {**job, "JobId": job_id_of(job) + ".batch", "Task": "", "JobName": "batch", "Partition": "", "User": "",
            "Comment": "", "Step": "batch"}
    return [job, step]


def start_of_period(text: str) -> str:
    """Return --starttime as an ISO time, or a prefix of one, which can be compared as text. By default today."""
    if text[:4].isdigit() and text[4:5] == "-":
        return text
    if text.startswith("now"):
        number, units = text[4:].rstrip("adehinorsuytw"), text[4:].lstrip("0123456789")
        unit = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "": 1}.get(units[:1])
        if text == "now" or text[3:4] == "-" and number.isdigit() and unit:
            return format_time(str(time.time() - int(number or 0) * (unit or 0)))
    if text in ("", "today", "midnight"):
        return time.strftime("%Y-%m-%dT00:00:00")
    raise unsupported(f"sacct --starttime={text}")
