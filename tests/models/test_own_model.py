from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import train
from src.config import Config, check_parameters
from src.errors import ConfigError
from src.models.factory import fetch, make_model
from src.models.own_model import make
from tests.conftest import trust_modules

NETS = """
import torch
from torch import nn

class MLP(nn.Sequential):
    def __init__(self, input_shape, output_dim, width=8, widths=()):
        size = torch.Size(input_shape).numel()
        super().__init__(nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, output_dim))
        self.widths = widths

def anything(**given):
    return MLP(**given)

def of_the_shape(input_shape):
    return nn.Identity()

def no_model(input_shape, output_dim):
    return input_shape

def fails(input_shape, output_dim):
    raise KeyError("mine")

number = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module with models, forgotten afterwards."""
    (tmp_path / "some_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    trust_modules(monkeypatch, tmp_path, "some_nets")
    yield "some_nets"
    sys.modules.pop("some_nets", None)


@pytest.mark.parametrize("name", ["MLP", "anything"])
def test_a_class_or_function_with_options(nets: str, name: str) -> None:
    config = Config.from_dict({"model": f"{nets}:{name}", "model_kwargs": {"width": 5, "widths": [1, 2]},
                               "model_head_init": "zero"})
    model = make_model(config, (1, 4, 4), 3)
    assert model[1].weight.shape == (5, 16) and model.widths == (1, 2)  # type: ignore[index]
    out = model(torch.rand(2, 1, 4, 4))
    assert out.shape == (2, 3) and not out.any()


def test_a_run(nets: str) -> None:
    config = Config.from_dict({"model": f"{nets}:MLP", "model_kwargs": {"width": 30}, "dataset": "sklearn/digits",
                               "data_splits_map": {"train": "train[:80%]", "val": "train[80%:]"}, "train_length": 3,
                               "base_lr": 0.02, "batch_size": 20, "seed_model": 0, "seed_training": 0})
    stats, model = list(train.experiment_generator(config))[-1]
    assert stats["val/last/accuracy"].iloc[-1] > 0.8 and model[1].out_features == 30  # type: ignore[index]


@pytest.mark.parametrize(("name", "kwargs", "message"), [
    ("MLP", {"wdith": 3}, "model_kwargs: some_nets:MLP has no option 'wdith'; allowed: width, widths; did you"),
    ("MLP", {"output_dim": 3}, "output_dim follows from the data"),
    ("of_the_shape", None, r"does not take output_dim; define it as def of_the_shape\(input_shape, output_dim\)"),
    ("no_model", None, "returned a tuple; allowed: a torch.nn.Module"),
    ("number", None, "is a int; allowed: a function or a class"),
    ("MPL", None, r"has no 'MPL' .*did you mean '\S+:MLP'"),
])
def test_invalid_user_models_are_refused(nets: str, name: str, kwargs: dict[str, object] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(Config.from_dict({"model": f"{nets}:{name}", "model_kwargs": kwargs}), (4,), 3)


def test_exception_of_a_user_model_keeps_its_traceback(nets: str) -> None:
    with pytest.raises(KeyError, match="mine"):
        make(Config(model=f"{nets}:fails"), (4,), 3)


def test_before_submission(nets: str) -> None:
    check_parameters({"model": f"{nets}:MLP", "model_kwargs": {"width": 3}})
    assert nets not in sys.modules
    for spec, message in (({"model": "some_nest:MLP"}, "module 'some_nest' not found"),
                          ({"model": f"{nets}:MLP", "model_pretrained": True}, "no pretrained weights for some"),
                          ({"model": f"{nets}:MLP", "model_head_init": "zero_shot"}, "initialized from class names")):
        with pytest.raises(ConfigError, match=message):
            check_parameters(spec)
    assert fetch(Config(model=f"{nets}:MLP")) == "some_nets:MLP: no weights to fetch"
