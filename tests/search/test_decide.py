"""Decisions: made once whoever makes them, computed from files, and repeated by a replay."""
from __future__ import annotations

import itertools
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src import run_folder
from src.errors import BatchError
from src.io import files
from src.search import decide, decision
from src.search.decide import Finished, Start, Wait
from src.search.definition import EarlyStop
from src.submission.system import process
from tests.conftest import ROOT
from tests.search import worker
from tests.search.worker import check, execute, history_of, make_batch, name_run, step


def start(history: Any) -> Start:
    action = step(history)
    assert isinstance(action, Start)
    return action


def test_one_worker_completes_a_search(tmp_path: Path) -> None:
    batch = make_batch(tmp_path / "b")
    worker.work(batch)
    ledger = check(batch).current
    assert [len(ledger.losses(rung)) for rung in range(3)] == [9, 3, 1]
    losses = ledger.losses(0)
    assert set(ledger.losses(1)) == set(sorted(losses, key=lambda trial: (losses[trial], trial))[:3])
    best = ledger.best_trial()
    assert best and [*ledger.losses(2)] == [best.number] and best.state == run_folder.COMPLETED


@pytest.mark.parametrize("method", ["tpe", "cmaes", "gp"])
def test_replay_repeats_what_a_sampler_chose(tmp_path: Path, method: str) -> None:
    batch = make_batch(tmp_path / "b", method=method, trials=11, early_stop=None)
    worker.work(batch)
    ledger = check(batch).current
    assert {trial.sampler.split(",")[0] for trial in ledger.trials} == {"random", method}
    changed = json.loads(Path(decision.path(batch, 9)).read_text())
    changed["point"]["base_lr"] = changed["parameters"]["base_lr"] = 0.5
    Path(decision.path(batch, 9)).write_text(json.dumps(changed))
    _, differences = decide.replay(batch, ledger.search, name_run)
    assert differences[0].number == 9 and differences[0].recorded["point"]["base_lr"] == 0.5


def test_replay_ignores_limits_that_were_changed_since(tmp_path: Path) -> None:
    batch = make_batch(tmp_path / "b", trials=5, parallel=2)
    worker.work(batch)
    worker.definition.write(batch, replace(history_of(batch).search, trials=12))
    worker.work(batch)
    check(batch)


def test_interleaved_workers_with_failures(tmp_path: Path) -> None:
    """Four workers take turns at random, and some attempts fail, are preempted or are killed."""
    for seed in range(3):
        rng = random.Random(seed)
        batch = make_batch(tmp_path / str(seed), trials=12, max_trial_failures=50)
        clock = itertools.count()
        histories = [history_of(batch, grace=3, clock=lambda: next(clock)) for _ in range(4)]  # noqa: B023
        for history in histories:  # this process is alive, so killed attempts are made dead
            history._is_dead = lambda _run, who: who.get("boot_id") == "" or None
        actions = 0
        while not all(isinstance(step(history), Finished) for history in histories) if actions % 50 == 49 else True:
            actions += 1
            assert actions < 3000
            action = step(rng.choice(histories))
            if isinstance(action, Start):
                how = rng.choice([None, None, None, "failed", "preempted", "killed"])
                execute(action, 9, how)
                if how == "killed":
                    name = run_folder.attempt_name(action.ticket, 0)
                    record = json.loads((Path(action.folder) / name).read_text())
                    record["who"]["boot_id"] = ""
                    (Path(action.folder) / name).write_text(json.dumps(record))
        check(batch)


