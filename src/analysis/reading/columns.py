"""The contents of many runs as columns: parse them together, select runs, join parts."""
from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from src import run_folder
from src.analysis.reading.raw_files import STAMP_LENGTH, RunText

SCALARS = {bool: np.bool_, int: np.int64, float: np.float64}


@dataclass
class Columns:
    """n runs with r rows of stats in total.

    The values of a run depend only on its own files, so that runs that were read at different times can be joined.

    names: of the run folders;
    stamps: (n, STAMP_LENGTH) int64; zeros where none was taken;
    ends: contents of `done`;
    notes: what of a run's stats was left out, a line per reason;
    layouts: [has_config, config keys, fact keys, stats columns] of each run as JSON; most runs share one;
    config, facts: (n,) values by key, None where a run lacks the key; objects, or an array of numbers or bools if all
        values are of that type;
    counts: (n,) int64, rows of each run;
    stats: (r,) float64 by column, or objects if a run has strings there.
    """

    names: list[str]
    stamps: np.ndarray
    ends: list[str | None]
    notes: list[str]
    layouts: list[str]
    config: dict[str, np.ndarray]
    facts: dict[str, np.ndarray]
    counts: np.ndarray
    stats: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, positions: np.ndarray) -> Columns:
        """Return the runs at `positions`, in that order."""
        return assemble([self], np.zeros(len(positions), int), positions)


Span = tuple[int, int, int]  # part, first run of it, last run + 1


def join(parts: Sequence[Columns]) -> Columns:
    """Concatenate parts."""
    return _assemble(parts, [(number, 0, len(part)) for number, part in enumerate(parts) if len(part)])


def assemble(parts: Sequence[Columns], part_of_run: np.ndarray, position_of_run: np.ndarray) -> Columns:
    """Return columns whose run i is the run `position_of_run[i]` of the part `part_of_run[i]`."""
    breaks = np.flatnonzero((np.diff(part_of_run) != 0) | (np.diff(position_of_run) != 1)) + 1
    firsts = np.concatenate([[0], breaks])[:len(part_of_run)]
    lasts = np.concatenate([breaks, [len(part_of_run)]])[:len(firsts)] - 1
    return _assemble(parts, list(zip(part_of_run[firsts].tolist(), position_of_run[firsts].tolist(),
                                     (position_of_run[lasts] + 1).tolist(), strict=True)))


