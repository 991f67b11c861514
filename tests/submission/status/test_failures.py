"""Failures told by groups, and the nodes that a retry avoids."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from src.run_folder import RunFolder
from src.submission.status import failures
from src.submission.status.observation import Run
from src.submission.status.states import State


def run(name: str, state: str, why: str = "", node: str | None = None, folder: Path | None = None) -> Run:
    attempt = {"slurm_job": "7", "node": node, "host": "h"} if node else None
    found = RunFolder.read(folder) if folder else RunFolder(name, frozenset())
    return Run(name, str(folder or name), found, 1, attempt, State(state, why))


def test_like_failures_are_grouped_with_a_log(tmp_path: Path) -> None:
    folder = tmp_path / "002_a"
    folder.mkdir()
    for name in ("spec.yaml", "training.log", "7.out", "8.out"):
        (folder / name).write_text("x" if name != "8.out" else "")
    runs = [run("000_a", "done"), run("001_a", "timeout"), run("002_a", "failed", "ValueError: 1", folder=folder),
            run("003_a", "failed", "ValueError: 2"), run("004_a", "new"), run("005_a", "failed", "OSError: 2")]
    groups = failures.group_failures(runs)
    assert [(found.state, len(found.runs)) for found in groups] == [("failed", 2), ("timeout", 1), ("failed", 1)]
    assert groups[0].log in (f"{folder}/training.log", f"{folder}/7.out")
    assert groups[0].line() == f"2 failed: ValueError: 1 ({groups[0].log})"
    assert groups[1].line() == "1 timeout (001_a)"


def test_logs_of_a_run_that_did_not_start_are_those_of_its_array_and_of_its_errors(tmp_path: Path) -> None:
    (tmp_path / "submissions").mkdir()
    (tmp_path / "submissions" / "7.out").write_text("no module torch\n")
    (tmp_path / "000_a").mkdir()
    task = run("000_a", "failed", folder=tmp_path / "000_a")._replace(state=State("failed", "", "7_3"))
    assert failures.log_paths(task) == [f"{tmp_path}/submissions/7.out"]
    for name in ("7-1.err", "7-2.err"):
        (tmp_path / name).write_text("srun: error\n")
    os.utime(tmp_path / "submissions" / "7.out", (1, 1))
    assert failures.newest_log(task._replace(error_log=f"{tmp_path}/7-2.*")) == f"{tmp_path}/7-2.err"
    assert failures.newest_log(task._replace(error_log=f"{tmp_path}/7-*.err")) == f"{tmp_path}/submissions/7.out"
    (tmp_path / "000_a" / "training.log").write_text("epoch 1\n")
    assert failures.log_paths(task) == [f"{tmp_path}/000_a/training.log"]


def test_failed_node_is_avoided() -> None:
    assert failures.nodes_to_avoid([run("0", "node_failed", node="n1"), run("1", "node_failed")]) == {
        "n1": "it failed"}


def test_node_is_avoided_if_runs_fail_only_there() -> None:
    bad = [run(str(index), "failed", node="n1") for index in range(3)]
    fine = [run("8", "done", node="n2")]
    assert list(failures.nodes_to_avoid(bad + fine)) == ["n1"]
    assert failures.nodes_to_avoid(bad[:2] + fine) == {}  # too few
    assert failures.nodes_to_avoid(bad) == {}  # nothing says that it is the node
    assert failures.nodes_to_avoid([*bad, *fine, run("9", "done", node="n1")]) == {}  # the runs are to blame
    assert failures.nodes_to_avoid([*bad, run("9", "done")]) == {}


@pytest.mark.parametrize(("options", "asks"), [
    (["mem=32G"], True), (["time=5", "mem-per-cpu=4G"], True), (["mem_per_gpu=4G"], True), (["time=5"], False),
    (["mem-bind=local"], False), ([], False)])
def test_requests_memory(options: list[str], asks: bool) -> None:
    assert failures.requests_memory(options) is asks
