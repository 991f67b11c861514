"""Read stats.csv or steps.csv as programs in any language write it: a row per epoch or step, and what was left out.

The columns that train.py writes are defined by src/training/output: recorder.py and step_log.py.
"""
from __future__ import annotations

import csv
import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from src import run_folder
from src.archive import run_files

KEYS = {run_folder.STATS: "epoch", run_folder.STEPS: "step"}  # the column of each file that numbers its rows
# cells without a value, as pandas, R, Julia and JavaScript write them; they never replace a value
_EMPTY = frozenset(("", "NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "None", "missing", "undefined"))
_PLAIN_BYTES = b"0123456789+-.,eE\r\nnaifNIA"  # of rows of numbers, nan and inf
MAX_EPOCH = 2**53
_MAX_FILE = 16 * 2**20  # bytes that are read as text, which takes ten times the memory


class Stats(NamedTuple):
    """The rows of a stats.csv, one per epoch, or of a steps.csv, one per step.

    names: of the columns; empty if the file cannot be used;
    epochs: ascending; those of steps.csv are steps;
    rows: a cell per column; empty where an epoch has no value;
    words: columns that hold words instead of numbers, each with an example;
    notes: what was left out, a sentence per reason.
    """

    names: list[str]
    epochs: list[int]
    rows: list[list[str]]
    words: Mapping[str, str]
    notes: list[str]

    def numbers(self, name: str) -> list[float]:
        """Return a column as numbers, NaN for an empty cell."""
        position = self.names.index(name)
        return [to_number(cells[position]) for cells in self.rows]


def read(folder: str | os.PathLike[str], file: str = run_folder.STATS) -> Stats:
    """Read the stats.csv or steps.csv of a run; empty if it does not exist, and with a note if it cannot be read."""
    try:
        return parse(*split(run_files.read_bytes(folder, file, _MAX_FILE) or b""), file)
    except OSError as error:
        return Stats([], [], [], {}, [f"{file} cannot be read: {error.strerror}"])


def split(content: bytes) -> tuple[str, bytes]:
    """Return the header and the rows of a file, without an incomplete last line."""
    end = content.find(b"\n")
    if end < 0:
        return "", b""
    header = content[:end].removeprefix(b"\xef\xbb\xbf").rstrip(b"\r").decode(errors="replace")
    return header, content[end + 1:] if content.endswith(b"\n") else content[end + 1:content.rfind(b"\n") + 1]


def column_names(header: str, file: str = run_folder.STATS) -> list[str]:
    """Return the columns that a header names; empty if it lacks that of KEYS or names a column twice.

    A column without a name, as R and pandas write row numbers, is "" and is not read.
    """
    return list(_column_names(header, file))


@functools.lru_cache(maxsize=16)  # most runs of a batch have one header
def _column_names(header: str, file: str) -> tuple[str, ...]:
    names = _cells(header)
    return tuple(names) if KEYS[file] in names and len(names) - names.count("") == len({*names} - {""}) else ()


@functools.lru_cache(maxsize=16)  # most runs of a batch have one header
def _is_plain_header(header: str, file: str) -> bool:
    return tuple(header.split(",")) == _column_names(header, file) and ",," not in f",{header},"


def is_plain(header: str, body: bytes, file: str = run_folder.STATS) -> bool:
    """Return whether there are no quotes, words, blanks or columns without a name, so that a fast parser suffices."""
    return _is_plain_header(header, file) and not body.translate(None, _PLAIN_BYTES)


def to_number(cell: str) -> float:
    """Return the number in a cell, NaN if it is empty or holds a word."""
    try:
        return float(cell) if "_" not in cell else float("nan")  # Python reads 1_000 as a number, other tools do not
    except ValueError:
        return float("nan")


def leading_number(line: str) -> int | None:
    """Return the epoch or step with which a row that this project wrote begins; None for any other line."""
    cell = line.partition(",")[0]
    return int(cell) if cell.isascii() and cell.isdecimal() and len(cell) < 16 else None


def words_message(name: str, example: str) -> str:
    """Return the note about a column of words."""
    return f"column {name} holds words, e.g. '{example}': it is not a metric (write numbers, e.g. 0.8)"


def damage_message(rows: int, file: str = run_folder.STATS) -> str:
    """Return the note about damaged rows."""
    return f"{file}: {rows} damaged row{'s' * (rows > 1)} left out, the rest is read"


def parse(header: str, body: bytes, file: str = run_folder.STATS) -> Stats:
    """Parse the header and the rows of a file, in any order of epochs.

    Several rows of an epoch become one: in each column, the last of them that is not empty counts.
    """
    names, key = column_names(header, file), KEYS[file]
    if not names:
        note = f"{file} left out: its header has no column {key}, or a column twice"
        return Stats([], [], [], {}, [note] if body else [])
    lines = [line.rstrip("\r") for line in body.decode(errors="replace").split("\n")[:-1]]
    if is_plain(header, body, file):
        rows = [line.split(",") for line in lines]
        if (epochs := _epochs_of_plain(rows, names, key)) is not None:
            return Stats(names, epochs, rows, {}, [])
    return _parse_any(names, lines, file)


def _epochs_of_plain(rows: list[list[str]], names: list[str], key: str) -> list[int] | None:
    """Return the epochs if the rows are whole, all numbers, and ascending; otherwise None."""
    try:
        if any(len(row) != len(names) for row in rows):
            return None
        for row in rows:
            [float(cell) for cell in row if cell]
        epochs = [int(row[names.index(key)]) for row in rows]
    except ValueError:
        return None
    return epochs if all(first < second for first, second in pairwise(epochs)) else None


def _parse_any(names: list[str], lines: Iterable[str], file: str) -> Stats:
    rows: list[dict[str, str]] = []
    damaged = 0
    for section_names, section in _sections(names, lines, file):
        for cells, cell_names in zip(section, _names_of_rows(section_names, section), strict=True):
            names = [*names, *(name for name in cell_names if name not in names)]
            damaged += not cell_names
            rows += [dict(zip(cell_names, cells, strict=True))] if cell_names else []
    names = [name for name in names if name]
    words = _columns_of_words([name for name in names if name != KEYS[file]], rows)
    merged: dict[int, dict[str, str]] = {}
    for row in rows:
        epoch = _whole_number(row.get(KEYS[file], ""))
        if epoch is None or any(_is_word(row.get(name, "")) for name in names if name not in words):
            damaged += 1
            continue
        cells_of_epoch = merged.setdefault(epoch, dict.fromkeys(names, ""))
        for name in names:
            if (cell := row.get(name)) and (name in words or not cells_of_epoch[name] or to_number(cell) == to_number(
                    cell)):  # NaN replaces no number: several loggers write it for an empty cell
                cells_of_epoch[name] = cell
    epochs = sorted(merged)
    return Stats(names, epochs, [list(merged[epoch].values()) for epoch in epochs], words,
                 [damage_message(damaged, file)] if damaged else [])


def _sections(names: list[str], lines: Iterable[str], file: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield each header's names and the rows below it, without blank lines. A header may appear again in mid-file."""
    section: list[list[str]] = []
    for line in lines:
        if KEYS[file] not in line or not (new_names := column_names(line, file)):
            section += [_cells(line)] if line.strip() else []
            continue
        yield names, section
        names, section = new_names, []
    yield names, section


def _names_of_rows(names: list[str], rows: list[list[str]]) -> list[list[str]]:
    """Return the columns of each row below a header; none for a damaged row, which has too many cells or too few.

    A column may begin in mid-file: then all rows before are shorter, or all rows after are longer than the header.
    """
    lengths = [len(row) for row in rows]
    named = [names if length == len(names) else [] for length in lengths]
    whole = [number for number, length in enumerate(lengths) if length == len(names)]
    if not whole:
        return named
    before, after = lengths[:whole[0]], lengths[whole[-1] + 1:]
    if len(set(before)) == 1 and before[0] < len(names):
        named[:whole[0]] = [names[:before[0]]] * len(before)
    if len(after) > 1 and len(set(after)) == 1 and after[0] > len(names):  # a single one may be two rows torn together
        unnamed = [f"column {number}" for number in range(len(names) + 1, after[0] + 1)]
        named[whole[-1] + 1:] = [[*names, *unnamed]] * len(after)
    return named


def _cells(line: str) -> list[str]:
    """Return the cells of a line, without quotes and surrounding blanks; those without a value are empty."""
    try:
        cells = next(csv.reader([line.removeprefix("\ufeff")], skipinitialspace=True), [])
    except csv.Error:  # bytes that are no text
        return []
    return ["" if (cell := raw.strip()) in _EMPTY else cell for raw in cells]


def _columns_of_words(names: list[str], rows: list[dict[str, str]]) -> dict[str, str]:
    """Return the columns most of whose cells are words, each with an example. In other columns a word is damage."""
    words = {}
    for name in names:
        cells = [cell for row in rows if (cell := row.get(name))]
        examples = [cell for cell in cells if _is_word(cell)]
        if 2 * len(examples) > len(cells):
            words[name] = examples[0]
    return words


def _is_word(cell: str) -> bool:
    if not cell or "_" in cell:
        return bool(cell)
    try:
        float(cell)
    except ValueError:
        return True
    return False


def _whole_number(cell: str) -> int | None:
    number = to_number(cell)
    return int(number) if abs(number) < MAX_EPOCH and number == int(number) else None