def _assemble(parts: Sequence[Columns], spans: list[Span]) -> Columns:
    """Copy whole spans: most of a large batch is a single one."""
    if len(spans) == 1 and spans[0][1:] == (0, len(parts[spans[0][0]])):
        return parts[spans[0][0]]
    used = [parts[number] for number in sorted({number for number, _, _ in spans})]

    def lists(of_part: Callable[[Columns], list[Any]]) -> list[Any]:
        each = list(map(of_part, parts))
        return list(itertools.chain.from_iterable(each[number][start:stop] for number, start, stop in spans))

    def table(of_part: Callable[[Columns], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        def values(key: str) -> np.ndarray:
            each = [of_part(part).get(key) for part in parts]
            return concatenate([np.full(stop - start, None) if (values_of_part := each[number]) is None
                                else values_of_part[start:stop] for number, start, stop in spans])

        return {key: values(key) for key in dict.fromkeys(itertools.chain.from_iterable(map(of_part, used)))}

    def array(of_part: Callable[[Columns], np.ndarray], empty: np.ndarray) -> np.ndarray:
        return np.concatenate([empty, *(of_part(parts[number])[start:stop] for number, start, stop in spans)])

    return Columns(lists(lambda part: part.names),
                   array(lambda part: part.stamps, np.zeros((0, STAMP_LENGTH), np.int64)),
                   lists(lambda part: part.ends), lists(lambda part: part.notes), lists(lambda part: part.layouts),
                   table(lambda part: part.config), table(lambda part: part.facts),
                   array(lambda part: part.counts, np.zeros(0, np.int64)), _assemble_stats(parts, spans))


def concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate arrays, as objects if their types differ: 1 does not become 1.0."""
    if len({array.dtype for array in arrays}) > 1:
        arrays = [array.astype(object) for array in arrays]
    return np.concatenate(arrays)


def to_array(values: Sequence[Any]) -> np.ndarray:
    """Return (n,) Python values; as a numeric or bool array if all are of one type."""
    kinds = set(map(type, values))
    kind = SCALARS.get(kinds.pop()) if len(kinds) == 1 else None
    with contextlib.suppress(OverflowError):  # an integer beyond 64 bits stays an object
        if kind:
            return np.array(values, kind)
    return np.fromiter(values, object, len(values))  # np.array would unpack lists


def _assemble_stats(parts: Sequence[Columns], spans: list[Span]) -> dict[str, np.ndarray]:
    ends = [np.concatenate([[0], np.cumsum(part.counts)]).tolist() for part in parts]  # rows before each run
    rows = [(parts[number].stats, ends[number][start], ends[number][stop]) for number, start, stop in spans]
    names = dict.fromkeys(itertools.chain.from_iterable(stats for stats, _, _ in rows))
    with_strings = {name for name in names
                    if any(name in stats and stats[name].dtype == object for stats, _, _ in rows)}
    total = sum(stop - start for _, start, stop in rows)
    # one allocation: the kernel backs a large one with huge pages, which is ten times as fast
    blocks = iter(np.empty((len(names) - len(with_strings), total)))
    joined = {name: np.empty(total, dtype=object) if name in with_strings else next(blocks) for name in names}
    for name, column in joined.items():
        at = 0
        for stats, start, stop in rows:
            column[at:at + stop - start] = stats[name][start:stop] if name in stats else np.nan
            at += stop - start
    return joined


def parse(runs: Sequence[RunText], stamps: np.ndarray | None = None) -> Columns:
    """Parse the texts of runs. stamps: (runs, STAMP) int64."""
    configs = [run.config for run in runs]
    facts = [dict(_flatten(config.pop("facts", None), "facts/")) for config in configs]
    layouts: dict[tuple[Any, ...], str] = {}
    for run, run_facts in zip(runs, facts, strict=True):
        layout = (run.has_config, tuple(run.config), tuple(run_facts), run.header)
        if layout not in layouts:
            layouts[layout] = json.dumps([run.has_config, [*run.config], [*run_facts], _column_names(run.header)])
    stats, counts, notes = _stats(runs)
    return Columns([run.folder.rpartition("/")[2] for run in runs],
                   np.zeros((len(runs), STAMP_LENGTH), np.int64) if stamps is None else stamps,
                   [run.end for run in runs], notes,
                   [layouts[run.has_config, tuple(run.config), tuple(run_facts), run.header]
                    for run, run_facts in zip(runs, facts, strict=True)],
                   _transpose(configs), _transpose(facts), counts, stats)


def _flatten(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of nested mappings."""
    for key, item in value.items() if isinstance(value, Mapping) else ():
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{key}/")
        else:
            yield prefix + str(key), item


def _transpose(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Turn mappings into columns: the union of the keys, None where a row lacks the key."""
    keys = list(rows[0]) if rows else []
    if all(list(row) == keys for row in rows):  # most batches; ten times as fast
        return dict(zip(keys, map(to_array, zip(*(row.values() for row in rows), strict=True)), strict=True))
    return {key: to_array([row.get(key) for row in rows]) for key in dict.fromkeys(key for row in rows for key in row)}


def _column_names(header: str) -> list[str]:
    """The columns of a stats.csv; empty if they are unusable."""
    names = header.split(",")
    return names if "epoch" in names and len(set(names)) == len(names) else []


def _stats(runs: Sequence[RunText]) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """All stats, rows in the order of `runs`; rows of each run; notes. Bodies of one header are parsed together."""
    notes: list[list[str]] = [[] for _ in runs]
    same_header: dict[str, list[int]] = {}
    for position, run in enumerate(runs):
        if run.body and _column_names(run.header):
            same_header.setdefault(run.header, []).append(position)
        elif run.body:
            notes[position].append(f"{run_folder.STATS} left out: its header has no column epoch, or a column twice")
    parts = [_parse(_column_names(header), positions, runs, notes) for header, positions in same_header.items()]
    run_of_row = np.concatenate([run for run, _ in parts]) if parts else np.zeros(0, int)
    stats = _union([table for _, table in parts], [len(run) for run, _ in parts])
    if len(parts) > 1:
        order = np.argsort(run_of_row, kind="stable")
        run_of_row, stats = run_of_row[order], {name: values[order] for name, values in stats.items()}
    if parts and (rows := _rows_to_keep(run_of_row, stats["epoch"])) is not None:
        run_of_row, stats = run_of_row[rows], {name: values[rows] for name, values in stats.items()}
    return stats, np.bincount(run_of_row, minlength=len(runs)), ["\n".join(lines) for lines in notes]


def _union(tables: list[dict[str, np.ndarray]], rows: list[int]) -> dict[str, np.ndarray]:
    if len(tables) == 1:
        return tables[0]
    return {name: np.concatenate([table[name] if name in table else np.full(count, np.nan)
                                  for table, count in zip(tables, rows, strict=True)])
            for name in dict.fromkeys(itertools.chain.from_iterable(tables))}


def _parse(names: list[str], positions: list[int], runs: Sequence[RunText], notes: list[list[str]]
           ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The stats of runs with one header: the run (position) of each row, and the columns."""
    bodies = [runs[position].body for position in positions]
    text = b"".join(bodies)
    characters = np.frombuffer(text, np.uint8)
    line_ends = np.flatnonzero(characters == ord("\n"))
    counts = np.diff(np.searchsorted(line_ends, np.cumsum([0, *map(len, bodies)])))
    run_of_row = np.repeat(positions, counts)
    try:
        commas = np.count_nonzero(characters == ord(","))
        if commas != len(line_ends) * (len(names) - 1) or b"\0" in text or b'"' in text:
            raise ValueError("a row is too short (the parser itself finds those that are too long), or not plain")
        frame = _read_csv(text, names, np.float64)
        table = {name: frame[name].to_numpy() for name in names}
        bad = np.zeros(len(frame), bool)
    except ValueError:  # in some row: check each row of each run
        repaired = [_repair(runs[position].body, len(names)) for position in positions]
        for position, count, (_, whole) in zip(positions, counts, repaired, strict=True):
            _add_note(notes[position], int(count) - whole)
        run_of_row = np.repeat(positions, [whole for _, whole in repaired])
        frame = _read_csv(b"".join(body for body, _ in repaired), names, str)
        table, bad = _to_numbers(frame, run_of_row, len(runs))
    epoch = table["epoch"]
    bad |= ~(np.isfinite(epoch) & (epoch == np.floor(epoch)) & (np.abs(epoch) < 2**53))
    if bad.any():
        for position, count in zip(*np.unique(run_of_row[bad], return_counts=True), strict=True):
            _add_note(notes[position], int(count))
        run_of_row, table = run_of_row[~bad], {name: values[~bad] for name, values in table.items()}
    return run_of_row, table


def _read_csv(text: bytes, names: list[str], dtype: type) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(text), header=None, names=names, dtype=dtype, index_col=False)


def _to_numbers(frame: pd.DataFrame, run_of_row: np.ndarray, runs: int
                      ) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Cells as floats, or as strings in columns of a run that are mostly strings; second, rows with damaged numbers."""
    bad = np.zeros(len(frame), dtype=bool)
    table = {}
    for name in frame:
        present = frame[name].notna().to_numpy()
        numbers = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64)
        damaged = present & np.isnan(numbers)
        holds_strings = 2 * np.bincount(run_of_row, damaged, runs) > np.bincount(run_of_row, present, runs)
        is_string = holds_strings[run_of_row] if name != "epoch" else np.zeros(len(frame), bool)
        bad |= damaged & ~is_string
        table[name] = numbers if not is_string.any() else np.where(
            is_string & present, frame[name].astype(object), numbers)
    return table, bad


def _repair(body: bytes, width: int) -> tuple[bytes, int]:
    """Return the rows of a body that have `width` cells, and their number."""
    lines = body.decode(errors="replace").split("\n")[:-1]
    whole = [cells for line in lines if "\0" not in line for cells in csv.reader([line]) if len(cells) == width]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(whole)
    return text.getvalue().encode(), len(whole)


def _add_note(notes: list[str], damaged: int) -> None:
    if damaged:
        notes.append(damage_message(damaged))


def damage_message(rows: int) -> str:
    """Return the note about damaged rows."""
    return f"{run_folder.STATS}: {rows} damaged row{'s' * (rows > 1)} left out, the rest is read"


def _rows_to_keep(run: np.ndarray, epoch: np.ndarray) -> np.ndarray | None:
    """The rows to keep, epochs ascending; None: all rows as they are.

    A run that was resumed, or ran twice, may have written an epoch twice: the later row counts.
    """
    if not ((run[1:] == run[:-1]) & (epoch[1:] <= epoch[:-1])).any():
        return None
    order = np.lexsort((epoch, run))  # stable: of equal epochs the later row comes last
    run, epoch = run[order], epoch[order]
    return order[np.append((run[1:] != run[:-1]) | (epoch[1:] != epoch[:-1]), True)]
