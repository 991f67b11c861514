"""Starts of runs are compared with the code of their submission, and what differs is stored."""
from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from src.code import code_state
from src.io import yaml_io
from tests.conftest import ROOT
from tests.training.toys import make_toy, train_toy

SECRET = "q7-planted-secret-q7"


class Submitted:
    """A project of four files, and the folder in code/ of a submission from it."""

    def __init__(self, folder: Path) -> None:
        self.project, self.code = folder / "project", folder / "code"
        (self.project / "jobs").mkdir(parents=True)
        for name in ("train.py", "known.py", "notes.md", "jobs/x.yaml"):
            (self.project / name).write_text(f"{name} = 1\n")
        self.submit(self.code)

    def submit(self, code: Path) -> None:
        code.mkdir()
        code_state.write_manifest(str(code), str(self.project), ["train.py", "known.py", "notes.md", "jobs/x.yaml"])

    def start(self, *new_files: str) -> code_state.StartedCode:
        started = code_state.compare_all(str(self.code), str(self.project), new_files)
        assert started is not None
        return started

    def stored(self, started: code_state.StartedCode) -> dict[str, str]:
        folder = self.code / f"started-{started.code}"
        return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def submitted(tmp_path: Path) -> Submitted:
    return Submitted(tmp_path)


def test_unchanged_code_has_the_id_of_the_submission(submitted: Submitted) -> None:
    code = json.loads((submitted.code / "sources.json").read_text())["code"]
    assert submitted.start() == (code, [])
    (submitted.project / "known.py").touch()  # a new time, as after `git checkout`
    (submitted.project / "notes.md").write_text("no code\n")
    (submitted.project / "jobs" / "x.yaml").write_text("the next batch\n")
    assert submitted.start() == (code, [])
    assert [path.name for path in submitted.code.iterdir()] == ["sources.json"]


def test_changed_new_and_removed_files_are_named_and_stored(submitted: Submitted) -> None:
    (submitted.project / "known.py").write_text("edited\n")
    (submitted.project / "train.py").unlink()
    (submitted.project / "extra.py").write_text("new\n")
    started = submitted.start("extra.py", "extra.md", "known.py")
    assert started.changed == ["extra.py", "known.py", "train.py"]
    assert submitted.stored(started) == {"known.py": "edited\n", "extra.py": "new\n"}
    assert submitted.start("extra.py") == started  # the next run stores nothing
    assert len(list(submitted.code.iterdir())) == 2


def test_equal_code_has_equal_ids_whatever_it_was_submitted_as(submitted: Submitted, tmp_path: Path) -> None:
    """An edit before the submission and one after it give the same code."""
    before = submitted.start()
    (submitted.project / "known.py").write_text("edited\n")
    after = submitted.start()
    submitted.submit(tmp_path / "later")
    later = code_state.compare_all(str(tmp_path / "later"), str(submitted.project))
    assert later is not None and later.changed == []
    assert after.code == later.code != before.code


def test_secrets_are_not_stored(submitted: Submitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    (submitted.project / "known.py").write_text(f"KEY = '{SECRET}'\n")
    assert submitted.stored(submitted.start()) == {"known.py": "KEY = '***'\n"}


def test_loaded_modules_count_as_they_were_loaded(submitted: Submitted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither edits of other files nor later edits change what a process runs."""
    def load(name: str, path: Path) -> None:
        module = ModuleType(name)
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, name, module)

    (submitted.project / "train.py").write_text("not loaded\n")
    (submitted.project / "site-packages").mkdir()
    load("known", submitted.project / "known.py")
    load("installed", submitted.project / "site-packages" / "installed.py")
    first = code_state.compare_loaded(str(submitted.code), str(submitted.project))
    assert first is not None and first.changed == []
    (submitted.project / "known.py").write_text("edited after it was loaded\n")
    assert code_state.compare_loaded(str(submitted.code), str(submitted.project)) == first
    load("train", submitted.project / "train.py")
    later = code_state.compare_loaded(str(submitted.code), str(submitted.project))
    assert later is not None and later.changed == ["train.py"]
    assert submitted.stored(later) == {"train.py": "not loaded\n"}


def test_batch_without_hashes_has_no_facts(tmp_path: Path) -> None:
    """As those of earlier versions, and runs outside a batch."""
    assert code_state.compare_all(str(tmp_path), str(ROOT)) is None
    assert code_state.compare_loaded(str(tmp_path), str(ROOT)) is None
    (tmp_path / "attempt-1-0.json").write_text('{"ticket": 1}')
    assert code_state.facts_of_start(str(tmp_path)) == code_state.facts_of_start(None) == {}


def test_training_records_its_code_and_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config and the log name a module that differs; a resumed run names the code of its earlier start too."""
    code, run = tmp_path / "code" / "token", tmp_path / "000_x"
    code.mkdir(parents=True)
    run.mkdir()
    names = [str(path.relative_to(ROOT)) for path in [
        *ROOT.glob("*.py"), *(path for folder in ("src", "tests", "docs", "benchmarks", "tools")
                              for path in (ROOT / folder).rglob("*.py"))]]
    code_state.write_manifest(str(code), str(ROOT), names)
    manifest = json.loads((code / "sources.json").read_text())
    manifest["files"]["src/training/stopping.py"] = [1, 1, "another"]
    (code / "sources.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py")])
    (run / "attempt-1-0.json").write_text(json.dumps({"ticket": 1, "number": 0, "code": "token"}))
    train_toy(make_toy(checkpoint_every="2steps", train_length=2), str(run))
    facts = yaml_io.load_flat((run / "config.yaml").read_text(), "config.yaml")["facts"]
    assert facts["code_changed"] == ["src/training/stopping.py"]
    assert "code_before" not in facts
    assert "code changed since submission: src/training/stopping.py\n" in (run / "training.log").read_text()
    stored = code / f"started-{facts['code']}" / "src" / "training" / "stopping.py"
    assert stored.read_bytes() == (ROOT / "src" / "training" / "stopping.py").read_bytes()

    config = (run / "config.yaml").read_text().replace(facts["code"], "0123456789abcdef")
    (run / "config.yaml").write_text(config)
    train_toy(make_toy(checkpoint_every="2steps", train_length=2), str(run))
    facts = yaml_io.load_flat((run / "config.yaml").read_text(), "config.yaml")["facts"]
    assert facts["code_before"] == ["0123456789abcdef"]
    assert "earlier starts of this run had other code" in (run / "training.log").read_text()


def test_message_names_three_files() -> None:
    assert code_state.change_message(["a.py"]) == "code changed since submission: a.py"
    assert code_state.change_message(list("abcde")) == "code changed since submission: a, b, c and 2 more"


def test_hash_of_a_file_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abc")
    assert code_state.file_hash(str(tmp_path / "a")) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert code_state.file_hash(os.path.join(tmp_path, "none")) is None
