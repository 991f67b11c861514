"""make_data: the data set that a config names, read, labelled and cut into the splits of data_splits_map."""
from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from src.checks import user_code
from src.checks.registered_names import CLASS_LIST, parse_eval_dataset, task_of
from src.config import Config
from src.datasets import hf, images, libsvm, on_device, own_data, scikit
from src.datasets.data import Data, Source, Split, gather_rows
from src.datasets.splits import Slice, parse_split
from src.errors import DataError, UserError
from src.io import files

Scale = tuple[torch.Tensor, torch.Tensor]  # of each feature: its mean, and its standard deviation
READERS: dict[str, ModuleType] = {
    "libsvm": libsvm, "sklearn": scikit, "timm": images, "folder": images, "hf": hf,
}


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
        return _finished(config, sources)
    train = wanted.get(config.data_splits_map.get("train", ""))
    behind_train = {part.source for part in train} if train else set(sources)
    classes: tuple[float | int, ...] = ()
    task = task_of(config.loss, config.targets)
    if task == "classification":
        classes = _classes(config, [sources[name] for name in sources if name in behind_train])
    elif task != "regression":
        raise DataError(f"{config.dataset} has no texts", where="targets", allowed="classes, numbers")
    y = {name: _labels(config, name, source, classes) for name, source in sources.items()}
    cut = {text: _cut(parts, sources, y, config.seed_split) for text, parts in wanted.items()}
    scale = None
    if any(source.standardise for source in sources.values()):
        scale = _scale(cut, config.data_splits_map.get("train"), sources)
        cut = {text: _scaled(split, scale) for text, split in cut.items()}
    splits = {key: cut[text] for key, text in config.data_splits_map.items()}
    data = Data(splits, task, classes, tuple(next(iter(splits.values())).x.shape[1:]))
    data = _with_evaluations(config, data, scale)
    return on_device.kept(config, data) if config.data_on_device else data


def _with_evaluations(config: Config, data: Data, scale: Scale | None) -> Data:
    """The data with the splits of eval_datasets, in the features and classes of the model."""
    splits, columns = dict(data.splits), {}
    for name, text in (config.eval_datasets or {}).items():
        other, parts = evaluation(config, name)
        sources = _reader(other).load(other, data_folder(other), _names({text: parts}))
        if isinstance(sources, Data):
            raise DataError(f"{text} comes as finished splits, which cannot be added", where="eval_datasets")
        class_map = (config.eval_class_maps or {}).get(name)
        classes = data.classes
        if class_map is not None:
            classes = _classes(other, sources.values())
            columns[name] = _columns_of(class_map, name, len(classes), len(data.classes))
        y = {key: _labels(other, key, source, classes) for key, source in sources.items()}
        split = _cut(parts, sources, y, config.seed_split)
        missing = data.input_shape[0] - split.x.shape[1]
        if other.dataset.startswith("libsvm/") and missing > 0 and split.x.layout == torch.strided:
            split = Split(torch.nn.functional.pad(split.x, (0, missing)), split.y)  # the last columns are all zero
        if tuple(split.x.shape[1:]) != data.input_shape:
            raise DataError(f"samples of {text} have the shape {list(split.x.shape[1:])}, those of {config.dataset} "
                            f"{list(data.input_shape)}", where="eval_datasets")
        splits[name] = _scaled(split, scale) if scale else split
    return dataclasses.replace(data, splits=splits, columns=columns)


def _finished(config: Config, data: Data) -> Data:
    """Finished splits, with those of eval_datasets, in the classes of the model."""
    if user_code.is_user_code(config.dataset) and (config.data_on_device or config.eval_datasets):
        raise DataError(f"{config.dataset} comes as finished splits, which stay as they are",
                        where="data_on_device" if config.data_on_device else "eval_datasets", hint="leave it out")
    splits, columns = dict(data.splits), {}
    for name, text in (config.eval_datasets or {}).items():
        other, parts = evaluation(config, name)
        if config.dataset.startswith("hf/") and not other.dataset.startswith("hf/"):
            raise DataError(f"{text} has no texts", where="eval_datasets", allowed="hf/NAME@SPLIT")
        found = _reader(other).load(other, data_folder(other), _names({text: parts}))
        if not isinstance(found, Data) or found.input_shape != data.input_shape:
            raise DataError(f"samples of {text} are not like those of {config.dataset}", where="eval_datasets")
        split = found.splits[name]
        if isinstance(split, on_device.OnDevice):  # normalised as the images that are trained on
            split = on_device.OnDevice(split.images, split.y, next(iter(data.splits.values())).recipe)  # type: ignore[union-attr]
        splits[name] = split
        if class_map := (config.eval_class_maps or {}).get(name):
            columns[name] = _columns_of(class_map, name, len(found.classes), len(data.classes))
        elif other.dataset.startswith("hf/"):
            splits[name] = hf.relabelled(text, found, name, data.classes)
        elif found.classes != data.classes:
            raise DataError(f"{text} has other classes than {config.dataset}", where="eval_datasets",
                            hint=f"say in eval_class_maps which class of training each of them is: {{{name}: "
                            "'3, 0, 7'}")
    return dataclasses.replace(data, splits=splits, columns=columns)


