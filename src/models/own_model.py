"""Models from user code: a function or class `module:name` returns one for a sample shape and number of outputs."""
from __future__ import annotations

import inspect

from torch import nn

from src.checks import user_code
from src.config import Config
from src.errors import ConfigError
from src.models import options


def make(config: Config, input_shape: tuple[int, ...], output_dim: int) -> nn.Module:
    """Call the function or class with input_shape, output_dim and model_kwargs as keyword arguments.

    ConfigError if it does not have these parameters or does not return a torch.nn.Module. Its own exceptions keep their
    traceback.
    """
    factory = user_code.load(config.model, "model")
    if not callable(factory):
        raise ConfigError(f"{config.model} is a {type(factory).__name__}", where="model",
                          allowed="a function or a class, given input_shape and output_dim")
    chosen, parameters = options.from_config(config), inspect.signature(factory).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        if missing := [name for name in ("input_shape", "output_dim") if name not in parameters]:
            raise ConfigError(f"{config.model} does not take {' and '.join(missing)}", where="model", hint=(
                f"define it as def {config.model.rpartition(':')[2]}(input_shape, output_dim)"
                if not isinstance(factory, type) else "define its __init__ as (self, input_shape, output_dim)"))
        options.check(config, parameters)
    model = factory(input_shape=input_shape, output_dim=output_dim, **chosen)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{config.model} returned a {type(model).__name__}", where="model",
                          allowed="a torch.nn.Module")
    return model
