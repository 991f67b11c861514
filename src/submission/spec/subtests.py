"""Parameters over others: what --set says over a job spec's, and the subtests of a composite over their base."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from src.errors import JobSpecError

KEYS = ("SUBTESTS", "subtests")
WORKERS = ("WORKERS", "workers", "_num_nodes")  # how many workers a subtest wants; the last two if a number follows


class Part(NamedTuple):
    """A grid of its own. where: for messages; parameters: with the words of the grammar, but the base's EXCLUDE."""

    where: str
    parameters: dict[str, Any]


def split(parameters: Mapping[str, Any], where: str) -> list[Part]:
    """The subtests of a composite, each over the base that is beside them; empty if there are none.

    Its points carry the words of a subtest's name as TAGS, the name in SUBTESTS, and WORKERS if it says how many.
    """
    # in lower case, a mapping of other things is a parameter of somebody's program
    keys = [key for key in KEYS if isinstance(raw := parameters.get(key), dict) and (
        key.isupper() or all(isinstance(own, dict | None) for own in raw.values()))]
    if not keys:
        return []
    if len(keys) > 1:
        raise JobSpecError("SUBTESTS and subtests are the same", where=where, hint="put all of them into one")
    key, = keys
    if not parameters[key]:
        raise JobSpecError("there is no subtest", where=f"{where}, {key}", hint='as SUBTESTS: {"adam,small": {lr: 1}}')
    base = {other: value for other, value in parameters.items() if other not in (key, "EXCLUDE")}
    return [_part(base, name, own, f"{where}, {key}, {name}") for name, own in parameters[key].items()]


def _part(base: Mapping[str, Any], name: Any, own: Any, where: str) -> Part:
    tags = [tag for word in str(name).split(",") if (tag := word.strip())]
    if not isinstance(name, str) or not tags:
        raise JobSpecError(f"the subtest's name {name!r} holds no tags", where=where, hint='put them in quotes: "a,b"')
    own = {} if own is None else own
    if not isinstance(own, dict):
        raise JobSpecError("a subtest is a mapping of parameters", where=where, hint=f'as "{name}": {{base_lr: 0.1}}')
    numbers = {word: own[word] for word in WORKERS if word in own and (word.isupper() or type(own[word]) is int)}
    if len(numbers) > 1:
        raise JobSpecError(f"{' and '.join(numbers)} are the same", where=where, hint="keep one of them")
    own = {key: value for key, value in own.items() if key not in numbers}
    zipped = [key for word, raw in own.items()
              if str(word).startswith("ZIP") and isinstance(raw, dict) for key in raw]
    parameters = overridden(_stripped(base, zipped), own)
    tags = [*_listed(base.get("TAGS")), *tags, *_listed(own.get("TAGS"))]
    parameters |= {"TAGS": list(dict.fromkeys(tags)), "SUBTESTS": [name]}
    for number in numbers.values():
        parameters["WORKERS"] = number
    return Part(where, parameters)


def _listed(tags: Any) -> list[Any]:
    return tags if isinstance(tags, list) else [] if tags is None else [tags]


def overridden(parameters: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with each override in the key's place, or last, and nowhere else."""
    if not overrides:
        return dict(parameters)
    result: dict[str, Any] = {}
    missing = dict(overrides)
    for key, raw in parameters.items():
        if key in overrides:
            result[key] = missing.pop(key)
        elif isinstance(key, str) and key.startswith("ZIP") and isinstance(raw, dict):
            # in an outer ZIP a list goes on being walked with the others
            result[key] = {inner: missing.pop(inner, value) for inner, value in raw.items()}
        else:
            result[key] = _without(key, raw, overrides)
    return {**result, **missing}


def _without(key: Any, raw: Any, names: Iterable[str]) -> Any:
    """What stands under `key`, with the keys `names` taken out of subtests, of LIST items at any depth, and of the ZIPs
    in them."""
    if key in KEYS and isinstance(raw, dict):
        return {name: _stripped(item, names) if isinstance(item, dict) else item for name, item in raw.items()}
    if not isinstance(key, str) or not key.startswith("LIST") or not isinstance(raw, list):
        return raw
    return [_stripped(item, names) if isinstance(item, dict) else item for item in raw]


def _stripped(mapping: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, raw in mapping.items():
        if key in names:
            continue
        if isinstance(key, str) and key.startswith("ZIP") and isinstance(raw, dict):
            if rest := _stripped(raw, names):
                result[key] = rest
        else:
            result[key] = _without(key, raw, names)
    return result
