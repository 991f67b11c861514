from __future__ import annotations

import pytest
import torch

from src.config import Config
from src.datasets.data import Data, Split
from src.errors import ConfigError
from src.training.setup.to_device import place_on_device
from tests.training.toys import CPU


def _data(x: torch.Tensor, task: str = "classification") -> Data:
    split = Split(x, torch.zeros(len(x), dtype=torch.long))
    classes = (0, 1) if task == "classification" else ()
    return Data({"train": split, "traineval": split}, task, classes, tuple(x.shape[1:]))


def test_samples_have_the_shape_of_the_config() -> None:
    data = place_on_device(Config(model_input_shape=[1, 2, 3]), _data(torch.arange(24.0).view(4, 6)), CPU)
    assert data.input_shape == (1, 2, 3)
    assert data.splits["train"].x.shape == (4, 1, 2, 3)
    assert data.splits["train"] is data.splits["traineval"]  # in memory once


@pytest.mark.parametrize(("options", "data", "message"), [
    ({"model_input_shape": [5]}, _data(torch.zeros(4, 6)), "does not fit samples"),
    ({"model_input_shape": [2, 3]}, _data(torch.eye(6).to_sparse_csr()), "stays sparse"),
    ({"model_output_dim": 1}, _data(torch.zeros(4, 6)), "too few for 2 classes"),
    ({"model_output_dim": 2}, _data(torch.zeros(4, 6), "regression"), "one real target"),
])
def test_incompatible_data_is_a_user_error(options: dict, data: Data, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place_on_device(Config()._replace(**options), data, CPU)
