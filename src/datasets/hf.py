"""Text data sets as tokens: csv, json, parquet, arrow and text files, or data sets of the Hugging Face hub."""
from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from src.checks.registered_names import TEXT_FILES, task_of
from src.checks.splits import overlaps, parse_split
from src.config import Config
from src.datasets.data import Data
from src.datasets.texts import Texts, make_table, tokenized
from src.errors import ConfigError, DataError, did_you_mean, listed, summarize
from src.pretrained import hub

# usual column names, the most likely first
_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"))
_TEXTS = ("text", "sentence", "content", "review", "comment", "document", "question")
_LABELS = ("label", "labels", "target", "class", "category")
# values that mark a missing label in a column of numbers
_MISSING_WORDS = frozenset(("", "na", "n/a", "nan", "null", "none"))
Tables = Mapping[str, Any]  # split -> Dataset of the library datasets
T = TypeVar("T")


def load(config: Config, folder: Path, names: Sequence[str]) -> Data:
    """Return the splits of data_splits_map as tokens. DataError if something is missing.

    Classes are those that the data set names, or the sorted labels of the sources of train. With the targets
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
        strings = [_strings(config, name, table, column, has_labels=label is not None) for column in columns]
        split_texts = list(tokenized(tokenizer, strings, max_length, ended=task == "next_token"))
        long_enough = [text for text in split_texts if len(text["input_ids"]) > 1 or task != "next_token"]
        if not long_enough:
            raise DataError(f"split '{name}' of {config.dataset} has no texts", where="data_splits_map")
        ranges[name] = range(len(texts), len(texts) + len(long_enough))
        texts += long_enough
        if label:
            labels[name] = _labels(config, name, table, label)
        facts[name] = {"tokens": sum(len(text["input_ids"]) for text in long_enough),
                       "left_out": len(split_texts) - len(long_enough),
                       "as_long_as_max_length": sum(len(text["input_ids"]) >= max_length for text in long_enough)}
    classes, y = (), None
    if label:
        classes = _classes(config, features[label], labels) if task == "classification" else ()
        y = torch.from_numpy(np.concatenate([_indices(config, name, values, classes)
                                             for name, values in labels.items()]))
    padding = {"input_ids": hub.pad_token(tokenizer), "token_type_ids": tokenizer.pad_token_type_id}
    all_texts = Texts(make_table(texts, padding, y), torch.arange(len(texts)), config.group_by_length)
    cut = {text: _cut(all_texts, ranges, text, config.seed_split) for text in config.data_splits_map.values()}
    about = {"tokenizer": hub.tokenizer_name(config), "max_length": max_length, "text_column": ", ".join(columns),
             **({"label_column": label} if label else {"output_dim": _vocabulary_size(config, tokenizer)}),
             "texts": facts,
             **overlaps({name: parse_split(text) for name, text in config.data_splits_map.items()},
                        {name: len(rows) for name, rows in ranges.items()})}
    return Data({key: cut[text] for key, text in config.data_splits_map.items()}, task, classes, (), about)


def relabelled(text: str, data: Data, name: str, classes: tuple[Any, ...]) -> Texts:
    """Return split `name` of an evaluation set `text` with indices into `classes`. DataError for an unknown label."""
    split = data.splits[name]
    assert isinstance(split, Texts)
    if data.classes == classes or split.table.y is None:
        return split
    unknown = [data.classes[index] for index in split.table.y[split.rows].unique().tolist()
               if data.classes[index] not in classes]
    if unknown:
        raise DataError(f"{text} has labels that train does not have: {listed([*map(str, unknown)], 10)}",
                        where="eval_datasets", allowed=classes[:20], hint="or give a class map in eval_class_maps")
    index = torch.tensor([classes.index(label) if label in classes else 0 for label in data.classes])
    return dataclasses.replace(split, table=dataclasses.replace(split.table, y=index[split.table.y]))


def fetch(config: Config, folder: Path, names: Sequence[str]) -> str:
    """Download the data set and its tokenizer if they are missing. DataError if they or a split are unavailable."""
    hub.folder(config, hub.tokenizer_name(config))
    if path := hub.path_of(config, _name(config)):
        _files(config, path, names)
        return "present already"
    was_present = _saved(config, folder).exists()
    _download(config, folder)
    return "present already" if was_present else "fetched"


def _name(config: Config) -> str:
    return config.dataset.removeprefix("hf/")


def _tables(config: Config, folder: Path, names: Sequence[str]) -> Tables:
    datasets = hub.import_library("datasets")
    if path := hub.path_of(config, _name(config)):
        if path.is_dir() and any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
            return _saved_splits(config, datasets.load_from_disk(str(path)), names)
        return {name: _read(datasets, paths) for name, paths in _files(config, path, names).items()}
    return _saved_splits(config, datasets.load_from_disk(_download(config, folder)), names)


def _saved_splits(config: Config, saved: Any, names: Sequence[str]) -> Tables:
    splits = saved if isinstance(saved, Mapping) else {"train": saved}
    return _select(config, splits, names)


def _select(config: Config, splits: Mapping[str, T], names: Sequence[str]) -> dict[str, T]:
    """Return some of the splits by name. DataError if one of them does not exist."""
    for name in names:
        if name not in splits:
            raise DataError(f"{config.dataset} has no split '{name}'", where="data_splits_map", allowed=splits,
                            hint=did_you_mean(name, splits) or "cut one, e.g. train[:90%]")
    return {name: splits[name] for name in names}


def _saved(config: Config, folder: Path) -> Path:
    return folder / "hf" / re.sub(r"[/:]", "--", _name(config))


def _download(config: Config, folder: Path) -> str:
    """Save the data set of the hub under data_dir, atomically, unless it is there. Return its folder."""
    saved = _saved(config, folder)

    def save() -> None:
        datasets = hub.import_library("datasets")
        name, _, part = _name(config).partition(":")
        saved.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=saved.parent) as temporary:
            downloaded = datasets.load_dataset(name, part or None, cache_dir=f"{temporary}/cache")
            downloaded.save_to_disk(f"{temporary}/saved")
            os.rename(f"{temporary}/saved", saved)

    return hub.once(config, saved.with_name(f".{saved.name}.lock"), config.dataset,
                    lambda: str(saved) if saved.exists() else None, save)


def _files(config: Config, path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of each split.

    A single file is train. In a folder, a split is named by its files (train.csv, train-00000-of-00002.parquet) or by
    their folder (train/….csv).
    """
    split_files: dict[str, list[str]] = {}
    if path.is_file():
        split_files = {"train": [str(path)]}
    elif path.is_dir():
        for file in sorted([*path.iterdir(), *path.glob("*/*")]):
            if file.suffix in TEXT_FILES and file.is_file() and not file.name.startswith("."):
                relative = file.relative_to(path)
                split = relative.parts[0] if len(relative.parts) > 1 else re.split(r"-\d|_\d|\.", file.name)[0]
                split_files.setdefault(split, []).append(str(file))
    else:
        raise DataError(f"{path} does not exist", where="dataset", hint="relative names lie under data_dir")
    if not split_files:
        raise DataError(f"no data in {path}", where="dataset", allowed=f"files {', '.join(TEXT_FILES)}")
    return _select(config, split_files, names)


