"""When Slurm is queried while batches are observed again and again, and what their files show between the queries."""
from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import experiments
from src import run_folder
from src.search import definition
from src.search.definition import Search
from src.search.space import Space
from src.submission.batch.journal import SLURM, History, Journal
from src.submission.slurm import client
from src.submission.slurm.client import Accounting, Job, Queue
from src.submission.status import wait
from src.submission.status.observation import Observation, Run
from src.submission.status.observe import SlurmView, observe
from src.submission.status.states import State
from src.submission.status.wait import Poller


class Cluster:
    """The stand-in for Slurm and the clock: jobs 1, 2 … of the runs, and the times at which squeue was called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.queries, self.state, self.answers = 1000.0, [0.0], "RUNNING", True
        self.queries.clear()
        self.batch = folder / "26-01-02-a"
        (self.batch / run_folder.SUBMISSIONS).mkdir(parents=True)
        (self.batch / run_folder.JOB_SPEC).touch()
        self.runs = [self.batch / name for name in ("000_a", "001_a")]
        for run in self.runs:
            run.mkdir()
            (run / run_folder.SPEC).write_text("batch_size: 1\n")
        with monkeypatch.context() as an_hour_ago:
            an_hour_ago.setattr(time, "time", lambda now=time.time: now() - 3600)
            book = Journal(str(self.batch), "1-a")
            book.record_plan(SLURM, {run.name: 1 for run in self.runs})
            for unit in range(len(self.runs)):
                book.record_job(unit, str(unit + 1))
            book.record_end()
        monkeypatch.setattr(client, "squeue", self.squeue)
        monkeypatch.setattr(client, "sacct", lambda *_: Accounting())
        monkeypatch.setattr(time, "sleep", self.sleep)
        self.poller = self.make_poller()

    def make_poller(self, interval: float | None = None) -> Poller:
        return Poller(interval, lambda: self.now)

    def squeue(self, _clusters: set[str]) -> Queue:
        self.queries.append(self.now - 1000)
        return Queue(self.answers, {job: Job(job, self.state, comment=f"gridiron-1-a-{int(job) - 1}")
                                    for job in "12"} if self.state and self.answers else {})

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def observe(self, paths: list[str] | None = None) -> list[Observation]:
        return self.poller.poll(lambda slurm: observe(paths or [str(self.batch)], slurm))

    def states(self) -> list[str]:
        return [run.state.name for observation in self.observe() for run in observation.runs.values()]

    def record(self, index: int, how: str | None, number: int = 0) -> None:
        """Write the record of an attempt as the job of a run does."""
        record: dict[str, Any] = {"ticket": 1, "number": number, "slurm_job": str(index + 1), "how": how}
        record["who"] = {"slurm_job": str(index + 1), "host": "node1"}
        (self.runs[index] / "claim-1").write_text(json.dumps(record["who"]))
        (self.runs[index] / f"attempt-1-{number}.json").write_text(json.dumps(record))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    return Cluster(tmp_path, monkeypatch)


def run_for(cluster: Cluster, seconds: float, every: float = 5) -> None:
    end = cluster.now + seconds
    while cluster.now < end:
        assert cluster.states() == ["running", "running"]
        cluster.sleep(every)


def test_slurm_is_queried_every_30_seconds_and_later_every_60(cluster: Cluster) -> None:
    run_for(cluster, 900)
    assert cluster.queries == [*range(0, 600, 30), *range(630, 900, 60)]


def test_chosen_interval_is_kept(cluster: Cluster) -> None:
    cluster.poller = cluster.make_poller(120)
    run_for(cluster, 900)
    assert cluster.queries == [*range(0, 900, 120)]


def test_one_query_answers_for_all_batches(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Cluster(tmp_path / "other", monkeypatch)
    monkeypatch.setattr(client, "squeue", cluster.squeue)
    cluster.observe([str(cluster.batch), str(other.batch)])
    assert cluster.queries == [0]


def test_runs_that_start_and_end_are_seen_between_queries(cluster: Cluster) -> None:
    cluster.state = "PENDING"
    assert cluster.states() == ["pending", "pending"]
    cluster.record(0, None)
    cluster.sleep(5)
    assert cluster.states() == ["running", "pending"]
    (cluster.runs[0] / "done").write_text("completed\n")
    cluster.sleep(5)
    assert cluster.states() == ["done", "pending"]
    assert cluster.queries == [0]


def test_end_that_only_slurm_can_explain_is_queried_after_ten_seconds(cluster: Cluster) -> None:
    cluster.record(0, None)
    cluster.states()
    cluster.record(0, "timeout")  # is it requeued?
    cluster.state = ""
    for _ in range(6):
        cluster.sleep(2)
        found = cluster.states()
    assert found == ["timeout", "lost"]
    assert cluster.queries == [0, 10]


def test_wait_ends_with_the_files_of_the_last_run_without_another_query(cluster: Cluster,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        cluster.sleep(seconds)
        if cluster.now >= 1020:
            for run in cluster.runs:
                (run / "done").write_text("completed\n")
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(wait, "Poller", cluster.make_poller)
    observation, = wait.wait_for_batches([str(cluster.batch)], every=10)
    assert observation.count(["done"]) == 2
    assert (cluster.now, cluster.queries) == (1020, [0])


def test_wait_does_not_end_by_an_old_answer(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both runs fail by their records; a new query shows that Slurm has requeued one of them."""
    monkeypatch.setattr(wait, "Poller", cluster.make_poller)

    def sleep(seconds: float) -> None:
        cluster.sleep(seconds)
        if cluster.now == 1010:
            cluster.state = "PENDING"
            cluster.record(0, "failed")
            cluster.record(1, "failed")
        if cluster.now == 1020:
            cluster.state = ""
    monkeypatch.setattr(time, "sleep", sleep)
    observation, = wait.wait_for_batches([str(cluster.batch)], every=10)
    assert observation.count(["failed"]) == 2
    assert cluster.queries == [0, 10, 40]


