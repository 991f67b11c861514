"""LIBSVM data sets: raw files under data_dir, or libsvmdata's download; parsed once, then read from a cache."""
from __future__ import annotations

import bz2
import contextlib
import gzip
import itertools
import lzma
import math
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch

from src.config import Config
from src.datasets.data import Source
from src.errors import DataError, did_you_mean
from src.io import download, files

# the splits of a source, and how the names of their files end at LIBSVM's site and in libsvmdata
RAW_ENDINGS = {"train": "", "test": ".t", "val": ".val", "tr": ".tr"}
FETCHED_ENDINGS = {"train": ("", "_train"), "test": ("_test",)}
DENSE_BYTES = 2 * 2**30  # the sources of a run that are together no larger as dense float32 become dense
_OPENERS: dict[str, Any] = {"": open, ".bz2": bz2.open, ".xz": lzma.open, ".gz": gzip.open}


class Rows(NamedTuple):
    """A parsed file in CSR form. Columns count as in the file: from 1, or else from 0. last: the largest column."""

    crow: np.ndarray  # [n + 1] int64
    col: np.ndarray  # [nnz] int32 or int64
    value: np.ndarray  # [nnz] float32
    y: np.ndarray  # [n] float64
    last: np.ndarray  # [] int64


def load(config: Config, folder: Path, names: Sequence[str]) -> dict[str, Source]:
    """The splits of config.dataset, padded to the same number of features. DataError if one is not to be had."""
    parsed = {name: _rows(_locate(config, folder, name)[0], folder) for name in names}
    first = 0 if any((rows.col == 0).any() for rows in parsed.values()) else 1
    features = max(1, *(int(rows.last) - first + 1 for rows in parsed.values()))
    dense = sum(len(rows.y) for rows in parsed.values()) * features * 4 <= DENSE_BYTES
    return {name: Source(_matrix(rows, first, features, dense), torch.from_numpy(rows.y))
            for name, rows in parsed.items()}


def fetch(config: Config, folder: Path, names: Sequence[str]) -> str:
    """Make the splits present and parsed; what was done, in a few words. DataError if one is not to be had."""
    done = []
    for name in names:
        path, fetched = _locate(config, folder, name)
        if not _cache_of(path, folder).exists():
            _rows(path, folder)
        done.append(f"{name} {'fetched' if fetched else 'present already'}")
    return ", ".join(done)


def _matrix(rows: Rows, first: int, features: int, dense: bool) -> torch.Tensor:
    small = len(rows.value) < 2**31 and features < 2**31
    index = np.int32 if small else np.int64  # torch wants one type for both
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        x = torch.sparse_csr_tensor(
            torch.from_numpy(rows.crow.astype(index)), torch.from_numpy((rows.col - first).astype(index, copy=False)),
            torch.from_numpy(rows.value), size=(len(rows.y), features), check_invariants=False)
    return x.to_dense() if dense else x


def _locate(config: Config, folder: Path, split: str) -> tuple[Path, bool]:
    """The file that holds `split`, fetched if need be and allowed, and whether it was fetched just now."""
    name = config.dataset.removeprefix("libsvm/")
    if "/" in name or name.startswith("."):
        raise DataError(f"'{config.dataset}' is no name of a LIBSVM data set", where="dataset",
                        allowed="the name of a file, as libsvm/a9a")
    if split not in RAW_ENDINGS:
        raise DataError(f"{config.dataset} has no split '{split}'", where="data_splits_map", allowed=RAW_ENDINGS,
                        hint=did_you_mean(split, RAW_ENDINGS))
    path = _find(folder, name, split)
    if path:
        return path, False
    if not config.data_download:
        raise _missing(config, folder, split, "and data_download is false")
    dataset = _known_to_libsvmdata(config, folder, name, split)
    fetched = []

    def fetch() -> None:
        fetched.append(split)
        _download(config, folder, name, split, dataset)

    lock = folder / "libsvm" / f".{name}-{split}.lock"
    try:
        return download.once(lock, f"split '{split}' of {config.dataset}", lambda: _find(folder, name, split),
                             fetch), bool(fetched)
    except OSError as error:
        raise _missing(config, folder, split, f"and cannot be put there: {error.strerror or error}") from error