def _read(datasets: Any, paths: list[str]) -> Any:
    """Read the files of one split into memory, without the library's cache, its locks or the network."""
    suffix = Path(paths[0]).suffix
    reader, options = {
        # keep_default_na: a cell such as NA or None is text, and an empty one is ""
        ".csv": (datasets.Dataset.from_csv, {"keep_default_na": False}),
        ".tsv": (datasets.Dataset.from_csv, {"keep_default_na": False, "sep": "\t"}),
        ".json": (datasets.Dataset.from_json, {}), ".jsonl": (datasets.Dataset.from_json, {}),
        ".parquet": (datasets.Dataset.from_parquet, {}), ".txt": (datasets.Dataset.from_text, {}),
        ".arrow": (None, {})}[suffix]
    try:
        if any(Path(path).suffix != suffix for path in paths):
            raise ValueError("the files of a split have different formats")
        if reader is None:
            return datasets.concatenate_datasets([datasets.Dataset.from_file(path, in_memory=True) for path in paths])
        with tempfile.TemporaryDirectory() as cache:
            return reader(paths, cache_dir=cache, keep_in_memory=True, **options)
    except Exception as error:  # the parsers' exceptions have no common class
        raise DataError(f"cannot be read: {summarize(error.__cause__ or error)}", where=paths[0]) from error


