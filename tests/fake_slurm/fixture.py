"""The fixture `fake_slurm`: Slurm's commands as stand-ins first on the PATH, with knobs for their faults.

    from tests.fake_slurm.fixture import FakeSlurm, fake_slurm

docs/testing.md tells how it is used.
"""
from __future__ import annotations

import functools
import os
import py_compile
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake_slurm import program

KINDS = (*program.NAMES, program.TEST_ONLY)  # of calls
KILL_WAIT = 2.0  # seconds between TERM and KILL


@dataclass(frozen=True)
class Call:
    """One call of a command. argv: as it was given, the command's name first; time: unix seconds."""

    number: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    time: float


@functools.cache
def _compiled() -> bytes:
    """The program as byte code: a call then costs little more than a Python start."""
    with tempfile.TemporaryDirectory() as folder:
        py_compile.compile(program.__file__, path := f"{folder}/program.pyc", doraise=True)
        return Path(path).read_bytes()


def set_up(folder: Path) -> None:
    """Make the state folder, and in its bin/ the commands."""
    for name in ("bin", "jobs", "scripts", "rules", "rate", *(f"calls/{kind}" for kind in KINDS)):
        (folder / name).mkdir(parents=True)
    (folder / "bin" / ".program.pyc").write_bytes(_compiled())
    python = getattr(sys, "_base_executable", sys.executable)  # a virtual environment's starts later
    words = shlex.join([python, "-ISE", "-X", "utf8", f"{folder}/bin/.program.pyc"])
    wrapper = folder / "bin" / ".slurm"
    wrapper.write_text(f'#!/bin/sh\nexec {words} "$0" "$@"\n')
    wrapper.chmod(0o755)
    for name in program.NAMES:
        (folder / "bin" / name).symlink_to(".slurm")
    program.write(f"{folder}/settings", program.dump(program.SETTINGS))


@dataclass
class _Started:
    process: subprocess.Popen[bytes]
    told: float | None = None  # when it was told to end, by the clock of `time.monotonic`


