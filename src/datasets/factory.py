"""make_data: the data set that a config names, read, labelled and cut into the splits of data_splits_map."""
from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from src import files, own
from src.choices import task_of
from src.config import Config
from src.datasets import libsvm, own_data, scikit
from src.datasets.data import Data, Source, Split, gather_rows
from src.datasets.splits import Slice, parse_split
from src.errors import DataError, UserError

READERS: dict[str, ModuleType] = {"libsvm": libsvm, "sklearn": scikit}


def make_data(config: Config) -> Data:
    """Read the data set and cut it. The loss decides the task, unless targets does: log is classification, mse
    regression.

    For classification labels are whole numbers; their indices follow the sorted labels of the sources behind the
    split train (of all sources where there is no train), so a small train split changes no index. For regression y
    are the labels as float32, which may be classes too. Features that want it are standardised by the statistics of
    the split train alone (of all samples where there is none). DataError says what cannot be had, and why.
    """
    wanted = {text: parse_split(text) for text in config.data_splits_map.values()}
    sources = _reader(config).load(config, data_folder(config), _names(wanted))
    if isinstance(sources, Data):  # finished by its own reader
        return sources
    train = wanted.get(config.data_splits_map.get("train", ""))
    behind_train = {part.source for part in train} if train else set(sources)
    classes: tuple[float | int, ...] = ()
    task = task_of(config.loss, config.targets)
    if task == "classification":
        classes = _classes(config, [sources[name] for name in sources if name in behind_train])
    y = {name: _labels(config, name, source, classes) for name, source in sources.items()}
    cut = {text: _cut(parts, sources, y, config.seed_split) for text, parts in wanted.items()}
    if any(source.standardise for source in sources.values()):
        cut = _standardise(cut, config.data_splits_map.get("train"), sources)
    splits = {key: cut[text] for key, text in config.data_splits_map.items()}
    return Data(splits, task, classes, tuple(next(iter(splits.values())).x.shape[1:]))


def fetch(config: Config) -> str:
    """Make the data present under data_dir, and parsed; one line that says what was done. DataError as in make_data."""
    names = _names({text: parse_split(text) for text in config.data_splits_map.values()})
    return f"{config.dataset}: {_reader(config).fetch(config, data_folder(config), names)}"


def warm_up(configs: Iterable[Config]) -> None:
    """Do once, before a worker forks its runs, what each of them would do again: imports, and parsing into the cache.

    Downloads nothing, and leaves errors to the runs, which report them.
    """
    seen = set()
    for config in configs:
        key = (config.dataset, config.data_dir, task_of(config.loss, config.targets),
               tuple(config.data_splits_map.values()))
        if key not in seen and not own.is_own(config.dataset):  # whose code a parent of many runs must not run
            seen.add(key)
            with contextlib.suppress(UserError):
                fetch(dataclasses.replace(config, data_download=False))


def data_folder(config: Config) -> Path:
    """data_dir on this machine. ConfigError if it names a variable that is not set."""
    return Path(files.expand(config.data_dir, "data_dir"))


def _reader(config: Config) -> ModuleType:
    family = config.dataset.partition("/")[0]
    if own.is_own(config.dataset):
        return own_data
    if family not in READERS:
        raise DataError(f"there is no reader for '{config.dataset}'", where="dataset",
                        allowed=[f"{name}/NAME" for name in READERS],
                        hint="data sets of family timm may be named in job specs, but cannot be read")
    return READERS[family]


def _names(wanted: Mapping[str, tuple[Slice, ...]]) -> list[str]:
    """The splits of the source that are needed, each once."""
    if not wanted:
        raise DataError("there are no splits", where="data_splits_map", hint="try {train: train, test: test}")
    return list(dict.fromkeys(part.source for parts in wanted.values() for part in parts))


def _classes(config: Config, sources: Iterable[Source]) -> tuple[float | int, ...]:
    labels = np.unique(np.concatenate([source.y.numpy() for source in sources]))
    if any(source.targets for source in sources) or not np.equal(np.mod(labels, 1), 0).all():
        raise DataError(f"{config.dataset} has measured targets, and loss {config.loss} needs classes",
                        where="loss", hint="try loss: mse")
    return tuple(int(label) for label in labels)


def _labels(config: Config, name: str, source: Source, classes: tuple[float | int, ...]) -> torch.Tensor:
    """[n] int64 indices into classes; without classes, [n] float32 targets."""
    if not classes:
        return source.y.float()
    known = torch.tensor(classes, dtype=torch.float64)
    index = torch.searchsorted(known, source.y).clamp_(max=len(known) - 1)
    strange = source.y[known[index] != source.y].unique().tolist()
    if strange:
        raise DataError(f"split '{name}' of {config.dataset} has labels that train has not: {_some(strange)}",
                        allowed=_some(classes))
    return index


def _some(values: Iterable[float | int]) -> str:
    texts = [f"{value:g}" for value in values]
    return ", ".join(texts[:10] + ["…"] * (len(texts) > 10))


def _cut(parts: tuple[Slice, ...], sources: Mapping[str, Source], y: Mapping[str, torch.Tensor], seed: int) -> Split:
    pieces = []
    for part in parts:
        x, labels = sources[part.source].x, y[part.source]
        indices = part.indices(len(labels), seed)
        if indices is not None:
            index = torch.from_numpy(indices)
            x, labels = _rows(x, index), labels[index]
        pieces.append(Split(x, labels))
    if len(pieces) == 1:
        return pieces[0]
    return Split(_join([piece.x for piece in pieces]), torch.cat([piece.y for piece in pieces]))


def _rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    if x.layout != torch.sparse_csr:
        return x.index_select(0, index)
    crow, col, value = gather_rows(x, index)
    return torch.sparse_csr_tensor(crow, col, value, (len(index), x.shape[1]), check_invariants=False)


def _join(parts: list[torch.Tensor]) -> torch.Tensor:
    if parts[0].layout != torch.sparse_csr:
        return torch.cat(parts)
    count = torch.cat([part.crow_indices().diff() for part in parts]).long()
    crow = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return torch.sparse_csr_tensor(
        crow, torch.cat([part.col_indices() for part in parts]).long(), torch.cat([part.values() for part in parts]),
        (len(count), parts[0].shape[1]), check_invariants=False)


def _standardise(cut: Mapping[str, Split], train: str | None, sources: Mapping[str, Source]) -> dict[str, Split]:
    """Features with the mean 0 and variance 1 that they have in train; a constant feature becomes 0."""
    known = cut[train].x if train is not None else torch.cat([source.x for source in sources.values()])
    mean, std = known.mean(0), known.std(0, correction=0)
    std = torch.where(std > 0, std, 1)
    return {text: Split((split.x - mean) / std, split.y) for text, split in cut.items()}