def evaluation(config: Config, name: str) -> tuple[Config, tuple[Slice, ...]]:
    """The config of a set in eval_datasets as if it were trained on, and the parts of it that are evaluated."""
    dataset, part = parse_eval_dataset(config.eval_datasets[name])  # type: ignore[index]
    return dataclasses.replace(config, dataset=dataset, data_splits_map={name: part}, eval_datasets=None,
                               eval_class_maps=None), parse_split(part)


def _columns_of(text: str, name: str, classes: int, outputs: int) -> tuple[int, ...]:
    """The model's output for each class of an evaluation set: numbers in `text`, or in the file that it names."""
    try:
        content = text if CLASS_LIST.fullmatch(text) else Path(
            files.expand_path(text, "eval_class_maps")).read_text("utf-8")
        found = tuple(int(word) for word in content.replace(",", " ").split())
    except (OSError, ValueError) as error:
        raise DataError(f"the class map of '{name}' cannot be read: {error}", where="eval_class_maps",
                        allowed="numbers, as '3, 0, 7', or a file of them") from None
    if len(found) != classes or len(set(found)) != classes or not all(0 <= index < outputs for index in found):
        raise DataError(f"the class map of '{name}' has {len(found)} entries", where="eval_class_maps",
                        allowed=f"{classes}, one for each class of it: different classes of training, from 0 to "
                                f"{outputs - 1}")
    return found


def fetch(config: Config) -> str:
    """Make the data present under data_dir, and parsed; a line for each set says what was done. DataError as above."""
    lines = []
    for one in (config, *(evaluation(config, name)[0] for name in config.eval_datasets or ())):
        names = _names({text: parse_split(text) for text in one.data_splits_map.values()})
        lines.append(f"{one.dataset}: {_reader(one).fetch(one, data_folder(one), names)}")
    return "\n".join(lines)


def warm_up(configs: Iterable[Config]) -> None:
    """Do once, before a worker forks its runs, what each of them would do again: imports, and parsing into the cache.

    Downloads nothing, and leaves errors to the runs, which report them.
    """
    seen = set()
    for config in configs:
        key = (config.dataset, config.data_dir, task_of(config.loss, config.targets), config.tokenizer,
               tuple(config.data_splits_map.values()), tuple((config.eval_datasets or {}).values()))
        # a parent of many runs must neither run one's own code nor load what timm reads with
        if key not in seen and not user_code.is_user_code(config.dataset) and not config.dataset.startswith(
                ("timm/", "folder/")):
            seen.add(key)
            with contextlib.suppress(UserError):
                fetch(dataclasses.replace(config, data_download=False))


def data_folder(config: Config) -> Path:
    """data_dir on this machine. ConfigError if it names a variable that is not set."""
    return Path(files.expand_path(config.data_dir, "data_dir"))


def _reader(config: Config) -> ModuleType:
    family = config.dataset.partition("/")[0]
    if user_code.is_user_code(config.dataset):
        return own_data
    if family not in READERS:
        raise DataError(f"there is no reader for '{config.dataset}'", where="dataset",
                        allowed=[f"{name}/NAME" for name in READERS])
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


def _scale(cut: Mapping[str, Split], train: str | None, sources: Mapping[str, Source]) -> Scale:
    """What gives features the mean 0 and variance 1 that they then have in train; a constant feature becomes 0."""
    known = cut[train].x if train is not None else torch.cat([source.x for source in sources.values()])
    mean, std = known.mean(0), known.std(0, correction=0)
    return mean, torch.where(std > 0, std, 1)


def _scaled(split: Split, scale: Scale) -> Split:
    return Split((split.x - scale[0]) / scale[1], split.y)