def _find(folder: Path, name: str, split: str) -> Path | None:
    """A raw file of the split, or the features of a pair of files as libsvmdata keeps them."""
    raw = [place / f"{name}{RAW_ENDINGS[split]}{packing}" for place in (folder, folder / "libsvm")
           for packing in _OPENERS]
    pairs = [folder / "libsvm" / f"{name}{ending}_X{kind}" for ending in FETCHED_ENDINGS.get(split, ())
             for kind in (".npz", ".npy")]
    return next((path for path in raw + pairs if path.is_file()), None)


def _missing(config: Config, folder: Path, split: str, why: str) -> DataError:
    raw = config.dataset.removeprefix("libsvm/") + RAW_ENDINGS[split]
    return DataError(f"split '{split}' of {config.dataset} is not under {folder}, {why}",
                     hint=f"put the LIBSVM file there as {raw} (or .bz2, .xz, .gz), or fetch it on a machine with "
                          "internet: `python experiments.py prefetch` with your job spec")


def _download(config: Config, folder: Path, name: str, split: str, dataset: Any) -> None:
    """Let libsvmdata fetch the split, to where _find looks.

    It works in a new folder of its own: it deletes raw files in its folder, which may be a user's, and nobody may see
    half a file.
    """
    if reason := download.unreachable_reason(dataset.dataset_url):
        raise _missing(config, folder, split, f"and {reason}")
    home = folder / "libsvm"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=home) as own:
            dataset.dataset_dir = Path(own)
            dataset.get_X_y()
            for left in sorted(Path(own).glob("*_[Xy].np[yz]"), key=lambda left: left.stem[-1], reverse=True):
                left.replace(home / left.name)  # y before X, which _find looks for
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise _missing(config, folder, split, "and libsvmdata could not fetch it: "
                       + " ".join(str(error).split())) from error
    if not _find(folder, name, split):
        raise _missing(config, folder, split, "and libsvmdata left no file of it")


def _known_to_libsvmdata(config: Config, folder: Path, name: str, split: str) -> Any:
    try:
        from libsvmdata.core import ALL_DATASETS
    except ImportError:
        raise _missing(config, folder, split, "and libsvmdata is not installed (pip install libsvmdata)") from None
    known = [name + ending for ending in FETCHED_ENDINGS.get(split, ()) if name + ending in ALL_DATASETS]
    if not known:
        similar = did_you_mean(name, ALL_DATASETS, prefix="libsvm/") if name not in ALL_DATASETS else None
        raise _missing(config, folder, split, "and libsvmdata does not know it" + (f" ({similar})" if similar else ""))
    dataset = ALL_DATASETS[known[0]]
    if dataset.task_name == "multilabel":
        raise DataError(f"{config.dataset} has several labels per sample", where="dataset",
                        allowed="LIBSVM data sets for classification with one label, or for regression")
    # some of its entries (w3a to w6a) name the file of another data set
    owner = next(other for other in ALL_DATASETS.values() if other.dataset_url == dataset.dataset_url)
    if owner is not dataset:
        raise _missing(config, folder, split, f"and libsvmdata would fetch {owner.dataset_name} in its place")
    return dataset


def _cache_of(path: Path, folder: Path) -> Path:
    """Where the parsed form of `path` is kept. Another size or time of the file is another cache file."""
    stat = path.stat()
    return folder / ".parsed" / f"{path.name}-{stat.st_size}-{stat.st_mtime_ns}.npz"


def _rows(path: Path, folder: Path) -> Rows:
    """The file's rows, from the cache if it has them; otherwise parsed, and cached if data_dir can be written."""
    cache = _cache_of(path, folder)
    rows = _read_cache(cache)
    if rows is None:
        rows = _parse_pair(path) if path.stem.endswith("_X") and path.suffix in (".npz", ".npy") else _parse(path)
        if _cache_of(path, folder) == cache:  # the file is still the one that was parsed
            _write_cache(cache, rows)
    return rows


