"""`experiments.py search`: the decisions of a search, and their replay."""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import experiments
from src.commands import documents
from src.search import decide, decision
from src.search.decide import Finished, Start
from src.submission.spec.naming import name_run
from tests.commands.test_documents import matches
from tests.search.worker import execute, history_of, make_batch


@pytest.fixture
def batch(tmp_path: Path) -> str:
    """A search that is over."""
    folder = make_batch(tmp_path / "b", parallel=1)
    history = history_of(folder)
    while not isinstance(action := decide.next_step(history, name_run(history.search)), Finished):
        assert isinstance(action, Start)
        execute(action, 9)
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    capsys.readouterr()
    assert experiments.main(["search", *arguments]) == exit_code
    return capsys.readouterr().out


def test_decisions_and_the_best_trial_are_listed(batch: str, capsys: pytest.CaptureFixture[str]) -> None:
    header, *lines, best = printed(capsys, batch).splitlines()
    assert header.split() == ["decision", "kind", "trial", "to", "epoch", "chosen", "by", "run"]
    assert sum("new" in line for line in lines) == 9
    assert sum(bool(re.search(r"promote .* 3 +rung at 1 ", line)) for line in lines) == 3
    assert re.fullmatch(r"best: 0\.\d+ val/loss, 00\d_x", best)
    decisions = json.loads(printed(capsys, batch, "--json"))
    assert len(decisions) == len(lines) and matches(decisions, list[documents.DecisionDocument])


def test_replay_names_decisions_that_differ(batch: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, batch, "--replay") == "13 decisions computed again: all are the same\n"
    path = Path(decision.path(batch, 1))
    changed: dict[str, Any] = json.loads(path.read_text())
    changed["point"]["base_lr"] = 0.25
    path.write_text(json.dumps(changed))
    text = printed(capsys, batch, "--replay", exit_code=1)
    assert text.startswith("decision 1: point {'base_lr': 0.25") and "13 decisions computed again: 1 differ" in text
    document = json.loads(printed(capsys, batch, "--replay", "--json", exit_code=1))
    assert matches(document, documents.Replay) and [item["number"] for item in document["different"]] == [1]


def test_a_grid_is_no_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text("job_details: {name: x}\nparameters: {}\n")
    assert experiments.main(["search", str(tmp_path)]) == 2
    assert "this batch is not a search" in capsys.readouterr().err
