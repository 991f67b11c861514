"""On a real Slurm, runs are executed to their end exactly once, whatever is killed, stopped or submitted twice.

Each run appends a line to its file `executed` at its end. `make chaos` repeats the random parts many more times;
GRIDIRON_CHAOS_SEED repeats their random instants.
"""
from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.submission.status import status
from src.submission.status.observe import observe
from tests.conftest import CLUSTER, ROOT, Slurm
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm

__all__ = ["fake_slurm"]  # the fixture

CHAOS = os.environ.get("GRIDIRON_CHAOS") == "1"  # `make chaos` runs all of it
KILLS, RUNS, SUBMITTERS = (200, 100, 20) if CHAOS else (6, 20, 8)
SEED = int(os.environ.get("GRIDIRON_CHAOS_SEED", "0")) or random.randrange(1, 2**31)
QUEUE = 400  # maximum number of waiting Slurm jobs while batches are submitted

SCRIPT = f"""#!/bin/bash
#SBATCH --time=5 --requeue --open-mode=append --cpus-per-task=1 --mem=100
exec {sys.executable} train.py "$@"
"""
SPEC = "job_details: {{name: {name}, output_dir: results}}\nparameters: {{{parameters}}}\n"


# The most difficult instants: call number N of sbatch kills its caller, `before` it contacts Slurm, `after` Slurm has
# answered, or `late`: the request reaches Slurm when the next submitter is already running.
KILLER = """#!/bin/sh
case "$*" in *--test-only*) exec {sbatch} "$@";; esac
number=$(($(wc -l <{calls}) + 1))
echo >>{calls}
if [ $number -ne {number} ]; then exec {sbatch} "$@"; fi
if [ {when} = after ]; then {sbatch} "$@" >/dev/null; fi
kill -9 $PPID
if [ {when} = late ]; then sleep 1 && exec {sbatch} "$@"; fi
"""


def instants(chance: random.Random, number: int) -> list[float]:
    """Return random fractions of a duration in random order, one within each of `number` equal pieces, so that they
    cover all of it.
    """
    spread = [(piece + chance.random()) / number for piece in range(number)]
    chance.shuffle(spread)
    return spread


class Project:
    """A folder with the real entry points, started as their users start them, and a train.py without torch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("submit_multiple.py", "experiments.py"):
            shutil.copy(ROOT / name, folder)
        (folder / "src").symlink_to(ROOT / "src")
        (folder / "train.py").write_text((ROOT / "tests" / "submission" / "entry.py").read_text())
        (folder / "s.sh").write_text(SCRIPT)

    def write_spec(self, name: str, parameters: str) -> list[str]:
        """Write a job spec of that name, and return the arguments that submit it."""
        (self.folder / f"{name}.yaml").write_text(SPEC.format(name=name, parameters=parameters))
        return [f"{name}.yaml", "-s", "s.sh", "-y"]

    def start(self, arguments: list[str], program: str = "submit_multiple.py") -> subprocess.Popen[str]:
        """Start a program with these arguments in a new process group."""
        return subprocess.Popen([sys.executable, program, *arguments], cwd=self.folder, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0)

    def submit(self, arguments: list[str], code: int = 0, program: str = "submit_multiple.py") -> str:
        """Run a program, expect the exit code, and return its output."""
        process = self.start(arguments, program)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == code, output
        return output

    def resubmit(self, arguments: list[str]) -> None:
        """Repeat the command, which submits the remaining runs, or reports that there are none."""
        process = self.start(arguments)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0 or "no run can be submitted now" in output, output

    def batch(self, name: str) -> Path:
        only, = (self.folder / "results").glob(f"*-{name}")
        return only

    def counts(self, name: str) -> dict[str, int]:
        return status.counts(observe([str(self.batch(name))])[0])

    def wait(self, name: str, seconds: float = 300, **expected: int) -> None:
        """Wait until the states of the batch's runs are these."""
        end = time.monotonic() + seconds
        while (counts := self.counts(name)) != expected:
            assert time.monotonic() < end, f"{name}: {counts}, not {expected}"
            time.sleep(0.3)

    def executed(self, name: str) -> dict[str, int]:
        """Return how many times each run was executed to its end, by its own record."""
        return {run.name: len(record.read_text().split()) if (record := run / "executed").exists() else 0
                for run in self.batch(name).iterdir() if run.name[0].isdigit()}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDIRON_TEST_ROOT", str(ROOT))
    # Python starts thousands of times: use byte code, but store none beside the sources
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "bytecode"))


