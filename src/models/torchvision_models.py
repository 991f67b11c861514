"""torchvision's classifiers of images, by torchvision's own names, with random or pretrained weights."""
from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from src.config import Config
from src.errors import ConfigError, DataError, did_you_mean
from src.image_models import pretrained_images
from src.io import download
from src.models import options
from src.models.layers import image_size, take_channels, taking_images, try_once


def make(config: Config, input_shape: tuple[int, ...], output_dim: int, weights: bool = True) -> nn.Module:
    """[n, c, h, w] -> [n, output_dim]. ConfigError for a name that torchvision does not know or images that the model
    does not take, DataError for weights that are neither in the cache nor to be fetched.

    A vision transformer with random weights is made for the size of the data's images. Auxiliary outputs are left out.
    weights: False leaves pretrained ones out.
    """
    channels, *size = image_size(config.model, input_shape)
    builder, published = _known(config)
    known = pretrained_images(config.model)
    assert known  # as torchvision knows the name
    usual = list(known.size)
    with taking_images(config.model, input_shape, f"its own size is model_input_shape: [3, {usual[0]}, {usual[1]}]"):
        with options.as_config_error(config, lambda: options.taken_by(_class_of(builder))):
            model = _pretrained(config, builder, published, output_dim) if config.model_pretrained and weights else (
                builder(**{"num_classes": output_dim, **_suited(config, builder, size), **options.from_config(config)}))
        take_channels(model, channels)
        if size != usual:
            try_once(model, input_shape)
    if hasattr(model, "class_token"):
        model.group_matcher = _layers_of_vit
    return model


def fetch(config: Config) -> str:
    """Make pretrained weights present in the cache, and say so. Errors as in make."""
    _, weights = _known(config)
    if not config.model_pretrained:
        return f"{config.model}: no weights to fetch"
    present(config, weights)
    return f"{config.model}: pretrained weights are in the cache"


def last_layer(model: nn.Module) -> nn.Linear | nn.Conv2d:
    """What gives the outputs: the linear layer or, in a squeezenet, the convolution that was made last."""
    return [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def present(config: Config, weights: Any) -> str:
    """The file of the weights in torch's cache ($TORCH_HOME), fetched if that is allowed. DataError if it is not to be
    had."""
    place = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(urlsplit(weights.url).path))

    def fetched() -> None:
        torch.hub.load_state_dict_from_url(weights.url, progress=False, check_hash=True, weights_only=True)

    return download.once_if_allowed(
        os.path.join(os.path.dirname(place), f".fetching-{os.path.basename(place)}"), f"the pretrained {config.model}",
        lambda: place if os.path.exists(place) else None, fetched, weights.url,
        None if config.data_download else "data_download is false", f"the file is {weights.url}")


def _known(config: Config) -> tuple[Callable[..., nn.Module], Any]:
    """What builds the model, and torchvision's best weights for it. ConfigError for a name that it does not know."""
    try:
        from torchvision import models
    except ImportError:
        raise ConfigError(f"{config.model} needs torchvision, which is not installed",
                          hint="pip install torchvision") from None
    name, known = config.model.removeprefix("torchvision/"), models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"torchvision has no classifier '{name}'", where="model",
                          hint=did_you_mean(name, known, prefix="torchvision/")
                          or "see torchvision.models.list_models()")
    return models.get_model_builder(name), models.get_model_weights(name).DEFAULT


def _suited(config: Config, builder: Callable[..., nn.Module], size: list[int]) -> dict[str, Any]:
    """Return the constructor options of a new model: for images of `size`, without auxiliary outputs, and with the
    normalisation that some pretrained weights require."""
    wanted = {"image_size": size[0], "input_size": tuple(size), "aux_logits": False, "init_weights": True,
              "transform_input": config.model_pretrained}
    takes = inspect.signature(_class_of(builder)).parameters
    return {name: value for name, value in wanted.items() if name in takes}


def _pretrained(config: Config, builder: Callable[..., nn.Module], weights: Any, output_dim: int) -> nn.Module:
    """The model with its weights, a new last layer if they are for other than `output_dim` outputs, and no auxiliary
    ones."""
    place = present(config, weights)
    try:
        with _tensors_alone():
            model = builder(weights=weights, progress=False, **options.from_config(config))
    except (EOFError, OSError, RuntimeError, UnpicklingError) as error:
        raise DataError(f"the pretrained {config.model} cannot be read: {' '.join(str(error).split())[:200]}",
                        where=place, hint=(
            "model_kwargs may change the architecture that these weights are for" if config.model_kwargs else
            "remove the file, and fetch it again")) from None
    if getattr(model, "aux_logits", False):  # torchvision's inception_v3 loads its weights with them alone
        model.aux_logits, model.AuxLogits = False, None
    old = last_layer(model)
    if len(old.weight) == output_dim:
        return model
    new = (nn.Linear(old.in_features, output_dim, old.bias is not None) if isinstance(old, nn.Linear) else
           nn.Conv2d(old.in_channels, output_dim, 1))
    name = next(name for name, module in model.named_modules() if module is old)
    model.set_submodule(name, new)
    return model


@contextmanager
def _tensors_alone() -> Iterator[None]:
    """Inside, torch.load unpickles tensors and nothing else, whatever torchvision asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _class_of(builder: Callable[..., nn.Module]) -> type[nn.Module]:
    kind: type[nn.Module] = inspect.signature(builder).return_annotation
    return kind


def _layers_of_vit(coarse: bool = False) -> dict[str, str]:
    """How timm tells the layers of a vision transformer apart, by the names of parameters."""
    return {"stem": r"conv_proj|class_token|encoder\.pos_embedding", "blocks": r"encoder\.layers\.encoder_layer_(\d+)"}
