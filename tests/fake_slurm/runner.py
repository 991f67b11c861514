"""JobRunner: runs the jobs of a fake cluster as processes on this machine."""
from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from tests.fake_slurm import dependencies, lifecycle
from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.job_environment import environment_of
from tests.fake_slurm.jobs import Job, job_id_of, output_path, raw_id_of

KILL_WAIT = 2.0  # seconds between TERM and KILL
POLL_INTERVAL = 0.005  # seconds


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    terminated_at: float | None = None  # time.monotonic() at which its job was found ended or requeued


class JobRunner:
    """Starts pending jobs and records how they end. Resources are not reserved, and time limits do not end jobs."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.lock = threading.RLock()  # held while a job's record and its process change together
        self._running: dict[str, _Running] = {}
        self._detached: list[subprocess.Popen[bytes]] = []

    def start(self, job_id: str) -> int | None:
        """Start a pending job. Returns its process id, or None if its script cannot be started: the job has failed."""
        with self.lock:
            while job_id in self._running:  # the process of its earlier start has not ended yet
                self._reap()
                time.sleep(POLL_INTERVAL)
            job = self._mark_running(job_id)
            try:
                process = self._launch(job)
            except OSError:  # mostly a working directory that does not exist
                lifecycle.set_state(self.cluster, job, "FAILED", "JobLaunchFailure", ExitCode="0:53")
                return None
            self.cluster.update(job_id, Pid=str(process.pid))
            self._running[job_id] = _Running(process)
            return process.pid

    def _mark_running(self, job_id: str) -> Job:
        """Update the record of a job that starts, and return it.

        A task of an array gets a job id of its own; the last task gets that of the array.
        """
        job = self.cluster.job(job_id)
        assert job is not None and job["State"] == "PENDING", f"Slurm job {job_id} is not pending: {job}"
        raw_id = raw_id_of(job)
        if job["Tasks"] and "RawId" not in job:
            pending = [task for task in self.cluster.tasks(job["JobId"]) if task["State"] == "PENDING"]
            raw_id = str(self.cluster.add_record("jobs", {"TaskOf": job_id})) if len(pending) > 1 else raw_id
        features = set(filter(None, job["Features"].split(",")))
        node = next((name for name, *_, provided in self.cluster.nodes() if features <= set(provided.split(","))),
                    "node1")
        changes = {"State": "RUNNING", "Reason": "", "Start": str(time.time()), "End": "", "NodeList": node,
                   "RawId": raw_id}
        self.cluster.update(job_id, **changes)
        return {**job, **changes}

    def _launch(self, job: Job) -> subprocess.Popen[bytes]:
        script = f"{self.cluster.folder}/scripts/{job['Call']}/slurm_script"
        os.chmod(script, 0o755)
        with ExitStack() as files:
            stdout, stderr = (files.enter_context(open(_prepared_output(job, stream), "ab"))
                              for stream in ("Output", "Error"))
            return subprocess.Popen([script, *filter(None, job["Args"].split("\0"))], cwd=job["WorkDir"],
                                    env=environment_of(self.cluster, job), stdin=subprocess.DEVNULL, stdout=stdout,
                                    stderr=stderr, start_new_session=True)

    def detach(self, job_id: str) -> None:
        """Let the process of a job run on unobserved, until `stop`."""
        if running := self._running.pop(job_id, None):
            self._detached.append(running.process)

    def wait(self, job_id: str, seconds: float) -> None:
        """Wait until a job's process has ended."""
        deadline = time.monotonic() + seconds
        while job_id in self._running:
            assert time.monotonic() < deadline, f"Slurm job {job_id} still runs after {seconds} s"
            self._reap()
            time.sleep(POLL_INTERVAL)

    def run_all(self, parallel: int, seconds: float) -> None:
        """Run all jobs that may start, also those that they submit, until none is left."""
        deadline = time.monotonic() + seconds
        queue: list[str] = []
        while self._advance(parallel, queue) or self._running:
            assert time.monotonic() < deadline, f"jobs still run after {seconds} s: {', '.join(self._running)}"
            time.sleep(POLL_INTERVAL)

    @contextmanager
    def running(self, parallel: int) -> Iterator[None]:
        """Run jobs in a thread while the block lasts."""
        stop = threading.Event()

        def run() -> None:
            queue: list[str] = []
            while not stop.wait(0.01):
                self._advance(parallel, queue)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _advance(self, parallel: int, queue: list[str]) -> bool:
        """Record which jobs have ended, and start others. Returns whether there may be more to start.

        queue: pending jobs that were listed earlier. The list is read again when it is empty, not at each call.
        """
        with self.lock:
            self._reap()
            has_started = False
            if len(self._running) < parallel and not queue:
                queue += [job_id_of(job) for job in self.cluster.jobs() if job["State"] == "PENDING"]
            while queue and len(self._running) < parallel:
                job_id = queue.pop(0)
                if self._may_start(job_id):
                    self.start(job_id)
                    has_started = True
            return has_started or bool(queue)

    def _may_start(self, job_id: str) -> bool:
        job = self.cluster.job(job_id)
        if job is None or job["State"] != "PENDING" or job.get("Purged") or job["Reason"] not in ("", "BeginTime"):
            return False
        if job_id in self._running:  # the process of its earlier start has not ended yet
            return False
        status = dependencies.status(self.cluster, job)
        if status == "never" and job["KillOnInvalid"]:
            lifecycle.set_state(self.cluster, job, "CANCELLED", "DependencyNeverSatisfied")
        running_tasks = sum(other.startswith(f"{job['JobId']}_") for other in self._running)
        return status == "met" and (not job["Throttle"] or running_tasks < int(job["Throttle"]))

    def _reap(self) -> None:
        """Record the jobs whose processes have ended; kill those that did not end in time after TERM."""
        with self.lock:
            for job_id, running in list(self._running.items()):
                job, code = self.cluster.job(job_id), running.process.poll()
                is_current = job is not None and job["Pid"] == str(running.process.pid)  # not requeued meanwhile
                is_running = job is not None and is_current and job["State"] == "RUNNING"
                if code is None:
                    running.terminated_at = None if is_running else running.terminated_at or time.monotonic()
                    if running.terminated_at and time.monotonic() > running.terminated_at + KILL_WAIT:
                        _kill(running.process)
                    continue
                _kill(running.process)  # its child processes
                del self._running[job_id]
                if is_running:
                    self.cluster.update(job_id, State="COMPLETED" if code == 0 else "FAILED", End=str(time.time()),
                                        ExitCode=f"0:{-code}" if code < 0 else f"{code}:0", Pid="")
                elif is_current:
                    self.cluster.update(job_id, Pid="")

    def stop(self) -> None:
        """Kill all processes that still run."""
        with self.lock:
            for process in [running.process for running in self._running.values()] + self._detached:
                _kill(process)
                process.wait()
            self._running.clear()


def _prepared_output(job: Job, stream: str) -> str:
    """Return the path of an output file, truncated unless the job appends to it."""
    path = output_path(job, stream)
    if job["OpenMode"] == "truncate" and os.path.isfile(path):
        os.truncate(path, 0)
    return path


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
