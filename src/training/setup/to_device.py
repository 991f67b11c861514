"""Move a data set to the training device, in the shape that the model takes, checked against the config."""
from __future__ import annotations

import dataclasses
import math

import torch

from src.config import Config
from src.datasets.data import Data, Lazy, Split
from src.datasets.on_device import OnDevice
from src.errors import ConfigError
from src.training.setup.out_of_memory import check_gpu_memory


def place_on_device(config: Config, data: Data, device: torch.device) -> Data:
    """Return the data on `device`, with samples in the shape of model_input_shape. ConfigError if that cannot be."""
    _check_output_dim(config.model_output_dim, data)
    shape = tuple(config.model_input_shape or data.input_shape)
    if math.prod(shape) != math.prod(data.input_shape):
        raise ConfigError(f"{list(shape)} does not fit samples of shape {list(data.input_shape)}",
                          where="model_input_shape", hint="choose a shape with the same number of elements, or null")
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


def _check_output_dim(output_dim: int | None, data: Data) -> None:
    if output_dim is None:
        return
    if data.task == "regression" and output_dim != 1:
        raise ConfigError(f"{output_dim} outputs for one real target", where="model_output_dim", allowed="1 or null")
    if data.n_classes and output_dim < data.n_classes:
        raise ConfigError(f"{output_dim} outputs are too few for {data.n_classes} classes", where="model_output_dim",
                          allowed=f"{data.n_classes} or more, or null")
