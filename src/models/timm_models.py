"""timm's models, by timm's own names, with random or pretrained weights."""
from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from src import hub
from src.config import Config
from src.errors import ConfigError, did_you_mean


def make(config: Config, input_shape: tuple[int, ...], output_dim: int) -> nn.Module:
    """[n, c, h, w] -> [n, output_dim]. ConfigError for a name that timm does not know, DataError for weights that
    are neither in the cache nor to be fetched."""
    if len(input_shape) != 3:
        raise ConfigError(f"{config.model} needs images [channels, height, width], and a sample has the shape "
                          f"{list(input_shape)}", where="model", hint="try model: linear")
    return create(config, num_classes=output_dim, in_chans=input_shape[0])


def create(config: Config, **options: Any) -> nn.Module:
    """timm.create_model, with its failures told as errors of ours."""
    try:
        import timm
    except ImportError:
        raise ConfigError(f"{config.model} needs timm, which is not installed", hint="pip install timm") from None
    name = config.model.removeprefix("timm/")
    if ":" not in name:  # with a colon it is a place, as hf-hub:…
        _check_name(timm, name, config.model_pretrained)
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


def _check_name(timm: ModuleType, name: str, pretrained: bool) -> None:
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        raise ConfigError(f"timm has no model '{name}'", where="model",
                          hint=did_you_mean(base, timm.list_models()) or "see timm.list_models()")
    if (tag or pretrained) and not timm.is_model_pretrained(name):
        raise ConfigError(f"timm has no pretrained weights '{name}'", where="model" if tag else "model_pretrained",
                          allowed=timm.list_pretrained(f"{base}.*") or "model_pretrained: false")
