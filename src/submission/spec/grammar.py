"""The reserved words of a job spec, the values they take, and when two values are the same."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from src.config import BOOKKEEPING, PER_POINT
from src.errors import JobSpecError, nearest
from src.io.yaml_io import Tagged

Spec = dict[str, Any]

MAX_POINTS = 1_000_000

# LIST and ZIP are also written with a suffix, as LIST_2. config.py defines PER_POINT, which specs of runs contain too.
RESERVED_WORDS = ("LIST", "ZIP", "EXCLUDE", *PER_POINT)

_TYPO = 0.8  # similarity from which an unknown key is taken for a misspelling


def reserved_word(key: Any, where: str) -> str | None:
    """Return the reserved word that a key is, LIST for LIST_2; None for a parameter.

    JobSpecError if it is not a string, or looks like a misspelled reserved word.
    """
    if not isinstance(key, str) or not key:
        raise JobSpecError(f"invalid key {key!r}: names are strings", where=where, hint=f"put it in quotes: '{key}'")
    for word in ("LIST", "ZIP"):
        if key.startswith(word):
            return word
    if key in RESERVED_WORDS:
        return key
    if key.isupper() and len(key) > 2 and (similar := nearest(key, RESERVED_WORDS, cutoff=_TYPO)):
        raise JobSpecError(f"unknown reserved word '{key}'", where=where, allowed=RESERVED_WORDS,
                           hint=f"did you mean {similar}?")
    return None


def check_per_point(key: str, raw: Any, where: str) -> Any:
    """Return the value of a word of PER_POINT in the form that specs contain: tags become a list.

    JobSpecError if it is invalid.
    """
    if is_random(raw):
        raise JobSpecError(f"{key} cannot be random", where=where, allowed="a constant")
    if key in BOOKKEEPING:
        items = raw if isinstance(raw, list) else [raw]
        if not all(isinstance(item, str) for item in items):
            raise JobSpecError(f"invalid {key} {raw!r}", where=where, allowed="a string or a list of strings",
                               hint="a mapping of subtests belongs directly in parameters" if key == "SUBTESTS"
                               else None)
        return items
    if key == "WORKERS" and (type(raw) is not int or raw < 1):
        raise JobSpecError(f"invalid number of workers {raw!r}", where=where, allowed="an integer from 1")
    if key == "CWD" and not (isinstance(raw, str) and raw):
        raise JobSpecError(f"invalid CWD {raw!r}", where=where, allowed="the path of a folder, or {folder}")
    if key == "SCRIPT" and not (isinstance(raw, str) and raw):
        raise JobSpecError(f"invalid SCRIPT {raw!r}", where=where, allowed="the path of a submit script")
    return check_sbatch(raw, where) if key == "SBATCH" else raw


def check_sbatch(value: Any, where: str) -> dict[str, Any]:
    """Return a mapping of sbatch's options to their values. JobSpecError if it is anything else."""
    if not isinstance(value, dict) or any(
            not isinstance(option, str) or isinstance(item, (list, dict)) for option, item in value.items()):
        raise JobSpecError("invalid sbatch options", where=where, allowed="a mapping of options to values",
                           hint="for example {mem: 16G, gpus: 1}")
    return value


def unknown_keys(mapping: Mapping[str, Any], known: Iterable[str], where: str,
                 never_typos: Iterable[str] = ()) -> list[str]:
    """Return the keys that are not known. JobSpecError if one of them looks like a misspelling of a known one.

    never_typos: unknown keys that are not taken for misspellings.
    """
    known = list(known)
    unknown = [key for key in mapping if key not in known]
    for key in unknown:
        if key not in never_typos and (similar := nearest(str(key), known, cutoff=_TYPO)):
            raise JobSpecError(f"unknown key '{key}'", where=where, hint=f"did you mean '{similar}'?")
    return unknown


def comparison_key(value: Any, by_value: bool = False) -> object:
    """Return a hashable key that two values share if and only if their types and values are equal at every depth.

    by_value: 1 and 1.0 are equal. TypeError for values that a spec cannot contain.
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
    raise TypeError(f"a job spec cannot contain a value of type {kind.__name__}")


def is_random(value: Any) -> bool:
    """Return whether a value, or a part of it, is drawn from a distribution."""
    if isinstance(value, dict):
        return any(map(is_random, value.values()))
    return isinstance(value, Tagged) or isinstance(value, list) and any(map(is_random, value))
