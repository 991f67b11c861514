"""One's own code by `module:name`: checked without importing it, then loaded, with errors that say where it fails."""
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

FORM = "module:name, as my_module:make, where my_module.py lies in the project's folder or can be imported"
_PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_IDENTIFIER = r"[A-Za-z_]\w*"
_NAME = re.compile(rf"({_IDENTIFIER}(?:\.{_IDENTIFIER})*):({_IDENTIFIER})")


def is_own(name: str) -> bool:
    """Whether `name` is meant as module:name; those of families have a slash before a colon, as timm/hf-hub:…"""
    return ":" in name and "/" not in name.partition(":")[0]


def check(name: str) -> None:
    """ConfigError unless `name` has the form module:name, and such a module can be found; nothing is imported."""
    match = _NAME.fullmatch(name)
    if not match:
        raise ConfigError(f"'{name}' is no name of one's own code", allowed=FORM)
    first, *inner = match[1].split(".")
    if inner[-1:] == ["py"]:
        raise ConfigError(f"'{name}' names a file", hint=f"name the module: {name.replace('.py:', ':')}")
    if match[1] in sys.modules:
        return
    spec = importlib.util.find_spec(first)
    if spec is None:
        raise ConfigError(f"there is no module '{first}' here", allowed=FORM,
                          hint=did_you_mean(first, _modules([_PROJECT]), suffix=name[len(first):]))
    folders = list(spec.submodule_search_locations or ())
    before = first
    for part in inner:  # find_spec would import what it lies in
        inside = [os.path.join(folder, part) for folder in folders]
        if not any(os.path.isdir(path) or os.path.exists(f"{path}.py") for path in inside):
            raise ConfigError(f"there is no module '{match[1]}' here", allowed=FORM,
                              hint=did_you_mean(part, _modules(folders), prefix=f"{before}.",
                                                suffix=name[len(f"{before}.{part}"):]))
        folders = [path for path in inside if os.path.isdir(path)]
        before = f"{before}.{part}"


def _modules(folders: Iterable[str]) -> list[str]:
    return [name.removesuffix(".py") for folder in folders for name in os.listdir(folder) if name.endswith(".py")]


def load(name: str, where: str) -> Any:
    """What `name`, as module:name, stands for. ConfigError, at the parameter `where`: no such module or attribute,
    or the module fails as it is imported (with the file, the line and the first line of what went wrong)."""
    try:
        check(name)
        module_name, _, attribute = name.partition(":")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise ConfigError(f"{module_name} fails as it is imported: {told(error)}") from error
        if not hasattr(module, attribute):
            raise ConfigError(f"{module_name} has no '{attribute}' ({getattr(module, '__file__', 'built in')})",
                              hint=did_you_mean(attribute, dir(module), prefix=f"{module_name}:") or _has(vars(module)))
        return getattr(module, attribute)
    except ConfigError as error:
        raise error.at(where) from error.__cause__


def _has(names: Iterable[str]) -> str:
    return f"it has {', '.join(name for name in names if not name.startswith('_')) or 'nothing public'}"


def told(error: Exception) -> str:
    """An error in a line: its file and line, its kind, and the first line of what it says."""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}"
        text = error.msg
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__)
                  if not frame.filename.startswith("<") and frame.filename not in (__file__, importlib.__file__)]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
        text = str(error).partition("\n")[0]
    return f"{f'{place}: ' if place else ''}{type(error).__name__}: {text}"
