"""Image classifiers of torchvision, by torchvision's names, with random or pretrained weights."""
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
from src.errors import ConfigError, DataError, did_you_mean, summarize
from src.io import download
from src.models import options
from src.models.layers import adapt_channels, check_forward, image_size, report_image_errors
from src.pretrained.image_models import pretrained_images


def make(config: Config, input_shape: tuple[int, ...], output_dim: int, weights: bool = True) -> nn.Module:
    """Return a model [n, c, h, w] -> [n, output_dim], without auxiliary outputs.

    A vision transformer with random weights is created for the size of the data's images.
    weights: False skips pretrained weights.
    ConfigError for an unknown name or images that the model does not accept. DataError for weights that are not in the
    cache and cannot be downloaded.
    """
    channels, *size = image_size(config.model, input_shape)
    builder, pretrained_weights = _find(config)
    images = pretrained_images(config.model)
    assert images  # since torchvision has the model
    default_size = list(images.size)
    with report_image_errors(config.model, input_shape,
                             f"its default size is model_input_shape: [3, {default_size[0]}, {default_size[1]}]"):
        with options.as_config_error(config, lambda: options.taken_by(_class_of(builder))):
            if config.model_pretrained and weights:
                model = _pretrained(config, builder, pretrained_weights, output_dim)
            else:
                defaults = {"num_classes": output_dim, **_default_options(config, builder, size)}
                model = builder(**{**defaults, **options.from_config(config)})
        adapt_channels(model, channels)
        if size != default_size:
            check_forward(model, input_shape)
    if hasattr(model, "class_token"):
        model.group_matcher = _layers_of_vit
    return model


def fetch(config: Config) -> str:
    """Download pretrained weights into the cache. Return what was done. Errors as in make."""
    _, weights = _find(config)
    if not config.model_pretrained:
        return f"{config.model}: no weights to fetch"
    weights_file(config, weights)
    return f"{config.model}: pretrained weights are in the cache"


def last_layer(model: nn.Module) -> nn.Linear | nn.Conv2d:
    """Return the output layer: the last linear layer or, in a squeezenet, the last convolution."""
    return [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def weights_file(config: Config, weights: Any) -> str:
    """Return the file of the weights in torch's cache ($TORCH_HOME), downloaded if it is missing and that is allowed.

    DataError if it is unavailable.
    """
    path = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(urlsplit(weights.url).path))

    def download_weights() -> None:
        torch.hub.load_state_dict_from_url(weights.url, progress=False, check_hash=True, weights_only=True)

    return download.once_if_allowed(
        os.path.join(os.path.dirname(path), f".fetching-{os.path.basename(path)}"), f"the pretrained {config.model}",
        lambda: path if os.path.exists(path) else None, download_weights, weights.url,
        None if config.data_download else "data_download is false", f"the file is {weights.url}")


def _find(config: Config) -> tuple[Callable[..., nn.Module], Any]:
    """Return the builder of the model, and torchvision's best weights for it. ConfigError for an unknown name."""
    try:
        from torchvision import models
    except ImportError:
        raise ConfigError(f"{config.model} needs torchvision, which is not installed",
                          hint="pip install torchvision") from None
    name, names = config.model.removeprefix("torchvision/"), models.list_models(module=models)
    if name not in names:
        raise ConfigError(f"torchvision has no classifier '{name}'", where="model",
                          hint=did_you_mean(name, names, prefix="torchvision/")
                          or "see torchvision.models.list_models()")
    return models.get_model_builder(name), models.get_model_weights(name).DEFAULT


def _default_options(config: Config, builder: Callable[..., nn.Module], size: list[int]) -> dict[str, Any]:
    """Return the options of a new model: the size of its images, and no auxiliary outputs.

    For pretrained weights also the normalization that some of them require.
    """
    defaults = {"image_size": size[0], "input_size": tuple(size), "aux_logits": False, "init_weights": True,
                "transform_input": config.model_pretrained}
    parameters = inspect.signature(_class_of(builder)).parameters
    return {name: value for name, value in defaults.items() if name in parameters}


def _pretrained(config: Config, builder: Callable[..., nn.Module], weights: Any, output_dim: int) -> nn.Module:
    """Return the model with its pretrained weights, and a new last layer if these do not have `output_dim` outputs."""
    path = weights_file(config, weights)
    try:
        with _weights_only():
            model = builder(weights=weights, progress=False, **options.from_config(config))
    except (EOFError, OSError, RuntimeError, UnpicklingError) as error:
        raise DataError(f"the pretrained {config.model} cannot be read: {summarize(error)}", where=path, hint=(
            "they are for the model without model_kwargs" if config.model_kwargs else
            "remove the file, and download it again")) from None
    if getattr(model, "aux_logits", False):  # torchvision's inception_v3 requires them to load its weights
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
def _weights_only() -> Iterator[None]:
    """Within the block, torch.load unpickles tensors only, even if torchvision passes weights_only=False."""
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
    """Return timm's patterns of parameter names for the layers of a vision transformer."""
    return {"stem": r"conv_proj|class_token|encoder\.pos_embedding", "blocks": r"encoder\.layers\.encoder_layer_(\d+)"}
