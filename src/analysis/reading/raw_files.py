"""Read the files of runs: each file once, several at a time if the disk is slow. Stamps detect changed files."""
from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from src import run_folder, stats_csv
from src.archive import run_files
from src.archive.run_files import FileStatus
from src.errors import UserError, one_line
from src.io import yaml_io

if TYPE_CHECKING:
    from src.archive.contents import Version

# above this duration of a call, threads are faster; below it they only wait for each other
SLOW_CALL_SECONDS = 0.4e-3
_THREADS, _BLOCK, _PROBES = 32, 256, 32
STAMP_LENGTH = 9  # inode, size and mtime_ns of each of three files, zeros for one that does not exist (not archived)
_MAX_DONE = 1000  # bytes
_MAX_COLUMNS = 2000  # of one run: the frames have the columns of all runs
_MAX_REASON = 500  # characters
_INODE_LIMIT = 2**63  # of a column of int64
NOT_DONE = "not done"
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class RunText(NamedTuple):
    """The contents of a run's files.

    folder: path of the run;
    end: content of its file `done`, None if it has not ended;
    has_config: what its spec leaves out has its default, as it has a config.yaml or will have one; not so of an
        external program;
    config: its parameters, with the facts under "facts";
    header: of stats.csv, empty if it has no complete line;
    body: the complete rows of stats.csv;
    stamp: as of `read_stamp`, before the files were read; zeros if there is none.
    """

    folder: str
    end: str | None
    has_config: bool
    config: dict[str, Any]
    header: str
    body: bytes
    stamp: tuple[int, ...] = (0,) * STAMP_LENGTH


