"""The details of one run: its config and how it differs, curves of its steps and of the system, log, files."""
from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from src import logs, run_folder
from src.analysis.page import plain, sections
from src.analysis.reading import raw_files
from src.analysis.reading.steps import read_steps
from src.archive import run_files
from src.errors import UserError

_LOG_LINES = 200
_MAX_POINTS = 2_000  # of a curve
_MAX_FILES = 500
_MAX_SYSTEM = 64 * 2**20  # bytes of system.csv that are read


def run(folder: str, varying: Mapping[str, Any] | None = None, batch_notes: list[dict[str, Any]] | None = None
        ) -> dict[str, Any]:
    """Return the details of a run. Files that cannot be read leave their part empty.

    varying: the values of the parameters that vary between the runs of the page; batch_notes: of its batch.
    """
    text = raw_files.read_run(folder)
    config = dict(text.config) if isinstance(text, raw_files.RunText) else {}
    facts = config.pop("facts", {})
    attempt: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        attempt = run_folder.RunFolder.read(folder).last_attempt() or {}
    curves = {"system": _system(folder), "steps": _steps(folder)}
    problem = attempt.get("error") or (text if isinstance(text, str) else None)
    return {"config": _plain(config), "different": _plain(varying or {}),
            "facts": _plain(facts if isinstance(facts, dict) else {}),
            "series": {name: columns for name, columns in curves.items() if columns}, "log": _log(folder),
            "failure": problem and plain.text(problem),
            "command": plain.text(sections.repeat_command(folder)), "folder": plain.text(folder),
            "notes": batch_notes or [], "files": _files(folder)}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {plain.text(name): plain.parameter(value) for name, value in values.items()}


def _log(folder: str) -> dict[str, str] | None:
    """The end of the newest log."""
    with contextlib.suppress(OSError, UserError):
        for path in logs.log_paths(folder)[-1:]:
            return {"path": plain.text(path), "text": plain.text(logs.tail(path, _LOG_LINES))}
    return None


def _files(folder: str) -> list[dict[str, Any]]:
    """Names and sizes of the regular files of a run."""
    with contextlib.suppress(OSError):
        sizes = run_files.file_sizes(folder)
        return [{"name": plain.text(name), "size": sizes[name]} for name in sorted(sizes)[:_MAX_FILES]]
    return []


def _steps(folder: str) -> dict[str, Any] | None:
    """The columns of steps.csv against the step."""
    frame = read_steps([folder], [folder])
    return _curves(frame, "step", frame["step"].to_numpy(np.float64), ("run", "step", "epoch", "timestamp"))


def _system(folder: str) -> dict[str, Any] | None:
    """The columns of system.csv against the seconds since its first row."""
    try:
        data = run_files.read_bytes(folder, run_folder.SYSTEM, _MAX_SYSTEM) or b""
        frame = pd.read_csv(io.BytesIO(data), on_bad_lines="skip").apply(pd.to_numeric, errors="coerce")
    except (OSError, ValueError):  # those of pandas are ValueErrors
        return None
    if "time" not in frame or frame.empty:
        return None
    seconds = frame["time"].to_numpy(np.float64)
    return _curves(frame, "seconds", seconds - seconds[0], ("time",))


def _curves(frame: pd.DataFrame, x: str, at: np.ndarray, leave_out: Sequence[str]) -> dict[str, Any] | None:
    """The columns of a frame that hold numbers; None if there is none."""
    names = [name for name in frame if name not in leave_out and frame[name].dtype != object]
    return series(x, at, {name: frame[name].to_numpy(np.float64) for name in names}) if names and len(frame) else None


def series(x: str, at: np.ndarray, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return curves that share their x: the first rows of equal parts if there are many. x: what `at` counts."""
    every = -(-len(at) // _MAX_POINTS)
    of = {}
    for name, column in values.items():
        has_value = ~np.isnan(column)
        of[plain.text(name)] = {"x": plain.packed(at[has_value][::every], "f8"),
                                "value": plain.packed(column[has_value][::every], "f4")}
    return {"x": x, "columns": list(of), "of": of}