def test_racing_processes_make_each_decision_once(tmp_path: Path) -> None:
    batch = make_batch(tmp_path / "b", trials=20, parallel=8)
    processes = [subprocess.Popen([sys.executable, "-m", "tests.search.worker", batch, str(seed)], cwd=ROOT)
                 for seed in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    history = check(batch)
    assert len({decision.who["pid"] for decision in history.decisions}) > 1, "there was no race"
    assert run_counts(batch) == {1}


@pytest.mark.parametrize("function", [(os.path, "exists"), (files, "read_json")])
def test_a_decision_that_is_made_while_it_is_looked_for_is_not_damaged(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: tuple[Any, str]) -> None:
    batch = make_batch(tmp_path / "b")
    worker.work(batch)
    made, late = Path(decision.path(batch, 7)), tmp_path / "late"
    made.rename(late)
    original = getattr(*function)

    def answer_and_make(path: Any, *arguments: Any) -> Any:
        answer = original(path, *arguments)
        if Path(path) == made and late.is_file():
            late.rename(made)
        return answer

    monkeypatch.setattr(*function, answer_and_make)
    assert decision.read(batch, 7) is None
    if late.is_file():
        late.rename(made)
    found = decision.read(batch, 7)
    assert found and found.number == 7


def test_workers_that_list_folders_late(tmp_path: Path) -> None:
    batch = make_batch(tmp_path / "b", trials=8)
    environment = {**os.environ, "GRIDIRON_LATE_LISTING": "0.5",
                   "PYTHONPATH": f"{ROOT / 'tests' / 'late_listing'}{os.pathsep}{ROOT}"}
    processes = [subprocess.Popen([sys.executable, "-m", "tests.search.worker", batch, str(seed)], cwd=ROOT,
                                  env=environment) for seed in range(3)]
    assert [process.wait() for process in processes] == [0] * 3
    check(batch)
    assert run_counts(batch) == {1}


@pytest.mark.parametrize(("hidden", "shown"), [("attempt-2-0.json", None), ("attempt-2-1.json", "attempt-2-0.json"),
                                                ("done", "attempt-2-0.json")])
def test_a_trial_whose_end_is_listed_late_is_neither_lost_nor_failed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str, shown: str | None) -> None:
    """Its process is gone, and the listing of its folder lacks the last file."""
    batch = make_batch(tmp_path / "b", trials=1, early_stop=None)
    first = start(history_of(batch))
    execute(first, 9, "preempted")
    folder, who = Path(first.folder), {"who": process.identity()}
    (folder / "claim-2").write_text(json.dumps(process.identity()))
    if shown:
        (folder / shown).write_text(json.dumps(who))
    (folder / hidden).write_text("completed" if hidden == "done" else json.dumps({**who, "how": "preempted"}))
    history, list_names = history_of(batch, grace=0.0), os.listdir
    history._is_dead = lambda *_: True
    with monkeypatch.context() as late:
        late.setattr(os, "listdir", lambda path: [name for name in list_names(path) if name != hidden])
        assert isinstance(step(history), Wait)
    action = step(history)
    assert action == Finished() if hidden == "done" else isinstance(action, Start) and action.ticket == 3


def run_counts(batch: str) -> set[int]:
    """The number of times that trials were run for one rung."""
    counts = set()
    for folder in Path(batch).glob("[0-9]*"):
        lines = (folder / "executed").read_text().splitlines()
        counts |= {lines.count(line) for line in lines}
        counts.add(1 + len(lines) - len({line.split()[1] for line in lines}))
    return counts


CALLS = ("open", "link", "replace", "unlink", "mkdir", "write", "fsync", "rename")


def test_a_worker_killed_at_any_file_operation(tmp_path: Path) -> None:
    """Another worker completes the search; no decision is lost or made twice, and no trial is pending for ever."""
    for number in itertools.count():
        batch = make_batch(tmp_path / str(number), trials=3, early_stop=EarlyStop("asha", (1,), 3), length=2)
        pid = os.fork()
        if pid == 0:
            kill_at(1 + 5 * number)
            worker.work(batch)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        worker.work(batch, grace=0.0)
        check(batch)
        if code == 0:
            assert number > 12, "it was never killed"
            return


def kill_at(operation: int) -> None:
    """End this process at its n-th file operation, before it is carried out."""
    counter = itertools.count(1)
    for name in CALLS:
        setattr(os, name, killing(getattr(os, name), counter, operation))


def killing(original: Callable[..., Any], counter: Iterator[int], operation: int) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        if next(counter) == operation:
            os._exit(9)
        return original(*arguments, **options)

    return call


def test_decisions_of_others_are_left_to_them_for_a_while(tmp_path: Path) -> None:
    batch = make_batch(tmp_path / "b", trials=2)
    now = 0.0
    first, second = history_of(batch), history_of(batch, clock=lambda: now)
    assert start(first).trial.number == 0
    assert start(second).trial.number == 1
    assert isinstance(step(second), Wait)
    now = 6.0
    adopted = start(second)
    assert adopted.trial.number == 0 and execute(adopted, 9)
    assert isinstance(step(second), Wait), "its own trial was handed out twice"


def test_parallel_limits_the_trials_at_a_time(tmp_path: Path) -> None:
    batch = make_batch(tmp_path / "b", parallel=2, early_stop=None)
    history = history_of(batch)
    starts = [start(history), start(history)]
    assert isinstance(step(history), Wait)
    execute(starts[1], 9)
    assert start(history).trial.number == 2


def test_a_trial_that_fails_too_often_is_given_up(tmp_path: Path) -> None:
    batch = make_batch(tmp_path / "b", trials=1, max_trial_failures=1)
    history = history_of(batch)
    for ticket in (1, 2):
        action = start(history)
        assert action.ticket == ticket
        execute(action, 9, "failed")
    assert step(history) == Finished()
    assert history.current.trials[0].state == "failed" and history.current.losses(0) == {}


