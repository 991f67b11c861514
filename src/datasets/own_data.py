"""Data sets from user code: a function `module:name` returns samples, or finished splits."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from src.checks import user_code
from src.checks.registered_names import task_of
from src.config import Config
from src.datasets.data import Data, Source
from src.errors import DataError

RETURNS = "a mapping of split names to (x, y), to a torch Dataset or to a Source; or a Data"


def load(config: Config, folder: Path, names: Sequence[str]) -> dict[str, Source] | Data:
    """Call the function with the config. Return the splits `names` of a mapping, or the splits of a Data.

    x: [n, ...], y: [n], arrays or tensors; a Dataset of pairs is read into memory. DataError for anything else.
    Exceptions of the function itself keep their traceback.
    """
    data = user_code.load(config.dataset, "dataset")(config)
    if isinstance(data, Data):
        return _chosen(config, data)
    if not isinstance(data, Mapping):
        raise DataError(f"{config.dataset} returned a {type(data).__name__}", where="dataset", allowed=RETURNS)
    for name in names:
        if name not in data:
            raise DataError(f"{config.dataset} has no split '{name}'", where="data_splits_map", allowed=data)
    return {name: _source(f"split '{name}' of {config.dataset}", data[name], config.data_on_device)
            for name in names}


def fetch(config: Config, folder: Path, names: Sequence[str]) -> str:
    """Call the function, which downloads what it needs. DataError as in `load`."""
    load(config, folder, names)
    return "made"


def _chosen(config: Config, data: Data) -> Data:
    """Return the splits of a Data that data_splits_map names; they cannot be sliced."""
    task = task_of(config.loss, config.targets)
    if data.task != task:
        raise DataError(f"{config.dataset} is for {data.task}, and loss {config.loss} for {task}", where="loss")
    for text in config.data_splits_map.values():
        if text not in data.splits:
            raise DataError(f"{config.dataset} has no split '{text}'", where="data_splits_map", allowed=data.splits,
                            hint="the splits of a Data cannot be sliced")
    splits = {key: data.splits[text] for key, text in config.data_splits_map.items()}
    return Data(splits, data.task, data.classes, data.input_shape, data.about)


def _source(split_name: str, value: Any, keep_bytes: bool) -> Source:
    """Convert a split. keep_bytes: x of type uint8 is not converted to float32."""
    if isinstance(value, Source):
        return value
    if isinstance(value, Dataset):
        if not hasattr(value, "__len__") or not len(value):
            raise DataError(f"{split_name} is a Dataset without a length", where="dataset", allowed=RETURNS)
        value = next(iter(DataLoader(value, batch_size=len(value))))
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise DataError(f"{split_name} is a {type(value).__name__}", where="dataset", allowed=RETURNS)
    try:
        x, y = torch.as_tensor(value[0]), torch.as_tensor(value[1]).double()
        x = x if keep_bytes and x.dtype == torch.uint8 else x.float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{split_name} cannot be converted to tensors: {error}", where="dataset",
                        hint="x and y are numbers; classes count from 0") from None
    y = y.squeeze(1) if y.dim() == 2 and y.shape[1] == 1 else y
    if x.dim() < 2 or y.dim() != 1 or len(x) != len(y) or not len(y):
        raise DataError(f"{split_name} has x of shape {list(x.shape)} and y of shape {list(y.shape)}", where="dataset",
                        allowed="x [n, ...] and y [n]")
    return Source(x, y)
