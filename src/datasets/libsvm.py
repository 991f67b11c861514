"""LIBSVM data sets: raw files under data_dir, or downloads of libsvmdata; parsed once, then read from a cache."""
from __future__ import annotations

import bz2
import contextlib
import gzip
import itertools
import lzma
import math
import re
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch

from src.checks.family_rules import LIBSVM_SPLITS
from src.config import Config
from src.datasets.data import Source
from src.errors import DataError, did_you_mean, summarize
from src.io import download, files, ownership

# split -> ending of its file's name, at LIBSVM's site and in libsvmdata
RAW_ENDINGS = dict(zip(LIBSVM_SPLITS, ("", ".t", ".val", ".tr"), strict=True))
DOWNLOADED_ENDINGS = {"train": ("", "_train"), "test": ("_test",)}
DENSE_BYTES = 2 * 2**30  # a run's splits are stored dense if together they take at most this as dense float32
_OPENERS: dict[str, Any] = {"": open, ".bz2": bz2.open, ".xz": lzma.open, ".gz": gzip.open}
_INVALID = (ValueError, OverflowError, OSError, EOFError, lzma.LZMAError, zlib.error)  # what parsing a bad file raises
_BLANK_BEFORE_VALUE = re.compile(rb":[ \t]+")


class Rows(NamedTuple):
    """A parsed file in CSR form, with the column numbers of the file.

    crow: [n + 1] int64
    col: [nnz] int32 or int64, the file's own numbers, which count from 0 or from 1
    value: [nnz] float32
    y: [n] float64
    first: [] int64, the smallest column number; 1 if the file has no values
    last: [] int64, the largest column number
    """

    crow: np.ndarray
    col: np.ndarray
    value: np.ndarray
    y: np.ndarray
    first: np.ndarray
    last: np.ndarray


def load(config: Config, folder: Path, names: Sequence[str]) -> dict[str, Source]:
    """Return the splits of config.dataset, padded to the same number of features. DataError if one is unavailable."""
    parsed = {name: _rows(_locate(config, folder, name)[0], folder) for name in names}
    base = column_base(config, folder, parsed)
    features = max(1, *(int(rows.last) - base + 1 for rows in parsed.values()))
    is_dense = sum(len(rows.y) for rows in parsed.values()) * features * 4 <= DENSE_BYTES
    return {name: Source(_matrix(rows, base, features, is_dense), torch.from_numpy(rows.y), column_base=base)
            for name, rows in parsed.items()}


def column_base(config: Config, folder: Path, parsed: Mapping[str, Rows]) -> int:
    """Return 0 or 1: the number of the first column.

    It is libsvm_base if that is set. Otherwise it is 0 if any part of the data set that is present has a column 0, so
    that all loads of a data set agree, whichever of its splits they read.
    """
    has_column_zero = next((name for name, rows in parsed.items() if rows.first == 0), None)
    if config.libsvm_base is not None:
        if config.libsvm_base == 1 and has_column_zero:
            raise DataError(f"split '{has_column_zero}' of {config.dataset} has a column 0", where="libsvm_base",
                            allowed="0, or null")
        return config.libsvm_base
    if has_column_zero:
        return 0
    name = config.dataset.removeprefix("libsvm/")
    for split in RAW_ENDINGS:
        path = None if split in parsed else _find(folder, name, split)
        if path:
            with contextlib.suppress(DataError):  # a damaged file matters only to a run that uses it
                if _rows(path, folder).first == 0:
                    return 0
    return 1


def fetch(config: Config, folder: Path, names: Sequence[str]) -> str:
    """Download and parse the splits that are missing. Return what was done. DataError if one is unavailable."""
    actions = []
    for name in names:
        path, was_downloaded = _locate(config, folder, name)
        _rows(path, folder)
        actions.append(f"{name} {'fetched' if was_downloaded else 'present already'}")
    return ", ".join(actions)


def _matrix(rows: Rows, base: int, features: int, is_dense: bool) -> torch.Tensor:
    """Return the values as a matrix [n, features]: dense, or sparse CSR."""
    is_small = len(rows.value) < 2**31 and features < 2**31
    index = np.int32 if is_small else np.int64  # torch requires the same type for crow and col
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        x = torch.sparse_csr_tensor(
            torch.from_numpy(rows.crow.astype(index)), torch.from_numpy((rows.col - base).astype(index, copy=False)),
            torch.from_numpy(rows.value), size=(len(rows.y), features), check_invariants=False)
    return x.to_dense() if is_dense else x