@pytest.mark.parametrize("how", ["preempted", "cancelled"])
def test_ends_that_are_no_failures_do_not_count(tmp_path: Path, how: str) -> None:
    history = history_of(make_batch(tmp_path / "b", trials=1, max_trial_failures=0))
    for _ in range(3):
        execute(start(history), 9, how)
    assert isinstance(step(history), Start)


def test_a_claim_to_archive_is_no_start(tmp_path: Path) -> None:
    """A process of another machine died as it archived the trial; nobody here can find out that it is gone."""
    batch = make_batch(tmp_path / "b", trials=1)
    history = history_of(batch)
    execute(start(history), 9, "failed")
    claim = Path(batch, name_run(0, {}), run_folder.claim_name(2))
    claim.write_text(json.dumps({**process.identity(), "boot_id": "another", "host": "another"}))
    assert isinstance(step(history_of(batch, grace=0.0)), Wait)
    claim.write_text(json.dumps({**json.loads(claim.read_text()), run_folder.ARCHIVES: True}))
    assert start(history_of(batch, grace=0.0)).ticket == 3


def test_a_search_without_its_metric_stops_and_says_so(tmp_path: Path) -> None:
    history = history_of(make_batch(tmp_path / "b", metric="val/acuracy"))
    execute(start(history), 9)
    action = step(history)
    assert isinstance(action, Finished) and action.error
    assert "'val/acuracy'" in action.error and "epoch, val/loss" in action.error


def test_diverged_trials_are_the_worst(tmp_path: Path) -> None:
    history = history_of(make_batch(tmp_path / "b", trials=3, parallel=1, early_stop=EarlyStop("asha", (1,), 2)))
    for number in range(3):
        action = start(history)
        assert action.trial.number == number
        execute(action, 9)
        if number < 2:
            (Path(action.folder) / "done").write_text("diverged\n")
    promotion = start(history)
    assert (promotion.decision.kind, promotion.trial.number, promotion.pause_at) == ("promote", 2, None)
    assert history.current.losses(0)[0] == math.inf


def test_a_trial_that_ends_early_counts_at_later_rungs(tmp_path: Path) -> None:
    history = history_of(make_batch(tmp_path / "b", trials=1))
    action = start(history)
    execute(action, 2)
    (Path(action.folder) / "stats.csv").write_text("epoch,val/loss\n1,0.5\n2,0.25\n")
    (Path(action.folder) / "done").write_text("early_stopped\n")
    assert step(history) == Finished()
    assert [history.current.losses(rung) for rung in range(3)] == [{0: 0.5}, {0: 0.25}, {0: 0.25}]


def test_trials_that_do_not_pause_are_stopped_while_they_run(tmp_path: Path) -> None:
    stop = EarlyStop("asha", (1, 3), 3, resume=False)
    history = history_of(make_batch(tmp_path / "b", trials=2, early_stop=stop))
    good, bad = start(history), start(history)
    assert good.pause_at is None
    for action, value in ((good, 0.1), (bad, 0.2)):
        execute(action, 9, "killed")
        (Path(action.folder) / "stats.csv").write_text(f"epoch,val/loss\n1,{value}\n")
        decide.settle(history)
    assert not history.is_stopped(good.trial.number) and history.is_stopped(bad.trial.number)
    assert [made.kind for made in history.decisions] == ["new", "new", "promote", "stop"]
    assert decide.replay(history.batch, history.search, name_run) == (4, [])


def test_hyperband_stops_at_bands(tmp_path: Path) -> None:
    stop = EarlyStop("hyperband", (1, 3), 3, strict=True, counts="values")
    batch = make_batch(tmp_path / "b", trials=9, early_stop=stop, parallel=3)
    worker.work(batch)
    history = history_of(batch)
    history.refresh()
    kinds = [made.kind for made in history.decisions]
    assert kinds.count("new") == 9 and kinds.count("stop") > 2
    assert decide.replay(batch, history.search, name_run) == (len(kinds), [])
    assert {trial.state for trial in history.current.trials} == {"completed", "stopped"}


@pytest.mark.parametrize("change", [{"number": 5}, {"trial": 7}, {"rung": 9}, {"run": "../x"}, {"kind": "other"},
                                    {"results": [{"trial": 0}]}, {"point": {"base_lr": "high"}}])
def test_damaged_decisions_are_named(tmp_path: Path, change: dict[str, Any]) -> None:
    batch = make_batch(tmp_path / "b")
    history = history_of(batch)
    start(history)
    path = Path(decision.path(batch, 0))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BatchError, match=r"decision-0000\.json"):
        history_of(batch).refresh()


def test_a_decision_that_cannot_be_seen_yet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(tmp_path / "b")
    first, second = history_of(batch), history_of(batch)
    start(first)
    with monkeypatch.context() as late:
        late.setattr(decision, "read", lambda *_: None)
        assert isinstance(step(second), Wait)
    assert start(second).decision.number == 1
