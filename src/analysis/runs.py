"""Runs by their parameters, of all batches: which there are, the one that is meant, whether one is done; artifacts"""
from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from src import files, run_folder
from src.analysis.filters import filt
from src.analysis.results import read_results
from src.errors import ResultsError


def find_runs(params: Mapping[str, Any] | None = None, results: str | os.PathLike[str] = "results") -> pd.DataFrame:
    """The runs under `results` that meet the conditions, a row each: run, batch, end, folder, parameters and facts.

    params: conditions as in `filt`; a value, a list of which one holds, an Interval, a pattern, a function. results: a
    folder of batches, or a batch. Without curves, so that thousands are found in a moment; `read_experiments` has them.
    """
    batches = _batches(results)
    if not batches:
        return pd.DataFrame(columns=["run", "batch", "index", "end", "folder"])
    return filt(read_results(batches).config, params or {})


def find_one(params: Mapping[str, Any], results: str | os.PathLike[str] = "results") -> pd.Series:
    """The one run that meets the conditions. ResultsError if there is none, or more than one."""
    found = find_runs(params, results)
    if len(found) != 1:
        some = ", ".join(found["folder"][:3]) + (", …" if len(found) > 3 else "")
        raise ResultsError(f"{len(found) or 'no'} runs are like {dict(params)}" + (f": {some}" if some else ""),
                           where=os.fspath(results), hint="give more conditions" if len(found) else "give fewer")
    return found.iloc[0]


def is_done(params: Mapping[str, Any], results: str | os.PathLike[str] = "results") -> bool:
    """Whether some run with these parameters has ended: completed, early stopped or diverged."""
    found = find_runs(None, results)
    return bool(len(found)) and bool(filt(found, params)["end"].notna().any())


def save_artifact(value: Any, run: str | os.PathLike[str] | pd.Series, name: str) -> str:
    """Keep something with a run, in artifacts/ of its folder; its path.

    run: its folder, or its row of a frame. name: its ending says how it is kept: .json (plain values), .npy (an array),
    .npz (a mapping of arrays), .csv (a data frame), .txt (text), .png, .pdf, .svg (a figure); bytes go into any other.
    """
    path = _path(run, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_atomic(path, _packed(value, os.path.splitext(name)[1], name))
    return path


def load_artifact(run: str | os.PathLike[str] | pd.Series, name: str) -> Any:
    """What `save_artifact` kept; of pictures and other files, the bytes. ResultsError if there is none."""
    path = _path(run, name)
    if not os.path.isfile(path):
        folder = os.path.dirname(path)
        raise ResultsError("there is no such artifact", where=path, allowed=sorted(os.listdir(folder)) if os.path.isdir(
            folder) else None, hint="save_artifact keeps one")
    kind = os.path.splitext(name)[1]
    if kind == ".json":
        return files.read_json(path)
    if kind in (".npy", ".npz"):
        found = np.load(path, allow_pickle=False)
        return dict(found) if kind == ".npz" else found
    if kind == ".csv":
        return pd.read_csv(path)
    with open(path, "rb") as file:
        data = file.read()
    return data.decode() if kind == ".txt" else data


def _packed(value: Any, kind: str, name: str) -> bytes:
    packed = io.BytesIO()
    if isinstance(value, bytes):
        return value
    if kind == ".json":
        return json.dumps(value, indent=1).encode()
    if kind == ".txt":
        return str(value).encode()
    if kind == ".npy":
        np.save(packed, value, allow_pickle=False)
    elif kind == ".npz":
        np.savez_compressed(packed, **value)
    elif kind == ".csv":
        value.to_csv(packed, index=False)
    elif kind in (".png", ".pdf", ".svg"):
        value.savefig(packed, format=kind[1:])
    else:
        raise ResultsError(f"it is not known how to keep a {type(value).__name__} as '{name}'",
                           allowed=".json, .npy, .npz, .csv, .txt, .png, .pdf, .svg, or bytes in any other")
    return packed.getvalue()


def _path(run: str | os.PathLike[str] | pd.Series, name: str) -> str:
    folder = str(run["folder"]) if isinstance(run, pd.Series) else os.fspath(run)
    if not run_folder.is_run_folder(folder):
        raise ResultsError("this is no run folder", where=folder)
    if os.path.basename(name) != name or name.startswith("."):
        raise ResultsError(f"'{name}' is no plain name of a file", where=folder)
    return os.path.join(folder, run_folder.ARTIFACTS, name)


def _batches(results: str | os.PathLike[str]) -> list[str]:
    """The batches in a folder, or the batch that it is."""
    folder = os.fspath(results)
    if run_folder.is_batch_folder(folder):
        return [folder]
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [path for path in (os.path.join(folder, name) for name in names if name[0] != ".")
            if run_folder.is_batch_folder(path)]
