"""Failed runs in groups: those of the same state and error, apart from paths and numbers."""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from src import logs, run_folder
from src.analysis.page import plain
from src.analysis.reading.results import Results
from src.errors import UserError

# states of runs of which nothing more is expected, or that wait at a rung of their search; the state of the end
# `completed` is "done"
DELETED = "deleted"
ENDED = ("done", run_folder.PAUSED, *run_folder.ENDS, DELETED)
ACTIVE = ("new", "submitted", "pending", "running", "unknown")  # neither ended nor failed
FAILED, NOT_ENDED = "failed", "not ended"  # states of runs that have not ended, where Slurm was not queried
_MAX_NAMES = 10  # runs named in a group
_MAX_GROUPS = 50
_MAX_LOG_SEARCH = 50  # runs of a group in which a log is searched


class Failure(NamedTuple):
    """Runs that failed alike. error: the last line of the message of the first of them."""

    state: str
    error: str
    folders: list[str]


def group(results: Results, status: Sequence[Mapping[str, Any]] | None) -> list[Failure]:
    """Group failed runs by state and last line of the error, without paths and numbers; largest group first.

    status: as of `document.build`.
    """
    if status:
        failed = [(os.path.join(row["batch"], row["run"]), row["state"], str(row["why"] or ""))
                  for row in status if row["state"] not in (*ENDED, *ACTIVE)]
    else:
        failed = [(folder, FAILED, error) for folder, error in _with_errors(results)]
    groups: dict[tuple[str, str], Failure] = {}
    for folder, state, error in failed:
        line = (error.strip().splitlines() or [""])[-1]
        groups.setdefault((state, logs.normalize_error(line)), Failure(state, line, [])).folders.append(folder)
    return sorted(groups.values(), key=lambda failure: -len(failure.folders))


def _with_errors(results: Results) -> Iterator[tuple[str, str]]:
    """Yield the folder and the error of runs that have not ended and whose latest attempt failed."""
    folders = [*results.config["folder"][results.config["end"].isna()],
               *(skipped.folder for skipped in results.skipped if run_folder.is_run_folder(skipped.folder))]
    for folder in dict.fromkeys(folders):
        try:
            attempt = run_folder.RunFolder.read(folder).last_attempt() or {}
        except OSError:  # listed among those left out
            continue
        if attempt.get("error"):
            yield folder, str(attempt["error"])


def section(failures: Sequence[Failure], positions: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the failures of a batch for the page, each with the end of a log.

    positions: of the runs in the document, by absolute path of the folder.
    """
    return [{"state": plain.text(failure.state), "error": plain.text(failure.error), "count": len(failure.folders),
             "runs": [positions[path] for path in map(os.path.abspath, failure.folders) if path in positions],
             "names": [plain.text(os.path.basename(folder)) for folder in failure.folders[:_MAX_NAMES]],
             **log_tail(failure.folders)} for failure in failures[:_MAX_GROUPS]]


def log_tail(folders: Sequence[str]) -> dict[str, str | None]:
    """Return path and end of the newest log of the first run that has one."""
    for folder in folders[:_MAX_LOG_SEARCH]:
        with contextlib.suppress(OSError, UserError):  # deleted in the meantime, or no regular file
            for path in logs.log_paths(folder)[-1:]:
                return {"path": plain.text(path), "log": plain.text(logs.tail(path))}
    return {"path": None, "log": None}
