"""Dependencies between jobs: when a pending job may start, and why it is pending."""
from __future__ import annotations

from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.jobs import ENDED, Job

KINDS = ("after", "afterany", "afterok", "afternotok", "aftercorr", "singleton")


def split(dependency: str) -> list[tuple[str, list[str]]]:
    """Return kind and job ids of each condition of --dependency."""
    conditions = []
    for condition in filter(None, dependency.replace("?", ",").split(",")):
        kind, *job_ids = condition.split(":")
        conditions.append((kind, job_ids))
    return conditions


def is_valid(dependency: str) -> bool:
    """Whether sbatch accepts this as --dependency."""
    return all(kind in KINDS and (kind != "singleton") == bool(job_ids) for kind, job_ids in split(dependency))


def status(cluster: Cluster, job: Job) -> str:
    """Return "met", "waiting", or "never" if the dependencies cannot be met any more."""
    results = []
    for kind, job_ids in split(job["Dependency"]):
        if kind == "singleton":
            results.append(_singleton_status(cluster, job))
        for job_id in job_ids:
            target = f"{job_id}_{job['Task']}" if kind == "aftercorr" and job["Task"] else job_id.partition("+")[0]
            results.append(_condition_status(kind, [task["State"] for task in cluster.tasks(target)]))
    # conditions joined by ? are alternatives
    precedence = ("met", "waiting", "never") if "?" in job["Dependency"] else ("never", "waiting")
    return next((result for result in precedence if result in results), "met")


def pending_reason(cluster: Cluster, job: Job) -> str:
    """Return why a job is pending; "None" for other jobs that have no reason."""
    if job["Reason"] or job["State"] != "PENDING":
        return job["Reason"] or "None"
    return {"never": "DependencyNeverSatisfied", "waiting": "Dependency"}.get(status(cluster, job), "Priority")


def _singleton_status(cluster: Cluster, job: Job) -> str:
    earlier = [other for other in cluster.jobs() if other["JobName"] == job["JobName"]
               and int(other["JobId"]) < int(job["JobId"]) and other["State"] not in ENDED]
    return "waiting" if earlier else "met"


def _condition_status(kind: str, states: list[str]) -> str:
    """Return the status of a condition on a job, or on an array's tasks, in these states."""
    have_all_ended = all(state in ENDED for state in states)
    has_failure = any(state in ENDED and state != "COMPLETED" for state in states)
    if kind == "after":
        return "waiting" if "PENDING" in states else "met"
    if kind in ("afterok", "aftercorr") and has_failure:
        return "never"
    if kind == "afternotok" and states and have_all_ended and not has_failure:
        return "never"
    return "met" if have_all_ended else "waiting"
