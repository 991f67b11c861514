"""User code named `module:name`: check the name without importing the module, and load it with clear errors.

A config is a file, perhaps of somebody else, and naming a function is calling it. So names refer to files of this
project, or to modules that the user's own settings list, and never to the standard library or installed packages.
"""
from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from src.errors import BatchError, ConfigError, did_you_mean
from src.io import files, ownership, user_settings

NAME_FORM = "module:name, e.g. my_module:make, where my_module.py is in the project's folder"
_NAMING_CODE = ("model", "dataset", "loss", "task", "metrics", "eval_datasets")  # fields of Config with such names
_NOT_SOURCES = frozenset(("data", "results", "site-packages", "dist-packages"))  # folders in a project
_PROJECT = files.PROJECT
_IDENTIFIER = r"[A-Za-z_]\w*"
# of eval_datasets it is only the beginning of a value: my_module:make_dataset@test
_NAME = re.compile(rf"({_IDENTIFIER}(?:\.{_IDENTIFIER})*):({_IDENTIFIER})")


def check(name: str) -> None:
    """Raise ConfigError unless `name` has the form module:name, and the module exists and is allowed.

    Nothing is imported.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise ConfigError(f"'{name}' is not of the form module:name", allowed=NAME_FORM)
    first, *inner = match[1].split(".")
    if inner[-1:] == ["py"]:
        raise ConfigError(f"'{name}' is a file name", hint=f"write the module's name: {name.replace('.py:', ':')}")
    if match[1] in sys.modules:
        _require_allowed(match[1], [getattr(sys.modules[match[1]], "__file__", None)])
        return
    spec = _find_spec(first)
    if spec is None:
        raise ConfigError(f"module '{first}' not found", allowed=NAME_FORM,
                          hint=did_you_mean(first, _modules([_PROJECT]), suffix=name[len(first):]))
    folders = list(spec.submodule_search_locations or ())
    paths: list[str | None] = [*folders] if folders else [spec.origin if spec.has_location else None]
    before = first
    for part in inner:  # find_spec would import the packages that contain it
        inside = [os.path.join(folder, part) for folder in folders]
        if not any(os.path.isdir(path) or os.path.exists(f"{path}.py") for path in inside):
            raise ConfigError(f"module '{match[1]}' not found", allowed=NAME_FORM,
                              hint=did_you_mean(part, _modules(folders), prefix=f"{before}.",
                                                suffix=name[len(f"{before}.{part}"):]))
        folders = [path for path in inside if os.path.isdir(path)]
        paths += folders or [f"{path}.py" for path in inside if os.path.exists(f"{path}.py")]
        before = f"{before}.{part}"
    _require_allowed(match[1], paths)


def _find_spec(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except ValueError:  # of a module that was made without one
        return None


def _require_allowed(module: str, paths: Iterable[str | None]) -> None:
    """Raise ConfigError unless the files or folders of a module are the project's, or the user trusts the module."""
    if all(path is not None and _is_in_project(path) for path in paths):
        return
    trusted = user_settings.trusted_modules()
    if not any(module == name or module.startswith(f"{name}.") for name in trusted):
        first = module.partition(".")[0]
        raise ConfigError(f"module '{module}' is not in this project", allowed=(
            f"modules in {_PROJECT}, and {user_settings.TRUSTED_MODULES} in {user_settings.FILE}"),
            hint=f"if you trust it, add {user_settings.TRUSTED_MODULES} = [\"{first}\"] to that file")


def _is_in_project(path: str) -> bool:
    """Return whether a file or folder is one of the project's sources, not of an environment, data or results in it."""
    if path.startswith(os.path.join(os.path.dirname(os.__file__), "")):
        return False
    for project, file in ((_PROJECT, os.path.abspath(path)), (os.path.realpath(_PROJECT), os.path.realpath(path))):
        parts = os.path.relpath(file, project).split("/")
        if not any(part.startswith(".") or part in _NOT_SOURCES for part in parts):
            return True
    return False


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
        value = getattr(module, attribute)
        if inspect.ismodule(value) or inspect.isroutine(value) or isinstance(value, type):
            _require_defined_here(value, name)
        return value
    except ConfigError as error:
        raise error.at(where) from error.__cause__


def _require_defined_here(value: Any, name: str) -> None:
    """Raise ConfigError if a module of the project only imports a function or class, as it does subprocess.run."""
    home = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None) or "builtins"
    try:
        _require_allowed(home, [getattr(sys.modules.get(home), "__file__", None)])
    except ConfigError as error:
        error.what = f"{name} is imported from '{home}', which is not in this project"
        error.hint = f"{error.hint}; or define a function of your own that calls it"
        raise


def require_trust(spec: Mapping[str, Any], trust: bool, *paths: str, owner: str | None = None) -> None:
    """Raise BatchError if a spec of another user names user code, unless the caller trusts it.

    paths: of the spec, its file and folder. owner: whose it is, if that is not who owns the paths.
    """
    owner = owner or ownership.other_owner(*paths)
    values = [(key, value) for key in _NAMING_CODE for value in _listed(spec.get(key))]
    names = [f"{key}: {value}" for key, value in values if isinstance(value, str) and _NAME.match(value)]
    if owner and names and not trust:
        raise BatchError(f"this is of {owner}, and executes code of this project: {', '.join(names)[:200]}",
                         where=paths[0], hint="read its config.yaml; if you trust it, pass trust=True (mlflow.pyfunc "
                         "needs GRIDIRON_TRUST=1)")


def _listed(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]


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
