"""model_kwargs: extra constructor options of a model, checked against those that the model accepts."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from src.config import Config
from src.errors import ConfigError, UserError, did_you_mean

_OF_DATA = frozenset(("num_classes", "num_labels", "in_chans", "input_shape", "output_dim", "img_size", "image_size",
                      "input_size"))
_OF_WEIGHTS = frozenset(("pretrained", "weights", "checkpoint_path"))


def from_config(config: Config) -> dict[str, Any]:
    """Return model_kwargs as constructor options, lists as tuples. ConfigError for an option that the data or other
    fields determine."""
    options = {key: tuple(value) if isinstance(value, list) else value
               for key, value in (config.model_kwargs or {}).items()}
    for key in options:
        if key in _OF_DATA:
            raise ConfigError(f"{key} follows from the data", where="model_kwargs",
                              hint="leave it out; model_output_dim and model_input_shape override it")
        if key in _OF_WEIGHTS:
            raise ConfigError(f"{key} is set by model_pretrained", where="model_kwargs", hint="leave it out")
    return options


def check(config: Config, known: Iterable[str]) -> None:
    """ConfigError unless every option is among `known`."""
    known = [name for name in known if name not in _OF_DATA | _OF_WEIGHTS]
    if strange := next((key for key in config.model_kwargs or () if key not in known), None):
        raise ConfigError(f"{config.model} has no option '{strange}'", where="model_kwargs",
                          allowed=known or "null", hint=did_you_mean(strange, known))


def taken_by(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters of a function or class that have a default."""
    return [name for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not parameter.empty]


@contextmanager
def as_config_error(config: Config, known: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Turn errors inside into a ConfigError about model_kwargs, if any are set. known: returns the valid names, called
    only in that case."""
    try:
        yield
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UserError) or not config.model_kwargs:
            raise
        if "unexpected keyword" in str(error):
            with suppress(RuntimeError):  # of a model that cannot be made without weights
                check(config, known())
        raise ConfigError(f"{config.model} cannot be made: {' '.join(str(error).split())[:200]}",
                          where="model_kwargs") from error
