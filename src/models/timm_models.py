"""timm's models, by timm's own names, with random or pretrained weights."""
from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from src import hub
from src.config import Config
from src.errors import ConfigError, UserError, did_you_mean


def make(config: Config, input_shape: tuple[int, ...], output_dim: int) -> nn.Module:
    """[n, c, h, w] -> [n, output_dim]. ConfigError for a name that timm does not know or images that the model does not
    take, DataError for weights that are neither in the cache nor to be fetched.

    A model of a fixed image size, as most transformers are, is made for that of the data; pretrained position
    embeddings are resampled by timm.
    """
    if len(input_shape) != 3:
        raise ConfigError(f"{config.model} needs images [channels, height, width], and a sample has the shape "
                          f"{list(input_shape)}", where="model", hint="try model: linear")
    usual, fixed = _image_size(config)
    size = {"img_size": input_shape[1:]} if fixed and usual != input_shape[1:] else {}
    try:
        model = create(config, num_classes=output_dim, in_chans=input_shape[0], **size)
        if usual != input_shape[1:]:
            _try(model, input_shape)
    except UserError:
        raise
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"{config.model} cannot take images of {input_shape[1]} × {input_shape[2]}: "
                          f"{' '.join(str(error).split())[:200]}", where="model", hint=(
                              "try one of any size, as timm/resnet18" if fixed else "try larger images")) from None
    return model


def create(config: Config, **options: Any) -> nn.Module:
    """timm.create_model, with its failures told as errors of ours."""
    timm, name = _imported(config), config.model.removeprefix("timm/")
    if not config.model_pretrained:
        return timm.create_model(name, **options)
    state = torch.get_rng_state()  # that what a first try has drawn may not matter

    def cached() -> nn.Module | None:
        torch.set_rng_state(state)
        try:
            with hub.offline():
                return timm.create_model(name, pretrained=True, **options)
        except OSError:  # the hub's errors of network and cache are of this kind
            return None

    return hub.once(config, hub.lock(config.model), f"the pretrained {config.model}", cached,
                    lambda: timm.create_model(name, pretrained=True, **options))


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


def _try(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Call a new model once; whatever it raises if a sample does not go through."""
    with torch.random.fork_rng([]), torch.no_grad():
        model.eval()(torch.zeros(1, *input_shape))
    model.train()


def _check_name(timm: ModuleType, name: str, pretrained: bool) -> None:
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        raise ConfigError(f"timm has no model '{name}'", where="model",
                          hint=did_you_mean(base, timm.list_models()) or "see timm.list_models()")
    if (tag or pretrained) and not timm.is_model_pretrained(name):
        raise ConfigError(f"timm has no pretrained weights '{name}'", where="model" if tag else "model_pretrained",
                          allowed=timm.list_pretrained(f"{base}.*") or "model_pretrained: false")
