"""scontrol: show jobs and the configuration; hold, release, requeue and update jobs."""
from __future__ import annotations

import os
import time

from tests.fake_slurm import lifecycle
from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.commands.options import parse_options
from tests.fake_slurm.commands.scancel import split_job_ids
from tests.fake_slurm.dependencies import pending_reason
from tests.fake_slurm.errors import CommandExit, unsupported
from tests.fake_slurm.formats import format_long_duration, format_time, parse_time_limit
from tests.fake_slurm.jobs import Job, command_line, elapsed_seconds, end_time, job_id_of, output_path, raw_id_of

OPTIONS = "a:all o:oneliner Q:quiet d:details"
# the record's key for each attribute of `update`; empty: accepted without effect on the record
ATTRIBUTES = {"comment": "Comment", "jobname": "JobName", "name": "JobName", "starttime": "", "priority": "",
              "partition": "Partition", "timelimit": "TimeLimit", "dependency": "Dependency", "requeue": "Requeue",
              "arraytaskthrottle": "Throttle", "nice": ""}


def run(cluster: Cluster, arguments: list[str], call_number: int) -> str:
    options, positionals = parse_options("scontrol", OPTIONS, arguments)
    verb, *operands = positionals or [""]
    if verb == "show" and operands[:1] == ["config"]:
        return show_config(cluster)
    if verb == "show" and operands and operands[0].partition("=")[0] in ("job", "jobid"):
        return show_jobs(cluster, operands, is_one_line="oneliner" in options)
    if verb == "ping":
        return f"Slurmctld(primary) at {os.uname().nodename} is UP\n"
    if verb in ("hold", "release", "requeue", "requeuehold"):
        for job_id in split_job_ids(operands):
            change_state(cluster, job_id, verb)
        return ""
    if verb == "update":
        update(cluster, operands)
        return ""
    raise unsupported(f"scontrol {' '.join([verb, *operands])}")


def show_config(cluster: Cluster) -> str:
    settings = cluster.settings
    values = {"ClusterName": "fake", "MaxArraySize": settings["MaxArraySize"], "MaxJobCount": settings["MaxJobCount"],
              "MinJobAge": "300 sec", "SLURM_VERSION": "22.05.8"}
    return f"Configuration data as of {format_time(str(time.time()))}\n" + "".join(
        f"{key:<23} = {value}\n" for key, value in values.items())


def show_jobs(cluster: Cluster, operands: list[str], is_one_line: bool) -> str:
    """Format one or more jobs by id, or all jobs. operands: `job`, `job 12`, or `jobid=12`."""
    _, equals, value = operands[0].partition("=")
    job_ids = split_job_ids([value] if equals else operands[1:2])
    jobs = [task for job_id in job_ids for task in cluster.tasks(job_id)] if job_ids else cluster.jobs()
    if job_ids and not jobs:
        raise CommandExit("slurm_load_jobs error: Invalid job id specified")
    blocks = [format_job(cluster, job) for job in jobs]
    return "".join(block.replace("\n   ", " ") + "\n" if is_one_line else f"{block}\n\n" for block in blocks)


def format_job(cluster: Cluster, job: Job) -> str:
    array = f"ArrayJobId={job['JobId']} ArrayTaskId={job['Task']} " if job["Tasks"] else ""
    if array and job["Throttle"]:
        array += f"ArrayTaskThrottle={job['Throttle']} "
    limit = format_long_duration(int(job["TimeLimit"])) if job["TimeLimit"] else "UNLIMITED"
    end = end_time(job)
    started = format_time(job["Start"], "Unknown")
    return "\n   ".join([
        f"JobId={raw_id_of(job)} {array}JobName={job['JobName']}",
        f"UserId={job['User']}({os.getuid()}) GroupId={os.getgid()} MCS_label=N/A",
        f"Priority={0 if job['Reason'] == 'JobHeldUser' else 1} Nice=0 Account={job['Account']} QOS={job['QOS']}",
        f"JobState={job['State']} Reason={pending_reason(cluster, job)} Dependency={job['Dependency'] or '(null)'}",
        f"Requeue={job['Requeue']} Restarts={job['Restarts']} BatchFlag=1 Reboot=0 ExitCode={job['ExitCode']}",
        f"RunTime={format_long_duration(elapsed_seconds(job))} TimeLimit={limit} TimeMin=N/A",
        f"SubmitTime={format_time(job['Submit'])} EligibleTime={format_time(job['Submit'])}",
        f"StartTime={started} EndTime={'Unknown' if end in ('N/A', 'NONE') else end} Deadline=N/A",
        f"PreemptEligibleTime={started} PreemptTime={format_time(job.get('PreemptTime', ''), 'None')}",
        f"Partition={job['Partition']}", f"NodeList={job['NodeList']}",
        f"NumNodes={job['Nodes']} NumCPUs={job['CPUs']} NumTasks={job['NumTasks'] or 1} "
        f"CPUs/Task={job['CPUsPerTask'] or 1}",
        f"Features={job['Features'] or '(null)'}",
        f"Command={command_line(job)}",
        f"WorkDir={job['WorkDir']}", *([f"Comment={job['Comment']} "] if job["Comment"] else []),
        f"StdErr={output_path(job, 'Error')}", "StdIn=/dev/null", f"StdOut={output_path(job, 'Output')}", "Power="])


def existing_job(cluster: Cluster, job_id: str) -> Job:
    """Return a job that the controller has. Raises CommandExit otherwise."""
    job = cluster.job(job_id)
    if job is None or job.get("Purged"):
        raise CommandExit(f"Invalid job id specified for job {job_id}")
    return job


def change_state(cluster: Cluster, job_id: str, verb: str) -> None:
    """Hold, release, requeue, or requeue and hold a job."""
    job = existing_job(cluster, job_id)
    if verb in ("hold", "release"):
        cluster.update(job_id_of(job), Reason="JobHeldUser" if verb == "hold" else "")
        return
    if job["Requeue"] == "0":
        raise CommandExit(f"Requested operation is presently disabled for job {job_id}")
    if job["State"] == "PENDING":
        raise CommandExit(f"Job is pending execution for job {job_id}")
    lifecycle.requeue(cluster, job, reason="BeginTime" if verb == "requeue" else "JobHeldUser")


def update(cluster: Cluster, operands: list[str]) -> None:
    """Change attributes of the job that JobId=ID names."""
    changes = {key.lower(): value for key, _, value in (operand.partition("=") for operand in operands)}
    job = existing_job(cluster, changes.pop("jobid", changes.pop("job", "")))
    for attribute, value in changes.items():
        if attribute not in ATTRIBUTES:
            raise unsupported(f"scontrol update {attribute}")
        if key := ATTRIBUTES[attribute]:
            cluster.update(job_id_of(job), **{key: parse_time_limit(value) if key == "TimeLimit" else value})
    if "starttime" in changes or changes.get("priority", "0") != "0":
        cluster.update(job_id_of(job), Reason="")
