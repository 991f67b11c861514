"""A model of one's own: what a function or class `module:name` makes of the shape of a sample and the outputs."""
from __future__ import annotations

import inspect

from torch import nn

from src.checks import user_code
from src.config import Config
from src.errors import ConfigError
from src.models import options


def make(config: Config, input_shape: tuple[int, ...], output_dim: int) -> nn.Module:
    """Call it with input_shape, output_dim and model_kwargs by their names. ConfigError if it does not take these, or
    makes no torch.nn.Module; what it raises itself keeps its traceback."""
    maker = user_code.load(config.model, "model")
    if not callable(maker):
        raise ConfigError(f"{config.model} is a {type(maker).__name__}", where="model",
                          allowed="a function or a class, given input_shape and output_dim")
    chosen, takes = options.from_config(config), inspect.signature(maker).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        if missing := [name for name in ("input_shape", "output_dim") if name not in takes]:
            raise ConfigError(f"{config.model} does not take {' and '.join(missing)}", where="model", hint=(
                f"begin it with def {config.model.rpartition(':')[2]}(input_shape, output_dim)"
                if not isinstance(maker, type) else "begin its __init__ with (self, input_shape, output_dim)"))
        options.check(config, takes)
    made = maker(input_shape=input_shape, output_dim=output_dim, **chosen)
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{config.model} made a {type(made).__name__}", where="model", allowed="a torch.nn.Module")
    return made
