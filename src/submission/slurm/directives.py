"""Options of sbatch: parse the #SBATCH lines of a script and arguments of a command line, as sbatch parses them."""
from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_MAGIC = "#SBATCH"
_SHORT = {"a": "array", "A": "account", "b": "begin", "B": "extra-node-info", "c": "cpus-per-task", "C": "constraint",
          "d": "dependency", "D": "chdir", "e": "error", "F": "nodefile", "G": "gpus", "h": "help", "H": "hold",
          "i": "input", "J": "job-name", "k": "no-kill", "L": "licenses", "m": "distribution", "M": "clusters",
          "n": "ntasks", "N": "nodes", "o": "output", "O": "overcommit", "p": "partition", "q": "qos", "Q": "quiet",
          "s": "oversubscribe", "S": "core-spec", "t": "time", "u": "usage", "v": "verbose", "V": "version",
          "w": "nodelist", "W": "wait", "x": "exclude"}
_ALIASES = {"tasks": "ntasks", "share": "oversubscribe", "workdir": "chdir", "cluster": "clusters"}
_FLAGS = frozenset((
    "contiguous", "help", "hold", "ignore-pbs", "no-requeue", "overcommit", "oversubscribe", "parsable", "quiet",
    "reboot", "requeue", "share", "spread-job", "test-only", "usage", "use-min-nodes", "verbose", "version", "wait"))
# their value, if any, is written after an equals sign, or for a short name in the same word
_OPTIONAL_VALUE = frozenset(("exclusive", "get-user-env", "nice", "no-kill", "propagate"))

_Words = deque[tuple[str, int]]  # each with the number of its line


class Option(NamedTuple):
    """One option of sbatch.

    name: its long name, without dashes;
    value: as written; None if it was given without one;
    line: the number of its line in the script, from 1; 0 on a command line.
    """

    name: str
    value: str | None
    line: int = 0


def parse_script(text: str) -> list[Option]:
    """Return the options of a script's #SBATCH lines, which end at the first command, in order."""
    return _parse(_script_words(text))


def parse_arguments(arguments: Iterable[str]) -> list[Option]:
    """Return the options of a command line, in order."""
    return _parse((argument, 0) for argument in arguments)


def effective(script: str, arguments: Iterable[str] = ()) -> dict[str, str]:
    """Return the value of each option by its long name, empty for one without a value.

    Arguments of the command line override the script's lines, and later ones earlier ones, as in sbatch.
    """
    return {option.name: option.value or "" for option in (*parse_script(script), *parse_arguments(arguments))}


def abbreviated(name: str, options: Iterable[str]) -> str | None:
    """Return the first of the options that sbatch may take `name` for; None if there is none.

    options: long names. `name` may be one of them, an abbreviation of one, or an abbreviation of one of its aliases.
    """
    return next((option for option in options if any(
        full.startswith(name) for full in (option, *(alias for alias, long in _ALIASES.items() if long == option)))),
        None)


def parse_time(limit: str) -> int | None:
    """Convert a time limit of Slurm (minutes, h:m:s, d-h:m:s …) to seconds; None if it is not one."""
    days, dash, rest = limit.rpartition("-")
    parts = rest.split(":")
    if len(parts) > 3 or not all(part.isdecimal() for part in (*parts, days if dash else "0")):
        return None
    numbers = [*map(int, parts), 0, 0]
    hours, minutes, seconds = numbers[:3] if dash or len(parts) == 3 else (0, *numbers[:2])
    return ((24 * int(days or 0) + hours) * 60 + minutes) * 60 + seconds


def format_time(seconds: int) -> str:
    """Write a time limit as Slurm does: 3:00:00, or 2-00:00:00 from a day on."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02}:{minute:02}:{second:02}" if days else f"{hour:02}:{minute:02}:{second:02}"


def _script_words(text: str) -> Iterator[tuple[str, int]]:
    """The words of all #SBATCH lines, each with the number of its line."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(_MAGIC):
            yield from ((word, number) for word in _split(line.removeprefix(_MAGIC)))
        elif line.strip() and not line.lstrip().startswith("#"):
            return


def _split(line: str) -> list[str]:
    """The words of one line, quotes and backslashes removed; a # outside quotes begins a comment, also within a word.

    Unlike in a shell, a backslash escapes within single quotes too. An unmatched quote extends to the end of the line;
    sbatch refuses it.
    """
    words: list[str] = []
    word: str | None = None
    quote = ""
    characters = iter(line)
    for character in characters:
        if character == "\\":
            word = (word or "") + next(characters, "")
        elif quote:
            if character == quote:
                quote = ""
            else:
                word = (word or "") + character
        elif character in "\"'":
            quote, word = character, word or ""
        elif character == "#":
            break
        elif not character.isspace():
            word = (word or "") + character
        elif word is not None:
            words.append(word)
            word = None
    return words if word is None else [*words, word]


def _parse(numbered_words: Iterable[tuple[str, int]]) -> list[Option]:
    """The options among words; as in sbatch, the first word that is neither an option nor a value ends them."""
    words = deque(numbered_words)
    options: list[Option] = []
    while words and words[0][0].startswith("-") and words[0][0] not in ("-", "--"):
        word, line = words.popleft()
        options += [Option(name, value, line)
                    for name, value in (_long(word[2:], words) if word.startswith("--") else _short(word[1:], words))]
    return options


def _long(word: str, following: _Words) -> list[tuple[str, str | None]]:
    """`name=value`, or `name` with its value, if it takes one, in the word that follows."""
    name, equals, value = word.partition("=")
    name = _ALIASES.get(name, name)
    return [(name, value if equals else None if name in _FLAGS | _OPTIONAL_VALUE else _next_value(following))]


def _short(letters: str, following: _Words) -> list[tuple[str, str | None]]:
    """Letters that are flags, as in `-Hn4`, up to one that takes the rest, or the word that follows, as its value."""
    options: list[tuple[str, str | None]] = []
    for position, letter in enumerate(letters, 1):
        name = _SHORT.get(letter, letter)
        if name not in _FLAGS:
            value = letters[position:] or (None if name in _OPTIONAL_VALUE else _next_value(following))
            return [*options, (name, value)]
        options.append((name, None))
    return options


def _next_value(following: _Words) -> str | None:
    """Take the next word, unless it is an option: sbatch reports such a script itself."""
    return following.popleft()[0] if following and not following[0][0].startswith("-") else None
