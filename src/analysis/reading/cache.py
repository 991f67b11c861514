"""What was read of a folder of runs before, kept in columns (parquet): only runs whose files changed are read again."""
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

from src import run_folder
from src.analysis.reading import arrow_columns, columns, raw_files
from src.analysis.reading.columns import Columns
from src.io import files, yaml_io

if TYPE_CHECKING:
    import pyarrow as pa

MIN_RUNS = 256  # runs that are worth a cache: fewer are read as quickly
RECENT_NS = 2 * 10**9  # ns: a file that was written so shortly before may be written again with the same time and size
_MOST_PARTS = 8
# what a file raises that is not as it was written; pyarrow's own errors are such too
_DAMAGE = (OSError, ValueError, LookupError, TypeError, NotImplementedError)
_RUNS, _STATS = ".runs.parquet", ".stats.parquet"


def load(batch: str) -> list[Columns]:
    """All that is kept of the runs right in a folder, stamps included, in the parts in which it was written; of a run
    that is in several the last counts. Nothing if there is none, it was written by other code, or cannot be read."""
    parts = []
    with contextlib.suppress(ImportError):
        for path in _parts(cache_dir(batch)):
            with contextlib.suppress(*_DAMAGE):
                if (part := _load_part(path)) is not None:
                    parts.append(part)
    return parts


def match_runs(kept: Sequence[Columns], names: Sequence[str], stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in `kept` each run is whose files are as they were then: the part and the place in it, (runs,) int each;
    part -1: it has to be read.

    stamps: (runs, STAMP) int64, zeros where none could be taken.
    """
    places = dict(zip(itertools.chain.from_iterable(part.names for part in kept), itertools.count(), strict=False))
    found = np.array([places.get(name, -1) for name in names], int)
    if not places:
        return found, found
    found[(np.concatenate([part.stamps for part in kept])[found] != stamps).any(axis=1) | ~stamps.any(axis=1)] = -1
    starts = np.cumsum([0, *map(len, kept)])
    part = np.searchsorted(starts, found, side="right") - 1
    return part, found - starts[part]


def store(batch: str, kept: Sequence[Columns], current: tuple[np.ndarray, np.ndarray], fresh: Columns, read_at: int
         ) -> None:
    """Write what was read anew, beside what is kept; or all of it as one part, where much of what is kept is outdated.

    current: parts and places in `kept` that still hold. read_at: ns, before the stamps were taken. Nothing is written
    where nothing can be.
    """
    times = fresh.stamps[:, 2::3]
    fresh = fresh.pick(np.flatnonzero((times < read_at - RECENT_NS).all(axis=1) & fresh.stamps.any(axis=1)
                                      & _can_be_kept(fresh)))
    folder = cache_dir(batch)
    paths = _parts(folder)
    still = len(current[0])
    outdated = sum(map(len, kept)) - still
    if not len(fresh) and outdated <= still:
        return
    with contextlib.suppress(ImportError, OSError, ValueError, TypeError):
        os.makedirs(folder, exist_ok=True)
        if len(paths) < _MOST_PARTS and outdated + len(fresh) <= still // 2:
            _write_part(folder, fresh)
            return
        _write_part(folder, columns.join([columns.assemble(kept, *current), fresh]) if still else fresh)
        for path in paths:
            for old in (path + _RUNS, _stats_path(path)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(old)


def cache_dir(batch: str) -> str:
    """Where the cache of a folder is: in it, or where that cannot be written in the user's folder of caches."""
    batch = os.path.abspath(batch)
    if os.access(batch, os.W_OK):
        return os.path.join(batch, run_folder.READ_CACHE)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "gridiron", hashlib.sha256(os.fsencode(batch)).hexdigest()[:20])


