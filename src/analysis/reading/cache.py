"""Cache the runs of a batch in columns (parquet): only runs whose files changed are read again."""
from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import itertools
import json
import os
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pandas as pd

from src import run_folder, stats_csv
from src.analysis.reading import arrow_columns, columns, raw_files
from src.analysis.reading.columns import Columns
from src.io import files, ownership, yaml_io

if TYPE_CHECKING:
    import pyarrow as pa

MIN_RUNS = 256  # fewer runs are read as fast without a cache
# a file that was written this shortly ago may be written again with the same time and size
RECENT_NS = 2 * 10**9
_MAX_PARTS = 8
# errors of damaged files; those of pyarrow are subclasses
_DAMAGE = (OSError, ValueError, LookupError, TypeError, NotImplementedError)
_RUNS, _STATS = ".runs.parquet", ".stats.parquet"


def load(batch: str) -> list[Columns]:
    """Return the cached runs of a folder, in the parts in which they were written; the last part with a run counts.

    Empty if there is no cache, other code wrote it, it is damaged, or another user may have written it.
    """
    parts, owner = [], os.stat(batch).st_uid
    with contextlib.suppress(ImportError):
        for path in _parts(cache_dir(batch)):
            with contextlib.suppress(*_DAMAGE):
                is_trusted = all(ownership.is_cache_file(file, owner) for file in (path + _RUNS, _stats_path(path)))
                if is_trusted and (part := _load_part(path)) is not None:
                    parts.append(part)
    return parts


def exists(batch: str) -> bool:
    """Return whether a folder has a cache, which may turn out to be of other code, damaged or of another user."""
    return bool(_parts(cache_dir(batch)))