def _locate(config: Config, folder: Path, split: str) -> tuple[Path, bool]:
    """Return the file of `split`, downloaded if it is missing and may be, and whether it was downloaded just now."""
    name = config.dataset.removeprefix("libsvm/")
    if "/" in name or name.startswith("."):
        raise DataError(f"'{config.dataset}' is not the name of a LIBSVM data set", where="dataset",
                        allowed="the name of a file, e.g. libsvm/a9a")
    if split not in RAW_ENDINGS:
        raise DataError(f"{config.dataset} has no split '{split}'", where="data_splits_map", allowed=RAW_ENDINGS,
                        hint=did_you_mean(split, RAW_ENDINGS))
    path = _find(folder, name, split)
    if path:
        return path, False
    if not config.data_download:
        raise _missing(config, folder, split, "and data_download is false")
    dataset = _libsvmdata_entry(config, folder, name, split)
    downloads = []

    def download_split() -> None:
        downloads.append(split)
        _download(config, folder, name, split, dataset)

    lock = folder / "libsvm" / f".{name}-{split}.lock"
    try:
        return download.once(lock, f"split '{split}' of {config.dataset}", lambda: _find(folder, name, split),
                             download_split), bool(downloads)
    except OSError as error:
        raise _missing(config, folder, split, f"and cannot be stored there: {error.strerror or error}") from error


def _find(folder: Path, name: str, split: str) -> Path | None:
    """Return the raw file of the split, or the feature file of a pair that libsvmdata wrote; None without either."""
    raw = [parent / f"{name}{RAW_ENDINGS[split]}{compression}" for parent in (folder, folder / "libsvm")
           for compression in _OPENERS]
    pairs = [folder / "libsvm" / f"{name}{ending}_X{suffix}" for ending in DOWNLOADED_ENDINGS.get(split, ())
             for suffix in (".npz", ".npy")]
    return next((path for path in raw + pairs if path.is_file()), None)


def _missing(config: Config, folder: Path, split: str, reason: str) -> DataError:
    """Return the error for a split that is missing and, for `reason`, cannot be downloaded."""
    raw = config.dataset.removeprefix("libsvm/") + RAW_ENDINGS[split]
    return DataError(f"split '{split}' of {config.dataset} is not under {folder}, {reason}",
                     hint=f"put the LIBSVM file there as {raw} (or .bz2, .xz, .gz), or download it on a machine with "
                          "internet: `python experiments.py prefetch` with your job spec")


def _download(config: Config, folder: Path, name: str, split: str, dataset: Any) -> None:
    """Download the split by libsvmdata to where _find looks.

    libsvmdata works in a temporary folder, since it deletes raw files in its folder, which may be the user's, and since
    no other process may see an incomplete file.
    """
    if reason := download.unreachable_reason(dataset.dataset_url):
        raise _missing(config, folder, split, f"and {reason}")
    home = folder / "libsvm"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=home) as temporary:
            dataset.dataset_dir = Path(temporary)
            dataset.get_X_y()
            for path in sorted(Path(temporary).glob("*_[Xy].np[yz]"), key=lambda path: path.stem[-1], reverse=True):
                path.replace(home / path.name)  # y before X, which _find looks for
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise _missing(config, folder, split, f"and libsvmdata could not download it: {summarize(error)}") from error
    if not _find(folder, name, split):
        raise _missing(config, folder, split, "and libsvmdata downloaded no file of it")


def _libsvmdata_entry(config: Config, folder: Path, name: str, split: str) -> Any:
    """Return libsvmdata's entry of the split. DataError if it has none that can be used."""
    try:
        from libsvmdata.core import ALL_DATASETS
    except ImportError:
        raise _missing(config, folder, split, "and libsvmdata is not installed (pip install libsvmdata)") from None
    entries = [name + ending for ending in DOWNLOADED_ENDINGS.get(split, ()) if name + ending in ALL_DATASETS]
    if not entries:
        similar = did_you_mean(name, ALL_DATASETS, prefix="libsvm/") if name not in ALL_DATASETS else None
        raise _missing(config, folder, split, "and libsvmdata does not have it" + (f" ({similar})" if similar else ""))
    dataset = ALL_DATASETS[entries[0]]
    if dataset.task_name == "multilabel":
        raise DataError(f"{config.dataset} has several labels per sample", where="dataset",
                        allowed="LIBSVM data sets for classification with one label, or for regression")
    # some of its entries (w3a to w6a) name the file of another data set
    owner = next(other for other in ALL_DATASETS.values() if other.dataset_url == dataset.dataset_url)
    if owner is not dataset:
        raise _missing(config, folder, split, f"and libsvmdata would download {owner.dataset_name} instead")
    return dataset


def _cache_of(path: Path, folder: Path) -> Path:
    """Return the cache file of the parsed `path`, whose name depends on the file's size and modification time.

    It is in the data set's folder; in the user's cache folder if others can write to the folder of the cache.
    """
    stat = path.stat()
    parent = ownership.cache_folder(str(folder / ".parsed"), stat.st_uid, must_be_writable=False)
    return Path(parent, f"{path.name}-{stat.st_size}-{stat.st_mtime_ns}.npz")


def _rows(path: Path, folder: Path) -> Rows:
    """Return the file's rows from the cache, or parse the file and cache them if data_dir is writable."""
    cache, owner = _cache_of(path, folder), path.stat().st_uid
    rows = _read_cache(cache, owner)
    if rows is None:
        rows = _parse_pair(path) if path.stem.endswith("_X") and path.suffix in (".npz", ".npy") else _parse(path)
        if _cache_of(path, folder) == cache:  # the file was not replaced meanwhile
            _write_cache(cache, rows, owner)
    return rows


