"""Read the data set that a config names, and cut it into the splits of data_splits_map."""
from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from src.checks.registered_names import CLASS_LIST, IMAGE_FAMILIES, is_user_code, parse_eval_dataset, task_of
from src.checks.splits import Slice, overlaps, parse_split
from src.config import Config
from src.datasets import hf, images, libsvm, on_device, own_data, scikit
from src.datasets.data import Data, Lazy, Source, Split, gather_rows
from src.errors import DataError, UserError, listed
from src.io import files, packed_copy

Scale = tuple[torch.Tensor, torch.Tensor]  # mean and standard deviation of each feature
READERS: dict[str, ModuleType] = {
    "libsvm": libsvm, "sklearn": scikit, **dict.fromkeys(IMAGE_FAMILIES, images), "hf": hf,
}


def make_data(config: Config) -> Data:
    """Read the data set and cut it into splits. DataError if data is missing or invalid.

    The task follows from targets if that is set, else from the loss: log is classification, mse regression.
    Classification: labels are integers. Their indices follow the sorted labels of the sources of the split train (of
    all sources without one), so a small slice of train does not change an index.
    Regression: y are the labels as float32, which may also be class labels.
    Features that require it are standardized by the statistics of the split train (of all samples without one).
    """
    slices = {text: parse_split(text) for text in config.data_splits_map.values()}
    sources = _load(config, _source_names(slices))
    if isinstance(sources, Data):  # the reader has cut the splits
        return _add_evaluations_to_finished(config, sources)
    train = slices.get(config.data_splits_map.get("train", ""))
    train_sources = {part.source for part in train} if train else set(sources)
    classes: tuple[float | int, ...] = ()
    task = task_of(config.loss, config.targets)
    if task == "classification":
        classes = _classes(config, [sources[name] for name in sources if name in train_sources])
    elif task != "regression":
        raise DataError(f"{config.dataset} has no texts", where="targets", allowed="classes, numbers")
    y = {name: _labels(config, name, source, classes) for name, source in sources.items()}
    cut = {text: _cut(parts, sources, y, config.seed_split) for text, parts in slices.items()}
    scale = None
    if any(source.standardize for source in sources.values()):
        scale = _scale(cut, config.data_splits_map.get("train"), sources)
        cut = {text: _scaled(split, scale) for text, split in cut.items()}
    splits = {key: cut[text] for key, text in config.data_splits_map.items()}
    base = next(iter(sources.values())).column_base
    about = {**({} if base is None else {"libsvm_base": base}),
             **overlaps(_slices_by_name(config, slices), {name: len(source.y) for name, source in sources.items()})}
    data = Data(splits, task, classes, tuple(next(iter(splits.values())).x.shape[1:]), about)
    data = _add_evaluations(config, data, scale)
    return on_device.to_on_device(config, data) if config.data_on_device else data


def _slices_by_name(config: Config, slices: Mapping[str, tuple[Slice, ...]]) -> dict[str, tuple[Slice, ...]]:
    """Return the slices of each split, with those of eval_datasets that are of the same data set."""
    further = {name: parse_eval_dataset(text) for name, text in (config.eval_datasets or {}).items()}
    return {**{name: slices[text] for name, text in config.data_splits_map.items()},
            **{name: parse_split(part) for name, (dataset, part) in further.items() if dataset == config.dataset}}


def _add_evaluations(config: Config, data: Data, scale: Scale | None) -> Data:
    """Return the data with the splits of eval_datasets, in the features and classes of the model."""
    splits, columns = dict(data.splits), {}
    for name, text in (config.eval_datasets or {}).items():
        eval_config, parts = evaluation(config, name)
        sources = _load_evaluation(eval_config, text, parts, config.dataset, data.about.get("libsvm_base"))
        class_map = (config.eval_class_maps or {}).get(name)
        classes = data.classes
        if class_map is not None:
            classes = _classes(eval_config, sources.values())
            columns[name] = _columns_of(class_map, name, len(classes), len(data.classes))
        y = {key: _labels(eval_config, key, source, classes) for key, source in sources.items()}
        split = _cut(parts, sources, y, config.seed_split)
        if eval_config.dataset.startswith("libsvm/") and len(data.input_shape) == 1:
            split = Split(_padded(split.x, data.input_shape[0], text, config.dataset), split.y)
        if tuple(split.x.shape[1:]) != data.input_shape:
            raise DataError(f"samples of {text} have the shape {list(split.x.shape[1:])}, those of {config.dataset} "
                            f"{list(data.input_shape)}", where="eval_datasets")
        splits[name] = _scaled(split, scale) if scale else split
    return dataclasses.replace(data, splits=splits, columns=columns)


