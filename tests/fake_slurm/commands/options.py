"""Command-line options, parsed as getopt_long does: abbreviated long names, combined letters, options after arguments.

A command's options are listed as `letter:name`, or `name` without a letter; `name=` takes a value, `name?` takes one
only after an equals sign.
"""
from __future__ import annotations

import os

from tests.fake_slurm.errors import CommandExit, unsupported


def parse_options(command: str, listed: str, arguments: list[str],
                  stop_at_positional: bool = False) -> tuple[dict[str, str], list[str]]:
    """Return the options by their long names, and the positional arguments.

    With `stop_at_positional`, all that follows the first positional argument is positional.
    """
    long_names, value_kinds = _read_list(listed)
    options: dict[str, str] = {}
    positionals: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if argument == "--":
            return options, positionals + queue
        if not argument.startswith("-") or argument == "-":
            positionals.append(argument)
            if stop_at_positional:
                return options, positionals + queue
            continue
        if argument.startswith("--"):
            given, equals, text = argument[2:].partition("=")
            name = _complete(command, given, value_kinds, argument)
            value = text if equals else None
        else:
            name, value = _split_letters(command, argument, long_names, value_kinds, queue)
        options[name] = _checked_value(command, argument, name, value, value_kinds[name], queue)
    return options, positionals


def defaults_of_user(prefix: str, **variables: str) -> dict[str, str]:
    """Return the options that environment variables set: of `PREFIX_VARIABLE` by the option's name."""
    return {option: os.environ[f"{prefix}_{name}"] for option, name in variables.items()
            if f"{prefix}_{name}" in os.environ}


def _read_list(listed: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return long names by letter; and "=", "?" or "" by long name."""
    long_names, value_kinds = {}, {}
    for entry in listed.split():
        letter, _, name = entry.rpartition(":")
        value_kinds[name.rstrip("=?")] = name[-1] if name[-1] in "=?" else ""
        long_names[letter] = name.rstrip("=?")
    return long_names, value_kinds


def _complete(command: str, given: str, value_kinds: dict[str, str], argument: str) -> str:
    """Return the long name that `given` is, or abbreviates."""
    names = [given] if given in value_kinds else sorted(name for name in value_kinds if name.startswith(given))
    if len(names) > 1:
        raise _usage_error(command, f"option '{argument}' is ambiguous; possibilities: " + " ".join(
            f"'--{name}'" for name in names))
    if not names:
        raise _usage_error(command, f"unrecognized option '{argument}'")
    return names[0]


def _split_letters(command: str, argument: str, long_names: dict[str, str], value_kinds: dict[str, str],
                   queue: list[str]) -> tuple[str, str | None]:
    """Return long name and attached value of the first letter; further letters are put back into the queue."""
    if argument[1] not in long_names:
        raise _usage_error(command, f"invalid option -- '{argument[1]}'")
    name, rest = long_names[argument[1]], argument[2:]
    if rest and value_kinds[name]:
        return name, rest.removeprefix("=")
    if rest:
        queue.insert(0, f"-{rest}")
    return name, None


def _checked_value(command: str, argument: str, name: str, value: str | None, kind: str, queue: list[str]) -> str:
    """Return the option's value, which may be the next argument."""
    if value is None and kind == "=":
        if not queue:
            raise _usage_error(command, f"option '--{name}' requires an argument" if argument.startswith("--") else
                               f"option requires an argument -- '{argument[1]}'")
        return queue.pop(0)
    if value is not None and not kind:
        raise _usage_error(command, f"option '--{name}' doesn't allow an argument")
    return value or ""


def _usage_error(command: str, message: str) -> CommandExit:
    # only the list of sbatch is complete: the real command may have an option that is missing here
    if command != "sbatch" and not message.startswith("option"):
        return unsupported(f"{command}'s {message}")
    return CommandExit(f'{command}: {message}\nTry "{command} --help" for more information',
                       255 if command == "sbatch" else 1)