def _read_cache(cache: Path, owner: int) -> Rows | None:
    """Return the rows in a cache file; None if there is none that this user or the `owner` of the data has written."""
    if not ownership.is_cache_file(str(cache), owner):
        return None
    try:
        with np.load(cache, allow_pickle=False) as arrays:
            return Rows(**arrays)
    except Exception:  # missing, damaged in any way, or of an earlier version: the file itself is parsed
        return None


def _write_cache(cache: Path, rows: Rows, owner: int) -> None:
    """Write the cache atomically, since many jobs start at once. A full or read-only data_dir gets no cache."""
    with contextlib.suppress(OSError):
        folder = cache.parent.parent
        if folder.exists() and not folder.stat().st_mode & 0o222:  # root could write; the owner made it read-only
            return
        if ownership.create_cache_folder(str(cache.parent), owner):
            with files.atomic_writer(cache) as file:
                np.savez(file, **rows._asdict())


def _open(path: Path) -> IO[bytes]:
    return _OPENERS.get(path.suffix, open)(path, "rb")


class _WithoutBlanks:
    """The lines of a file without blanks between a column number and its value, as in `63: .50`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        return (_BLANK_BEFORE_VALUE.sub(b":", line) for line in self._file)

    def read(self, size: int = -1) -> bytes:
        """Only declared because scikit-learn requires the method; it iterates over the lines."""
        raise NotImplementedError


def _parse(path: Path) -> Rows:
    """Parse a raw LIBSVM file by scikit-learn. DataError if it is invalid."""
    try:
        from sklearn.datasets import load_svmlight_file
    except ImportError:
        raise DataError("LIBSVM files are parsed by scikit-learn, which is not installed", where=str(path),
                        hint="pip install scikit-learn") from None

    def parse(filter_lines: Any) -> tuple[Any, np.ndarray]:
        with _open(path) as file:  # zero_based: the column numbers stay those of the file
            return load_svmlight_file(filter_lines(file), dtype=np.float32, zero_based=True)

    try:
        try:
            x, y = parse(lambda file: file)
        except ValueError:  # slower, and few files need it
            x, y = parse(_WithoutBlanks)
        if not (np.isfinite(y).all() and np.isfinite(x.data).all()):
            raise ValueError("a number is NaN or infinite")
    except _INVALID as error:
        raise DataError(f"invalid LIBSVM file: {error}", where=_first_invalid_line(path),
                        allowed="lines 'label index:value …' with increasing indices and finite numbers") from None
    return _to_rows(x, y, shift=0, last=x.shape[1] - 1, path=path)


def _first_invalid_line(path: Path) -> str:
    """Return the file and the number of its first invalid line, or the file alone. Slow: for error messages."""
    with contextlib.suppress(*_INVALID), _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not _is_valid(_BLANK_BEFORE_VALUE.sub(b":", line).partition(b"#")[0].split()):
                return f"{path}, line {number}"
    return str(path)


def _is_valid(fields: list[bytes]) -> bool:
    """Return whether the blank-separated fields of a line are a label and increasing index:value pairs."""
    pairs = [field.split(b":") for field in fields[1:] if not field.startswith(b"qid:")]
    try:
        indices = [int(index) for index, _ in pairs]
        numbers = [float(number) for number in fields[:1] + [value for _, value in pairs]]
    except ValueError:  # also raised for a field that is not a pair
        return False
    is_increasing = all(a < b for a, b in itertools.pairwise([-1, *indices, 2**31 - 1]))
    return is_increasing and all(map(math.isfinite, numbers))


def _parse_pair(path: Path) -> Rows:
    """Read a pair of files NAME_X, NAME_y that libsvmdata wrote: CSC or dense float64 features, labels."""
    from scipy import sparse

    try:
        x = sparse.csr_array(sparse.load_npz(path) if path.suffix == ".npz" else np.load(path, allow_pickle=False))
        y = np.load(path.with_name(path.stem[:-1] + "y.npy"), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"not a pair of files NAME_X, NAME_y as libsvmdata writes them: {error}", where=str(path),
                        hint="remove the two files to have them downloaded again") from None
    return _to_rows(x, y, shift=1, last=x.shape[1], path=path)


def _to_rows(x: Any, y: np.ndarray, shift: int, last: int, path: Path) -> Rows:
    """Convert a scipy CSR matrix and its labels. shift: is added to its column numbers."""
    if len(y) == 0 or x.shape[0] != len(y):
        raise DataError(f"{x.shape[0]} samples and {len(y)} labels", where=str(path))
    index = np.int32 if last < 2**31 else np.int64
    col = x.indices.astype(index) + index(shift)
    first = int(col.min()) if len(col) else 1
    return Rows(x.indptr.astype(np.int64), col, x.data.astype(np.float32), y.astype(np.float64),
                np.array(first, dtype=np.int64), np.array(last, dtype=np.int64))