def _load_evaluation(eval_config: Config, text: str, parts: tuple[Slice, ...], train_dataset: str,
                     base: int | None) -> dict[str, Source]:
    """Return the sources of an evaluation set. base: the first column of the training data if that is LIBSVM's."""
    def load(config: Config) -> Any:
        return _load(config, _source_names({text: parts}))

    sources = load(eval_config)
    if isinstance(sources, Data):
        raise DataError(f"{text} consists of finished splits, which cannot be added", where="eval_datasets")
    eval_base = next(iter(sources.values())).column_base
    if None in (base, eval_base) or eval_base == base:
        return sources  # type: ignore[no-any-return]
    if eval_base == 0:
        raise DataError(f"{text} has a column 0 and {train_dataset} has none: columns of {text} count from 0, and "
                        f"those of {train_dataset} seem to count from 1", where="eval_datasets",
                        hint="set libsvm_base: 0 if both count from 0; otherwise renumber one of the files")
    return load(eval_config._replace(libsvm_base=base))  # type: ignore[no-any-return]


def _padded(x: torch.Tensor, features: int, text: str, train_dataset: str) -> torch.Tensor:
    """Append columns of zeros, which a LIBSVM file does not store. DataError if x has more than `features` columns."""
    if x.shape[1] > features:
        raise DataError(f"{text} has {x.shape[1]} columns, and {train_dataset} has {features}", where="eval_datasets",
                        hint="check that both data sets have the same features, and count their columns from the same "
                             "number (libsvm_base)")
    if x.layout == torch.strided:
        return torch.nn.functional.pad(x, (0, features - x.shape[1]))
    return torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), x.values(), (x.shape[0], features),
                                   check_invariants=False)


def _add_evaluations_to_finished(config: Config, data: Data) -> Data:
    """Return finished splits together with those of eval_datasets, in the classes of the model."""
    if is_user_code(config.dataset) and (config.data_on_device or config.eval_datasets):
        raise DataError(f"{config.dataset} returns finished splits, which cannot be changed",
                        where="data_on_device" if config.data_on_device else "eval_datasets", hint="leave it out")
    splits, columns = dict(data.splits), {}
    for name, text in (config.eval_datasets or {}).items():
        eval_config, parts = evaluation(config, name)
        if config.dataset.startswith("hf/") and not eval_config.dataset.startswith("hf/"):
            raise DataError(f"{text} has no texts", where="eval_datasets", allowed="hf/NAME@SPLIT")
        eval_data = _load(eval_config, _source_names({text: parts}))
        if not isinstance(eval_data, Data) or eval_data.input_shape != data.input_shape:
            raise DataError(f"samples of {text} are not like those of {config.dataset}", where="eval_datasets")
        splits[name] = _normalized_as_train(eval_data.splits[name], data)
        if class_map := (config.eval_class_maps or {}).get(name):
            columns[name] = _columns_of(class_map, name, len(eval_data.classes), len(data.classes))
        elif eval_config.dataset.startswith("hf/"):
            splits[name] = hf.relabelled(text, eval_data, name, data.classes)
        elif eval_data.classes != data.classes:
            raise DataError(f"{text} has other classes than {config.dataset}", where="eval_datasets",
                            hint="map each of its classes to a class of training in eval_class_maps: "
                                 f"{{{name}: '3, 0, 7'}}")
    return dataclasses.replace(data, splits=splits, columns=columns)


def _normalized_as_train(split: Split | Lazy, data: Data) -> Split | Lazy:
    """Return an evaluation split that is normalized like the training images if it is on the training device."""
    if not isinstance(split, on_device.OnDevice):
        return split
    return on_device.OnDevice(split.images, split.y, next(iter(data.splits.values())).recipe)  # type: ignore[union-attr]


def evaluation(config: Config, name: str) -> tuple[Config, tuple[Slice, ...]]:
    """Return a config that reads the set `name` of eval_datasets like a training set, and its slices."""
    dataset, part = parse_eval_dataset(config.eval_datasets[name])  # type: ignore[index]
    return config._replace(dataset=dataset, data_splits_map={name: part}, eval_datasets=None,
                           eval_class_maps=None), parse_split(part)


def _columns_of(text: str, name: str, classes: int, outputs: int) -> tuple[int, ...]:
    """Return the model output of each class of an evaluation set. text: numbers, or a file of numbers."""
    try:
        content = text if CLASS_LIST.fullmatch(text) else Path(
            files.expand_path(text, "eval_class_maps")).read_text("utf-8")
        columns = tuple(int(number) for number in content.replace(",", " ").split())
    except (OSError, ValueError) as error:
        raise DataError(f"the class map of '{name}' cannot be read: {error}", where="eval_class_maps",
                        allowed="numbers, e.g. '3, 0, 7', or a file of them") from None
    if len(columns) != classes or len(set(columns)) != classes or not all(0 <= index < outputs for index in columns):
        raise DataError(f"the class map of '{name}' has {len(columns)} entries", where="eval_class_maps",
                        allowed=f"{classes}, one for each class of it: different classes of training, from 0 to "
                                f"{outputs - 1}")
    return columns


