"""model_kwargs: further options of a model, checked against those that it has."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from src.checks import family_rules
from src.config import Config
from src.errors import ConfigError, UserError, did_you_mean, summarize


def from_config(config: Config) -> dict[str, Any]:
    """Return the options with lists as tuples. ConfigError for options that follow from the data or other fields."""
    options = {key: tuple(value) if isinstance(value, list) else value
               for key, value in (config.model_kwargs or {}).items()}
    family_rules.check_model_kwargs(options)
    return options


def check(config: Config, allowed: Iterable[str]) -> None:
    """ConfigError unless every option is among `allowed`."""
    names = [name for name in allowed if name not in family_rules.FROM_DATA | family_rules.FROM_WEIGHTS]
    if unknown := next((key for key in config.model_kwargs or () if key not in names), None):
        raise ConfigError(f"{config.model} has no option '{unknown}'", where="model_kwargs",
                          allowed=names or "null", hint=did_you_mean(unknown, names))


def taken_by(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters of a function or class that have a default."""
    return [name for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not parameter.empty]


@contextmanager
def as_config_error(config: Config, allowed: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Convert exceptions in the block to a ConfigError about the options, if there are any.

    allowed: returns the names of the allowed options; called only in that case.
    """
    try:
        yield
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UserError) or not config.model_kwargs:
            raise
        if "unexpected keyword" in str(error):
            with suppress(RuntimeError):  # raised by a model that cannot be created without weights
                check(config, allowed())
        raise ConfigError(f"{config.model} cannot be created: {summarize(error)}", where="model_kwargs") from error
