"""The fixture `fake_slurm`: fake Slurm commands first on the PATH, and a FakeSlurm that controls them.

    from tests.fake_slurm.fixture import FakeSlurm, fake_slurm

docs/testing.md describes how to use it.
"""
from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake_slurm import errors, faults, lifecycle
from tests.fake_slurm.cluster import DEFAULT_SETTINGS, Cluster
from tests.fake_slurm.commands.main import CALL_KINDS, NAMES
from tests.fake_slurm.jobs import ENDED, Job, job_id_of
from tests.fake_slurm.records import read_record, write_file, write_record
from tests.fake_slurm.runner import JobRunner

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Call:
    """One call of a command. argv starts with the command's name; time is in Unix seconds."""

    number: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    time: float


def create_cluster(folder: Path) -> None:
    """Make the folder of a cluster, with the commands in its bin/."""
    for name in ("bin", "jobs", "scripts", "rules", "rate", *(f"calls/{kind}" for kind in CALL_KINDS)):
        (folder / name).mkdir(parents=True)
    write_record(f"{folder}/settings", DEFAULT_SETTINGS)
    # Python starts faster without site packages (-IS) and outside a virtual environment
    python = [getattr(sys, "_base_executable", sys.executable), "-ISE", "-X", "utf8"]
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.fake_slurm.commands.main import main; "
               "main(sys.argv[1:])")
    launcher = folder / "bin" / ".launcher"
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join([*python, "-c", program])} "$0" "$@"\n')
    launcher.chmod(0o755)
    for name in NAMES:
        (folder / "bin" / name).symlink_to(launcher.name)