def fetch(config: Config) -> str:
    """Download and parse the data that is missing. Return a line for each data set. DataError as in make_data."""
    lines = []
    for dataset_config in (config, *(evaluation(config, name)[0] for name in config.eval_datasets or ())):
        names = _source_names({text: parse_split(text) for text in dataset_config.data_splits_map.values()})
        done = _reader(dataset_config).fetch(dataset_config, data_folder(dataset_config), names)
        lines.append(f"{dataset_config.dataset}: {done}")
    return "\n".join(lines)


def warm_up(configs: Iterable[Config]) -> None:
    """Import libraries and parse files into the cache once, before a worker forks its runs.

    Download nothing, and ignore errors: the runs report them.
    """
    seen = set()
    for config in configs:
        key = (config.dataset, config.data_dir, task_of(config.loss, config.targets), config.tokenizer,
               tuple(config.data_splits_map.values()), tuple((config.eval_datasets or {}).values()))
        # the parent of many runs must neither run user code nor load the libraries that timm reads with
        if key not in seen and not is_user_code(config.dataset) and _reader(config) is not images:
            seen.add(key)
            with contextlib.suppress(UserError):
                fetch(config._replace(data_download=False))


def _load(config: Config, names: list[str]) -> Any:
    """Load sources from this node's copy of data_dir if that contains them, else from data_dir."""
    folder = data_folder(config)
    if copy := packed_copy.data_copy(str(folder)):
        with contextlib.suppress(DataError):
            return _reader(config).load(config._replace(data_download=False), Path(copy), names)
    return _reader(config).load(config, folder, names)


def data_folder(config: Config) -> Path:
    """Return data_dir on this machine. ConfigError if it contains an undefined variable."""
    return Path(files.expand_path(config.data_dir, "data_dir"))


def _reader(config: Config) -> ModuleType:
    family = config.dataset.partition("/")[0]
    if is_user_code(config.dataset):
        return own_data
    if family not in READERS:
        raise DataError(f"no reader for '{config.dataset}'", where="dataset",
                        allowed=[f"{name}/NAME" for name in READERS])
    return READERS[family]


def _source_names(slices: Mapping[str, tuple[Slice, ...]]) -> list[str]:
    """Return the names of the source's splits that the slices are taken from, each once."""
    if not slices:
        raise DataError("no splits", where="data_splits_map", hint="try {train: train, test: test}")
    return list(dict.fromkeys(part.source for parts in slices.values() for part in parts))


def _classes(config: Config, sources: Iterable[Source]) -> tuple[float | int, ...]:
    """Return the sorted labels. DataError if they are not integers."""
    labels = np.unique(np.concatenate([source.y.numpy() for source in sources]))
    if any(source.targets for source in sources) or not np.equal(np.mod(labels, 1), 0).all():
        raise DataError(f"{config.dataset} has measured targets, and loss {config.loss} needs classes",
                        where="loss", hint="try loss: mse")
    return tuple(int(label) for label in labels)


def _labels(config: Config, name: str, source: Source, classes: tuple[float | int, ...]) -> torch.Tensor:
    """Return [n] int64 indices into classes; without classes, [n] float32 targets."""
    if not classes:
        return source.y.float()
    class_labels = torch.tensor(classes, dtype=torch.float64)
    index = torch.searchsorted(class_labels, source.y).clamp_(max=len(class_labels) - 1)
    unknown = source.y[class_labels[index] != source.y].unique().tolist()
    if unknown:
        raise DataError(f"split '{name}' of {config.dataset} has labels that train does not have: "
                        f"{_listed(unknown)}", allowed=_listed(classes))
    return index


def _listed(values: Iterable[float | int]) -> str:
    return listed([f"{value:g}" for value in values], 10)


def _cut(parts: tuple[Slice, ...], sources: Mapping[str, Source], y: Mapping[str, torch.Tensor], seed: int) -> Split:
    """Return the slices `parts`, one after another, as one split."""
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
    """Concatenate rows: dense tensors, or CSR tensors of equal width."""
    if parts[0].layout != torch.sparse_csr:
        return torch.cat(parts)
    count = torch.cat([part.crow_indices().diff() for part in parts]).long()
    crow = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return torch.sparse_csr_tensor(
        crow, torch.cat([part.col_indices() for part in parts]).long(), torch.cat([part.values() for part in parts]),
        (len(count), parts[0].shape[1]), check_invariants=False)


def _scale(cut: Mapping[str, Split], train: str | None, sources: Mapping[str, Source]) -> Scale:
    """Return the mean and standard deviation in train (1 for a constant feature, which becomes 0)."""
    reference = cut[train].x if train is not None else torch.cat([source.x for source in sources.values()])
    mean, std = reference.mean(0), reference.std(0, correction=0)
    return mean, torch.where(std > 0, std, 1)


def _scaled(split: Split, scale: Scale) -> Split:
    return Split((split.x - scale[0]) / scale[1], split.y)