def _text_columns(config: Config, features: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the column of texts, or two for pairs: text_column, or the usual names, or the only column of strings."""
    if config.text_column:
        return tuple(_column(config, name.strip(), features, "text_column") for name in config.text_column.split(","))
    for names in (*_PAIRS, *((name,) for name in _TEXTS)):
        if all(name in features for name in names):
            return names
    strings = [name for name, feature in features.items() if getattr(feature, "dtype", "") in (
        "string", "large_string") and name != config.label_column and name not in _LABELS]
    if len(strings) != 1:
        raise DataError(f"cannot tell which column of {config.dataset} has the texts", where="text_column",
                        allowed=features, hint="set it to one, or two for pairs, e.g. 'premise,hypothesis'")
    return (strings[0],)


def _label_column(config: Config, features: Mapping[str, Any], texts: Sequence[str]) -> str:
    """Return the column of labels or targets: label_column, or the usual names, or the only other column."""
    if config.label_column:
        return _column(config, config.label_column, features, "label_column")
    others = [name for name in features if name not in texts]
    likely = [name for name in _LABELS if name in others] or [
        name for name in others if getattr(features[name], "names", None)] or others
    if not likely or likely == others and len(others) > 1:
        raise DataError(f"cannot tell which column of {config.dataset} has the labels", where="label_column",
                        allowed=features)
    return likely[0]


def _column(config: Config, name: str, features: Mapping[str, Any], where: str) -> str:
    if name not in features:
        raise DataError(f"{config.dataset} has no column '{name}'", where=where, allowed=features,
                        hint=did_you_mean(name, features))
    return name


def _strings(config: Config, split: str, table: Any, column: str, has_labels: bool) -> list[str]:
    """Return the texts of a column. DataError for a value that is not a string.

    A missing text, null or blank, is an error if it has a label; in next_token it becomes "", which is left out.
    """
    values = ["" if value is None else value for value in table[column][:]]
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(f"row {row} of split '{split}' of {config.dataset} has no text in '{column}': {value!r}",
                            where="text_column", hint="choose a column of strings, or correct the row")
    if has_labels:
        _check_present(config, split, column, [row for row, value in enumerate(values) if not value.strip()], "text")
    return values


def _labels(config: Config, split: str, table: Any, column: str) -> list[Any]:
    """Return the labels of a column, by the names that the data set has for them if it has any.

    DataError for a missing label: null, NaN, blank, or NA and the like in a column of numbers.
    """
    values: list[Any] = table[column][:]
    names = getattr(table.features[column], "names", None)
    for row, value in enumerate(values):
        if names and value is not None and 0 <= value < len(names):
            values[row] = names[value]
        elif not names and value is not None and not isinstance(value, (str, int, float)):
            raise DataError(f"row {row} of split '{split}' of {config.dataset} has no label in '{column}': {value!r}",
                            where="label_column", hint="choose another column, or correct the row")
        elif names or value != value:  # an index without a name, such as -1, or NaN
            values[row] = None
    _check_present(config, split, column, _missing_rows(values), "label")
    return values


def _missing_rows(labels: Sequence[Any]) -> list[int]:
    """Return the rows whose label is None or blank, or NA and the like if all other labels are numbers."""
    cells = [label.strip().lower() if isinstance(label, str) else label for label in labels]
    others = [cell for cell in cells if cell is not None and cell not in _MISSING_WORDS]
    missing = _MISSING_WORDS if others and all(map(_is_number, others)) else {""}
    return [row for row, cell in enumerate(cells) if cell is None or cell in missing]


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _check_present(config: Config, split: str, column: str, missing_rows: Sequence[int], kind: str) -> None:
    """DataError if rows have no text or label. kind: text or label."""
    if missing_rows:
        more = f", and so do {len(missing_rows) - 1} more rows" if len(missing_rows) > 1 else ""
        raise DataError(f"row {missing_rows[0]} of split '{split}' of {config.dataset} lacks a {kind} in "
                        f"'{column}'{more}", where=f"{kind}_column",
                        hint="fill in or delete these rows (the first row after a header is row 0), or choose another "
                             "column")


def _classes(config: Config, feature: Any, labels: Mapping[str, list[Any]]) -> tuple[Any, ...]:
    """Return the labels in the order of the classes: all that the data set names, or those of train, sorted."""
    if getattr(feature, "names", None):
        return tuple(feature.names)
    train = config.data_splits_map.get("train")
    train_sources = {part.source for part in parse_split(train)} if train else set(labels)
    classes = {value for name, values in labels.items() if name in train_sources for value in values}
    if any(isinstance(value, float) and not value.is_integer() for value in classes):
        raise DataError(f"{config.dataset} has measured targets, and loss {config.loss} needs classes",
                        where="loss", hint="try loss: mse")
    return tuple(sorted(classes, key=lambda value: (isinstance(value, str), value)))


def _indices(config: Config, split: str, values: list[Any], classes: tuple[Any, ...]) -> np.ndarray:
    """Return [n] int64 indices into classes; without classes, [n] float32 targets."""
    if not classes:
        try:
            return np.array([float(value) for value in values], dtype=np.float32)
        except ValueError as error:
            raise DataError(f"split '{split}' of {config.dataset} has a target that is not a number: {error}",
                            where="label_column", hint="try loss: log") from None
    index = {value: position for position, value in enumerate(classes)}
    row, unknown = next(((row, value) for row, value in enumerate(values) if value not in index), (0, None))
    if unknown is not None:
        raise DataError(f"row {row} of split '{split}' of {config.dataset} has the label {unknown!r}, which train "
                        "does not have", where="label_column",
                        allowed=classes if len(classes) < 20 else f"{len(classes)} labels")
    return np.array([index[value] for value in values], dtype=np.int64)


def _cut(texts: Texts, ranges: Mapping[str, range], text: str, seed: int) -> Texts:
    """Return the texts of a split expression."""
    rows = []
    for part in parse_split(text):
        source = torch.arange(ranges[part.source].start, ranges[part.source].stop)
        index = part.indices(len(source), seed)
        rows.append(source if index is None else source[torch.from_numpy(index)])
    return Texts(texts.table, torch.cat(rows), texts.grouped)


def _vocabulary_size(config: Config, tokenizer: Any) -> int:
    """Return the number of tokens that the model distinguishes; it may be larger than that of the tokenizer."""
    return int(hub.settings(config).vocab_size if config.model.startswith("hf/") else len(tokenizer))


def _max_length(config: Config, tokenizer: Any) -> int:
    """Return the maximum number of tokens of a text: max_length, or less if the tokenizer or model takes less."""
    limits = [config.max_length, tokenizer.model_max_length]
    if config.model.startswith("hf/"):
        limits.append(getattr(hub.settings(config), "max_position_embeddings", None) or config.max_length)
    if min(limits) < tokenizer.num_special_tokens_to_add() + 1:
        raise ConfigError(f"{min(limits)} tokens are too few for a text and the special tokens of "
                          f"{hub.tokenizer_name(config)}", where="max_length")
    return int(min(limits))