@pytest.fixture
def project(slurm: Slurm, tmp_path: Path) -> Iterator[Project]:
    yield Project(tmp_path)
    repair_cluster(slurm)  # a failed test must not affect the next one


def assert_each_once(project: Project, name: str, runs: int) -> None:
    """Assert that every run of the batch was executed to its end exactly once, and that status agrees."""
    executed = project.executed(name)
    assert len(executed) == runs, f"seed {SEED}: {runs - len(executed)} run folders are missing"
    wrong = {run: times for run, times in executed.items() if times != 1}
    assert not wrong, f"seed {SEED}: executed more or less often than once: {wrong}; {project.counts(name)}"
    assert project.counts(name) == {"done": runs}


def jobs_of(project: Project, name: str) -> list[str]:
    """Return the Slurm jobs of a batch, according to its journals."""
    texts = [path.read_text() for path in (project.batch(name) / "submissions").glob("*.jsonl")]
    return re.findall(r'"slurm_job": "(\d+)"', "".join(texts))


def daemons(slurm: Slurm, name: str) -> list[int]:
    """Return the process ids of the cluster's daemons of that name; only they have its folder in their environment."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            ours = f"GRIDIRON_CLUSTER_DAEMON={slurm.folder}".encode() in (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if ours and " ".join(word.decode() for word in command).strip() == name:
            pids.append(int(path.name))
    return pids


def start_daemon(slurm: Slurm, *command: str) -> None:
    """Start a daemon of the cluster again, as tests/cluster/up.sh does."""
    with open(slurm.folder / "log" / f"{Path(command[0]).name}-again.out", "a") as log:
        subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                         env={**os.environ, "GRIDIRON_CLUSTER_DAEMON": str(slurm.folder)})


def repair_cluster(slurm: Slurm) -> None:
    """Start the controller and resume drained nodes, as an administrator does after a failure."""
    if not daemons(slurm, "slurmctld -D"):
        start_daemon(slurm, "slurmctld", "-D")
    end = time.monotonic() + 300
    while subprocess.run(["sinfo", "--noheader", "--responding", "--states=idle,alloc,mix", "--format=%D"], text=True,
                         capture_output=True).stdout.strip() != "4":
        assert time.monotonic() < end, "the controller did not come back, or not with all nodes"
        for node in range(1, 5):
            subprocess.run(["scontrol", "update", f"nodename=node{node}", "state=resume"], capture_output=True)
        time.sleep(0.5)


def wait_until_submitted(project: Project, name: str, jobs: int) -> None:
    end = time.monotonic() + 300
    while not list((project.folder / "results").glob(f"*-{name}")) or len(jobs_of(project, name)) < jobs:
        assert time.monotonic() < end, f"fewer than {jobs} Slurm jobs after a minute"
        time.sleep(0.01)


def settle(project: Project, name: str, runs: int, arguments: list[str]) -> None:
    """Wait until all runs are done, and act as a user would: cancel stuck runs, retry those that were lost,
    cancelled or never started by their node (a slurmd that has lost the script), and repeat the command for the others.
    """
    end = time.monotonic() + 600
    batch = str(project.batch(name))
    while (counts := project.counts(name)) != {"done": runs}:
        failed_attempts = [run.path for run in observe([str(project.batch(name))])[0].runs.values()
                            if run.state.name == "failed" and run.attempt] if "failed" in counts else []
        assert time.monotonic() < end and not failed_attempts, f"seed {SEED}: {name}: {counts}: {failed_attempts}"
        if not {"pending", "running", "unknown", "submitted"} & counts.keys():
            print(f"{name}: {counts}")
            if "stuck" in counts:
                project.submit(["cancel", "--state", "stuck", "-y", batch], program="experiments.py")
            elif {"lost", "cancelled", "failed"} & counts.keys():
                project.resubmit(["-r", batch, "-y"])
            else:
                project.resubmit(arguments)
        time.sleep(0.5)


@pytest.fixture
def stopped(slurm: Slurm) -> Iterator[list[int]]:
    """The ids of processes that a test stops; they are continued when it ends."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def test_second_execution_would_be_detected(project: Project, slurm: Slurm) -> None:
    arguments = project.write_spec("control", "batch_size: 1")
    project.submit(arguments)
    project.wait("control", done=1)
    assert_each_once(project, "control", 1)
    run, = (path for path in project.batch("control").iterdir() if path.name[0].isdigit())
    for name in ("claim-1", "done", "attempt-1-0.json"):  # remove everything that keeps a second job from running it
        (run / name).unlink()
    job = slurm.run("sbatch", "--parsable", "--output=/dev/null", "s.sh", run / "spec.yaml", cwd=project.folder)
    slurm.wait(job)
    with pytest.raises(AssertionError, match="more or less often than once"):
        assert_each_once(project, "control", 1)


