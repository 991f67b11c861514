from __future__ import annotations

import pytest
import torch
from torch import nn

from src.config import Config
from src.errors import ConfigError
from src.optimizers.layers import Freeze
from src.training.setup import single_samples
from src.training.setup.length import Length

_CONFIG = Config(batch_size=8)  # of 9 samples, the second step has one
_SHAPE = (3, 1, 1)  # one value per channel and sample


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def _check(model: nn.Module, freeze: Freeze | None, samples: int = 9) -> None:
    length = Length.of(_CONFIG, samples)
    single_samples.check(model, freeze, _CONFIG, length, _SHAPE, torch.device("cpu"))


def test_a_batch_norm_of_one_value_per_channel_is_refused_before_the_first_step() -> None:
    with pytest.raises(ConfigError, match="a step would have a single sample"):
        _check(_model(), None)
    _check(_model(), None, samples=10)


def test_a_frozen_batch_norm_may_see_a_single_sample() -> None:
    model = _model()
    freeze = Freeze(model, model[-1], until=None)
    freeze.apply(epoch=1)
    _check(model, freeze)
    assert model.training
