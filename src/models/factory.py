"""make_model: create the model that a config names, and initialize its last layer as model_head_init requires."""
from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import nn

from src.checks.config_rules import check_model_options
from src.checks.registered_names import is_user_code, parse_tiny
from src.config import Config
from src.errors import ConfigError
from src.models import clip_models, hf_models, own_model, timm_models, torchvision_models
from src.models.lenet import LeNet
from src.models.linear import Linear
from src.models.resnet import ResNet
from src.models.vgg import VGG
from src.models.wide_resnet import WideResNet

Head: TypeAlias = nn.Linear | nn.Conv2d
FAMILIES: dict[str, ModuleType] = {"timm": timm_models, "torchvision": torchvision_models, "clip": clip_models,
                                   "hf": hf_models}  # families with weights to download


def make_model(config: Config, input_shape: tuple[int, ...], output_dim: int, classes: Sequence[object] = (),
               device: torch.device | None = None, weights: bool = True) -> nn.Module:
    """Return a model [n, *input_shape] -> [n, output_dim] on the CPU; for regression output_dim is 1.

    Random weights come from torch's global generator, which the caller seeds.
    classes: those of the data, from whose names a zero_shot head is computed, on `device`.
    weights: False skips pretrained weights, for a model that is about to load a checkpoint.
    ConfigError if the model does not accept the samples, DataError if pretrained weights are unavailable.
    """
    check_model_options({**config.to_dict(), "task": None}, config.model)
    model = _build(config, input_shape, output_dim, classes, device, weights)
    if config.model_head_init in ("zero", "rand"):
        init_head(find_head(model, config.model), config.model_head_init)
    if config.grad_checkpointing:
        from src.models import checkpointing

        checkpointing.enable(model, config.model)
    return model


def fetch(config: Config) -> str:
    """Download pretrained weights into the cache. Return one line about what was done. Errors as in make_model."""
    check_model_options({**config.to_dict(), "task": None}, config.model)
    family = FAMILIES.get(config.model.partition("/")[0])
    return family.fetch(config) if family else f"{config.model}: no weights to fetch"


def _build(config: Config, input_shape: tuple[int, ...], output_dim: int, classes: Sequence[object],
           device: torch.device | None, weights: bool) -> nn.Module:
    effective_config = config if weights else config._replace(model_pretrained=False)
    if is_user_code(config.model):
        return own_model.make(config, input_shape, output_dim)
    if config.model.startswith("timm/"):
        return timm_models.make(effective_config, input_shape, output_dim)
    if config.model.startswith("torchvision/"):
        return torchvision_models.make(config, input_shape, output_dim, weights)
    if config.model.startswith("clip/"):
        return clip_models.make(config, input_shape, output_dim, classes, device, weights)
    if config.model.startswith("hf/"):
        return hf_models.make(effective_config, output_dim)
    if config.model in ("linear", "linear/no_bias"):
        return Linear(input_shape, output_dim, bias=config.model == "linear")
    if config.model == "tiny/lenet":
        return LeNet(input_shape, output_dim)
    kind, sizes = parse_tiny(config.model) or ("", ())
    chosen: dict[str, Any] = config.model_kwargs or {}
    if kind == "resnet":
        return ResNet(int(sizes[0]), input_shape, output_dim, **chosen)
    if kind == "vgg":
        return VGG(int(sizes[0]), input_shape, output_dim, **chosen)
    if kind == "wrn":
        return WideResNet(int(sizes[0]), int(sizes[1]), sizes[2], input_shape, output_dim)
    raise ConfigError(f"unknown model '{config.model}'", where="model")


def find_head(model: nn.Module, name: str) -> Head:
    """Return the layer that model_head_init initializes. ConfigError if there is none.

    It is timm's classifier if that is linear, else the linear layer that was created last, or, in a model of
    torchvision, the convolution that replaces it.
    """
    get_classifier = getattr(model, "get_classifier", None)
    head = get_classifier() if get_classifier else None
    if isinstance(head, nn.Linear):
        return head
    if name.startswith("torchvision/"):
        return torchvision_models.last_layer(model)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigError(f"{name} has no linear layer to initialize", where="model_head_init", allowed="null")
    return linear[-1]


def trained_head(model: nn.Module, name: str) -> nn.Module:
    """Return the module that is trained while the backbone is frozen: the head, which may be more than one layer."""
    return model.head() if isinstance(model, hf_models.Transformer) else find_head(model, name)


def init_head(head: Head, how: str) -> None:
    """Initialize the head.

    how: zero sets weights and biases to 0; rand draws normal weights of variance 1 / fan-in and sets biases to 0 (LeCun
    et al., Efficient backprop, 1998).
    """
    with torch.no_grad():
        if how == "zero":
            head.weight.zero_()
        else:
            head.weight.normal_(std=head.weight[0].numel() ** -0.5)
        if head.bias is not None:
            head.bias.zero_()
