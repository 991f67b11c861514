"""Text data sets: csv, json, parquet, arrow and text files, or data sets of the Hugging Face hub, as tokens."""
from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src import hub
from src.checks.registered_names import TEXT_FILES, task_of
from src.config import Config
from src.datasets.data import Data
from src.datasets.splits import parse_split
from src.datasets.texts import Texts, make_table, tokenized
from src.errors import ConfigError, DataError, did_you_mean

# how columns are usually called, the likelier first
_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"))
_TEXTS = ("text", "sentence", "content", "review", "comment", "document", "question")
_LABELS = ("label", "labels", "target", "class", "category")
Tables = Mapping[str, Any]  # by split: a Dataset of the library datasets


def load(config: Config, folder: Path, names: Sequence[str]) -> Data:
    """The splits of data_splits_map as tokens. DataError says what cannot be had, with the columns that there are.

    Classes are those that the data set names, or else the sorted labels of the sources behind train. For the targets
    next_token, texts of less than two tokens are left out.
    """
    tables = _tables(config, folder, names)
    task = task_of(config.loss, config.targets)
    features = next(iter(tables.values())).features
    columns = _text_columns(config, features)
    label = None if task == "next_token" else _label_column(config, features, columns)
    tokenizer = hub.tokenizer(config)
    max_length = _max_length(config, tokenizer)
    texts: list[dict[str, np.ndarray]] = []
    ranges, labels, facts = {}, {}, {}
    for name, table in tables.items():
        read = list(tokenized(tokenizer, [_strings(config, name, table, column) for column in columns], max_length,
                              ended=task == "next_token"))
        kept = [text for text in read if len(text["input_ids"]) > 1] if task == "next_token" else read
        if not kept:
            raise DataError(f"split '{name}' of {config.dataset} has no texts", where="data_splits_map")
        ranges[name] = range(len(texts), len(texts) + len(kept))
        texts += kept
        if label:
            labels[name] = _values(config, name, table, label)
        facts[name] = {"tokens": sum(len(text["input_ids"]) for text in kept), "left_out": len(read) - len(kept),
                       "as_long_as_max_length": sum(len(text["input_ids"]) >= max_length for text in kept)}
    classes, y = (), None
    if label:
        classes = _classes(config, features[label], labels) if task == "classification" else ()
        y = torch.from_numpy(np.concatenate([_indices(config, name, values, classes)
                                             for name, values in labels.items()]))
    padding = {"input_ids": hub.pad_token(tokenizer), "token_type_ids": tokenizer.pad_token_type_id}
    all_texts = Texts(make_table(texts, padding, y), torch.arange(len(texts)), config.group_by_length)
    cut = {text: _cut(all_texts, ranges, text, config.seed_split) for text in config.data_splits_map.values()}
    about = {"tokenizer": hub.tokenizer_name(config), "max_length": max_length, "text_column": ", ".join(columns),
             **({"label_column": label} if label else {"output_dim": _vocabulary(config, tokenizer)}), "texts": facts}
    return Data({key: cut[text] for key, text in config.data_splits_map.items()}, task, classes, (), about)


def relabelled(what: str, data: Data, name: str, classes: tuple[Any, ...]) -> Texts:
    """A split of data with classes of its own, as indices into `classes`. DataError for a label that is not there."""
    split = data.splits[name]
    assert isinstance(split, Texts)
    if data.classes == classes or split.table.y is None:
        return split
    strange = [data.classes[index] for index in split.table.y[split.rows].unique().tolist()
               if data.classes[index] not in classes]
    if strange:
        raise DataError(f"{what} has labels that train has not: {', '.join(map(str, strange[:10]))}",
                        where="eval_datasets", allowed=classes[:20], hint="or give a class map in eval_class_maps")
    index = torch.tensor([classes.index(label) if label in classes else 0 for label in data.classes])
    return dataclasses.replace(split, table=dataclasses.replace(split.table, y=index[split.table.y]))


def fetch(config: Config, folder: Path, names: Sequence[str]) -> str:
    """Make the data set, its splits and its tokenizer present. DataError if they are not to be had."""
    hub.folder(config, hub.tokenizer_name(config))
    if path := hub.path_of(config, _name(config)):
        _files(config, path, names)
        return "present already"
    before = _saved(config, folder).exists()
    _fetched(config, folder)
    return "present already" if before else "fetched"


def _name(config: Config) -> str:
    return config.dataset.removeprefix("hf/")


