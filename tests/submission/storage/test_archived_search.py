"""Archives of searches that are over: no trial is lost, and none is kept from an extension, wherever a process dies."""
from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from src import run_folder
from src.archive import run_files
from src.run_folder import RunFolder
from src.search import definition, summary
from src.search.decide import Finished, Wait
from src.submission.batch import claims
from src.submission.storage import archiving
from tests.search.worker import check, execute, history_of, make_batch, step, work
from tests.submission.storage.test_archiving import contents_of, end_long_ago, exit_code, hidden


def end(batch: Path) -> Path:
    """Record the end of a search, long ago, by processes that are gone."""
    for path in batch.glob("*/attempt-*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "who": {}}))
    search = definition.read(batch)
    assert search is not None
    summary.record_end(batch, search, None)
    return end_long_ago(batch)


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """A search of nine trials that is over: one of them is done, the others are paused."""
    return ended_search(tmp_path / "b", 9)


def ended_search(folder: Path, trials: int) -> Path:
    batch = make_batch(folder, trials=trials)
    work(batch)
    return end(Path(batch))


def archive(batch: Path) -> archiving.Archived:
    """Archive all runs, as the command does."""
    runs = [RunFolder.read(batch / name) for name in run_folder.run_names(batch)]
    return archiving.archive(str(batch), {run.name: max(
        [ticket for ticket in run.claims if not claims.is_claim_to_archive(run, ticket)]) for run in runs},
        [run.name for run in runs if run.ended is None])


def extend(batch: Path, trials: int) -> None:
    """Bring back what may be resumed after an extension, as a submission does."""
    search = definition.read(batch)
    assert search is not None
    definition.write(batch, replace(search, trials=trials))
    history = history_of(str(batch))
    history.refresh()
    archiving.restore_submitted(str(batch), history.resumable_runs())


def test_ended_search_is_archived_and_extended(batch: Path) -> None:
    seen, names = contents_of(batch), run_folder.run_names(batch)
    assert archive(batch) == (names, {}) and not any((batch / name).exists() for name in names)
    assert contents_of(batch) == seen
    assert isinstance(step(history_of(str(batch))), Finished)
    extend(batch, 20)
    done = [name for name in names if RunFolder.read(batch / name).ended]
    assert done and [name for name in names if run_files.is_archived(batch / name)] == done
    work(str(batch))
    archiving.unarchive(str(batch))
    history = check(str(batch))
    assert any(trial.target and trial.run in names and trial.run not in done for trial in history.ledger.trials), (
        "a trial that was archived was promoted later")


def test_running_search_keeps_the_folders_of_trials_that_may_continue(batch: Path) -> None:
    (batch / summary.FILE).unlink()
    archived = archive(batch)
    assert [RunFolder.read(batch / name).ended for name in archived.runs] == ["completed"]
    assert set(archived.left.values()) == {"its search is not over, and may continue it"} and len(archived.left) == 8
    assert all((batch / name).is_dir() for name in archived.left)


def test_search_that_is_extended_meanwhile_keeps_its_paused_trials(batch: Path, monkeypatch: pytest.MonkeyPatch
                                                                   ) -> None:
    """The extension read the archive before the runs were moved there, so that it brought none of them back."""
    claim = claims.claim_to_archive

    def extend_first(folder: str, ticket: int) -> str | None:
        search = definition.read(batch)
        assert search is not None
        definition.write(batch, replace(search, trials=20))
        return claim(folder, ticket)

    monkeypatch.setattr(claims, "claim_to_archive", extend_first)
    archived = archive(batch)
    assert len(archived.runs) == 1 and set(archived.left.values()) == {"its search is not over, and may continue it"}
    assert not [claim for name in archived.left for claim in (batch / name).glob("claim-*") if "archives" in
                claim.read_text()]
    work(str(batch))
    archiving.unarchive(str(batch))
    check(str(batch))


def test_crash_at_any_operation_loses_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards the same command finishes it, or an extension continues the search from what the crash left."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # takes most of the time
    batch = ended_search(tmp_path / "b", 3)
    seen, kill_at, code = contents_of(batch), 0, 9
    start = shutil.copytree(batch, tmp_path / "start")
    while code:
        shutil.rmtree(batch)
        shutil.copytree(start, batch)
        code = exit_code(lambda: archive(batch), kill_at)
        assert contents_of(batch) == seen, kill_at
        if kill_at % 2:
            archive(batch)
            assert not any((batch / name).exists() for name in seen) and hidden(batch) == [], kill_at
        extend(batch, 5)
        work(str(batch))
        archiving.unarchive(str(batch))
        check(str(batch))
        kill_at += 1
    assert kill_at > 20


def test_trial_of_a_stopped_search_is_not_started_while_it_is_archived(tmp_path: Path) -> None:
    """A worker may start late, after a search has ended with an error while some trials were open."""
    batch = Path(make_batch(tmp_path / "b"))
    history = history_of(str(batch))
    for _ in range(2):
        start = step(history)
        assert not isinstance(start, Wait | Finished)
        execute(start, 9, "failed")
    names = run_folder.run_names(batch)
    assert archive(end(batch)).runs == names
    late = history_of(str(batch), grace=0.0)
    assert isinstance(step(late), Wait) and not any((batch / name).exists() for name in names)
    extend(batch, 10)
    assert all((batch / name).is_dir() for name in names)
    history = work(str(batch), grace=0.0)
    assert len(history.current.trials) == 10 and not history.current.open_trials()