def _read_cache(cache: Path) -> Rows | None:
    try:
        with np.load(cache, allow_pickle=False) as arrays:
            return Rows(**arrays)
    except Exception:  # none, or damaged in whatever way: the file itself is the truth
        return None


def _write_cache(cache: Path, rows: Rows) -> None:
    """Write whole or not at all: many jobs start at once. A data_dir that is full or read-only has no cache."""
    if not cache.parent.parent.stat().st_mode & 0o222:  # root could write, but its owner said not to
        return
    with contextlib.suppress(OSError):
        cache.parent.mkdir(exist_ok=True)
        with files.atomic_writer(cache) as file:
            np.savez(file, **rows._asdict())


def _opened(path: Path) -> IO[bytes]:
    return _OPENERS.get(path.suffix, open)(path, "rb")


def _parse(path: Path) -> Rows:
    """A raw LIBSVM file, by scikit-learn's parser. DataError if it is none."""
    try:
        from sklearn.datasets import load_svmlight_file
    except ImportError:
        raise DataError("LIBSVM files are parsed by scikit-learn, which is not installed", where=str(path),
                        hint="pip install scikit-learn") from None
    try:
        with _opened(path) as file:
            x, y = load_svmlight_file(file, dtype=np.float32, zero_based=True)  # columns as they are in the file
        if not (np.isfinite(y).all() and np.isfinite(x.data).all()):
            raise ValueError("a number is NaN or infinite")
    except (ValueError, OverflowError, OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"no LIBSVM file can be read: {error}", where=_first_bad_line(path),
                        allowed="lines 'label index:value …' with rising indices and finite numbers") from None
    return _to_rows(x, y, shift=0, last=x.shape[1] - 1, path=path)


def _first_bad_line(path: Path) -> str:
    """The place of the first line that is none of LIBSVM's; only the file if it cannot be told. Slow: for messages."""
    with contextlib.suppress(OSError, EOFError, lzma.LZMAError), _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not _is_libsvm(line.partition(b"#")[0].split()):
                return f"{path}, line {number}"
    return str(path)


def _is_libsvm(words: list[bytes]) -> bool:
    pairs = [word.split(b":") for word in words[1:] if not word.startswith(b"qid:")]
    try:
        indices = [int(index) for index, _ in pairs]
        numbers = [float(number) for number in words[:1] + [value for _, value in pairs]]
    except ValueError:  # also of a pair that is none
        return False
    rising = all(a < b for a, b in itertools.pairwise([-1, *indices, 2**31 - 1]))
    return rising and all(map(math.isfinite, numbers))


def _parse_pair(path: Path) -> Rows:
    """A pair of files NAME_X, NAME_y as libsvmdata writes them: CSC or dense float64 features, labels."""
    from scipy import sparse

    try:
        x = sparse.csr_array(sparse.load_npz(path) if path.suffix == ".npz" else np.load(path, allow_pickle=False))
        y = np.load(path.with_name(path.stem[:-1] + "y.npy"), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"not a pair of files NAME_X, NAME_y as libsvmdata writes them: {error}", where=str(path),
                        hint="remove the two files to have them fetched again") from None
    return _to_rows(x, y, shift=1, last=x.shape[1], path=path)


def _to_rows(x: Any, y: np.ndarray, shift: int, last: int, path: Path) -> Rows:
    if len(y) == 0 or x.shape[0] != len(y):
        raise DataError(f"{x.shape[0]} samples and {len(y)} labels", where=str(path))
    index = np.int32 if last < 2**31 else np.int64
    return Rows(x.indptr.astype(np.int64), x.indices.astype(index) + index(shift), x.data.astype(np.float32),
                y.astype(np.float64), np.array(last, dtype=np.int64))
