"""Tables that fit a width, and what the names of runs have in common."""
from __future__ import annotations

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
from hypothesis import given

from src.submission.status.observe import observe
from src.terminal import cells, run_names, table
from src.terminal.run_names import RunName
from src.terminal.table import Column
from tests.terminal import live_batch

CELLS = st.lists(st.text("abc日", max_size=30), min_size=2, max_size=2)
COLUMN = st.builds(Column, st.sampled_from(["run", "batch_size", "日本"]), CELLS, st.just("b"), st.integers(3, 40),
                   st.integers(1, 20), st.integers(0, 3))


@hypothesis.settings(max_examples=60)
@given(st.lists(COLUMN, min_size=1, max_size=6), st.integers(1, 140))
def test_rows_fit_the_width(columns: list[Column], width: int) -> None:
    fitted = table.fit(columns, width)
    for row in (fitted.header(), fitted.row(0), fitted.row(1)):
        assert cells.width("".join(row).rstrip()) <= width


def test_optional_columns_are_left_out_before_cells_are_shortened() -> None:
    columns = [Column("run", ["000"]), Column("model", ["a" * 30], wish=20, floor=5),
               Column("left", ["12:00"], optional=1), Column("empty", [""])]
    assert table.fit(columns, 43).row(0) == ["000  ", "a" * 30 + "  ", "12:00"]
    assert table.fit(columns, 35).row(0) == ["000  ", "a" * 11 + "…" + "a" * 11 + "  ", "12:00"]
    assert table.fit(columns, 26).row(0) == ["000  ", "a" * 10 + "…" + "a" * 10]
    narrow = table.fit(columns, 12)
    assert (narrow.row(0), narrow.left_out) == (["000  ", "aaa…aaa"], [])
    assert table.fit(columns, 8).left_out == ["model"]


def test_full_titles_give_way_to_short_ones() -> None:
    columns = [Column("batch_size", ["8"], "bat_siz"), Column("base_lr", ["0.1"], "bas_lr")]
    assert table.fit(columns, 19).titles == ["batch_size", "base_lr"]
    assert table.fit(columns, 15).titles == ["bat_siz", "bas_lr"]


@pytest.mark.parametrize(("name", "parsed"), [
    ("012_lenet+bas_lr=0.1+mod=a,b", RunName("012", "lenet", {"bas_lr": "0.1", "mod": "a,b"})),
    ("3_x", RunName("3", "x", {})),
    ("012_lenet+bas_lr=0.1-repeat-2", RunName("012 repeat 2", "lenet", {"bas_lr": "0.1"})),
    ("mine", RunName("mine")), ("000_long+mod=aaaa+ba-0a1b2c3d", RunName("000_long+mod=aaaa+ba-0a1b2c3d")),
    ("\x1b[31m0", RunName("0"))])
def test_names_are_taken_apart(name: str, parsed: RunName) -> None:
    assert run_names.parse(name) == parsed


def test_common_parts_of_names_are_in_the_title_once(tmp_path: Path) -> None:
    batch, = observe([str(live_batch.make(tmp_path, 12))])
    names = run_names.read(batch)
    assert names.title("results/b") == "results/b/*_digits-quickstart+mod=linear+*"
    assert names.varying == {"bas_lr": "base_lr", "ave": "averaging", "bat_siz": "batch_size"}
    assert names.values(next(iter(batch.runs))) == ["0.01", "null", "16"]
