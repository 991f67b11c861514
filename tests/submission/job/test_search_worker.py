"""Searches by workers on this machine: every decision once, no trial twice, also if processes are killed."""
from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

import experiments
from src.run_folder import RunFolder
from src.search import decide, definition, summary
from src.submission.batch import task_files
from src.submission.job import search_worker
from src.submission.job.search_worker import HolderCheck
from src.submission.slurm import client
from src.submission.spec.naming import name_run
from tests.conftest import ROOT
from tests.searching import ASHA, assert_sound, decisions_of, processes_of, states_of, wait_for, write
from tests.submission.conftest import Project


@pytest.fixture
def searching(project: Project) -> Project:
    (project.folder / "train.py").write_text((ROOT / "tests" / "submission" / "search_entry.py").read_text())
    return project


def test_search_pauses_and_promotes_and_ends(searching: Project, capsys: pytest.CaptureFixture[str]) -> None:
    write(searching)
    assert searching.submit(searching.spec, "--local", "-y") == 0
    batch = searching.batch
    assert_sound(batch, 18)
    assert set(states_of(batch)) == {"paused", "done"}
    assert summary.is_over(batch, definition.read(batch))  # type: ignore[arg-type]
    capsys.readouterr()
    assert searching.submit(searching.spec, "--local", "-y") == 0
    assert re.search(r"nothing to submit: \d of 18 done, \d+ paused", capsys.readouterr().out)
    assert searching.submit("-r", batch, "--local", "-y") == 0
    assert "nothing to submit" in capsys.readouterr().out


def test_extension_adds_trials(searching: Project, capsys: pytest.CaptureFixture[str]) -> None:
    write(searching, ASHA.replace("18", "6"))
    assert searching.submit(searching.spec, "--local", "-y") == 0
    first = decisions_of(searching.batch)
    write(searching)
    assert searching.submit(searching.spec, "--local", "-y", "--extend", "-d") == 0
    assert "12 more trials" in capsys.readouterr().out
    assert searching.submit(searching.spec, "--local", "-y", "--extend") == 0
    assert decisions_of(searching.batch)[:len(first)] == first
    assert_sound(searching.batch, 18)
    assert "trials: 18" in (searching.batch / "job.yaml").read_text()
    write(searching, ASHA.replace("18", "20").replace("min: 1", "min: 2"))
    assert searching.submit(searching.spec, "--local", "-y", "--extend") == 2
    assert "an extension adds trials, and the job spec now has another early_stop" in capsys.readouterr().err


def test_extension_keeps_how_an_older_version_took_a_list_of_numbers(searching: Project) -> None:
    write(searching, "{method: tpe, trials: 6, parallel: 1}", batch_size="[4, 8, 16]")
    assert searching.submit(searching.spec, "--local", "--workers", "1", "-y") == 0
    path = searching.batch / "search" / "search.json"
    value = json.loads(path.read_text())
    assert value["space"]["dimensions"][1].pop("is_ordered")
    path.write_text(json.dumps(value))
    write(searching, "{method: tpe, trials: 14, parallel: 1}", batch_size="[4, 8, 16]")
    assert searching.submit(searching.spec, "--local", "--workers", "1", "-y", "--extend") == 0
    search = definition.read(searching.batch)
    assert search is not None
    assert not search.space.dimensions[1].is_ordered
    assert Counter(record["sampler"] for record in decisions_of(searching.batch))["tpe"] == 6
    assert decide.replay(str(searching.batch), search, name_run(search)) == (14, [])


def test_status_shows_rungs(searching: Project, capsys: pytest.CaptureFixture[str]) -> None:
    write(searching, ASHA.replace("18", "9"))
    assert searching.submit(searching.spec, "--local", "-y") == 0
    capsys.readouterr()
    assert experiments.main(["status", str(searching.batch)]) == 0
    output = capsys.readouterr().out
    assert "search     9 of 9 trials started: " in output
    assert re.search(r"  rung  trials  promoted  best *\n  1     9       \d", output)
    assert experiments.main(["status", "--json", str(searching.batch)]) == 0
    search = json.loads(capsys.readouterr().out)[0]["search"]
    assert (search["trials"], search["is_over"], [rung["epochs"] for rung in search["rungs"]]) == (9, True, [1, 3, 9])
    best = search["rungs"][2]
    assert best["run"] in [run.name for run in searching.runs()]
    assert best["best"] == float((searching.batch / best["run"] / "stats.csv").read_text().split(",")[-1])
    assert experiments.main(["wait", str(searching.batch)]) == 0