class FakeSlurm:
    """A cluster in a folder. Its jobs stay pending until `start`, `run_all` or `running` runs them, on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cluster = Cluster(str(folder))
        self._runner = JobRunner(self._cluster)

    # settings and faults

    def set(self, **settings: object) -> None:
        """Change settings: MaxArraySize=10, MaxSubmitJobs=5 … All are in DEFAULT_SETTINGS of cluster.py."""
        assert settings.keys() <= DEFAULT_SETTINGS.keys(), f"the settings are {', '.join(DEFAULT_SETTINGS)}"
        values = {key: str(value) for key, value in settings.items()}
        write_record(f"{self.folder}/settings", {**self._cluster.settings, **values})

    def inject_fault(self, command: str, nth: int | Iterable[int] | None = None, *, accept: bool = True,
           stdout: str | None = None, stderr: str | None = None, code: int | None = None, delay: float = 0,
           hang: float = 0, kill: bool = False) -> None:
        """Inject a fault into calls of a command: the nth from now on (from 1), several of them, or all.

        accept: whether the command does its work; stdout: what it prints instead; stderr: a line that it prints in
        addition; code: its exit code; delay, hang: seconds to sleep before and after its work; kill: the process dies
        after its work, without an answer.
        """
        assert command in CALL_KINDS, f"command is one of {', '.join(CALL_KINDS)}"
        numbers = [] if nth is None else [nth] if isinstance(nth, int) else list(nth)
        optional = {"Stdout": stdout, "Stderr": stderr, "Code": code, "Kill": "1" if kill else None}
        faults.inject(self._cluster, command, numbers, Accept="1" if accept else "0", Delay=str(delay), Hang=str(hang),
                      **{key: str(value) for key, value in optional.items() if value is not None})

    def reject(self, error: str, nth: int | Iterable[int] | None = None, command: str = "sbatch") -> None:
        """Let calls fail with one of Slurm's errors: a key of MESSAGES or SACCT_MESSAGES in errors.py."""
        self.inject_fault(command, nth, accept=False, stdout="", stderr=errors.message_of(error, command), code=1)

    def lose_reply(self, nth: int | Iterable[int] | None = None, error: str = "socket_timed_out") -> None:
        """Let sbatch create the job but report an error."""
        self.inject_fault("sbatch", nth, stdout="", stderr=errors.message_of(error), code=1)

    def delay_sacct(self, seconds: float = 0, calls: int = 0) -> None:
        """Let sacct show the jobs as they were some seconds ago, and no jobs at all in the next calls."""
        self.set(AccountingDelay=seconds)
        if calls:
            self.inject_fault("sacct", range(1, calls + 1), stdout="", code=0)

    def clear_faults(self) -> None:
        """Remove all faults of `inject_fault`, `reject`, `lose_reply` and `delay_sacct`."""
        shutil.rmtree(self.folder / "rules")
        (self.folder / "rules").mkdir()
        self.set(AccountingDelay=0)

    # calls and jobs

    def calls(self, command: str) -> list[Call]:
        """Return the calls of a command in order."""
        calls = []
        for number in self._cluster.numbers(f"calls/{command}"):
            record = read_record(f"{self.folder}/calls/{command}/{number}")
            environment = dict(pair.partition("=")[::2] for pair in record["Environ"].split("\0"))
            calls.append(Call(number, record["Argv"].split("\0"), environment, record["Cwd"], float(record["Time"])))
        return calls

    def job(self, job_id: str | int) -> Job:
        """Return the record of a job or of an array's task: State, ExitCode, Comment, Restarts …"""
        job = self._cluster.job(str(job_id))
        assert job is not None, f"no Slurm job {job_id}"
        return job

    def jobs(self, state: str | None = None) -> list[str]:
        """Return the ids of all jobs, or of those in a state; arrays as their tasks."""
        return [job_id_of(job) for job in self._cluster.jobs() if state in (None, job["State"])]

    # state changes

    def set_state(self, job_id: str | int, state: str, reason: str = "", **record: str) -> None:
        """Set the state of a job: TIMEOUT, PREEMPTED …, or PENDING with a reason such as PartitionTimeLimit.

        The process of a running job is terminated, or killed for states such as OUT_OF_MEMORY and NODE_FAIL.
        record: other values, such as ExitCode="0:9".
        """
        with self._runner.lock:
            lifecycle.set_state(self._cluster, self.job(job_id), state, reason, **record)

    def purge(self, job_id: str | int) -> None:
        """Remove an ended job from squeue and scontrol, as real Slurm does after minutes; sacct still shows it."""
        self._cluster.update(job_id_of(self.job(job_id)), Purged="1")

    def delete(self, job_id: str | int) -> None:
        """Remove a job from the controller and from accounting."""
        name = job_id_of(self.job(job_id))
        for path in [self.folder / "jobs" / name, *(self.folder / "jobs").glob(f"{name}_*")]:
            path.unlink(missing_ok=True)

    def reuse_ids_from(self, number: int) -> None:
        """Let the next job have this id, and so on. Ended jobs with such ids are removed; others keep theirs."""
        for job_id in self.jobs():
            job = self.job(job_id)
            if int(job["JobId"]) >= number and job["State"] in ENDED:
                self.delete(job_id)
        for path in (self.folder / "jobs").iterdir():
            if path.name.isdigit() and int(path.name) >= number and not self._cluster.tasks(path.name):
                path.unlink()
        write_file(f"{self.folder}/jobs.next", str(number))

    def requeue(self, job_id: str | int, kill: bool = True) -> None:
        """Requeue a job. With kill=False its process runs on, as on a node that has only lost its connection."""
        with self._runner.lock:
            job = self.job(job_id)
            lifecycle.requeue(self._cluster, job, kill=kill)
            if not kill:
                self._runner.detach(job_id_of(job))

    def preempt(self, job_id: str | int) -> None:
        """End a running job in favor of another, as PreemptMode=CANCEL does; for PreemptMode=REQUEUE use `requeue`."""
        with self._runner.lock:
            lifecycle.preempt(self._cluster, self.job(job_id))

    def signal(self, job_id: str | int, number: int = signal.SIGUSR1) -> None:
        """Send a signal to the batch script, as --signal=B:… does."""
        os.kill(int(self.job(job_id)["Pid"]), number)

    # running jobs

    def start(self, job_id: str | int) -> int | None:
        """Start a pending job. Returns its process id, or None if its script cannot be started: the job has failed."""
        return self._runner.start(job_id_of(self.job(job_id)))

    def wait(self, job_id: str | int, seconds: float = 60) -> str:
        """Wait until a job that was started has ended. Returns its state."""
        self._runner.wait(job_id_of(self.job(job_id)), seconds)
        return self.job(job_id)["State"]

    def run_all(self, parallel: int = 1, seconds: float = 60) -> None:
        """Run all jobs that may start, also those that they submit, `parallel` at a time, until none is left."""
        self._runner.run_all(parallel, seconds)

    def running(self, parallel: int = 1) -> AbstractContextManager[None]:
        """Run jobs in the background, also those that are submitted meanwhile, while the block lasts."""
        return self._runner.running(parallel)

    def stop(self) -> None:
        """Kill the jobs that still run."""
        self._runner.stop()


@pytest.fixture
def fake_slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    """Fake Slurm commands, first on the PATH, and an empty queue."""
    folder = tmp_path_factory.mktemp("fake-slurm")
    create_cluster(folder)
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    slurm = FakeSlurm(folder)
    yield slurm
    slurm.stop()
