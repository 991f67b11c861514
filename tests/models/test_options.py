"""model_kwargs of each family: what it takes, and what is said of what it does not take."""
from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from src.checks.registered_names import MODEL_OPTIONS
from src.config import Config, check_parameters
from src.errors import ConfigError
from src.models.factory import make_model
from src.models.resnet import ResNet
from src.models.vgg import VGG
from tests.texts import make_folder


def make(name: str, kwargs: dict[str, Any], shape: tuple[int, ...] = (3, 32, 32)) -> nn.Module:
    return make_model(Config.from_dict({"model": name, "model_kwargs": kwargs}), shape, 5)


def test_allowed_options_are_those_of_built_in_models() -> None:
    for kind, made in (("resnet", ResNet), ("vgg", VGG)):
        names = [name for name, parameter in inspect.signature(made).parameters.items()
                 if parameter.default is not parameter.empty]
        assert MODEL_OPTIONS[kind] == tuple(names)


@pytest.mark.parametrize(("name", "widths"), [("tiny/resnet_20", [6, 12, 24]), ("tiny/resnet_18", [6, 12, 24, 48]),
                                              ("tiny/vgg_11", [6, 12, 24, 48])])
def test_width_of_ours(name: str, widths: list[int]) -> None:
    model = make(name, {"width": 6})
    found = {module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)}
    assert sorted(found) == widths
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(("spec", "message"), [
    ({"model": "tiny/resnet_18", "model_kwargs": {"wdth": 8}},
     "model_kwargs: tiny/resnet_18 has no option 'wdth'; allowed: width; did you mean 'width'?"),
    ({"model": "linear", "model_kwargs": {"width": 8}}, "linear has no option 'width'; allowed: null"),
    ({"model": "tiny/vgg_11", "model_kwargs": {"width": 0.5}}, "width is 0.5; allowed: 1 channel or more"),
    ({"model": "tiny/lenet", "model_pretrained": True},
     "no pretrained weights for tiny/lenet; allowed: true only for models of the families timm, torchvision, clip, hf"),
    ({"model": "torchvison/resnet18"}, "unknown model 'torchvison/resnet18'.*did you mean 'torchvision/resnet18'"),
])
def test_invalid_model_options_are_rejected_at_submission(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_parameters(spec)


def test_user_task_may_use_options_of_its_own() -> None:
    check_parameters({"task": "tests.training.tasks:Autoencoder", "model_pretrained": True})


def test_options_of_timm() -> None:
    pytest.importorskip("timm")
    model = make("timm/test_vit", {"class_token": False, "global_pool": "avg", "drop_rate": 0.25})
    assert model.cls_token is None and model.head_drop.p == 0.25  # type: ignore[union-attr]
    for kwargs, message in (({"drop_rat": 0.1}, r"timm/test_vit has no option 'drop_rat'; allowed: patch_size, .*"
                                                "did you mean 'drop_rate'"),
                            ({"num_classes": 3}, "num_classes follows from the data"),
                            ({"img_size": 64}, "img_size follows from the data"),
                            ({"pretrained": True}, "pretrained follows from model_pretrained"),
                            ({"class_token": False}, "model_kwargs: timm/test_vit cannot be created")):
        with pytest.raises(ConfigError, match=message):
            make("timm/test_vit", kwargs)


def test_options_of_torchvision() -> None:
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        made = [make("torchvision/resnet18", {"zero_init_residual": value}) for value in (False, True)]
    assert [type(model).__name__ for model in made] == ["ResNet"] * 2
    assert make("torchvision/mobilenet_v3_small", {"dropout": 0.9}).classifier[2].p == 0.9  # type: ignore[union-attr, index]
    for kwargs, message in (({"dropout": 0.1}, "resnet18 has no option 'dropout'; allowed: zero_init_residual, groups"),
                            ({"layers": [1, 1, 1, 1]}, "resnet18 cannot be created: .*multiple values"),
                            ({"num_classes": 3}, "num_classes follows from the data")):
        with pytest.raises(ConfigError, match=f"model_kwargs: .*{message}|{message}"):
            make("torchvision/resnet18", kwargs)


def test_options_of_transformers(tmp_path: Any) -> None:
    pytest.importorskip("transformers")
    folder = make_folder(tmp_path / "model", "bert")
    def of(kwargs: dict[str, Any]) -> nn.Module:
        config = Config.from_dict({"model": f"hf/{folder}", "dataset": "hf/x.csv", "model_kwargs": kwargs})
        return make_model(config, (), 2)
    settings = of({"num_hidden_layers": 1, "hidden_dropout_prob": 0.4}).model.config  # type: ignore[union-attr]
    assert (settings.num_hidden_layers, settings.hidden_dropout_prob) == (1, 0.4)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="has no option 'hiden_dropout_prob'.*did you mean 'hidden_dropout_prob'"):
        of({"hiden_dropout_prob": 0.1})
    with pytest.raises(ConfigError, match="has no option 'vocab_size'"):
        of({"vocab_size": 3})