def map_ordered(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """Yield `function` of each item, in order; in threads if the first calls were slow, as on a shared disk.

    At most a few hundred results wait to be consumed, whatever the number of items.
    """
    start = time.perf_counter()
    probes = [function(item) for item in items[:_PROBES]]
    is_slow = time.perf_counter() - start > SLOW_CALL_SECONDS * len(probes)
    yield from probes
    rest = items[_PROBES:]
    if not is_slow or not rest:
        yield from map(function, rest)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: list[Future[_Result]] = []
        for begin in range(0, len(rest), _BLOCK):
            ahead = [pool.submit(function, item) for item in rest[begin:begin + _BLOCK]]
            yield from (future.result() for future in waiting)
            waiting = ahead
        yield from (future.result() for future in waiting)


def read_stamps(parent: str, folders: Sequence[str]) -> list[tuple[int, ...] | None]:
    """Return `read_stamp` of each of these run folders in a folder."""
    archived = run_files.archived_versions(parent)
    names = [folder[len(parent) + 1:] for folder in folders]
    stamps = map_ordered(read_stamp, [folder for folder, name in zip(folders, names, strict=True)
                                      if name not in archived])
    return [_archived_stamp(archived[name]) if name in archived else next(stamps) for name in names]


def _archived_stamp(version: Version) -> tuple[int, ...]:
    """The stamp of an archived run: its archive never changes, so that none of its numbers is a time."""
    inode, size, time_ns, start, end = version
    return inode % _INODE_LIMIT, size, 0, time_ns, start, 0, end, 0, 0


def read_stamp(folder: str) -> tuple[int, ...] | None:
    """Return STAMP_LENGTH numbers that change when a run's files do; None if a file cannot be accessed."""
    try:
        try:
            return _stamp_of(os.stat(f"{folder}/{run_folder.CONFIG}"), os.stat(f"{folder}/{run_folder.STATS}"),
                             os.stat(f"{folder}/{run_folder.DONE}"))
        except FileNotFoundError:
            return _incomplete_stamp(folder)
    except OSError:
        return None


def _stamp_of(*files_of_run: FileStatus | None) -> tuple[int, ...]:
    """The stamp of config, stats and `done`, of which the last two need not exist."""
    if isinstance(files_of_run[0], run_files.Status):
        return _archived_stamp(files_of_run[0].version)
    return tuple([number for status in files_of_run for number in (
        (status.st_ino % _INODE_LIMIT, status.st_size, status.st_mtime_ns) if status else (0, 0, 0))])


def _incomplete_stamp(folder: str) -> tuple[int, ...]:
    """The stamp of a run of which not all three files exist in its folder."""
    if version := run_files.archived_version(folder):
        return _archived_stamp(version)
    config, stats, done = (file_stamp(folder, name) for name in (
        run_folder.CONFIG, run_folder.STATS, run_folder.DONE))
    return (*(config if config[0] else spec_stamp(folder)), *stats, *done)


def spec_stamp(folder: str) -> tuple[int, int, int]:
    """Return inode, size and mtime_ns of what is read in place of a config.yaml: the facts of an external program, or
    the spec, whose inode is negative. Zeros if there is neither.
    """
    facts = file_stamp(folder, run_folder.FACTS)
    inode, size, time_ns = file_stamp(folder, run_folder.SPEC)
    return facts if facts[0] else (-inode, size, time_ns)


def file_stamp(folder: str, name: str) -> tuple[int, int, int]:
    """Return inode, size and mtime_ns of a file of a run; zeros if there is none."""
    status = run_files.status(folder, name)
    return (status.st_ino % _INODE_LIMIT, status.st_size, status.st_mtime_ns) if status else (0, 0, 0)


def read_run(folder: str, only_done: bool = False) -> RunText | str:
    """Return a run, or the reason why it is left out. Opens each of its three files once."""
    try:
        done, done_status = run_files.read_with_status(folder, run_folder.DONE, _MAX_DONE)
        if only_done and done is None:
            return NOT_DONE
        text, config_status = run_files.read_with_status(folder, run_folder.CONFIG, yaml_io.MAX_FILE)
        if text is None:
            return _read_without_config(folder)
        config = yaml_io.load_flat(text.decode(), run_folder.CONFIG)
        if not config:
            return f"{run_folder.CONFIG} is empty"
        stats, stats_status = run_files.read_with_status(folder, run_folder.STATS)
        return _checked(RunText(folder, _end(done), True, config, *stats_csv.split(stats or b""),
                                _stamp_of(config_status, stats_status, done_status)))
    except UserError as error:
        return one_line(str(error))[:_MAX_REASON]
    except UnicodeDecodeError as error:
        return f"{run_folder.CONFIG}: not a text file in UTF-8 (byte {error.start})"
    except OSError as error:
        return f"{os.path.basename(error.filename or folder)} cannot be read: {error.strerror}"


def _checked(run: RunText) -> RunText | str:
    """Return the run; a reason to leave it out if it has so many columns that the frames become too large."""
    facts = run.config.get("facts")
    names = len(run.config) + (len(facts) if isinstance(facts, dict) else 0)
    if names > _MAX_COLUMNS:
        return f"{run_folder.CONFIG} has {names:,} parameters and facts; at most {_MAX_COLUMNS:,} are read"
    if (columns := run.header.count(",") + 1) > _MAX_COLUMNS:
        return f"{run_folder.STATS} has {columns:,} columns; at most {_MAX_COLUMNS:,} are read"
    return run


def _read_without_config(folder: str) -> RunText | str:
    """Use the spec: of an external program, or of a run that has not started or failed before its config."""
    if not run_folder.is_run_folder(folder):
        return f"not a run folder: it has no {run_folder.SPEC}"
    stamp = read_stamp(folder)
    done = run_files.read_bytes(folder, run_folder.DONE, _MAX_DONE)
    spec = run_folder.read_spec(f"{folder}/{run_folder.SPEC}")
    is_of_train_py = done is None and "COMMAND" not in spec
    facts = run_folder.read_facts(folder)
    return _checked(RunText(folder, _end(done), is_of_train_py, {**spec, **({"facts": facts} if facts else {})},
                            *stats_csv.split(run_files.read_bytes(folder, run_folder.STATS) or b""),
                            stamp or (0,) * STAMP_LENGTH))


def _end(done: bytes | None) -> str | None:
    return None if done is None else done.decode(errors="replace").strip() or run_folder.COMPLETED
