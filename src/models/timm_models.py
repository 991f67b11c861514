"""timm's models, by timm's own names, with random or pretrained weights."""
from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from src import hub
from src.config import Config
from src.errors import ConfigError, did_you_mean
from src.models import options
from src.models.layers import image_size, taking_images, try_once


def make(config: Config, input_shape: tuple[int, ...], output_dim: int) -> nn.Module:
    """[n, c, h, w] -> [n, output_dim]. ConfigError for a name that timm does not know or images that the model does not
    take, DataError for weights that are neither in the cache nor to be fetched.

    A model of a fixed image size, as most transformers are, is made for that of the data; pretrained position
    embeddings are resampled by timm.
    """
    channels, *size = image_size(config.model, input_shape)
    usual, fixed = _image_size(config)
    sized = {"img_size": tuple(size)} if fixed and usual != input_shape[1:] else {}
    with taking_images(config.model, input_shape,
                       "try one of any size, as timm/resnet18" if fixed else "try larger images"):
        with options.as_config_error(config, lambda: _known_options(config)):
            model = create(config, num_classes=output_dim, in_chans=channels,
                           **{**sized, **options.from_config(config)})
        if usual != input_shape[1:]:
            try_once(model, input_shape)
    return model


def fetch(config: Config) -> str:
    """Make pretrained weights present in the cache, and say so. Errors as in make."""
    if not config.model_pretrained:
        _imported(config)  # knows its name
        return f"{config.model}: no weights to fetch"
    create(config)
    return f"{config.model}: pretrained weights are in the cache"


def create(config: Config, **chosen: Any) -> nn.Module:
    """Call timm.create_model, and turn its exceptions into UserErrors."""
    timm, name = _imported(config), config.model.removeprefix("timm/")
    if not config.model_pretrained:
        return timm.create_model(name, **chosen)
    state = torch.get_rng_state()  # so that a failed first attempt does not change the random numbers

    def cached() -> nn.Module | None:
        torch.set_rng_state(state)
        try:
            with hub.offline():
                return timm.create_model(name, pretrained=True, **chosen)
        except OSError:  # the hub's errors of network and cache are of this kind
            return None

    return hub.once(config, hub.lock(config.model), f"the pretrained {config.model}", cached,
                    lambda: timm.create_model(name, pretrained=True, **chosen))


def _imported(config: Config) -> ModuleType:
    """timm, once it knows the model."""
    try:
        import timm
    except ImportError:
        raise ConfigError(f"{config.model} needs timm, which is not installed", hint="pip install timm") from None
    name = config.model.removeprefix("timm/")
    if ":" not in name:  # with a colon it is a place, as hf-hub:…
        _check_name(timm, name, config.model_pretrained)
    return timm


def _image_size(config: Config) -> tuple[tuple[int, ...] | None, bool]:
    """The height and width that timm made the model for, if it knows, and whether it takes no others by itself."""
    name = config.model.removeprefix("timm/")
    known = None if ":" in name else _imported(config).models.get_pretrained_cfg(name)
    return (tuple(known.input_size[1:]), bool(known.fixed_input_size)) if known else (None, False)


def _known_options(config: Config) -> list[str]:
    """Return the options of the model's class, which is known once a model is built, here without weights."""
    with torch.device("meta"):
        return options.taken_by(type(_imported(config).create_model(config.model.removeprefix("timm/"))))


def _check_name(timm: ModuleType, name: str, pretrained: bool) -> None:
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        raise ConfigError(f"timm has no model '{name}'", where="model",
                          hint=did_you_mean(base, timm.list_models(), prefix="timm/") or "see timm.list_models()")
    if (tag or pretrained) and not timm.is_model_pretrained(name):
        raise ConfigError(f"timm has no pretrained weights '{name}'", where="model" if tag else "model_pretrained",
                          allowed=timm.list_pretrained(f"{base}.*") or "model_pretrained: false")