def match_runs(cached: Sequence[Columns], names: Sequence[str], stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find each run whose files are unchanged: its part in `cached` and its position in that, (runs,) int each.

    A part of -1 means that the run has to be read.

    stamps: (runs, STAMP_LENGTH) int64, zeros where none could be taken.
    """
    places = dict(zip(itertools.chain.from_iterable(part.names for part in cached), itertools.count(), strict=False))
    row = np.array([places.get(name, -1) for name in names], int)
    if not places:
        return row, row
    row[(np.concatenate([part.stamps for part in cached])[row] != stamps).any(axis=1) | ~stamps.any(axis=1)] = -1
    starts = np.cumsum([0, *map(len, cached)])
    part = np.searchsorted(starts, row, side="right") - 1
    return part, row - starts[part]


def store(batch: str, cached: Sequence[Columns], current: tuple[np.ndarray, np.ndarray], fresh: Columns, read_at: int
         ) -> None:
    """Write fresh runs as another part; or everything as one part if much of the cache is outdated.

    current: parts and positions in `cached` that are up to date;
    read_at: time in ns before the stamps were taken.
    Does nothing if the folder is not writable.
    """
    times = fresh.stamps[:, 2::3]
    fresh = fresh.pick(np.flatnonzero((times < read_at - RECENT_NS).all(axis=1) & fresh.stamps.any(axis=1)
                                      & _fits_json(fresh)))
    folder = cache_dir(batch)
    paths = _parts(folder)
    up_to_date = len(current[0])
    outdated = sum(map(len, cached)) - up_to_date
    if not len(fresh) and outdated <= up_to_date:
        return
    with contextlib.suppress(ImportError, OSError, ValueError, TypeError):
        if not ownership.create_cache_folder(folder, os.stat(batch).st_uid):
            return
        if len(paths) < _MAX_PARTS and outdated + len(fresh) <= up_to_date // 2:
            _write_part(folder, fresh)
            return
        _write_part(folder, columns.join([columns.assemble(cached, *current), fresh]) if up_to_date else fresh)
        for path in paths:
            for old in (path + _RUNS, _stats_path(path)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(old)


def cache_dir(batch: str) -> str:
    """Return the cache folder of a batch: in it, or in the user's cache folder if it cannot be written or trusted."""
    return ownership.cache_folder(os.path.join(os.path.abspath(batch), run_folder.READ_CACHE), os.stat(batch).st_uid)


def _parts(folder: str) -> list[str]:
    """The paths, without suffixes, of the parts in a cache, oldest first."""
    try:
        return sorted(os.path.join(folder, name.removesuffix(_RUNS)) for name in os.listdir(folder)
                      if name.endswith(_RUNS) and not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


@functools.cache
def _version() -> str:
    """A hash of the code that turns files into columns: a cache of other code is ignored."""
    digest = hashlib.sha256(f"{sys.version} {pd.__version__}".encode())
    for module in (sys.modules[__name__], arrow_columns, columns, raw_files, yaml_io, run_folder, stats_csv):
        with open(str(module.__file__), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def _write_part(folder: str, part: Columns) -> None:
    """Write two files, the runs last: a part without that file is ignored."""
    import pyarrow as pa

    stats = dict(column for key, values in part.stats.items() for column in _stats(key, values))
    schema = pa.schema([pa.field(name, column.type, nullable=column.null_count > 0) for name, column in stats.items()])
    runs = {"name": pa.array(part.names, pa.string()), "end": pa.array(part.ends, pa.string()),
            "notes": pa.array(part.notes, pa.string()), "layout": pa.array(part.layouts, pa.string()),
            "counts": pa.array(part.counts, pa.int64())}
    runs |= {f"stamp{number}": pa.array(part.stamps[:, number]) for number in range(raw_files.STAMP_LENGTH)}
    for section, table in (("config", part.config), ("facts", part.facts)):
        for key, values in table.items():
            as_json, column = arrow_columns.encode(values)
            runs[f"{section}{' json' * as_json}:{key}"] = column
    path = os.path.join(folder, f"{time.time_ns():020d}-{os.uname().nodename}-{os.getpid()}")
    with files.atomic_writer(path + _STATS, sync=False) as file:
        _write_table(pa.table(stats, schema=schema), file, dictionary=False)
    about = {"version": _version(), "stats": _checksums(part.stats)}
    content = io.BytesIO()
    _write_table(pa.table(runs).replace_schema_metadata(about), content, dictionary=True)
    files.write_atomic(f"{path}.{zlib.crc32(content.getvalue()):08x}{_RUNS}", content.getvalue(), sync=False)


def _write_table(table: pa.Table, file: BinaryIO, dictionary: bool) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, file, compression="none", use_dictionary=dictionary, write_statistics=False)


# Files are not synced: after a power failure they may contain blocks of zeros. The file of the runs has its own
# checksum in its name, and contains the checksums of the stats columns: for numbers the sum of their bits, five times
# as fast as parquet's checksums.
def _checksums(stats: dict[str, np.ndarray]) -> str:
    """The checksum of each column, as JSON."""
    return json.dumps({name: zlib.crc32(repr(values.tolist()).encode()) if values.dtype == object
                       else int(values.view(np.uint64).sum()) for name, values in stats.items()})


def _stats_path(path: str) -> str:
    return path.rpartition(".")[0] + _STATS


def _fits_json(runs: Columns) -> np.ndarray:
    """Whether JSON can hold all values of a run, (n,) bool. YAML has more types; such a run is never cached."""
    fits = np.ones(len(runs), bool)
    for values in (*runs.config.values(), *runs.facts.values()):
        if values.dtype == object and not set(map(type, values.tolist())) <= {bool, int, float, str, type(None)}:
            fits &= np.fromiter(map(_is_plain, values), bool, len(values))
    return fits


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return all(map(_is_plain, value)) if isinstance(value, list) else value is None or type(value) in (
        bool, int, float, str)


def _stats(name: str, values: np.ndarray) -> Iterator[tuple[str, pa.Array]]:
    """Yield a column of numbers, and for columns with strings another one with these."""
    import pyarrow as pa

    if values.dtype == object:
        is_string = np.array([type(value) is str for value in values], bool)
        yield f"words:{name}", pa.array([value if string else None for string, value in zip(
            is_string, values, strict=True)], pa.string())
        values = np.where(is_string, np.nan, values).astype(np.float64)
    yield f"numbers:{name}", pa.array(values)


def _load_part(path: str) -> Columns | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(path + _RUNS, "rb") as file:
        content = file.read()
    if f"{zlib.crc32(content):08x}" != path.rpartition(".")[2]:
        return None
    coded = [field.name for field in pq.read_schema(io.BytesIO(content)) if field.type == pa.string()]
    runs = pq.ParquetFile(io.BytesIO(content), read_dictionary=coded).read()
    about = runs.schema.metadata or {}
    if about.get(b"version") != _version().encode():
        return None
    stats = _load_stats(_stats_path(path))
    if _checksums(stats).encode() != about.get(b"stats"):
        return None
    sections: dict[str, dict[str, np.ndarray]] = {"config": {}, "facts": {}}
    for name in runs.column_names:
        kind, _, key = name.partition(":")
        if kind.split()[0] in sections and ":" in name:
            values = arrow_columns.decode(runs[name])
            sections[kind.split()[0]][key] = columns.to_array(json.loads(f"[{','.join(values)}]")) if kind.endswith(
                "json") else values
    counts = arrow_columns.writable_array(runs["counts"])
    if any(len(values) != counts.sum() for values in stats.values()):
        return None
    names, ends, notes, layouts = (arrow_columns.decode(runs[name]).tolist()
                                   for name in ("name", "end", "notes", "layout"))
    stamps = np.stack([arrow_columns.writable_array(runs[f"stamp{number}"])
                       for number in range(raw_files.STAMP_LENGTH)], axis=1)
    return Columns(names, stamps, ends, notes, layouts, sections["config"], sections["facts"], counts, stats)


def _load_stats(path: str) -> dict[str, np.ndarray]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False).read()  # never hold the whole file in memory
    stats = {}
    for name in table.column_names:
        kind, _, key = name.partition(":")
        if kind == "numbers":
            stats[key] = arrow_columns.writable_array(table[name])
            if f"words:{key}" in table.column_names:
                strings = table[f"words:{key}"].to_pylist()
                stats[key] = np.array([number if string is None else string for number, string in zip(
                    stats[key].tolist(), strings, strict=True)], dtype=object)
    return stats
