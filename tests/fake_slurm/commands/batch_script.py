"""Batch scripts: where sbatch reads them from, and their #SBATCH lines."""
from __future__ import annotations

import os
import sys

from tests.fake_slurm.errors import MESSAGES, CommandExit
from tests.fake_slurm.records import read_file


def read_script(options: dict[str, str], positionals: list[str]) -> str:
    """Return the script of --wrap, of the file that is named, or of stdin. Raises CommandExit if it is not valid."""
    if "wrap" in options:
        if positionals:
            raise CommandExit("sbatch: error: Script arguments not permitted with --wrap option")
        return f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{options['wrap']}\n"
    if positionals and not os.path.isfile(positionals[0]):
        raise CommandExit(f"sbatch: error: Unable to open file {positionals[0]}")
    script = read_file(positionals[0]) if positionals else sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    if not script.strip():
        raise CommandExit(MESSAGES["empty_script"])
    if not script.startswith("#!"):
        raise CommandExit(MESSAGES["no_shebang"])
    if "\r\n" in script:
        raise CommandExit(MESSAGES["dos_line_breaks"])
    return script


def directives(script: str) -> list[str]:
    """Return the arguments in a script's #SBATCH lines, up to its first command."""
    arguments: list[str] = []
    for line in script.split("\n"):
        if line.startswith("#SBATCH"):
            arguments += split_arguments(line[7:])
        elif line.strip() and not line.startswith("#"):
            break
    return arguments


def split_arguments(line: str) -> list[str]:
    """Split at white space; quotes, backslashes and comments work as in a shell. (`shlex` is slow to import.)"""
    arguments, argument, quote, position = [], None, "", 0
    while position < len(line):
        letter = line[position]
        position += 1
        if quote:
            if letter == quote:
                quote = ""
                continue
        elif letter in "'\"":
            quote, argument = letter, argument or ""
            continue
        elif letter == "\\" and position < len(line):
            letter = line[position]
            position += 1
        elif letter.isspace():
            if argument is not None:
                arguments.append(argument)
            argument = None
            continue
        elif letter == "#" and argument is None:
            break
        argument = (argument or "") + letter
    return arguments if argument is None else [*arguments, argument]
