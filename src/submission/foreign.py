"""Runs a program other than train.py for a grid point: an argument list, never a shell."""
from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from src import run_folder, yaml_io
from src.config import NOT_PARAMETERS
from src.errors import JobSpecError
from src.submission import process

SAVED = 75  # exit status of a program that has saved what it needs and wants to be started again
_LOOK = 10.0  # seconds between looks at whether the run is still this attempt's
_TICK = 1.0  # seconds between looks at whether its time is up
_PLACEHOLDERS = ("{spec}", "{folder}", "{args}")


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
                           allowed=f"a program and its words; {', '.join(_PLACEHOLDERS)} are filled in for each run")
    return words


def arguments(words: list[str], spec: dict[str, Any], folder: str) -> list[str]:
    """The argument list for one run: {spec} and {folder} are paths, {args} a `--key=value` for each parameter.

    Values stand as they are if they are strings, else in JSON form. Nothing is ever split again.
    """
    pairs = [f"--{key}={value if isinstance(value, str) else yaml_io.dump_value(value)}"
             for key, value in spec.items() if key not in NOT_PARAMETERS]
    paths = {"{spec}": os.path.join(folder, run_folder.SPEC), "{folder}": folder}
    filled = []
    for word in words:
        filled += pairs if word == "{args}" else [re.sub(r"\{(?:spec|folder)\}", lambda match: paths[match[0]], word)]
    return filled


def run(spec: dict[str, Any], folder: str, check: Callable[[], None],
        time_is_short: Callable[[], bool] = lambda: False) -> str:
    """Run the spec's COMMAND in the current folder to its end: completed, or requeued if it exits with 75.

    check: as in train; the program is ended when it raises. time_is_short: once it is true the program is sent USR1,
    if it has a handler for that. Failed if it exits otherwise.
    """
    command = arguments(spec["COMMAND"], spec, folder)
    check()
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