def _parts(folder: str) -> list[str]:
    """The paths, without endings, of the parts in a cache, in the order in which they were written."""
    try:
        return sorted(os.path.join(folder, name.removesuffix(_RUNS)) for name in os.listdir(folder)
                      if name.endswith(_RUNS) and not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


@functools.cache
def _version() -> str:
    """Changes with the code that makes columns of files: what other code has read does not count."""
    digest = hashlib.sha256(f"{sys.version} {pd.__version__}".encode())
    for module in (sys.modules[__name__], arrow_columns, columns, raw_files, yaml_io, run_folder):
        with open(str(module.__file__), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def _write_part(folder: str, found: Columns) -> None:
    """Two files, the runs last: a part without stats is never looked at."""
    import pyarrow as pa

    stats = dict(column for key, values in found.stats.items() for column in _stats(key, values))
    schema = pa.schema([pa.field(name, column.type, nullable=column.null_count > 0) for name, column in stats.items()])
    runs = {"name": pa.array(found.names, pa.string()), "end": pa.array(found.ends, pa.string()),
            "notes": pa.array(found.notes, pa.string()), "layout": pa.array(found.layouts, pa.string()),
            "counts": pa.array(found.counts, pa.int64())}
    runs |= {f"stamp{number}": pa.array(found.stamps[:, number]) for number in range(raw_files.STAMP_LENGTH)}
    for section, table in (("config", found.config), ("facts", found.facts)):
        for key, values in table.items():
            as_json, column = arrow_columns.encode(values)
            runs[f"{section}{' json' * as_json}:{key}"] = column
    path = os.path.join(folder, f"{time.time_ns():020d}-{os.uname().nodename}-{os.getpid()}")
    with files.atomic_writer(path + _STATS, sync=False) as file:
        _write_table(pa.table(stats, schema=schema), file, dictionary=False)
    about = {"version": _version(), "stats": _checksums(found.stats)}
    content = io.BytesIO()
    _write_table(pa.table(runs).replace_schema_metadata(about), content, dictionary=True)
    files.write_atomic(f"{path}.{zlib.crc32(content.getvalue()):08x}{_RUNS}", content.getvalue(), sync=False)


def _write_table(table: pa.Table, file: BinaryIO, dictionary: bool) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, file, compression="none", use_dictionary=dictionary, write_statistics=False)


# Nothing here is synced, and after a power cut a file may have blocks of zeros. The checksum of the runs' file is in
# its name; those of the stats are in it: of a column of numbers the sum of their bits, a fifth of the work of parquet's
def _checksums(stats: dict[str, np.ndarray]) -> str:
    """One for each column, as JSON."""
    return json.dumps({name: zlib.crc32(repr(values.tolist()).encode()) if values.dtype == object
                       else int(values.view(np.uint64).sum()) for name, values in stats.items()})


def _stats_path(path: str) -> str:
    return path.rpartition(".")[0] + _STATS


def _can_be_kept(found: Columns) -> np.ndarray:
    """(n,) bool: whether JSON can hold all values of a run; YAML can say more, and such a run is read each time."""
    good = np.ones(len(found), bool)
    for values in (*found.config.values(), *found.facts.values()):
        if values.dtype == object and not set(map(type, values.tolist())) <= {bool, int, float, str, type(None)}:
            good &= np.fromiter(map(_is_plain, values), bool, len(values))
    return good


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return all(map(_is_plain, value)) if isinstance(value, list) else value is None or type(value) in (
        bool, int, float, str)


def _stats(name: str, values: np.ndarray) -> Iterator[tuple[str, pa.Array]]:
    """Numbers as they are; of a column with words, the words apart."""
    import pyarrow as pa

    if values.dtype == object:
        words = np.array([type(value) is str for value in values], bool)
        yield f"words:{name}", pa.array([value if word else None for word, value in zip(words, values, strict=True)],
                                        pa.string())
        values = np.where(words, np.nan, values).astype(np.float64)
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

    table = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False).read()  # the file is never whole in memory
    stats = {}
    for name in table.column_names:
        kind, _, key = name.partition(":")
        if kind == "numbers":
            stats[key] = arrow_columns.writable_array(table[name])
            if f"words:{key}" in table.column_names:
                words = table[f"words:{key}"].to_pylist()
                stats[key] = np.array([number if word is None else word for number, word in zip(
                    stats[key].tolist(), words, strict=True)], dtype=object)
    return stats
