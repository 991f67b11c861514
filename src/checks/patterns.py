"""Match regular expressions from files of other users: one that could take very long is refused, or matches nothing."""
from __future__ import annotations

import functools
import math
import re

from src.errors import ConfigError

_MAX_STEPS = 200_000  # of a match: about 1 ms, so that the 2,000 columns of a run take two seconds at most
_NAME_LENGTH = 40  # of a column that a pattern in a config must be able to match
# the parts of a regular expression: an escaped character, a set of characters, or any other character
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_LOOK = re.compile(r"\(\?<?[=!]")  # a group that reads the text without consuming it
# a reference to an earlier group, or a group that does more than to match, look around, have a name, or ignore case
_REFERENCE = re.compile(r"\\[1-9]|\(\?(?!:|<?[=!]|P<|[ims]+\))")


def check(pattern: str) -> None:
    """Raise ConfigError if a text is not a regular expression, or may take very long to match the name of a column."""
    if _steps(pattern, _NAME_LENGTH) > _MAX_STEPS:
        raise ConfigError(f"{pattern[:200]!r} could take very long to match",
                          hint="do not repeat a group, as (…)+, and write .* at most four times")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{pattern!r} is not a regular expression: {error}", hint="try 'val/.*/accuracy'") from None


@functools.lru_cache(maxsize=10_000)
def search(pattern: str, text: str) -> bool:
    """Return whether a regular expression matches a part of a text. False if it is invalid, or could take long."""
    begins_with_literal = pattern[:1].isalnum() and "|" not in pattern and pattern[1:2] not in ("?", "*", "{")
    starts = text.count(pattern[0]) if begins_with_literal else len(text) + 1  # where a match is attempted
    compiled = _compile(pattern, len(text), starts)
    return compiled is not None and compiled.search(text) is not None


@functools.lru_cache(maxsize=10_000)
def fullmatch(pattern: str, text: str) -> bool:
    """Return whether a regular expression matches a whole text. False if it is invalid, or could take long."""
    compiled = _compile(pattern, len(text), starts=1)
    return compiled is not None and compiled.fullmatch(text) is not None


def _compile(pattern: str, length: int, starts: int) -> re.Pattern[str] | None:
    """Return the pattern, unless matches from so many positions of a text of this length could take long."""
    if starts and starts * _steps(pattern, length) > _MAX_STEPS:
        return None
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return None


def _steps(pattern: str, length: int) -> float:
    """Return a bound of the steps of a match from one position of a text; inf if a group is repeated or referred to."""
    if _REFERENCE.search(pattern):
        return math.inf
    repeats, choices, branches, previous = 0, 1, [1], ""  # branches: of each group that is open
    for token in _TOKEN.findall(pattern):
        if token in ("*", "+", "{"):
            if previous == ")":
                return math.inf
            repeats += 1
        elif token == "?" and previous != "(":
            choices *= 3  # two, and such a step takes longer
        elif token == "(":
            branches.append(1)
        elif token == "|":
            branches[-1] += 1
        elif token == ")" and len(branches) > 1:
            choices *= branches.pop()
        previous = token
    # without lookarounds, the lengths of what repeats match add up to `length` at most
    divisions = (length + 1)**repeats if _LOOK.search(pattern) else math.comb(length + repeats, repeats)
    return divisions * choices * branches[0]