def test_watch_ends_when_nothing_is_alive(cluster: Cluster) -> None:
    shown: list[list[str]] = []

    def show(observations: list[Observation], _slurm: object) -> None:
        runs: list[Run] = [run for observation in observations for run in observation.runs.values()]
        shown.append([run.state.name for run in runs])
        for run in cluster.runs:
            (run / "done").write_text("completed\n")
    for view in wait.watch(lambda slurm: observe([str(cluster.batch)], slurm), 0):
        show(*view)
    assert shown == [["running", "running"], ["done", "done"]]


def test_watch_ends_when_every_run_has_ended_or_is_stuck() -> None:
    looks = iter(["running", "unknown", "pending", "stuck", "never shown"])

    def read(slurm: SlurmView) -> list[Observation]:
        slurm.was_queried = True
        run = Run("000_a", "b/000_a", None, 1, None, State(next(looks)))
        return [Observation("b", History(), {run.name: run}, True)]
    assert [observations[0].runs["000_a"].state.name for observations, _ in wait.watch(read, 0)] == [
        "running", "unknown", "pending", "stuck"]


@pytest.fixture
def search(cluster: Cluster) -> Cluster:
    """A search, both of whose trials have ended, and whose workers wait to choose others."""
    definition.write(cluster.batch, Search("random", 9, 2, 0, "loss", False, 9, Space({}, ()), "a"))
    for run in cluster.runs:
        (run / "done").write_text("completed\n")
    return cluster


def test_slurm_is_queried_no_more_often_between_two_trials_of_a_search(search: Cluster,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    other = search.batch.with_name("26-01-02-b")
    shutil.copytree(search.batch, other)  # one query answers for both

    def sleep(seconds: float) -> None:
        search.sleep(seconds)
        if search.now >= 1900:
            search.state = ""
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(wait, "Poller", search.make_poller)
    wait.wait_for_batches([str(search.batch), str(other)], every=5)
    assert search.queries == [*range(0, 600, 30), *range(630, 931, 60)]


def test_search_goes_on_while_squeue_does_not_answer(search: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    search.answers = False

    def sleep(seconds: float) -> None:
        search.sleep(seconds)
        search.answers, search.state = search.now >= 1100, ""
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(wait, "Poller", search.make_poller)
    wait.wait_for_batches([str(search.batch)], every=5)
    assert search.queries == [0, 30, 60, 90, 120]


def test_cancel_of_a_search_fails_if_squeue_does_not_answer(search: Cluster, capsys: pytest.CaptureFixture[str],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """None of its runs is pending or running, but its workers may be."""
    cancelled: list[str] = []
    monkeypatch.setattr(client, "scancel", lambda jobs: cancelled.extend(jobs) or [])
    search.answers = False
    assert experiments.main(["cancel", "-y", str(search.batch)]) == 2
    output = capsys.readouterr()
    assert "nothing is pending" not in output.out
    assert "it is unknown whether workers of this search still wait or run (squeue did not answer)" in output.err
    assert f"{search.batch} --by-id` to cancel Slurm jobs 1, 2 by the ids in the journal" in output.err
    assert not cancelled
    assert experiments.main(["cancel", "-y", str(search.batch), "--by-id"]) == 0
    assert cancelled == ["1", "2"]
