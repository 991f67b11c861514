"""Models of timm, by timm's names, with random or pretrained weights."""
from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from src.config import Config
from src.errors import ConfigError, did_you_mean
from src.models import options
from src.models.layers import check_forward, image_size, report_image_errors
from src.pretrained import hub


def make(config: Config, input_shape: tuple[int, ...], output_dim: int) -> nn.Module:
    """Return a model [n, c, h, w] -> [n, output_dim].

    A model of a fixed image size, such as most transformers, is created for the size of the data; timm resamples
    pretrained position embeddings. ConfigError for an unknown name or images that the model does not accept. DataError
    for weights that are not in the cache and cannot be downloaded.
    """
    channels, *size = image_size(config.model, input_shape)
    default_size, is_fixed = _image_size(config)
    sized = {"img_size": tuple(size)} if is_fixed and default_size != input_shape[1:] else {}
    with report_image_errors(config.model, input_shape,
                             "try a model for any size, e.g. timm/resnet18" if is_fixed else "try larger images"):
        with options.as_config_error(config, lambda: _known_options(config)):
            model = create(config, num_classes=output_dim, in_chans=channels,
                           **{**sized, **options.from_config(config)})
        if default_size != input_shape[1:]:
            check_forward(model, input_shape)
    return model


def fetch(config: Config) -> str:
    """Download pretrained weights into the cache. Return what was done. Errors as in make."""
    if not config.model_pretrained:
        _import_timm(config)  # checks the name
        return f"{config.model}: no weights to fetch"
    create(config)
    return f"{config.model}: pretrained weights are in the cache"


def create(config: Config, **chosen: Any) -> nn.Module:
    """Call timm.create_model. Failed downloads become a DataError."""
    timm, name = _import_timm(config), config.model.removeprefix("timm/")
    if not config.model_pretrained:
        return timm.create_model(name, **chosen)
    return hub.create(config, config.model, f"the pretrained {config.model}",
                      lambda: timm.create_model(name, pretrained=True, **chosen))


def _import_timm(config: Config) -> ModuleType:
    """Return timm. ConfigError if it is not installed or does not have the model."""
    try:
        import timm
    except ImportError:
        raise ConfigError(f"{config.model} needs timm, which is not installed", hint="pip install timm") from None
    name = config.model.removeprefix("timm/")
    if ":" not in name:  # a name with a colon is an address, e.g. hf-hub:…
        _check_name(timm, name, config.model_pretrained)
    return timm


def _image_size(config: Config) -> tuple[tuple[int, ...] | None, bool]:
    """Return the default height and width of the model, if known, and whether it requires them."""
    name = config.model.removeprefix("timm/")
    settings = None if ":" in name else _import_timm(config).models.get_pretrained_cfg(name)
    return (tuple(settings.input_size[1:]), bool(settings.fixed_input_size)) if settings else (None, False)


def _known_options(config: Config) -> list[str]:
    """Return the options of the model's class, which is found by creating a model without weights."""
    with torch.device("meta"):
        return options.taken_by(type(_import_timm(config).create_model(config.model.removeprefix("timm/"))))


def _check_name(timm: ModuleType, name: str, pretrained: bool) -> None:
    """ConfigError unless timm has the model, and weights for it if they are requested."""
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        raise ConfigError(f"timm has no model '{name}'", where="model",
                          hint=did_you_mean(base, timm.list_models(), prefix="timm/") or "see timm.list_models()")
    if (tag or pretrained) and not timm.is_model_pretrained(name):
        raise ConfigError(f"timm has no pretrained weights '{name}'", where="model" if tag else "model_pretrained",
                          allowed=timm.list_pretrained(f"{base}.*") or "model_pretrained: false")
