"""Journals of several processes are read as one history, also after a crash."""
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src import run_folder
from src.submission.batch import journal
from src.submission.batch.journal import LOCAL, SLURM, WRITE_ONLY, Journal, Units


@pytest.fixture
def batch(tmp_path: Path) -> str:
    (tmp_path / run_folder.SUBMISSIONS).mkdir()
    return str(tmp_path)


def test_batch_without_journals_has_an_empty_history(tmp_path: Path) -> None:
    history = journal.read_history(str(tmp_path))
    assert not history.tickets and not history.recorded_plans
    assert history.first_plan() == history.last_slurm_plan() == {}


def test_history_has_answers_and_missing_answers(batch: str) -> None:
    book = Journal(batch, "240101-000000-aaaaaa")
    book.record_plan(SLURM, {"000_a": 1, "001_a": 1, "002_a": 1, "003_a": 1})
    book.record_sending(0)
    book.record_job(0, "17")
    book.record_sending(1)
    book.record_refusal(1, "invalid partition")
    book.record_sending(2)
    tickets = journal.read_history(batch).tickets
    assert tickets["000_a"].slurm_jobs == ["17"]
    assert [tickets[name].sent for name in tickets] == [True, False, True, False]
    assert tickets["002_a"].comments == [("gridiron-240101-000000-aaaaaa-2", "")]


def test_jobs_of_arrays_and_workers(batch: str) -> None:
    names = [f"{index:03d}_a" for index in range(5)]
    book = Journal(batch, "1-a")
    book.record_plan(SLURM, dict.fromkeys(names, 1), Units(journal.ARRAY, [0, 3, 5]))
    book.record_sending(0)
    book.record_job(0, "20")
    book.record_sending(1)
    tickets = journal.read_history(batch).tickets
    assert [tickets[name].slurm_jobs for name in names] == [["20_0"], ["20_1"], ["20_2"], [], []]
    assert tickets["004_a"].comments == [("gridiron-1-a-1", "1")]
    book = Journal(batch, "2-b")
    book.record_plan(SLURM, dict.fromkeys(names[3:], 1), Units(journal.WORKERS))
    for unit, job in enumerate(("30", "31")):
        book.record_sending(unit)
        book.record_job(unit, job)
    ticket = journal.read_history(batch).tickets["003_a"]
    assert ticket.shared
    assert ticket.slurm_jobs == ["30", "31"]
    assert ("gridiron-2-b-1", "") in ticket.comments


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_each_run_belongs_to_one_chunk_of_an_array(sizes: list[int]) -> None:
    names = [str(position) for position in range(sum(sizes))]
    units = Units(journal.ARRAY, [sum(sizes[:unit]) for unit in range(len(sizes) + 1)])
    assert [name for unit in range(units.planned_count(names)) for name in units.runs(unit, names)] == names
    assert all(name in units.runs(units.unit_of(position), names) for position, name in enumerate(names))


def test_repeated_ticket_collects_jobs_and_higher_ticket_replaces_it(batch: str) -> None:
    for token, job in (("1-a", "5"), ("2-b", "6")):
        book = Journal(batch, token)
        book.record_plan(SLURM, {"000_a": 1})
        book.record_job(0, job)
    assert journal.read_history(batch).tickets["000_a"].slurm_jobs == ["5", "6"]
    Journal(batch, "3-c").record_plan(LOCAL, {"000_a": 2})
    ticket = journal.read_history(batch).tickets["000_a"]
    assert (ticket.number, ticket.mode, ticket.slurm_jobs) == (2, LOCAL, [])
    Journal(batch, "4-d").record_plan(WRITE_ONLY, {"000_a": 3})
    assert journal.read_history(batch).tickets["000_a"].number == 2


def test_incomplete_last_line_is_skipped(batch: str) -> None:
    book = Journal(batch, "1-a")
    book.record_plan(SLURM, {"000_a": 1}, script="s.sh")
    with open(book.path, "a") as file:
        file.write('{"kind": "job", "run": "000_a", "tick')
    history = journal.read_history(batch)
    assert history.tickets["000_a"].slurm_jobs == []
    assert history.last_slurm_plan()["script"] == "s.sh"


@pytest.mark.parametrize("line", ["", "3", "null", "[1]", '{"kind": "plan"}', '{"kind": "job", "unit": 0}',
                                  '{"kind": "of a later version"}', '{"run": "000_a"}', "\0\udcff"])
def test_invalid_lines_are_skipped(line: str, batch: str) -> None:
    book = Journal(batch, "1-a")
    book.record_plan(SLURM, {"000_a": 1})
    with open(book.path, "a", errors="surrogateescape") as file:
        file.write(f"{line}\n")
    book.record_job(0, "17")
    assert journal.read_history(batch).tickets["000_a"].slurm_jobs == ["17"]


def test_tokens_are_unique_and_sort_by_time() -> None:
    assert len({journal.new_token(0) for _ in range(50)}) == 50
    assert journal.new_token(1e9) < journal.new_token(1.5e9)
