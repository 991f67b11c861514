"""Move a data set to the training device, in the shape that the model takes, checked against the config."""
from __future__ import annotations

import dataclasses

import torch

from src.checks import known_data
from src.config import Config
from src.datasets.data import Data, Lazy, Split
from src.datasets.on_device import OnDevice
from src.errors import ConfigError
from src.training.setup.out_of_memory import check_gpu_memory


def place_on_device(config: Config, data: Data, device: torch.device) -> Data:
    """Return the data on `device`, with samples in the shape of model_input_shape. ConfigError if that cannot be."""
    if data.task == "regression" or data.n_classes:
        known_data.check_output_dim(config.model_output_dim, data.n_classes or None)
    shape = tuple(config.model_input_shape or data.input_shape)
    known_data.check_input_shape(shape, data.input_shape)
    check_gpu_memory({id(split): split for split in data.splits.values() if isinstance(split, OnDevice)}.values(),
                     device)
    placed_splits: dict[int, Split | Lazy] = {}  # splits with equal expressions are one object, here too
    for split in data.splits.values():
        if id(split) not in placed_splits:
            placed_splits[id(split)] = Split(_shaped(split.x, shape).to(device), split.y.to(device)) if isinstance(
                split, Split) else split.to(device)
    return dataclasses.replace(data, input_shape=shape,
                               splits={name: placed_splits[id(split)] for name, split in data.splits.items()})


def _shaped(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tuple(x.shape[1:]) == shape:
        return x
    if x.layout != torch.strided:
        raise ConfigError(f"this data set stays sparse, and sparse samples cannot be reshaped to {list(shape)}",
                          where="model_input_shape", hint="set it to null and choose a linear model")
    return x.reshape(len(x), *shape)