class FakeSlurm:
    """A cluster in a folder. Its jobs stay pending until `start`, `run_all` or `running` runs them, on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, _Started] = {}
        self._twins: list[subprocess.Popen[bytes]] = []
        self._lock = threading.RLock()

    @property
    def _cluster(self) -> program.Cluster:
        return program.Cluster(str(self.folder))  # with the settings of this moment

    # knobs

    def set(self, **settings: object) -> None:
        """Change the cluster: MaxArraySize=10, MaxSubmitJobs=5 … (all are in program.SETTINGS)."""
        assert settings.keys() <= program.SETTINGS.keys(), f"a setting is one of {', '.join(program.SETTINGS)}"
        values = {key: str(value) for key, value in settings.items()}
        program.write(f"{self.folder}/settings", program.dump({**self._cluster.settings, **values}))

    def on(self, command: str, nth: int | Iterable[int] | None = None, *, accept: bool = True,
           stdout: str | None = None, stderr: str | None = None, code: int | None = None, delay: float = 0,
           hang: float = 0, kill: bool = False) -> None:
        """Have calls of a command go wrong: the nth from now on (from 1), several, or all of them.

        accept: whether the command does its work; stdout: instead of what it prints; stderr: a line on top of its own;
        code: its exit status; delay, hang: seconds before and after its work; kill: it dies then, with no answer.
        """
        assert command in KINDS
        wanted = [] if nth is None else [nth] if isinstance(nth, int) else list(nth)
        calls = self._cluster.numbers(f"calls/{command}")
        rule = {"Command": command, "Nth": ",".join(map(str, wanted)), "Base": str(calls[-1] if calls else 0),
                "Accept": "1" if accept else "0", "Delay": str(delay), "Hang": str(hang)}
        optional = {"Stdout": stdout, "Stderr": stderr, "Code": code, "Kill": "1" if kill else None}
        rule.update({key: str(value) for key, value in optional.items() if value is not None})
        self._cluster.take("rules", program.dump(rule))

    def refuse(self, name: str, nth: int | Iterable[int] | None = None, command: str = "sbatch") -> None:
        """Refuse in Slurm's own words: a name of program.WORDS, or sacct's accounting_away and accounting_disabled."""
        words = program.words_for(name, command)
        self.on(command, nth, accept=False, stdout="", stderr=words, code=1)

    def lose_answer(self, nth: int | Iterable[int] | None = None, name: str = "socket_timed_out") -> None:
        """sbatch makes the job and says that it failed."""
        self.on("sbatch", nth, stdout="", stderr=program.words_for(name), code=1)

    def sacct_is_late(self, seconds: float = 0, calls: int = 0) -> None:
        """sacct shows what was so many seconds ago; and nothing at all for so many calls from now on."""
        self.set(AccountingDelay=seconds)
        if calls:
            self.on("sacct", range(1, calls + 1), stdout="", code=0)

    def mend(self) -> None:
        """Forget all that `on`, `refuse`, `lose_answer` and `sacct_is_late` asked for."""
        shutil.rmtree(self.folder / "rules")
        (self.folder / "rules").mkdir()
        self.set(AccountingDelay=0)

    # books

    def calls(self, command: str) -> list[Call]:
        """The calls of a command, in order."""
        found = []
        for number in self._cluster.numbers(f"calls/{command}"):
            record = program.load(program.read(f"{self.folder}/calls/{command}/{number}"))
            pairs = (pair.partition("=") for pair in record["Environ"].split("\0"))
            found.append(Call(number, record["Argv"].split("\0"), {key: value for key, _, value in pairs},
                              record["Cwd"], float(record["Time"])))
        return found

    def job(self, job: str | int) -> dict[str, str]:
        """The record of a Slurm job or of an array's task: State, ExitCode, Comment, Restarts …"""
        record = self._cluster.job(str(job))
        assert record is not None, f"there is no Slurm job {job}"
        return record

    def jobs(self, state: str | None = None) -> list[str]:
        """The ids of all Slurm jobs, or of those in a state; arrays as their tasks."""
        return [program.name_of(job) for job in self._cluster.jobs() if state in (None, job["State"])]

    # what becomes of jobs

    def set_state(self, job: str | int, state: str, reason: str = "", **record: str) -> None:
        """Put a job into a state (TIMEOUT, PREEMPTED …; a pending one with a reason: PartitionTimeLimit …).

        If it runs, it is told to end, or killed where it ran out of memory or lost its node. record: other values,
        such as ExitCode="0:9".
        """
        now = str(time.time())
        with self._lock:
            old = self.job(job)
            times = {"End": old["End"] or now, "Start": old["Start"] or now} if state in program.ENDED else {}
            self._cluster.update(program.name_of(old), **{"State": state, "Reason": reason, **times, **record})
            if old["Pid"] and state in ("OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL"):  # these ask nobody
                os.killpg(int(old["Pid"]), signal.SIGKILL)
            elif old["Pid"] and state != "RUNNING":
                program.end_process(int(old["Pid"]))

    def forget(self, job: str | int) -> None:
        """The controller knows the job no more (squeue, scontrol), as minutes after its end; sacct does."""
        self._cluster.update(program.name_of(self.job(job)), Forgotten="1")

    def lose(self, job: str | int) -> None:
        """Nobody knows the job any more."""
        name = program.name_of(self.job(job))
        for path in [self.folder / "jobs" / name, *(self.folder / "jobs").glob(f"{name}_*")]:
            path.unlink(missing_ok=True)

    def reuse_ids_from(self, number: int) -> None:
        """The next job gets this id, and so on. Jobs that ended with such an id are forgotten; living ones keep it."""
        for job in self.jobs():
            record = self.job(job)
            if int(record["JobId"]) >= number and record["State"] in program.ENDED:
                self.lose(job)
        for path in (self.folder / "jobs").iterdir():
            if path.name.isdigit() and int(path.name) >= number and not self._cluster.tasks(path.name):
                path.unlink()
        program.write(f"{self.folder}/jobs.next", str(number))

    def requeue(self, job: str | int, kill: bool = True) -> None:
        """Back into the queue. kill=False: the old process goes on, as when its node was only cut off."""
        name = program.name_of(self.job(job))
        with self._lock:
            program.requeue(self._cluster, name, kill=kill)
            if not kill and (old := self._running.pop(name, None)):
                self._twins.append(old.process)

    def preempt(self, job: str | int) -> None:
        """End a job for another, as PreemptMode=CANCEL does; `requeue` is what PreemptMode=REQUEUE does."""
        record = self.job(job)
        with self._lock:
            now = str(time.time())
            self._cluster.update(program.name_of(record), State="PREEMPTED", PreemptTime=now, End=now)
            program.end_process(int(record["Pid"]))

    def signal(self, job: str | int, number: int = signal.SIGUSR1) -> None:
        """A signal to the batch script, as --signal=B:… sends it."""
        os.kill(int(self.job(job)["Pid"]), number)

    # running them

    def start(self, job: str | int) -> int | None:
        """Run a pending job's script now. Its process id; None if it could not be started, which is a state too."""
        name = program.name_of(self.job(job))
        with self._lock:
            self._finish(name)
            record = self._begin(name)
            script = self.folder / "scripts" / record["Call"] / "slurm_script"
            script.chmod(0o755)
            try:
                with ExitStack() as files:
                    out, err = (files.enter_context(open(self._log(record, which), "ab")) for which in (
                        "Output", "Error"))
                    process = subprocess.Popen([script, *filter(None, record["Args"].split("\0"))],
                                               cwd=record["WorkDir"], env=self._environment(record), stdout=out,
                                               stderr=err, stdin=subprocess.DEVNULL, start_new_session=True)
            except OSError:  # no such folder, as a rule
                self.set_state(name, "FAILED", "JobLaunchFailure", ExitCode="0:53")
                return None
            self._cluster.update(name, Pid=str(process.pid))
            self._running[name] = _Started(process)
            return process.pid

    def _finish(self, name: str) -> None:
        """Wait for the process of a job that was put back into the queue."""
        while name in self._running:
            self._reap()
            time.sleep(0.005)

    def _begin(self, name: str) -> dict[str, str]:
        """Mark a job as running. A task of an array takes an id of its own, the last one the array's."""
        record = self.job(name)
        assert record["State"] == "PENDING", f"Slurm job {name} is {record['State']}, not pending"
        raw = record.get("RawId") or record["JobId"]
        if record["Tasks"] and "RawId" not in record:
            waiting = [row for row in self._cluster.tasks(record["JobId"]) if row["State"] == "PENDING"]
            raw = str(self._cluster.take("jobs", program.dump({"TaskOf": name}))) if len(waiting) > 1 else raw
        wanted = set(filter(None, record["Features"].split(",")))
        node = next((row[0] for row in self._cluster.nodes() if wanted <= set(row[4].split(","))), "node1")
        self._cluster.update(name, State="RUNNING", Reason="", Start=str(time.time()), End="", NodeList=node, RawId=raw)
        return self.job(name)

    def _log(self, record: dict[str, str], which: str) -> str:
        path = program.output_path(record, which)
        if record["OpenMode"] == "truncate" and os.path.isfile(path):
            os.truncate(path, 0)
        return path

    def _environment(self, record: dict[str, str]) -> dict[str, str]:
        """What sbatch was called with (SLURM_… too: an array's task that submits hands its own on), then the job's."""
        sent = program.load(program.read(f"{self.folder}/calls/sbatch/{record['Call']}"))["Environ"]
        given = dict(pair.partition("=")[::2] for pair in sent.split("\0"))
        words = record["Export"].split(",")
        wanted = {word for word in words if "=" not in word} | {"PATH", "HOME", "USER", "SHELL"}
        env = given if "ALL" in words else {key: value for key, value in given.items() if key in wanted or (
            key.startswith("SLURM_"))}
        env |= dict(word.partition("=")[::2] for word in words if "=" in word)
        raw, start, limit = record["RawId"], int(float(record["Start"])), int(record["TimeLimit"] or 365 * 86400)
        env |= {"FAKE_SLURM": str(self.folder), "SLURM_JOB_ID": raw, "SLURM_JOBID": raw, "SLURM_PROCID": "0",
                "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NAME": record["JobName"],
                "SLURM_JOB_PARTITION": record["Partition"], "SLURM_JOB_NODELIST": record["NodeList"],
                "SLURM_NODELIST": record["NodeList"], "SLURMD_NODENAME": record["NodeList"],
                "SLURM_JOB_NUM_NODES": record["Nodes"], "SLURM_NNODES": record["Nodes"],
                "SLURM_CPUS_ON_NODE": record["CPUs"], "SLURM_JOB_CPUS_PER_NODE": record["CPUs"],
                "SLURM_SUBMIT_DIR": record["SubmitDir"], "SLURM_CLUSTER_NAME": "fake",
                "SLURM_JOB_USER": record["User"], "SLURM_JOB_START_TIME": str(start),
                "SLURM_JOB_END_TIME": str(start + limit)}
        if record["CPUsPerTask"]:
            env["SLURM_CPUS_PER_TASK"] = record["CPUsPerTask"]
        if record["NumTasks"]:
            env["SLURM_NTASKS"] = record["NumTasks"]
        if record["Restarts"] != "0":
            env["SLURM_RESTART_COUNT"] = record["Restarts"]
        if record["Tasks"]:
            numbers = [int(task) for task in record["Tasks"].split(",")]
            env |= {"SLURM_ARRAY_JOB_ID": record["JobId"], "SLURM_ARRAY_TASK_ID": record["Task"],
                    "SLURM_ARRAY_TASK_COUNT": str(len(numbers)), "SLURM_ARRAY_TASK_MIN": str(min(numbers)),
                    "SLURM_ARRAY_TASK_MAX": str(max(numbers))}
        return env

    def wait(self, job: str | int, seconds: float = 60) -> str:
        """Wait until a job that `start` began has ended; its state."""
        end = time.monotonic() + seconds
        name = program.name_of(self.job(job))
        while name in self._running:
            assert time.monotonic() < end, f"Slurm job {name} still runs after {seconds} s"
            self._reap()
            time.sleep(0.005)
        return self.job(job)["State"]

    def run_all(self, parallel: int = 1, seconds: float = 60) -> None:
        """Run all jobs that may start, with those that they submit, `parallel` at a time, until none is left."""
        end = time.monotonic() + seconds
        queue: list[str] = []
        while self._tick(parallel, queue) or self._running:
            assert time.monotonic() < end, f"Slurm jobs still run after {seconds} s: {', '.join(self._running)}"
            time.sleep(0.005)

    @contextmanager
    def running(self, parallel: int = 1) -> Iterator[None]:
        """Run jobs in the background, as they come, for as long as the block lasts."""
        stop = threading.Event()

        def work() -> None:
            queue: list[str] = []
            while not stop.wait(0.01):
                self._tick(parallel, queue)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _tick(self, parallel: int, queue: list[str]) -> bool:
        """Note what has ended, and start what may start. queue: pending jobs seen earlier. Whether it started any."""
        with self._lock:
            self._reap()
            started = False
            if len(self._running) < parallel and not queue:
                queue += self.jobs("PENDING")
            while queue and len(self._running) < parallel:
                if self._may_start(name := queue.pop(0)):
                    self.start(name)
                    started = True
            return started or bool(queue)

    def _may_start(self, name: str) -> bool:
        job = self._cluster.job(name)
        if job is None or job["State"] != "PENDING" or job.get("Forgotten") or job["Reason"] not in ("", "BeginTime"):
            return False
        if name in self._running:  # its earlier process has still to end
            return False
        forecast = self._cluster.forecast(job)
        if forecast == "never" and job["KillOnInvalid"]:
            self.set_state(name, "CANCELLED", "DependencyNeverSatisfied")
        siblings = sum(other.startswith(f"{job['JobId']}_") for other in self._running)
        return forecast == "met" and siblings < int(job["Throttle"] or siblings + 1)

    def _reap(self) -> None:
        with self._lock:
            for name, started in list(self._running.items()):
                record, code = self._cluster.job(name), started.process.poll()
                current = record is not None and record["Pid"] == str(started.process.pid)
                ours = record is not None and current and record["State"] == "RUNNING"
                if code is None:
                    started.told = None if ours else started.told or time.monotonic()
                    if started.told and time.monotonic() > started.told + KILL_WAIT:
                        _kill(started.process)
                    continue
                _kill(started.process)  # what it left behind
                del self._running[name]
                if ours:
                    state = "COMPLETED" if code == 0 else "FAILED"
                    exit_code = f"0:{-code}" if code < 0 else f"{code}:0"
                    self._cluster.update(name, State=state, ExitCode=exit_code, End=str(time.time()), Pid="")
                elif current:
                    self._cluster.update(name, Pid="")

    def stop(self) -> None:
        """Kill what still runs."""
        with self._lock:
            for process in [started.process for started in self._running.values()] + self._twins:
                _kill(process)
                process.wait()
            self._running.clear()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def fake_slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    """Stand-ins for Slurm's commands, first on the PATH, with an empty queue."""
    folder = tmp_path_factory.mktemp("fake-slurm")
    set_up(folder)
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    fake = FakeSlurm(folder)
    yield fake
    fake.stop()