def _tables(config: Config, folder: Path, names: Sequence[str]) -> Tables:
    datasets = hub.import_library("datasets")
    if path := hub.path_of(config, _name(config)):
        if path.is_dir() and any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
            return _of_saved(config, datasets.load_from_disk(str(path)), names)
        return {name: _read(datasets, paths) for name, paths in _files(config, path, names).items()}
    return _of_saved(config, datasets.load_from_disk(_fetched(config, folder)), names)


def _of_saved(config: Config, saved: Any, names: Sequence[str]) -> Tables:
    splits = saved if isinstance(saved, Mapping) else {"train": saved}
    return {name: splits[name] for name in names if _known(config, name, splits)}


def _known(config: Config, name: str, splits: Mapping[str, Any]) -> bool:
    if name not in splits:
        raise DataError(f"{config.dataset} has no split '{name}'", where="data_splits_map", allowed=splits,
                        hint=did_you_mean(name, splits) or "cut one, as train[:90%]")
    return True


def _saved(config: Config, folder: Path) -> Path:
    return folder / "hf" / re.sub(r"[/:]", "--", _name(config))


def _fetched(config: Config, folder: Path) -> str:
    """Where the data set of the hub was saved under data_dir, whole or not at all."""
    saved = _saved(config, folder)

    def save() -> None:
        datasets = hub.import_library("datasets")
        name, _, part = _name(config).partition(":")
        saved.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=saved.parent) as own:
            found = datasets.load_dataset(name, part or None, cache_dir=f"{own}/cache")
            found.save_to_disk(f"{own}/saved")
            shutil.move(f"{own}/saved", saved)

    return hub.once(config, saved.with_name(f".{saved.name}.lock"), config.dataset,
                    lambda: str(saved) if saved.exists() else None, save)


