"""What tests share: a real Slurm, real data, and libraries that keep to one thread."""
from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "tests" / "cluster"
DAEMONS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "DEADLINE", "BOOT_FAIL"}

# before torch or matplotlib is imported, and for the processes that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# a busy machine is no failure; the examples themselves are bounded by their number
hypothesis.settings.register_profile("gridiron", hypothesis.settings.default, deadline=None,
                                     suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("gridiron")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What wants a real Slurm comes first, since it mostly waits; the order is the same else."""
    items.sort(key=lambda item: not _wants_slurm(str(item.path)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For the processes of `make test`: files stay whole, and one process has all that wants a real Slurm, of which
    there is one."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "slurm" if _wants_slurm(str(config.rootpath / file)) else file

    return Scheduling(config, log)


@functools.cache
def _wants_slurm(path: str) -> bool:
    return any(words in Path(path).read_text("utf-8") for words in ("slurm: Slurm", 'usefixtures("slurm")'))


@dataclass(frozen=True)
class Slurm:
    """A running cluster. SLURM_CONF is set, so sbatch, squeue, sacct and scontrol speak to it by themselves."""

    folder: Path

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """What the command prints, stripped; fails the test with its stderr if it fails."""
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: exit {done.returncode}: {done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Slurm's word for the job's state, such as PENDING or COMPLETED."""
        return self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")

    def restart(self, job: str, done: Callable[[], bool], seconds: float = 150) -> None:
        """Have a requeued job start soon, and not after the two minutes that Slurm makes it wait; until `done`."""
        time.sleep(6)  # its old processes must be gone: Slurm would take their end for that of the new ones
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                pytest.fail(f"not done: {self.run('scontrol', 'show', 'job', job)}\n{self.run('sinfo', '-N', '-l')}")
            subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], stderr=subprocess.DEVNULL)
            time.sleep(4)  # an update puts a start off: leave the scheduler time for one

    def wait(self, job: str, *states: str, seconds: float = 60) -> str:
        """Wait until the job is in one of `states` (default: until it has ended); its state."""
        wanted = set(states) or ENDED
        end = time.monotonic() + seconds
        while (state := self.state(job)) not in wanted:
            assert time.monotonic() < end, f"Slurm job {job} is {state} after {seconds} s, not one of {wanted}"
            time.sleep(0.1)
        return state


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A real four-node Slurm on this machine, for the session: its own, or the one in $GRIDIRON_CLUSTER, which is kept.

    Skips the test where it cannot run; fails it instead if $GRIDIRON_REQUIRE_SLURM is 1.
    """
    missing = [daemon for daemon in DAEMONS if not shutil.which(daemon)]
    if os.geteuid() != 0 or missing:
        reason = f"tests on a real Slurm need root and {', '.join(DAEMONS)}"
        (pytest.fail if os.environ.get("GRIDIRON_REQUIRE_SLURM") == "1" else pytest.skip)(reason)
    kept = os.environ.get("GRIDIRON_CLUSTER")
    folder = Path(kept or tempfile.mkdtemp(prefix="gridiron-slurm-"))
    before = os.environ.get("SLURM_CONF")
    try:
        subprocess.run([CLUSTER / "up.sh", folder], check=True, stdout=subprocess.DEVNULL)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield Slurm(folder)
    finally:
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
        if not kept:
            subprocess.run([CLUSTER / "down.sh", folder], check=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with a9a and MNIST's test images: $GRIDIRON_DATA, or ../shared/data beside the project."""
    folder = Path(os.environ.get("GRIDIRON_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "a9a").is_file():
        pytest.skip("tests on real data need a9a and MNIST's test images in $GRIDIRON_DATA or ../shared/data")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Skips by a fixture here are told at the fixture's line, not at each test's: pytest then makes them one line."""
    report = yield
    if report.skipped and call.excinfo:
        here = [entry.lineno + 1 for entry in call.excinfo.traceback if str(entry.path) == __file__]
        if here:
            report.longrepr = (__file__, here[-1], f"Skipped: {call.excinfo.value}")
    return report
