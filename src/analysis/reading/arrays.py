"""Read arrays that runs recorded: values per class, confusion matrices and curves, loaded on demand."""
from __future__ import annotations

import os
import re
import tokenize
import zipfile
import zlib

import numpy as np

from src import run_folder
from src.archive import run_files
from src.errors import ResultsError, did_you_mean

# what numpy and zipfile raise for a damaged file
DAMAGE = (OSError, ValueError, EOFError, TypeError, LookupError, MemoryError, RuntimeError, SyntaxError,
          tokenize.TokenError, zipfile.BadZipFile, zlib.error)


def epochs_with_arrays(folder: str | os.PathLike[str]) -> list[int]:
    """Return the epochs of a run that have arrays, ascending; empty if its config has no such metric."""
    names = run_files.list_folder(folder, run_folder.ARRAYS)
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"epoch-([0-9]{1,15})\.npz", name)))


def read_array(folder: str | os.PathLike[str], name: str, epoch: int | None = None) -> np.ndarray:
    """Return an array of a run, such as val/last/confusion_matrix. Only that array is read.

    folder: a cell of big_df's column `folder`;
    epoch: None is the last one.
    ResultsError, with the nearest name, if it does not exist.
    """
    epochs = epochs_with_arrays(folder)
    if not epochs or (epoch is not None and epoch not in epochs):
        raise ResultsError("this run has no arrays" + ("" if epoch is None else f" of epoch {epoch}"),
                           where=os.fspath(folder), hint="set metrics, as [f1, confusion_matrix], in its job spec"
                           if not epochs else f"it has those of {epochs[0]} to {epochs[-1]}")
    file_name = run_folder.arrays_name(epochs[-1] if epoch is None else epoch)
    try:
        with run_files.open_binary(folder, file_name) as file, np.load(file, allow_pickle=False) as arrays:
            names = arrays.files
            array: np.ndarray | None = arrays[name] if name in names else None
    except DAMAGE:
        raise ResultsError(f"{os.path.basename(file_name)} cannot be read: it is incomplete, or holds no arrays",
                           where=os.fspath(folder), hint="try another epoch: epoch=…") from None
    if array is None:
        raise ResultsError(f"unknown array '{name}'", where=os.fspath(folder), allowed=names,
                           hint=did_you_mean(name, names))
    return array


def read_arrays(folder: str | os.PathLike[str], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one array over all epochs that have it: epochs [e] and values [e, …]. Errors as in `read_array`."""
    epochs = epochs_with_arrays(folder)
    values = [read_array(folder, name, epoch) for epoch in epochs]
    return np.array(epochs), np.stack(values) if values else read_array(folder, name)
