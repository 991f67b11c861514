"""A data set of one's own: what a function `module:name` returns, as samples to be cut or as finished splits."""
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
    """Call the function with the config. Of a mapping, the splits `names`; a Data, whose splits may be lazy, as it is.

    x: [n, ...], y: [n], arrays or tensors; a Dataset of pairs is read into memory. DataError for anything else; what
    the function raises itself keeps its traceback.
    """
    made = user_code.load(config.dataset, "dataset")(config)
    if isinstance(made, Data):
        return _chosen(config, made)
    if not isinstance(made, Mapping):
        raise DataError(f"{config.dataset} returned a {type(made).__name__}", where="dataset", allowed=RETURNS)
    for name in names:
        if name not in made:
            raise DataError(f"{config.dataset} has no split '{name}'", where="data_splits_map", allowed=made)
    return {name: _source(f"split '{name}' of {config.dataset}", made[name], config.data_on_device)
            for name in names}


def fetch(config: Config, folder: Path, names: Sequence[str]) -> str:
    """Let the function make the data, with whatever it fetches. DataError as in `load`."""
    load(config, folder, names)
    return "made"


def _chosen(config: Config, made: Data) -> Data:
    """The splits of finished data that data_splits_map names, which cannot be cut any more."""
    task = task_of(config.loss, config.targets)
    if made.task != task:
        raise DataError(f"{config.dataset} is for {made.task}, and loss {config.loss} for {task}", where="loss")
    for text in config.data_splits_map.values():
        if text not in made.splits:
            raise DataError(f"{config.dataset} has no split '{text}'", where="data_splits_map", allowed=made.splits,
                            hint="the splits of a Data are taken whole")
    splits = {key: made.splits[text] for key, text in config.data_splits_map.items()}
    return Data(splits, made.task, made.classes, made.input_shape, made.about)


def _source(what: str, value: Any, bytes_stay: bool) -> Source:
    if isinstance(value, Source):
        return value
    if isinstance(value, Dataset):
        if not hasattr(value, "__len__") or not len(value):
            raise DataError(f"{what} is a Dataset without a length", where="dataset", allowed=RETURNS)
        value = next(iter(DataLoader(value, batch_size=len(value))))
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise DataError(f"{what} is a {type(value).__name__}", where="dataset", allowed=RETURNS)
    try:
        x, y = torch.as_tensor(value[0]), torch.as_tensor(value[1]).double()
        x = x if bytes_stay and x.dtype == torch.uint8 else x.float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} does not become tensors: {error}", where="dataset",
                        hint="x and y are numbers; classes are counted from 0") from None
    y = y.squeeze(1) if y.dim() == 2 and y.shape[1] == 1 else y
    if x.dim() < 2 or y.dim() != 1 or len(x) != len(y) or not len(y):
        raise DataError(f"{what} has x of shape {list(x.shape)} and y of shape {list(y.shape)}", where="dataset",
                        allowed="x [n, ...] and y [n]")
    return Source(x, y)