def _files(config: Config, path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """The files of each split: one file is train; in a folder, train.csv, train-00000-of-00002.parquet, train/….csv."""
    if path.is_file():
        found = {"train": [str(path)]}
    elif path.is_dir():
        found = {}
        for file in sorted([*path.iterdir(), *path.glob("*/*")]):
            if file.suffix in TEXT_FILES and file.is_file() and not file.name.startswith("."):
                inside = file.relative_to(path)
                split = inside.parts[0] if len(inside.parts) > 1 else re.split(r"-\d|_\d|\.", file.name)[0]
                found.setdefault(split, []).append(str(file))
    else:
        raise DataError(f"there is no {path}", where="dataset", hint="relative names lie under data_dir")
    if not found:
        raise DataError(f"there is no data in {path}", where="dataset", allowed=f"files {', '.join(TEXT_FILES)}")
    return {name: found[name] for name in names if _known(config, name, found)}


def _read(datasets: Any, paths: list[str]) -> Any:
    """The files of one split, in memory: neither the library's cache nor its locks, and never the network."""
    suffix = Path(paths[0]).suffix
    reader, options = {
        # a cell that says NA or None is a text
        ".csv": (datasets.Dataset.from_csv, {"keep_default_na": False}),
        ".tsv": (datasets.Dataset.from_csv, {"keep_default_na": False, "sep": "\t"}),
        ".json": (datasets.Dataset.from_json, {}), ".jsonl": (datasets.Dataset.from_json, {}),
        ".parquet": (datasets.Dataset.from_parquet, {}), ".txt": (datasets.Dataset.from_text, {}),
        ".arrow": (None, {})}[suffix]
    try:
        if any(Path(path).suffix != suffix for path in paths):
            raise ValueError("its files are of several kinds")
        if reader is None:
            return datasets.concatenate_datasets([datasets.Dataset.from_file(path, in_memory=True) for path in paths])
        with tempfile.TemporaryDirectory() as own:
            return reader(paths, cache_dir=own, keep_in_memory=True, **options)
    except Exception as error:  # what the parsers raise has no common kind
        cause = error.__cause__ or error
        raise DataError(f"it cannot be read: {' '.join(str(cause).split())[:300]}", where=paths[0]) from error


def _text_columns(config: Config, features: Mapping[str, Any]) -> tuple[str, ...]:
    """The column of texts, or the two of pairs: as the config says, or as they are usually called."""
    if config.text_column:
        return tuple(_column(config, name.strip(), features, "text_column") for name in config.text_column.split(","))
    for names in (*_PAIRS, *((name,) for name in _TEXTS)):
        if all(name in features for name in names):
            return names
    strings = [name for name, feature in features.items() if getattr(feature, "dtype", "") in (
        "string", "large_string") and name != config.label_column and name not in _LABELS]
    if len(strings) != 1:
        raise DataError(f"it is not clear which column of {config.dataset} has the texts", where="text_column",
                        allowed=features, hint="name one, or two for pairs, as 'premise,hypothesis'")
    return (strings[0],)


def _label_column(config: Config, features: Mapping[str, Any], texts: Sequence[str]) -> str:
    """The column of labels or targets: as the config says, as it is usually called, or the only other one."""
    if config.label_column:
        return _column(config, config.label_column, features, "label_column")
    others = [name for name in features if name not in texts]
    likely = [name for name in _LABELS if name in others] or [
        name for name in others if getattr(features[name], "names", None)] or others
    if not likely or likely == others and len(others) > 1:
        raise DataError(f"it is not clear which column of {config.dataset} has the labels", where="label_column",
                        allowed=features)
    return likely[0]


def _column(config: Config, name: str, features: Mapping[str, Any], where: str) -> str:
    if name not in features:
        raise DataError(f"{config.dataset} has no column '{name}'", where=where, allowed=features,
                        hint=did_you_mean(name, features))
    return name


def _strings(config: Config, split: str, table: Any, column: str) -> list[str]:
    values: list[Any] = table[column][:]
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(f"row {row} of split '{split}' of {config.dataset} has no text in '{column}': {value!r}",
                            where="text_column", hint="choose a column of strings, or mend the row")
    return values


def _values(config: Config, split: str, table: Any, column: str) -> list[Any]:
    """The labels of a column: the names that the data set has for its numbers, where it has some."""
    values: list[Any] = table[column][:]
    names = getattr(table.features[column], "names", None)
    for row, value in enumerate(values):
        if names and value is not None and 0 <= value < len(names):
            values[row] = names[value]
        elif names or not isinstance(value, (str, int, float)) or value != value:
            raise DataError(f"row {row} of split '{split}' of {config.dataset} has no label in '{column}': {value!r}",
                            where="label_column", hint="choose another column, or mend the row")
    return values


def _classes(config: Config, feature: Any, labels: Mapping[str, list[Any]]) -> tuple[Any, ...]:
    """The labels, in the order of the classes: all that the data set names, or those behind train, sorted."""
    if getattr(feature, "names", None):
        return tuple(feature.names)
    train = config.data_splits_map.get("train")
    behind = {part.source for part in parse_split(train)} if train else set(labels)
    found = {value for name, values in labels.items() if name in behind for value in values}
    if any(isinstance(value, float) and not value.is_integer() for value in found):
        raise DataError(f"{config.dataset} has measured targets, and loss {config.loss} needs classes",
                        where="loss", hint="try loss: mse")
    return tuple(sorted(found, key=lambda value: (isinstance(value, str), value)))


def _indices(config: Config, split: str, values: list[Any], classes: tuple[Any, ...]) -> np.ndarray:
    """[n] int64 indices into classes; without classes, [n] float32 targets."""
    if not classes:
        try:
            return np.array([float(value) for value in values], dtype=np.float32)
        except ValueError as error:
            raise DataError(f"split '{split}' of {config.dataset} has a target that is no number: {error}",
                            where="label_column", hint="try loss: log") from None
    index = {value: place for place, value in enumerate(classes)}
    row, strange = next(((row, value) for row, value in enumerate(values) if value not in index), (0, None))
    if strange is not None:
        raise DataError(f"row {row} of split '{split}' of {config.dataset} has the label {strange!r}, which train has "
                        "not", where="label_column", allowed=classes if len(classes) < 20 else f"{len(classes)} labels")
    return np.array([index[value] for value in values], dtype=np.int64)


def _cut(texts: Texts, ranges: Mapping[str, range], text: str, seed: int) -> Texts:
    """The part of all texts that a split expression means."""
    rows = []
    for part in parse_split(text):
        source = torch.arange(ranges[part.source].start, ranges[part.source].stop)
        index = part.indices(len(source), seed)
        rows.append(source if index is None else source[torch.from_numpy(index)])
    return Texts(texts.table, torch.cat(rows), texts.grouped)


def _vocabulary(config: Config, tokenizer: Any) -> int:
    """How many tokens the model tells apart: it may have room for more than its tokenizer has."""
    return int(hub.settings(config).vocab_size if config.model.startswith("hf/") else len(tokenizer))


def _max_length(config: Config, tokenizer: Any) -> int:
    """Tokens of a text: as many as the config says, or as the tokenizer and the model can take if those are fewer."""
    room = [config.max_length, tokenizer.model_max_length]
    if config.model.startswith("hf/"):
        room.append(getattr(hub.settings(config), "max_position_embeddings", None) or config.max_length)
    if min(room) < tokenizer.num_special_tokens_to_add() + 1:
        raise ConfigError(f"{min(room)} tokens are too few for a text and what {hub.tokenizer_name(config)} puts "
                          "around it", where="max_length")
    return int(min(room))
