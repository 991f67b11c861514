"""The command of an external program: parse it, and fill in the parameters of a run."""
from __future__ import annotations

import json
import os
import re
import shlex
import sys
from typing import Any

from src import run_folder
from src.config import NOT_PARAMETERS
from src.errors import JobSpecError
from src.io import yaml_io

_PLACEHOLDERS = ("{spec}", "{folder}", "{args}")

SWEEP_CONFIG = "{sweep}"  # a file of the parameters from which wandb.config is filled

VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")  # of W&B: a variable of the environment, anywhere in a word

# words of W&B's commands that stand for several
MACROS = ("${interpreter}", "${args}", "${args_no_hyphens}", "${args_no_equals}", "${args_no_boolean_flags}",
          "${args_append_hydra}", "${args_override_hydra}", "${args_json}", "${args_json_file}")


class Failed(Exception):
    """The program did not exit with 0, or could not be started."""


def parse_command(command: object, where: str) -> list[str]:
    """A command, given as one string or a list, as its list of words. JobSpecError if it has none, or a NUL."""
    try:
        words = shlex.split(command) if isinstance(command, str) else command
    except ValueError as error:
        raise JobSpecError(f"the command cannot be split into words: {error}", where=where,
                           hint="close its quotes, or write it as a YAML list of words") from None
    if not isinstance(words, list) or not words or not all(
            isinstance(word, str) and "\0" not in word for word in words):
        raise JobSpecError(f"{command!r} is no command", where=where, hint="as: command: python tool.py {args}",
                           allowed=f"a program and its words; {', '.join(_PLACEHOLDERS)} and the {{NAME}} of a "
                           "parameter are filled in for each run")
    return words


def arguments(words: list[str], spec: dict[str, Any], folder: str) -> list[str]:
    """The argument list for one run: {spec} and {folder} are paths, {args} a `--key=value` for each parameter, and
    {NAME} the value of one.

    Values stand as they are if they are strings, else in JSON form; those of W&B's words as Python shows them. Nothing
    is ever split again.
    """
    parameters = {key: value for key, value in spec.items() if key not in NOT_PARAMETERS}
    texts = {key: value if isinstance(value, str) else yaml_io.dump_value(value) for key, value in parameters.items()}
    known = {**{f"{{{key}}}": text for key, text in texts.items()},
             "{spec}": os.path.join(folder, run_folder.SPEC), "{folder}": folder,
             SWEEP_CONFIG: os.path.join(folder, run_folder.SWEEP_CONFIG)}
    filled = []
    for word in words:
        if word == "{args}":
            filled += [f"--{key}={text}" for key, text in texts.items()]
        elif word in MACROS:
            filled += _as_wandb(word, parameters, folder)
        else:
            word = VARIABLE.sub(_variable, word)
            filled.append(re.sub(r"\{[^{}]+\}", lambda match: known.get(match[0], match[0]), word))
    return filled


def _variable(match: re.Match[str]) -> str:
    if match[1] not in os.environ:
        raise Failed(f"{match[0]}: there is no variable {match[1]} here")
    return os.environ[match[1]]


def _as_wandb(macro: str, parameters: dict[str, Any], folder: str) -> list[str]:
    """The words for which one of MACROS stands, as W&B's agent makes them; our own Python is the interpreter."""
    flags = [f"{key}={value}" for key, value in parameters.items()]
    if macro == "${args_no_equals}":
        return [word for key, value in parameters.items() for word in (f"--{key}", str(value))]
    if macro == "${args_no_boolean_flags}":
        return [f"--{key}" if value is True else f"--{key}={value}" for key, value in parameters.items()
                if value is not False]
    prefixes = {"${args}": "--", "${args_no_hyphens}": "", "${args_append_hydra}": "+", "${args_override_hydra}": "++"}
    if macro in prefixes:
        return [prefixes[macro] + flag for flag in flags]
    return {"${interpreter}": [sys.executable], "${args_json}": [json.dumps(parameters)],
            "${args_json_file}": [os.path.join(folder, run_folder.ARGUMENTS)]}[macro]