def test_submitter_killed_at_any_instant_loses_nothing(project: Project, slurm: Slurm) -> None:
    """kill -9 at a random instant of a submission, with or without the sbatch that it has just called."""
    chance = random.Random(SEED)
    print(f"GRIDIRON_CHAOS_SEED={SEED}")
    start = time.monotonic()
    commands = {name: project.write_spec(name, f"batch_size: 1, seed_model: range({RUNS})")
                for name in ("calm", *(f"killed-{number}" for number in range(KILLS)))}
    project.submit(commands["calm"])
    duration = time.monotonic() - start
    kills = 0
    for arguments, part in zip(list(commands.values())[1:], instants(chance, KILLS), strict=True):
        while len(slurm.run("squeue", "--noheader").splitlines()) > QUEUE:
            time.sleep(0.5)
        process = project.start(arguments)
        time.sleep(part * duration)
        if chance.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        project.resubmit(arguments)
    assert kills >= KILLS / 3, "most had ended before they were killed"
    for name, arguments in commands.items():
        settle(project, name, RUNS, arguments)
        assert_each_once(project, name, RUNS)


@pytest.mark.parametrize("when", ["before", "after", "late"])
@pytest.mark.parametrize("number", [1, 2, 20] if CHAOS else [2])
def test_submitter_killed_during_a_call_of_sbatch_loses_nothing(project: Project, monkeypatch: pytest.MonkeyPatch,
                                                                number: int,
                                                                when: str) -> None:
    calls, killer = project.folder / "calls", project.folder / "bin" / "sbatch"
    calls.touch()
    killer.parent.mkdir()
    killer.write_text(KILLER.format(sbatch=shutil.which("sbatch"), calls=calls, number=number, when=when))
    killer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{killer.parent}:{os.environ['PATH']}")
    arguments = project.write_spec("shot", "batch_size: 1, seed_model: range(20)")
    project.submit(arguments, code=-signal.SIGKILL)
    assert len(calls.read_text()) == number
    project.resubmit(arguments)
    time.sleep(1)  # the late request has arrived
    settle(project, "shot", 20, arguments)
    assert_each_once(project, "shot", 20)


def test_many_submitters_at_once_submit_each_run_once(project: Project) -> None:
    arguments = project.write_spec("crowd", f"batch_size: 1, seed_model: range({RUNS})")
    crowd = [project.start(arguments) for _ in range(SUBMITTERS)]
    outputs = [process.communicate(timeout=300)[0] for process in crowd]
    for process, output in zip(crowd, outputs, strict=True):
        assert process.returncode == 0 or "submitted now" in output or "another" in output, output
    settle(project, "crowd", RUNS, arguments)
    assert_each_once(project, "crowd", RUNS)


