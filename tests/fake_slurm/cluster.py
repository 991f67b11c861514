"""The state of a fake cluster: its settings, its jobs, and the numbers that it assigns."""
from __future__ import annotations

import os

from tests.fake_slurm.formats import format_indices
from tests.fake_slurm.jobs import Job
from tests.fake_slurm.records import (
    dump_record,
    read_file,
    read_record,
    temporary_path,
    write_file,
    write_new_file,
    write_record,
)

DEFAULT_SETTINGS = {
    "MaxArraySize": "1001",
    "MaxJobCount": "10000",
    "MaxSubmitJobs": "",  # of the user's association; empty: no limit
    "MaxJobs": "",
    "Rate": "",  # calls of sbatch per second; further ones are rejected
    "AccountingDelay": "0",  # seconds until sacct shows a change
    "Accounts": "root",
    "QOS": "normal",
    # name, CPUs, MB, gres, features
    "Nodes": "node1 8 64000 gpu:2 geforce_rtx_2080\nnode2 8 64000 gpu:2 geforce_rtx_2080\n"
             "node3 8 64000 gpu:2 tesla_v100\nnode4 8 64000 gpu:2 geforce_rtx_3090,a5000",
    # name, time limit; the first one is the default partition
    "HiddenPartitions": "",  # shown only with --all
    "Partitions": "cpu-killable infinite\nkillable infinite\nowner infinite",
}


class Cluster:
    """The state in a folder: a record in jobs/ID for a job or array, and in jobs/ID_TASK for each task that differs.

    Many processes use it at once. A number is assigned by link(2), which fails if the number is taken; a record is
    replaced by rename(2).
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @property
    def settings(self) -> dict[str, str]:
        return read_record(f"{self.folder}/settings")

    def add_record(self, kind: str, record: dict[str, str]) -> int:
        """Store a record under the next number of its kind: "jobs", "rules" or "calls/COMMAND". Returns the number."""
        temporary = temporary_path(f"{self.folder}/{kind}")
        write_new_file(temporary, dump_record(record))
        number = int(read_file(f"{self.folder}/{kind}.next") or 1)  # a hint, which may be out of date
        while True:
            try:
                os.link(temporary, f"{self.folder}/{kind}/{number}")
                break
            except FileExistsError:
                number += 1
        os.unlink(temporary)
        write_file(f"{self.folder}/{kind}.next", str(number + 1))
        return number

    def numbers(self, kind: str) -> list[int]:
        """Return the numbers of a kind that are assigned, in order."""
        return sorted(int(name) for name in os.listdir(f"{self.folder}/{kind}") if name.isdigit())

    def job(self, job_id: str) -> Job | None:
        """Return a job, an array, or an array's task by either of its ids."""
        array_id, _, task = job_id.partition("_")
        job = read_record(f"{self.folder}/jobs/{array_id}")
        if "TaskOf" in job:
            return self.job(job["TaskOf"])
        if not job:
            return None
        job = {"JobId": array_id, "Task": task, **job}
        if task and task not in job["Tasks"].split(","):
            return None
        return {**job, **read_record(f"{self.folder}/jobs/{job_id}")} if task else job

    def update(self, job_id: str, **changes: str) -> None:
        """Change the record of a job, or of an array's task alone."""
        path = f"{self.folder}/jobs/{job_id}"
        write_record(path, {**read_record(path), **changes})

    def jobs(self, expand_arrays: bool = True) -> list[Job]:
        """Return all jobs, arrays as their tasks.

        Unless `expand_arrays`, the tasks of an array that never started are one row, with the key UnstartedTasks.
        """
        names = os.listdir(f"{self.folder}/jobs")
        changed_tasks: dict[str, list[int]] = {}
        for name in names:
            array_id, _, task = name.partition("_")
            if task.isdigit():
                changed_tasks.setdefault(array_id, []).append(int(task))
        rows: list[Job] = []
        for number in sorted(int(name) for name in names if name.isdigit()):
            job = self.job(str(number))
            if job is None or job["JobId"] != str(number):
                continue  # deleted meanwhile, or the second id of an array's task
            if job["Tasks"]:
                rows += self._array_rows(job, sorted(changed_tasks.get(str(number), [])), expand_arrays)
            else:
                rows.append(job)
        return rows

    def _array_rows(self, array: Job, changed_tasks: list[int], expand: bool) -> list[Job]:
        """Return the rows of an array: the tasks without a record of their own, then the others."""
        unchanged = [task for task in map(int, array["Tasks"].split(",")) if task not in set(changed_tasks)]
        if expand:
            rows = [{**array, "Task": str(task)} for task in unchanged]
        else:
            throttle = f"%{array['Throttle']}" if array["Throttle"] else ""
            rows = [{**array, "UnstartedTasks": format_indices(unchanged) + throttle}] if unchanged else []
        tasks = (self.job(f"{array['JobId']}_{task}") for task in changed_tasks)
        return rows + [task for task in tasks if task is not None]

    def tasks(self, job_id: str) -> list[Job]:
        """Return a job, or all tasks of an array, as a list; empty if the controller has no such job."""
        job = self.job(job_id)
        if job is None or job.get("Purged"):
            return []
        if not job["Tasks"] or job["Task"]:
            return [job]
        tasks = (self.job(f"{job['JobId']}_{task}") for task in job["Tasks"].split(","))
        return [task for task in tasks if task is not None]

    def nodes(self) -> list[list[str]]:
        """Return name, CPUs, MB, gres and features of each node."""
        return [line.split() for line in self.settings["Nodes"].split("\n")]

    def partitions(self) -> list[list[str]]:
        """Return name and time limit of each partition, the default partition first."""
        return [line.split() for line in self.settings["Partitions"].split("\n")]
