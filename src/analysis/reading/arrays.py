"""Arrays that runs measured: values for each class, confusion matrices and curves, read when they are asked for."""
from __future__ import annotations

import os
import re
import zipfile

import numpy as np

from src import run_folder
from src.errors import ResultsError, did_you_mean


def epochs_with_arrays(folder: str | os.PathLike[str]) -> list[int]:
    """The epochs of a run for which it has arrays, ascending; none if its config asked for no such metric."""
    try:
        names = os.listdir(os.path.join(folder, run_folder.ARRAYS))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"epoch-(\d+)\.npz", name)))


def read_array(folder: str | os.PathLike[str], name: str, epoch: int | None = None) -> np.ndarray:
    """An array of a run folder (a cell of big_df's column `folder`), as val/last/confusion_matrix. epoch: None is the
    last. Only that array is read. ResultsError, with the nearest name, if there is none."""
    there = epochs_with_arrays(folder)
    if not there or (epoch is not None and epoch not in there):
        raise ResultsError("this run has no arrays" + ("" if epoch is None else f" of epoch {epoch}"),
                           where=os.fspath(folder), hint="set metrics, as [f1, confusion_matrix], in its job spec"
                           if not there else f"it has those of {there[0]} to {there[-1]}")
    path = os.path.join(folder, run_folder.arrays_name(there[-1] if epoch is None else epoch))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays.files
            found: np.ndarray | None = arrays[name] if name in names else None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile):
        raise ResultsError(f"{os.path.basename(path)} cannot be read: it is torn, or holds no arrays",
                           where=os.fspath(folder), hint="another epoch may do: epoch=…") from None
    if found is None:
        raise ResultsError(f"there is no array '{name}'", where=os.fspath(folder), allowed=names,
                           hint=did_you_mean(name, names))
    return found


def read_arrays(folder: str | os.PathLike[str], name: str) -> tuple[np.ndarray, np.ndarray]:
    """One array over all epochs that have it: the epochs [e] and the values [e, …]. ResultsError as in read_array."""
    epochs = epochs_with_arrays(folder)
    values = [read_array(folder, name, epoch) for epoch in epochs]
    return np.array(epochs), np.stack(values) if values else read_array(folder, name)
