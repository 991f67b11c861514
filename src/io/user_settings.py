"""The settings in the user's own file, ~/.config/gridiron.toml: remote machines, and modules outside of the project."""
from __future__ import annotations

import os
import tomllib
from typing import Any

from src.errors import ConfigError, RemoteError
from src.io import yaml_io

FILE = "~/.config/gridiron.toml"
TRUSTED_MODULES = "trusted_modules"  # key: a list of modules outside of the project whose functions configs may name


def read_toml(path: str) -> dict[str, Any]:
    """Return the content of a TOML file; empty if it does not exist. RemoteError if it is not valid TOML."""
    if not os.path.exists(path):
        return {}
    try:
        return tomllib.loads(yaml_io.read_user_file(path))
    except tomllib.TOMLDecodeError as error:
        raise RemoteError(f"not valid TOML: {error}", where=path) from None


def trusted_modules() -> list[str]:
    """Return the modules that the user trusts. ConfigError unless they are a list of names."""
    path = os.path.expanduser(FILE)
    names = read_toml(path).get(TRUSTED_MODULES, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"invalid {TRUSTED_MODULES} {names!r}", where=path,
                          allowed='a list as ["my_lab"], above all [tables]')
    return names
