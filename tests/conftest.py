"""Fixtures and settings for all tests: a real Slurm, real data, and libraries limited to one thread."""
from __future__ import annotations

import functools
import logging
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

from src.io import user_settings

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "tests" / "cluster"
DAEMONS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "DEADLINE", "BOOT_FAIL"}

# set before torch or matplotlib is imported; inherited by the processes that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# Examples have no deadline, so that a busy machine does not fail tests; their number is limited. `make test` draws the
# same ones each time, so that no change is blamed for a fault that is found by chance.
hypothesis.settings.register_profile("gridiron", hypothesis.settings.default, deadline=None,
                                     derandomize=os.environ.get("GRIDIRON_CHAOS") != "1",
                                     suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("gridiron")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that need a real Slurm first, since they mostly wait; keep the order otherwise."""
    items.sort(key=lambda item: not _needs_slurm(str(item.path)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute tests by file; all tests that need a real Slurm go to one process, since there is only one Slurm."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "slurm" if _needs_slurm(str(config.rootpath / file)) else file

    return Scheduling(config, log)


@functools.cache
def _needs_slurm(path: str) -> bool:
    return any(marker in Path(path).read_text("utf-8") for marker in ("slurm: Slurm", 'usefixtures("slurm")'))


_VARIABLES = ("GRIDIRON", "SLURM", "SBATCH", "SQUEUE", "HOME", "PATH", "XDG")  # others are set by libraries


def _process_state() -> dict[str, Any]:
    loggers = {name: logger.level for name, logger in logging.root.manager.loggerDict.items()
               if name.startswith("src") and isinstance(logger, logging.Logger)}
    return {"folder": os.getcwd(),
            "levels of loggers": {name: level for name, level in loggers.items() if level},
            "environment": {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}}


@pytest.fixture(autouse=True)
def unchanged_process() -> Iterator[None]:
    """Fail a test that leaves its process changed for those that run after it, whichever those are."""
    before = _process_state()
    yield
    assert _process_state() == before, "this test, or what it calls, changes the process for the tests after it"


def trust_modules(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    """Let configs name functions of modules that are not in the project: list them in a settings file in `folder`."""
    (folder / "gridiron.toml").write_text(f"trusted_modules = {list(names)!r}\n")
    monkeypatch.setattr(user_settings, "FILE", str(folder / "gridiron.toml"))


@dataclass(frozen=True)
class Slurm:
    """A running cluster. SLURM_CONF is set, so that sbatch, squeue, sacct and scontrol connect to it."""

    folder: Path

    @property
    def has_lag(self) -> bool:
        """Whether the nodes see changes in `folder / "shared"` late."""
        return (self.folder / "lag").exists()

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """Run a command. Returns what it prints, stripped; fails the test if the command fails."""
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{command}: exit code {result.returncode}: {result.stderr}"
        return result.stdout.strip()

    def state(self, job: str) -> str:
        """Return the job's state, such as PENDING or COMPLETED."""
        return self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")

    def restart(self, job: str, is_done: Callable[[], bool], seconds: float = 150) -> None:
        """Let a requeued job start now, instead of after Slurm's delay of two minutes. Waits for `is_done`."""
        time.sleep(6)  # Slurm would mistake the end of its old processes for that of the new ones
        deadline = time.monotonic() + seconds
        while not is_done():
            if time.monotonic() > deadline:
                pytest.fail(f"timeout after {seconds} s: {self.run('scontrol', 'show', 'job', job)}\n"
                            f"{self.run('sinfo', '-N', '-l')}")
            subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], stderr=subprocess.DEVNULL)
            time.sleep(4)  # every update delays the start: leave the scheduler time for it

    def wait(self, job: str, *states: str, seconds: float = 300) -> str:
        """Wait until the job is in one of `states`, by default until it has ended. Returns its state."""
        expected = set(states) or ENDED
        deadline = time.monotonic() + seconds
        while (state := self.state(job)) not in expected:
            assert time.monotonic() < deadline, f"Slurm job {job} is {state} after {seconds} s, not one of {expected}"
            time.sleep(0.1)
        return state


def _can_mirror_folders() -> bool:
    """Whether bindfs can mount a folder in a mount namespace of its own, as each node of a cluster with LAG=1 does."""
    if not os.access("/dev/fuse", os.W_OK):
        return False
    if not shutil.which("bindfs"):
        if os.environ.get("GRIDIRON_REQUIRE_SLURM") == "1":
            pytest.fail("tests on late files need bindfs")
        return False
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(["unshare", "--mount", "sh", "-c", 'bindfs "$0" "$0" && umount "$0"', folder],
                              capture_output=True).returncode == 0


def _lag_settings() -> dict[str, str]:
    """Settings of up.sh for a folder whose changes nodes see late, which only the tests of that use; fewer seconds than
    usual, unless faults are injected for hours.
    """
    if not _can_mirror_folders():
        return {}
    return {"LAG": "1", "LAG_SECONDS": "30" if os.environ.get("GRIDIRON_CHAOS") == "1" else "4"}


_clusters: list[Path] = []


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A real four-node Slurm on this machine, started for the session, or the one in $GRIDIRON_CLUSTER, which is kept.

    Where Slurm cannot run, tests are skipped, or fail if $GRIDIRON_REQUIRE_SLURM is 1.
    """
    missing = [daemon for daemon in DAEMONS if not shutil.which(daemon)]
    if os.geteuid() != 0 or missing:
        reason = f"tests on a real Slurm need root and {', '.join(DAEMONS)}"
        (pytest.fail if os.environ.get("GRIDIRON_REQUIRE_SLURM") == "1" else pytest.skip)(reason)
    existing = os.environ.get("GRIDIRON_CLUSTER")
    folder = Path(existing or tempfile.mkdtemp(prefix="gridiron-slurm-"))
    previous = os.environ.get("SLURM_CONF")
    # a test module that imports this fixture makes another one of it, and SLURM_CONF would name that one's cluster
    assert not _clusters, "the session has a cluster already: do not import the fixture `slurm`"
    _clusters.append(folder)
    try:
        subprocess.run([CLUSTER / "up.sh", folder], check=True, stdout=subprocess.DEVNULL,
                       env=os.environ if existing else {**os.environ, **_lag_settings()})
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield Slurm(folder)
    finally:
        if previous is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = previous
        if not existing:
            subprocess.run([CLUSTER / "down.sh", folder], check=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with a9a and the test images of MNIST: $GRIDIRON_DATA, or ../shared/data beside the project."""
    folder = Path(os.environ.get("GRIDIRON_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "a9a").is_file():
        pytest.skip("tests on real data need a9a and the test images of MNIST in $GRIDIRON_DATA or ../shared/data")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report skips by a fixture in this file at the fixture's line, so that pytest joins them in one line."""
    report = yield
    if report.skipped and call.excinfo:
        lines = [entry.lineno + 1 for entry in call.excinfo.traceback if str(entry.path) == __file__]
        if lines:
            report.longrepr = (__file__, lines[-1], f"Skipped: {call.excinfo.value}")
    return report
