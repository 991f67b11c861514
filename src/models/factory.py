"""make_model: the model that a config names, with its last layer as model_head_init says."""
from __future__ import annotations

import torch
from torch import nn

from src.choices import parse_tiny
from src.config import Config
from src.errors import ConfigError
from src.models import hf_models, timm_models
from src.models.lenet import LeNet
from src.models.linear import Linear
from src.models.resnet import ResNet
from src.models.vgg import VGG
from src.models.wide_resnet import WideResNet


def make_model(config: Config, input_shape: tuple[int, ...], output_dim: int) -> nn.Module:
    """A model [n, *input_shape] -> [n, output_dim] on the CPU; for regression output_dim is 1.

    Random weights come from torch's global generator, which the caller seeds. ConfigError if the model cannot take
    the samples, DataError if pretrained weights cannot be had.
    """
    if config.model_pretrained and not config.model.startswith(("timm/", "hf/")):
        raise ConfigError(f"there are no pretrained weights for {config.model}", where="model_pretrained",
                          allowed="true for models of the families timm and hf alone")
    model = _build(config, input_shape, output_dim)
    if config.model_head_init:
        init_head(find_head(model, config.model), config.model_head_init)
    if config.grad_checkpointing:
        from src.models import checkpointing

        checkpointing.enable(model, config.model)
    return model


def fetch(config: Config) -> str:
    """Make pretrained weights present in the cache; one line that says what was done. Errors as in make_model."""
    if config.model.startswith("hf/"):
        return hf_models.fetch(config)
    if not config.model_pretrained:
        return f"{config.model}: no weights to fetch"
    if not config.model.startswith("timm/"):
        raise ConfigError(f"there are no pretrained weights for {config.model}", where="model_pretrained")
    timm_models.create(config)
    return f"{config.model}: pretrained weights are in the cache"


def _build(config: Config, input_shape: tuple[int, ...], output_dim: int) -> nn.Module:
    if config.model.startswith("timm/"):
        return timm_models.make(config, input_shape, output_dim)
    if config.model.startswith("hf/"):
        return hf_models.make(config, output_dim)
    if config.model in ("linear", "linear/no_bias"):
        return Linear(input_shape, output_dim, bias=config.model == "linear")
    if config.model == "tiny/lenet":
        return LeNet(input_shape, output_dim)
    kind, sizes = parse_tiny(config.model) or ("", ())
    if kind == "resnet":
        return ResNet(int(sizes[0]), input_shape, output_dim)
    if kind == "vgg":
        return VGG(int(sizes[0]), input_shape, output_dim)
    if kind == "wrn":
        return WideResNet(int(sizes[0]), int(sizes[1]), sizes[2], input_shape, output_dim)
    raise ConfigError(f"unknown model '{config.model}'", where="model")


def find_head(model: nn.Module, name: str) -> nn.Linear:
    """The layer that model_head_init is about: what timm calls the classifier if it is linear, else the last linear
    layer in the order in which the layers were made. ConfigError if there is none."""
    get_classifier = getattr(model, "get_classifier", None)
    head = get_classifier() if get_classifier else None
    if isinstance(head, nn.Linear):
        return head
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigError(f"{name} has no linear layer to initialise", where="model_head_init", allowed="null")
    return linear[-1]


def beside_backbone(model: nn.Module, name: str) -> nn.Module:
    """What learns while the backbone is frozen: the head, which in a transformer may be more than its last layer."""
    return model.head() if isinstance(model, hf_models.Transformer) else find_head(model, name)


def init_head(head: nn.Linear, how: str) -> None:
    """zero: weights and biases 0. rand: normal weights of variance 1 / fan-in, biases 0 (LeCun et al., Efficient
    backprop, 1998)."""
    with torch.no_grad():
        if how == "zero":
            head.weight.zero_()
        else:
            head.weight.normal_(std=head.in_features ** -0.5)
        if head.bias is not None:
            head.bias.zero_()
