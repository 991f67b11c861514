"""Runs a program other than train.py for a grid point: an argument list, never a shell."""
from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from src import files, run_folder, yaml_io
from src.config import NOT_PARAMETERS
from src.errors import JobSpecError
from src.submission import process

SAVED = 75  # exit status of a program that has saved what it needs and wants to be started again
_LOOK = 10.0  # seconds between looks at whether the run is still this attempt's
_TICK = 1.0  # seconds between looks at whether its time is up
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


def write_parameters(words: list[str], spec: dict[str, Any], folder: str) -> None:
    """The files of parameters that a command reads."""
    parameters = {key: value for key, value in spec.items() if key not in NOT_PARAMETERS}
    if "${args_json_file}" in words:
        files.write_atomic(os.path.join(folder, run_folder.ARGUMENTS), json.dumps(parameters))
    if any(SWEEP_CONFIG in word for word in words):
        config = {"wandb_version": 1, **{key: {"value": value} for key, value in parameters.items()}}
        files.write_atomic(os.path.join(folder, run_folder.SWEEP_CONFIG), yaml_io.dump_flat(config))


def run(spec: dict[str, Any], folder: str, check: Callable[[], None],
        time_is_short: Callable[[], bool] = lambda: False) -> str:
    """Run the spec's COMMAND in the current folder to its end: completed, or requeued if it exits with 75.

    check: as in train; the program is ended when it raises. time_is_short: once it is true the program is sent USR1,
    if it has a handler for that. Failed if it exits otherwise.
    """
    command = arguments(spec["COMMAND"], spec, folder)
    check()
    write_parameters(spec["COMMAND"], spec, folder)
    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from None
    try:
        code = _wait(program, check, time_is_short)
    except BaseException:
        program.terminate()  # Slurm's signals reach it too; a worker's reach only us
        try:
            program.wait(timeout=10)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
        raise
    if code == SAVED:
        return run_folder.REQUEUED
    if code != 0:
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        raise Failed(f"{os.path.basename(command[0])} ended with {how}")
    return run_folder.COMPLETED


def _wait(program: subprocess.Popen[bytes], check: Callable[[], None], time_is_short: Callable[[], bool]) -> int:
    told, looked = False, time.monotonic()
    while True:
        try:
            return program.wait(_TICK)
        except subprocess.TimeoutExpired:
            if not told and time_is_short() and process.catches(program.pid, signal.SIGUSR1):
                program.send_signal(signal.SIGUSR1)
                told = True
            if time.monotonic() - looked >= _LOOK:
                looked = time.monotonic()
                check()
