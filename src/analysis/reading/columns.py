"""The contents of many runs as columns: parse them together, select runs, join parts."""
from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src import run_folder, stats_csv
from src.analysis.reading.raw_files import STAMP_LENGTH, RunText

_BLOCK = 2**18  # bytes, which fit into the cache of a core
SCALARS = {bool: np.bool_, int: np.int64, float: np.float64}


@dataclass
class Columns:
    """n runs with r rows of stats in total.

    The values of a run depend only on its own files, so that runs that were read at different times can be joined.

    names: of the run folders;
    stamps: (n, STAMP_LENGTH) int64;
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


def parse(runs: Sequence[RunText]) -> Columns:
    """Parse the texts of runs."""
    configs = [run.config for run in runs]
    facts = [dict(_flatten(config.pop("facts", None), "facts/")) for config in configs]
    stats, counts, notes, stats_names = parse_tables([(run.header, run.body) for run in runs])
    layouts: dict[tuple[Any, ...], str] = {}
    keys = [(run.has_config, tuple(run.config), tuple(run_facts), tuple(names))
            for run, run_facts, names in zip(runs, facts, stats_names, strict=True)]
    for key in dict.fromkeys(keys):
        layouts[key] = json.dumps(key)
    return Columns([run.folder.rpartition("/")[2] for run in runs],
                   np.array([run.stamp for run in runs], np.int64).reshape(-1, STAMP_LENGTH),
                   [run.end for run in runs], notes, [layouts[key] for key in keys],
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


def parse_tables(texts: Sequence[tuple[str, bytes]], file: str = run_folder.STATS
                 ) -> tuple[dict[str, np.ndarray], np.ndarray, list[str], list[list[str]]]:
    """Parse files of many runs, each given by header and rows.

    Plain ones with one header are parsed together; all others by `stats_csv.parse`, which defines the result. Return
    all rows as columns, in the order of `texts`; the rows, notes and columns of each.
    """
    names = [stats_csv.column_names(header, file) for header, _ in texts]
    notes: list[list[str]] = [[] for _ in texts]
    same_header: dict[str, list[int]] = {}
    others: list[int] = []
    for position, (header, body) in enumerate(texts):
        if body and stats_csv.is_plain(header, body, file):
            same_header.setdefault(header, []).append(position)
        elif body:
            others.append(position)
    parts = []
    for positions in same_header.values():
        part, irregular = _parse_plain(names[positions[0]], positions, [texts[position][1] for position in positions],
                                       stats_csv.KEYS[file])
        parts += [part] if part else []
        others += irregular
    for position in others:
        stats = stats_csv.parse(*texts[position], file)
        names[position], notes[position] = stats.names, stats.notes
        parts.append((np.full(len(stats.rows), position), _to_columns(stats, stats_csv.KEYS[file])))
    run_of_row = np.concatenate([run for run, _ in parts]) if parts else np.zeros(0, int)
    table = _union([table for _, table in parts], [len(run) for run, _ in parts])
    if len(parts) > 1:
        order = np.argsort(run_of_row, kind="stable")
        run_of_row, table = run_of_row[order], {name: values[order] for name, values in table.items()}
    return table, np.bincount(run_of_row, minlength=len(texts)), ["\n".join(lines) for lines in notes], [
        list(filter(None, run_names)) for run_names in names]


def _union(tables: list[dict[str, np.ndarray]], rows: list[int]) -> dict[str, np.ndarray]:
    if len(tables) == 1:
        return tables[0]
    return {name: np.concatenate([table[name] if name in table else np.full(count, np.nan)
                                  for table, count in zip(tables, rows, strict=True)])
            for name in dict.fromkeys(itertools.chain.from_iterable(tables))}


_Part = tuple[np.ndarray, dict[str, np.ndarray]]  # the run (position) of each row, and the columns


def _parse_plain(names: list[str], positions: list[int], bodies: list[bytes], key: str
                 ) -> tuple[_Part | None, list[int]]:
    """The rows of files with one header, and the files with damaged rows, or whose epochs do not ascend."""
    text = b"".join(bodies)
    line_ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    counts = np.diff(np.searchsorted(line_ends, np.cumsum([0, *map(len, bodies)])))
    run_of_row = np.repeat(positions, counts)
    try:
        table = _read_numbers(names, text)
    except (ImportError, ValueError):  # in some row a cell that is no number, or another number of cells
        return None, positions
    epoch = table[key]
    if len(epoch) != len(run_of_row):  # blank lines
        return None, positions
    bad = ~(np.isfinite(epoch) & (epoch == np.floor(epoch)) & (np.abs(epoch) < stats_csv.MAX_EPOCH))
    bad[1:] |= (run_of_row[1:] == run_of_row[:-1]) & (epoch[1:] <= epoch[:-1])
    irregular = np.unique(run_of_row[bad])
    regular = ~np.isin(run_of_row, irregular)
    return (run_of_row[regular], {name: values[regular] for name, values in table.items()}) if len(
        irregular) else (run_of_row, table), irregular.tolist()


def _read_numbers(names: list[str], text: bytes) -> dict[str, np.ndarray]:
    """Return the columns of rows of numbers. ValueError for other rows. Pandas would take twice as long."""
    from pyarrow import BufferReader, csv, float64

    table = csv.read_csv(BufferReader(text), csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=names),
                         convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, float64())))
    columns = {name: table[name].to_numpy() for name in names}
    return {name: values if values.flags.writeable else values.copy() for name, values in columns.items()}


def _to_columns(stats: stats_csv.Stats, key: str) -> dict[str, np.ndarray]:
    """Columns of floats; of objects where a column holds words: strings, and NaN for an empty cell."""
    cells = dict(zip(stats.names, zip(*stats.rows, strict=True), strict=True)) if stats.rows else dict.fromkeys(
        stats.names, ())
    columns = {name: np.array([cell or np.nan for cell in values], object) if name in stats.words else np.array(
        list(map(stats_csv.to_number, values)), np.float64) for name, values in cells.items()}
    return {**columns, key: np.array(stats.epochs, np.float64)} if stats.names else {}