def test_clean_keeps_the_states_of_paused_trials_until_the_search_is_over(
        searching: Project, capsys: pytest.CaptureFixture[str]) -> None:
    write(searching, ASHA.replace("18", "6"))
    assert searching.submit(searching.spec, "--local", "-y") == 0
    batch = searching.batch
    for run in searching.runs():
        if not (run / "done").exists():
            (run / "resume-0000000001.pt").write_text("state")
    (batch / "search" / "finished.json").rename(batch / "finished.json")
    assert experiments.main(["clean", "-y", str(batch)]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    (batch / "finished.json").rename(batch / "search" / "finished.json")
    assert experiments.main(["clean", "-y", str(batch)]) == 0
    assert not list(batch.glob("*/resume-*.pt"))


def test_cancel_ends_the_workers_and_a_retry_continues(searching: Project) -> None:
    write(searching)
    process = start(searching, str(searching.spec), epoch=0.2)
    wait_for(lambda: bool(list(searching.results.glob("*-tiny/*/attempt-1-0.json"))))
    assert experiments.main(["cancel", "-y", str(searching.batch)]) == 0
    assert process.wait(timeout=300) != 0
    search = definition.read(searching.batch)
    assert search is not None
    assert not summary.is_over(searching.batch, search)
    assert start(searching, "-r", str(searching.batch)).wait(timeout=300) == 0
    assert summary.is_over(searching.batch, search)
    assert_sound(searching.batch, 18)


def test_tpe_after_random_trials(searching: Project) -> None:
    write(searching, "{method: tpe, trials: 14, parallel: 2}")
    assert searching.submit(searching.spec, "--local", "--workers", "1", "--slots", "2", "-y") == 0
    batch = searching.batch
    samplers = Counter(record["sampler"] for record in decisions_of(batch))
    assert samplers["random"] >= 8
    assert len(samplers) == 2
    search = definition.read(batch)
    assert search is not None
    assert decide.replay(str(batch), search, name_run(search)) == (14, [])
    assert states_of(batch) == {"done": 14}


def test_failed_trial_is_retried_and_then_given_up(searching: Project) -> None:
    write(searching, "{method: random, trials: 4, parallel: 1, max_trial_failures: 1}", "!choice [8, 13]")
    assert searching.submit(searching.spec, "--local", "-y", "--max-failures", "0") == 1
    for run in searching.runs():
        starts = (run / "starts").read_text().split()
        assert len(starts) == (2 if "bat_siz=13" in run.name else 1)
    assert set(states_of(searching.batch)) == {"done", "failed"}
    assert len(decisions_of(searching.batch)) == 4


def test_search_stops_if_the_first_trials_all_fail(searching: Project, capsys: pytest.CaptureFixture[str]) -> None:
    write(searching, "{method: random, trials: 20, parallel: 1, max_trial_failures: 0}", "13")
    assert searching.submit(searching.spec, "--local", "-y", "--max-failures", "0") == 2
    assert "the first 5 trials failed" in capsys.readouterr().err
    assert 5 <= len(searching.runs()) <= 6


def test_diverged_trial_is_the_worst(searching: Project) -> None:
    write(searching, "{method: random, trials: 9, parallel: 1, early_stop: {min: 1, eta: 3}}", "!choice [8, 14]")
    assert searching.submit(searching.spec, "--local", "-y") == 0
    promoted = {record["trial"] for record in decisions_of(searching.batch) if record["kind"] == "promote"}
    names = [run.name for run in searching.runs()]
    assert promoted
    assert not any("bat_siz=14" in names[trial] for trial in promoted)


def test_metric_that_no_trial_has_stops_the_search(searching: Project, capsys: pytest.CaptureFixture[str]) -> None:
    write(searching, "{method: random, trials: 9, parallel: 1}", "99")
    assert searching.submit(searching.spec, "--local", "-y") == 2
    assert "no trial has the metric 'score'" in capsys.readouterr().err
    assert len(searching.runs()) == 1


def start(project: Project, *options: str, epoch: float = 0.03) -> subprocess.Popen[bytes]:
    program = (f"import submit_multiple as s, sys; s.PROJECT = {str(project.folder)!r}; sys.exit(s.main(sys.argv[1:]))")
    return subprocess.Popen([sys.executable, "-c", program, *options, "--local", "-y"], cwd=project.folder,
                            env={**os.environ, "PYTHONPATH": str(ROOT), "GRIDIRON_TEST_EPOCH": str(epoch)},
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_killed_workers_and_trials_lose_and_repeat_nothing(searching: Project) -> None:
    """Kill workers and their runs at random instants, and continue with -r until the search is over."""
    write(searching)
    generator = random.Random(18)
    process = start(searching, str(searching.spec))
    wait_for(lambda: any(searching.results.glob("*/search/decision-*.json")))
    for _ in range(4):
        time.sleep(1.0 + generator.random())
        if process.poll() is not None:
            break
        victims = [pid for pid in processes_of(searching) if generator.random() < 0.6]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        if generator.random() < 0.5:
            process.kill()
    process.wait(timeout=300)
    batch = searching.batch
    search = definition.read(batch)
    assert search is not None
    for _ in range(5):
        if summary.is_over(batch, search):
            break
        assert start(searching, "-r", str(batch), "--workers", "3").wait(timeout=300) in (0, 1, 2)
    assert summary.is_over(batch, search)
    assert_sound(batch, 18)
    assert not set(states_of(batch)) - {"paused", "done"}


def test_idle_slurm_worker_leaves_the_rest_to_others(searching: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has a trial, and one outside Slurm, stays."""
    write(searching, ASHA.replace("18", "3"))
    assert searching.submit(searching.spec, "--local", "--workers", "1", "-y", "--max-runs", "1") == 0
    path, = searching.batch.glob("submissions/*.tasks.json")
    monkeypatch.setattr(search_worker, "next_step", lambda *_: decide.Wait())
    for job, children, is_ended in ((None, {}, False), ("1", {1: None}, False), ("1", {}, True)):
        with monkeypatch.context() as context:
            if job:
                context.setenv("SLURM_JOB_ID", job)
            worker = search_worker.SearchWorker(str(path), task_files.read(str(path)), lambda *_: "", lambda *_: None)
            worker.children.update(children)  # type: ignore[arg-type]
            worker.idle_since -= 301
            assert not worker.fill_queue()
            assert worker.is_drained() is is_ended


def test_end_of_all_workers_is_no_end_of_the_search(searching: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """Workers die, their trials end well: all that was started is done, but further trials were to come."""
    write(searching)
    process = start(searching, str(searching.spec), epoch=0.2)
    wait_for(lambda: bool(list(searching.results.glob("*-tiny/*/attempt-1-0.json"))))
    for worker in psutil.Process(process.pid).children():
        worker.kill()
    assert process.wait(timeout=300) == 2
    wait_for(lambda: "running" not in states_of(searching.batch))
    assert experiments.main(["wait", "--every", "0.01", str(searching.batch)]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"the search is not over: \d of 18 trials started; `python submit_multiple.py -r", printed)
    assert start(searching, "-r", str(searching.batch)).wait(timeout=300) == 0
    assert experiments.main(["wait", "--every", "0.01", str(searching.batch)]) == 0
    assert "not over" not in capsys.readouterr().out
    assert_sound(searching.batch, 18)


@pytest.mark.parametrize(("queue", "state", "age", "expected"), [
    (client.Queue(True), None, 500, True),
    (client.Queue(True), None, 10, False),  # on a cluster that squeue was not asked about
    (client.Queue(), None, 500, False),
    (client.Queue(True, {"7": client.Job("7", "RUNNING")}), None, 500, False),
    (client.Queue(True), "RUNNING", 500, False),  # of another user
    (client.Queue(True), "NODE_FAIL", 500, True)])
def test_trial_in_a_slurm_job_is_lost_if_slurm_and_its_files_say_so(
        queue: client.Queue, state: str | None, age: float, expected: bool, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "squeue", lambda clusters: queue)
    monkeypatch.setattr(client, "show_job", lambda _job: {"JobState": state} if state else {})
    who = {"host": "elsewhere", "pid": 1, "slurm_job": "7"}
    run, record = tmp_path / "000_a", tmp_path / "000_a" / "attempt-1-0.json"
    (tmp_path / "submissions").mkdir()
    run.mkdir()
    (run / "claim-1").write_text(json.dumps(who))
    record.write_text(json.dumps({"ticket": 1, "number": 0, "who": who, "how": None}))
    os.utime(record, (time.time() - age,) * 2)
    assert HolderCheck().is_gone(RunFolder.read(run), who) == expected
