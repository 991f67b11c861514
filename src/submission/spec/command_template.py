"""The command of an external program: split it into words, and fill in the parameters of a run."""
from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from src import run_folder
from src.config import NOT_PARAMETERS
from src.errors import JobSpecError
from src.io import yaml_io

SWEEP_CONFIG = "{sweep}"  # placeholder of the file from which wandb.config is filled
# macro of W&B, anywhere in a word: the value of an environment variable
ENVIRONMENT_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
# macros of W&B; each is a word of its own, and stands for several words
MACROS = ("${interpreter}", "${args}", "${args_no_hyphens}", "${args_no_equals}", "${args_no_boolean_flags}",
          "${args_append_hydra}", "${args_override_hydra}", "${args_json}", "${args_json_file}")

_OWN_FOLDER = ("{folder}", "{spec}", "${args_json_file}")  # placeholders that contain the run's folder
_PLACEHOLDERS = ("{spec}", "{folder}", "{args}")


class CommandFailed(Exception):
    """The program could not be started, or its exit status was not 0."""


def parse_command(command: object, where: str) -> list[str]:
    """Return the words of a command, which is a string or a list of words.

    JobSpecError if it is empty or contains a NUL character.
    """
    try:
        words = shlex.split(command) if isinstance(command, str) else command
    except ValueError as error:
        raise JobSpecError(f"the command cannot be split into words: {error}", where=where,
                           hint="close its quotes, or write it as a YAML list of words") from None
    if not isinstance(words, list) or not words or not all(
            isinstance(word, str) and "\0" not in word for word in words):
        raise JobSpecError(f"invalid command {command!r}", where=where, hint="for example command: python tool.py "
                           "{args}", allowed=f"a program and its arguments; {', '.join(_PLACEHOLDERS)} and the "
                           "{NAME} of a parameter are filled in for each run")
    variables = [name for word in words for name in ENVIRONMENT_VARIABLE.findall(word)]
    for name in variables:
        from src.io import secrets  # imported on demand: few commands need it

        if secrets.is_secret_name(name):
            raise JobSpecError(f"the value of ${name} would be visible to all users of the machine", where=where,
                               hint=f"leave ${{envvar:{name}}} out: the program can read the variable itself")
    return words


def fill_command(words: list[str], spec: Mapping[str, Any], folder: str) -> list[str]:
    """Return the argument list of one run.

    {spec} and {folder} become paths, {args} one `--key=value` per parameter, and {NAME} the value of a parameter.
    Strings are inserted as they are and other values as JSON; W&B's macros insert values as Python prints them.
    An inserted value is never split into words.
    """
    parameters = {key: value for key, value in spec.items() if key not in NOT_PARAMETERS}
    texts = {key: value if isinstance(value, str) else yaml_io.dump_value(value) for key, value in parameters.items()}
    placeholders = {**{f"{{{key}}}": text for key, text in texts.items()},
                    "{spec}": os.path.join(folder, run_folder.SPEC), "{folder}": folder,
                    SWEEP_CONFIG: os.path.join(folder, run_folder.SWEEP_CONFIG)}
    arguments = []
    for word in words:
        if word == "{args}":
            arguments += [f"--{key}={text}" for key, text in texts.items()]
        elif word in MACROS:
            arguments += _expand_macro(word, parameters, folder)
        else:
            word = ENVIRONMENT_VARIABLE.sub(_variable_value, word)
            arguments.append(re.sub(r"\{[^{}]+\}", lambda match: placeholders.get(match[0], match[0]), word))
    return arguments


def share_folder(spec: Mapping[str, Any]) -> bool:
    """Return whether all runs of a program work in the same folder, and are not given a folder of their own."""
    return "CWD" not in spec and not any(name in word for word in spec["COMMAND"] for name in _OWN_FOLDER)


def _variable_value(match: re.Match[str]) -> str:
    if match[1] not in os.environ:
        raise CommandFailed(f"{match[0]}: the environment variable {match[1]} is not set")
    from src.io import secrets

    if secrets.has_secret_shape(os.environ[match[1]]):
        raise CommandFailed(f"{match[0]}: its value looks like a secret, which all users of the machine would see")
    return os.environ[match[1]]


def _expand_macro(macro: str, parameters: dict[str, Any], folder: str) -> list[str]:
    """Return the words of one of MACROS, in the form of W&B's agent; ${interpreter} is the running Python."""
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
