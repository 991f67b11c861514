"""The reserved words of a job spec, and when two values of it are the same."""
from __future__ import annotations

from typing import Any

from src.config import PER_POINT
from src.errors import JobSpecError, nearest
from src.io.yaml_io import Tagged

Spec = dict[str, Any]

MAX_POINTS = 1_000_000

RESERVED_WORDS = ("LIST", "ZIP", "EXCLUDE", *PER_POINT)


def comparison_key(value: Any, by_value: bool = False) -> object:
    """What two values have in common if and only if they are the same: type and value, all the way down.

    by_value: 1 and 1.0 are the same. TypeError for what a spec cannot hold.
    """
    kind = type(value)
    if kind is dict:
        return frozenset((key, comparison_key(item, by_value)) for key, item in value.items())
    if kind is list:
        return (list, *(comparison_key(item, by_value) for item in value))
    if kind is float or kind is int:
        return ("number", value) if by_value else (kind, repr(value))
    if kind is str or kind is bool or value is None:
        return (kind, value)
    if kind is Tagged:
        return (Tagged, value.tag, comparison_key(value.value, by_value))
    raise TypeError(f"a value of type {kind.__name__} cannot stand in a job spec")


def is_random(value: Any) -> bool:
    """Whether a value is to be drawn, or something in it."""
    if isinstance(value, dict):
        return any(map(is_random, value.values()))
    return isinstance(value, Tagged) or isinstance(value, list) and any(map(is_random, value))


def reserved_word(key: Any, where: str) -> str | None:
    """The word of the grammar that a key is: LIST for LIST_2; None for a parameter."""
    if not isinstance(key, str) or not key:
        raise JobSpecError(f"the key {key!r} is no name", where=where, hint=f"put it in quotes: '{key}'")
    for word in ("LIST", "ZIP"):
        if key.startswith(word):
            return word
    if key in RESERVED_WORDS:
        return key
    if key.isupper() and len(key) > 2 and (meant := nearest(key, RESERVED_WORDS, cutoff=0.8)):
        raise JobSpecError(f"unknown word '{key}'", where=where, allowed=RESERVED_WORDS, hint=f"did you mean {meant}?")
    return None
