"""The environment of a batch script: what sbatch exports, and the SLURM_ variables of the job."""
from __future__ import annotations

from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.jobs import Job
from tests.fake_slurm.records import read_record

YEAR = 365 * 86400  # seconds


def environment_of(cluster: Cluster, job: Job) -> dict[str, str]:
    """Return the environment of a running job's script.

    It starts from the environment that sbatch was called in. SLURM_ variables are inherited as well: a job that an
    array's task submits has that task's SLURM_ARRAY_TASK_ID.
    """
    environment = exported(cluster, job) | job_variables(job) | {"FAKE_SLURM": cluster.folder}
    return environment | array_variables(job) if job["Tasks"] else environment


def exported(cluster: Cluster, job: Job) -> dict[str, str]:
    """Return the variables that --export passes on from sbatch's environment, and those that it sets."""
    call = read_record(f"{cluster.folder}/calls/sbatch/{job['Call']}")
    environment = dict(pair.partition("=")[::2] for pair in call["Environ"].split("\0"))
    items = job["Export"].split(",")
    if "ALL" not in items:
        names = {*items, "PATH", "HOME", "USER", "SHELL"}
        environment = {key: value for key, value in environment.items() if key in names or key.startswith("SLURM_")}
    return environment | dict(item.partition("=")[::2] for item in items if "=" in item)


def job_variables(job: Job) -> dict[str, str]:
    raw_id, start, limit = job["RawId"], int(float(job["Start"])), int(job["TimeLimit"] or YEAR)
    variables = {
        "SLURM_JOB_ID": raw_id, "SLURM_JOBID": raw_id, "SLURM_JOB_NAME": job["JobName"],
        "SLURM_JOB_USER": job["User"], "SLURM_JOB_PARTITION": job["Partition"], "SLURM_CLUSTER_NAME": "fake",
        "SLURM_JOB_NODELIST": job["NodeList"], "SLURM_NODELIST": job["NodeList"], "SLURMD_NODENAME": job["NodeList"],
        "SLURM_JOB_NUM_NODES": job["Nodes"], "SLURM_NNODES": job["Nodes"],
        "SLURM_CPUS_ON_NODE": job["CPUs"], "SLURM_JOB_CPUS_PER_NODE": job["CPUs"],
        "SLURM_SUBMIT_DIR": job["SubmitDir"], "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
        "SLURM_JOB_START_TIME": str(start), "SLURM_JOB_END_TIME": str(start + limit)}
    if job["CPUsPerTask"]:
        variables["SLURM_CPUS_PER_TASK"] = job["CPUsPerTask"]
    if job["NumTasks"]:
        variables["SLURM_NTASKS"] = job["NumTasks"]
    if job["Restarts"] != "0":
        variables["SLURM_RESTART_COUNT"] = job["Restarts"]
    return variables


def array_variables(job: Job) -> dict[str, str]:
    tasks = [int(task) for task in job["Tasks"].split(",")]
    return {"SLURM_ARRAY_JOB_ID": job["JobId"], "SLURM_ARRAY_TASK_ID": job["Task"],
            "SLURM_ARRAY_TASK_COUNT": str(len(tasks)), "SLURM_ARRAY_TASK_MIN": str(min(tasks)),
            "SLURM_ARRAY_TASK_MAX": str(max(tasks))}
