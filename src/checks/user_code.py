"""User code named `module:name`: check the name without importing the module, and load it with clear errors."""
from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from src.errors import ConfigError, did_you_mean

NAME_FORM = "module:name, as my_module:make, where my_module.py is in the project's folder or can be imported"
_PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_IDENTIFIER = r"[A-Za-z_]\w*"
_NAME = re.compile(rf"({_IDENTIFIER}(?:\.{_IDENTIFIER})*):({_IDENTIFIER})")


def is_user_code(name: str) -> bool:
    """Return whether `name` has the form module:name; names of families have a slash first, as timm/hf-hub:…"""
    return ":" in name and "/" not in name.partition(":")[0]


def check(name: str) -> None:
    """Raise ConfigError unless `name` has the form module:name and the module exists. Nothing is imported."""
    match = _NAME.fullmatch(name)
    if not match:
        raise ConfigError(f"'{name}' is not of the form module:name", allowed=NAME_FORM)
    first, *inner = match[1].split(".")
    if inner[-1:] == ["py"]:
        raise ConfigError(f"'{name}' is a file name", hint=f"write the module's name: {name.replace('.py:', ':')}")
    if match[1] in sys.modules:
        return
    spec = importlib.util.find_spec(first)
    if spec is None:
        raise ConfigError(f"module '{first}' not found", allowed=NAME_FORM,
                          hint=did_you_mean(first, _modules([_PROJECT]), suffix=name[len(first):]))
    folders = list(spec.submodule_search_locations or ())
    before = first
    for part in inner:  # find_spec would import the packages that contain it
        inside = [os.path.join(folder, part) for folder in folders]
        if not any(os.path.isdir(path) or os.path.exists(f"{path}.py") for path in inside):
            raise ConfigError(f"module '{match[1]}' not found", allowed=NAME_FORM,
                              hint=did_you_mean(part, _modules(folders), prefix=f"{before}.",
                                                suffix=name[len(f"{before}.{part}"):]))
        folders = [path for path in inside if os.path.isdir(path)]
        before = f"{before}.{part}"


def _modules(folders: Iterable[str]) -> list[str]:
    return [name.removesuffix(".py") for folder in folders for name in os.listdir(folder) if name.endswith(".py")]


def load(name: str, where: str) -> Any:
    """Import and return what `name`, as module:name, refers to.

    ConfigError, at the parameter `where`, if the module or attribute does not exist, or if importing the module fails:
    then with file, line and the first line of the error.
    """
    try:
        check(name)
        module_name, _, attribute = name.partition(":")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise ConfigError(f"importing {module_name} failed: {describe_error(error)}") from error
        if not hasattr(module, attribute):
            raise ConfigError(f"{module_name} has no '{attribute}' ({getattr(module, '__file__', 'built in')})",
                              hint=did_you_mean(attribute, dir(module), prefix=f"{module_name}:") or _has(vars(module)))
        return getattr(module, attribute)
    except ConfigError as error:
        raise error.at(where) from error.__cause__


def _has(names: Iterable[str]) -> str:
    return f"it defines {', '.join(name for name in names if not name.startswith('_')) or 'nothing public'}"


def describe_error(error: Exception) -> str:
    """Describe an error on one line: file, line, class and the first line of its message."""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}"
        text = error.msg
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__)
                  if not frame.filename.startswith("<") and frame.filename not in (__file__, importlib.__file__)]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
        text = str(error).partition("\n")[0]
    return f"{f'{place}: ' if place else ''}{type(error).__name__}: {text}"