def test_killed_and_concurrent_extensions_add_each_run_once(project: Project) -> None:
    """Each extension is killed at a random instant, and then continued by three processes at once."""
    chance = random.Random(SEED)
    print(f"GRIDIRON_CHAOS_SEED={SEED}")
    arguments, runs = project.write_spec("grows", "batch_size: 1, seed_model: range(4)"), 4
    start = time.monotonic()
    project.submit(arguments)
    duration = time.monotonic() - start
    for _ in range(20 if CHAOS else 3):
        runs += 4
        project.write_spec("grows", f"batch_size: 1, seed_model: range({runs})")
        process = project.start([*arguments, "--extend"])
        time.sleep(chance.uniform(0.3, 1) * duration)
        process.kill()
        process.communicate()
        crowd = [project.start([*arguments, "--extend"]) for _ in range(3)]
        for process in crowd:
            output = process.communicate(timeout=300)[0]
            assert process.returncode == 0 or "submitted now" in output or "another process" in output, output
    settle(project, "grows", runs, arguments)
    assert_each_once(project, "grows", runs)
    numbers = sorted(int(run.name[:3]) for run in project.batch("grows").iterdir() if run.name[0].isdigit())
    assert numbers == list(range(runs))


@pytest.mark.parametrize("after", [0, 1, 7] if CHAOS else [3])
def test_hanging_controller_during_a_submission(project: Project, slurm: Slurm, stopped: list[int],
                                                after: int) -> None:
    arguments = project.write_spec("hangs", "batch_size: 1, seed_model: range(20)")
    process = project.start(arguments)
    wait_until_submitted(project, "hangs", after)
    stopped += daemons(slurm, "slurmctld -D")
    assert len(stopped) == 1
    os.kill(stopped[0], signal.SIGSTOP)
    time.sleep(15 if CHAOS else 8)  # longer than MessageTimeout, after which sbatch gives up
    os.kill(stopped[0], signal.SIGCONT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 or "Socket timed out" in output or "nable to contact" in output, output
    project.resubmit(arguments)
    settle(project, "hangs", 20, arguments)
    assert_each_once(project, "hangs", 20)


@pytest.mark.parametrize(("after", "how"), [
    (3, signal.SIGTERM), *([(0, signal.SIGTERM), (1, signal.SIGTERM), (10, signal.SIGKILL)] if CHAOS else [])])
def test_killed_controller_during_a_submission(project: Project, slurm: Slurm, after: int,
                                               how: signal.Signals) -> None:
    """After TERM the controller saves its queue. After KILL it has lost jobs that it had just accepted and that run:
    they count as lost after five minutes, and are retried. It reuses their ids for jobs that are stuck because a node
    has such an id already.
    """
    arguments = project.write_spec("dies", "batch_size: 1, seed_model: range(20)")
    process = project.start(arguments)
    wait_until_submitted(project, "dies", after)
    pid, = daemons(slurm, "slurmctld -D")
    os.kill(pid, how)
    time.sleep(3)
    start_daemon(slurm, "slurmctld", "-D")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 or "nable to contact" in output or "answer was lost" in output, output
    repair_cluster(slurm)
    project.resubmit(arguments)
    settle(project, "dies", 20, arguments)
    assert_each_once(project, "dies", 20)


def test_lost_node_under_a_run(project: Project, slurm: Slurm) -> None:
    """The old attempt runs beside the requeued one until it checks whether it was superseded."""
    arguments = project.write_spec("lost", "batch_size: 18, SBATCH: {nodelist: node1}")
    project.submit(arguments)
    project.wait("lost", running=1)
    job, = jobs_of(project, "lost")
    slurmd, = daemons(slurm, "slurmd -D -N node1")
    os.kill(slurmd, signal.SIGKILL)
    try:
        slurm.wait(job, "PENDING", seconds=300)  # requeued, since the node does not answer
    finally:
        start_daemon(slurm, str(CLUSTER / "node.sh"), str(slurm.folder), "node1")
    run, = (path for path in project.batch("lost").iterdir() if path.name[0].isdigit())
    slurm.restart(job, (run / "attempt-1-1.json").exists)
    (project.batch("lost") / "go").touch()
    project.wait("lost", done=1)
    time.sleep(1)  # if the old attempt still ended, it would end now
    assert_each_once(project, "lost", 1)


def test_preemption_by_a_higher_partition(project: Project, slurm: Slurm) -> None:
    arguments = project.write_spec("preempted", "batch_size: 18, SBATCH: {nodelist: node2, cpus-per-task: 8}")
    project.submit(arguments)
    project.wait("preempted", running=1)
    job, = jobs_of(project, "preempted")
    higher = slurm.run("sbatch", "--parsable", "--partition=owner", "--nodelist=node2", "--cpus-per-task=8",
                       "--output=/dev/null", "--wrap=true", cwd=project.folder)
    assert slurm.wait(higher, seconds=300) == "COMPLETED"
    run, = (path for path in project.batch("preempted").iterdir() if path.name[0].isdigit())
    slurm.restart(job, (run / "attempt-1-1.json").exists)
    (project.batch("preempted") / "go").touch()
    project.wait("preempted", done=1)
    assert_each_once(project, "preempted", 1)


def test_retry_skips_pending_and_running_runs(project: Project, slurm: Slurm) -> None:
    arguments = project.write_spec("pending", f"batch_size: 1, seed_model: range({RUNS})")
    project.submit([*arguments, "--sbatch", "hold=true"])
    retries = [project.start(["-r", str(project.batch("pending")), "-y"]) for _ in range(4)]
    for retry in retries:
        assert "nothing to submit" in retry.communicate(timeout=300)[0]
    jobs = jobs_of(project, "pending")
    assert len(jobs) == RUNS
    slurm.run("scontrol", "release", ",".join(jobs))
    project.submit(["-r", str(project.batch("pending")), "-y"])  # some pending, some running, some done
    settle(project, "pending", RUNS, arguments)
    assert_each_once(project, "pending", RUNS)


def test_run_that_reaches_its_time_limit_is_retried(project: Project, slurm: Slurm) -> None:
    arguments = project.write_spec("limit", "batch_size: [18, 1]")
    project.submit([*arguments, "--sbatch", "time=1"])
    if not CHAOS:  # saves half a minute
        project.wait("limit", running=1, done=1)
        slurm.run("scontrol", "update", f"jobid={jobs_of(project, 'limit')[0]}", "EndTime=now+1")
    project.wait("limit", seconds=240, timeout=1, done=1)
    (project.batch("limit") / "go").touch()
    project.submit(["-r", str(project.batch("limit")), "-y", "--sbatch", "time=5"])
    project.wait("limit", done=2)
    assert_each_once(project, "limit", 2)


def test_out_of_memory_is_retried_only_on_request(tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    """With the fake Slurm, because only cgroups kill for memory. Without more of it, the run is not retried."""
    project = Project(tmp_path)
    arguments = project.write_spec("memory", "batch_size: [18, 1]")
    project.submit(arguments)
    hungry, other = jobs_of(project, "memory")
    fake_slurm.start(hungry)
    project.wait("memory", running=1, pending=1)
    fake_slurm.set_state(hungry, "OUT_OF_MEMORY", MaxRSS="100M", ExitCode="0:125")
    fake_slurm.start(other)
    project.wait("memory", out_of_memory=1, done=1)
    (project.batch("memory") / "go").touch()
    retry = ["-r", str(project.batch("memory")), "-y"]
    assert "nothing to submit" in project.submit(retry)
    project.submit([*retry, "--state", "out_of_memory", "--sbatch", "mem=200"])
    fake_slurm.run_all()
    assert_each_once(project, "memory", 2)
