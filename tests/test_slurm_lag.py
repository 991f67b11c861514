"""On a real Slurm whose nodes see each other's files late, as on NFS: each run is executed once, with equal results.

The nodes see the cluster's folder `shared` through mirrors that keep names for some seconds: 4, or 30 in `make chaos`.
"""
from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import submit_multiple
from src.submission.status import status
from src.submission.status.observe import observe
from tests.conftest import ROOT, Slurm
from tests.submission.conftest import Project
from tests.test_interrupted import CHAOS, assert_same, attempts, calm
from tests.test_slurm_resume import submit
from tests.test_slurm_sites import wrap_squeue
from tests.test_slurm_ways import SCRIPT, counts, wait_for

__all__ = ["calm"]  # the fixture

NODES = ("node1", "node2", "node3", "node4")


@pytest.fixture
def shared(slurm: Slurm) -> Iterator[Path]:
    """A folder in which nodes see changes late."""
    if not slurm.has_lag:
        pytest.skip("tests on late files need bindfs, a /dev/fuse that this process may use, and a cluster with LAG=1")
    folder = Path(tempfile.mkdtemp(dir=slurm.folder / "shared"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def lag(slurm: Slurm) -> float:
    """Seconds after which every node has seen a change."""
    return float((slurm.folder / "lag").read_text()) + 1


@pytest.fixture
def project(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("GRIDIRON_TEST_ROOT", str(ROOT))
    monkeypatch.setattr(submit_multiple, "PROJECT", str(shared))
    monkeypatch.chdir(shared)
    (shared / "s.sh").write_text(SCRIPT.format(python=sys.executable))
    return Project(shared)


def lateness(slurm: Slurm, shared: Path, node: str, new: str) -> float:
    """Return how many seconds after its creation a node sees a file for which it has looked in vain before."""
    job = slurm.run("sbatch", "--parsable", f"--nodelist={node}", f"--output={shared}/%j.out", "look.sh", new,
                    cwd=shared)
    end = time.time() + 60
    while not (shared / f"{new}-missed").exists():
        assert time.time() < end
        time.sleep(0.02)
    created = time.time()
    (shared / new).touch()
    slurm.wait(job)
    return float((shared / f"{job}.out").read_text()) - created


def test_each_node_sees_a_new_file_late(slurm: Slurm, shared: Path) -> None:
    """Otherwise the other tests would show nothing. A node looks again after some seconds, which may be just then."""
    (shared / "look.sh").write_text("#!/bin/bash\n[ -e $1 ]; touch $1-missed\n"
                                    "until [ -e $1 ]; do sleep 0.1; done; date +%s.%N\n")
    late = [node for node in NODES if any(lateness(slurm, shared, node, f"{node}-{number}") > 1 for number in range(4))]
    assert late == list(NODES)


def test_three_jobs_on_three_nodes_execute_a_run_once(project: Project, slurm: Slurm) -> None:
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--no-submit") == 0
    jobs = [slurm.run("sbatch", "--parsable", f"--nodelist={node}", f"--output={run}/%j.out", "s.sh",
                      run / "spec.yaml", cwd=project.folder)
            for run in project.runs() for node in NODES[:3]]
    assert [slurm.wait(job) for job in jobs] == ["COMPLETED"] * 12
    assert project.executed() == [1] * 4
    assert counts(project) == {"done": 4}


def test_workers_retries_and_extensions_execute_each_run_once(project: Project, slurm: Slurm, lag: float) -> None:
    sizes = ", ".join(map(str, [*range(20, 80 if CHAOS else 29), 13]))
    project.write_spec(f"[{sizes}]")
    runs = 2 * (sizes.count(",") + 1)
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--workers", "4", "--sbatch", "cpus-per-task=8") == 0
    wait_for(lambda: counts(project) == {"done": runs - 2, "failed": 2}, 600 if CHAOS else 90)
    assert len({attempt["node"] for run in project.runs() for attempt in attempts(run / "spec.yaml")}) > 1
    (project.batch / "mended").touch()
    time.sleep(lag)
    for _ in range(3):
        project.submit("-r", project.batch, "-y")
    wait_for(lambda: counts(project) == {"done": runs})
    project.write_spec(f"[{sizes}, 90, 91]")
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--extend") == 0
    wait_for(lambda: counts(project) == {"done": runs + 4})
    assert project.executed() == [1] * (runs + 4)


def start_elsewhere(slurm: Slurm, job: str, node: str, record: Path) -> None:
    """Have a requeued job start on a node, and return soon after its attempt has been recorded."""
    wait_for(lambda: slurm.state(job) == "PENDING")
    slurm.run("scontrol", "update", f"jobid={job}", f"ReqNodeList={node}")
    time.sleep(6)  # Slurm would mistake the end of its old processes for that of the new ones
    end = time.monotonic() + 150
    while not record.exists():
        assert time.monotonic() < end, slurm.run("scontrol", "show", "job", job)
        slurm.run("scontrol", "update", f"jobid={job}", "StartTime=now")
        again = time.monotonic() + 4  # every update delays the start
        while not record.exists() and time.monotonic() < again:
            time.sleep(0.05)
    time.sleep(0.5)  # until it listens to signals


def test_training_that_moves_between_nodes_has_the_results_of_one_that_stays(slurm: Slurm, shared: Path,
                                                                             calm: Path) -> None:
    spec, job = submit(slurm, shared)
    moves = 6 if CHAOS else 1
    for number in range(moves):
        slurm.run("scancel", "--batch", "--signal=USR1", job)
        start_elsewhere(slurm, job, NODES[number % 2 + 2], spec.parent / f"attempt-1-{number + 1}.json")
    wait_for((spec.parent / "done").exists)
    slurm.wait(job, "COMPLETED")
    assert [attempt["how"] for attempt in attempts(spec)] == ["requeued"] * moves + ["completed"]
    nodes = [attempt["node"] for attempt in attempts(spec)]
    assert all(node != following for node, following in itertools.pairwise(nodes[:2 + moves // 2 * 2]))
    (spec.parent / f"{job}.out").unlink()
    assert_same(spec, calm)


def test_superseded_training_that_sees_the_later_one_late_changes_no_results(
        slurm: Slurm, shared: Path, calm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first job is suspended while the second one begins. It lists the run's folder from a cache, goes on without
    seeing the later attempt, and writes rows and checkpoints until it has to create a file.
    """
    with monkeypatch.context() as first_job:
        first_job.setenv("PYTHONPATH", str(ROOT / "tests" / "late_listing"))
        first_job.setenv("GRIDIRON_LATE_LISTING", "1000")
        spec, first = submit(slurm, shared)
    slurm.run("scontrol", "suspend", first)
    batch = spec.parent.parent
    with monkeypatch.context() as blind:
        wrap_squeue(shared, "d")
        blind.setenv("PATH", f"{shared}:{os.environ['PATH']}")
        assert submit_multiple.main(["-r", str(batch), "-s", str(shared / "s.sh"), "-y", "--force",
                                     "--sbatch", f"exclude={attempts(spec)[0]['node']}"]) == 0
    wait_for((spec.parent / "attempt-2-0.json").exists)
    stats = spec.parent / "stats.csv"
    replaced = stats.stat().st_ino
    wait_for(lambda: stats.stat().st_ino != replaced)  # the second one has begun its own
    slurm.run("scontrol", "resume", first)
    assert slurm.wait(first) == "COMPLETED", (spec.parent / f"{first}.out").read_text()[-3000:]
    wait_for((spec.parent / "done").exists)
    earlier, later = attempts(spec)
    assert (earlier["how"], later["how"]) == (None, "completed")
    assert earlier["node"] != later["node"]
    assert "a later attempt has taken over this run" in (spec.parent / f"{first}.out").read_text()
    second = later["slurm_job"]
    slurm.wait(second, "COMPLETED")
    for job in (first, second):
        (spec.parent / f"{job}.out").unlink()
    assert_same(spec, calm)
    observation, = observe([str(batch)])
    assert status.counts(observation) == {"done": 1}
