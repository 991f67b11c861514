"""Apply overrides to parameters: those of --set to a job spec, and those of each subtest to the shared base."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from src.errors import JobSpecError

KEYS = ("SUBTESTS", "subtests")
WORKERS_KEYS = ("WORKERS", "workers", "_num_nodes")  # a lower-case key counts only if its value is an integer


class Subtest(NamedTuple):
    """A grid of its own.

    where: for messages;
    parameters: base and subtest merged, reserved words included, except the base's EXCLUDE.
    """

    where: str
    parameters: dict[str, Any]


def split_subtests(parameters: Mapping[str, Any], where: str) -> list[Subtest]:
    """Return the subtests of parameters, each merged over the keys beside SUBTESTS; empty if there are none.

    TAGS of a subtest's points are the words of its name, SUBTESTS is the name, WORKERS its number of workers if given.
    """
    # in lower case, a mapping of anything else is a parameter of an external program
    keys = [key for key in KEYS if isinstance(raw := parameters.get(key), dict) and (
        key.isupper() or all(isinstance(own, dict | None) for own in raw.values()))]
    if not keys:
        return []
    if len(keys) > 1:
        raise JobSpecError("SUBTESTS and subtests mean the same", where=where, hint="move all of them into one")
    key, = keys
    if not parameters[key]:
        raise JobSpecError("at least one subtest is required", where=f"{where}, {key}",
                           hint='for example SUBTESTS: {"adam,small": {lr: 1}}')
    base = {other: value for other, value in parameters.items() if other not in (key, "EXCLUDE")}
    return [_merge_subtest(base, name, own, f"{where}, {key}, {name}") for name, own in parameters[key].items()]


def _merge_subtest(base: Mapping[str, Any], name: Any, own: Any, where: str) -> Subtest:
    """Merge the subtest's own parameters over the base."""
    tags = [tag for word in str(name).split(",") if (tag := word.strip())]
    if not isinstance(name, str) or not tags:
        raise JobSpecError(f"the subtest's name {name!r} contains no tags", where=where,
                           hint='put them in quotes: "a,b"')
    own = {} if own is None else own
    if not isinstance(own, dict):
        raise JobSpecError("a subtest must be a mapping of parameters", where=where,
                           hint=f'for example "{name}": {{base_lr: 0.1}}')
    workers = {key: own[key] for key in WORKERS_KEYS if key in own and (key.isupper() or type(own[key]) is int)}
    if len(workers) > 1:
        raise JobSpecError(f"{' and '.join(workers)} mean the same", where=where, hint="keep one of them")
    own = {key: value for key, value in own.items() if key not in workers}
    zipped = [key for word, raw in own.items()
              if str(word).startswith("ZIP") and isinstance(raw, dict) for key in raw]
    parameters = apply_overrides(_remove_keys(base, zipped), own)
    tags = [*_as_list(base.get("TAGS")), *tags, *_as_list(own.get("TAGS"))]
    parameters |= {"TAGS": list(dict.fromkeys(tags)), "SUBTESTS": [name]}
    for number in workers.values():
        parameters["WORKERS"] = number
    return Subtest(where, parameters)


def _as_list(tags: Any) -> list[Any]:
    return tags if isinstance(tags, list) else [] if tags is None else [tags]


def apply_overrides(parameters: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with each override in its key's place, or last; the key is removed everywhere else."""
    if not overrides:
        return dict(parameters)
    result: dict[str, Any] = {}
    remaining = dict(overrides)
    for key, raw in parameters.items():
        if key in overrides:
            result[key] = remaining.pop(key)
        elif isinstance(key, str) and key.startswith("ZIP") and isinstance(raw, dict):
            # a list that overrides an axis of a ZIP at the top is still zipped with the others
            result[key] = {inner: remaining.pop(inner, value) for inner, value in raw.items()}
        else:
            result[key] = _remove_keys_below(key, raw, overrides)
    return {**result, **remaining}


def _remove_keys_below(key: Any, raw: Any, names: Iterable[str]) -> Any:
    """Remove the keys `names` from subtests and from LIST items at any depth, with the ZIPs in them."""
    if key in KEYS and isinstance(raw, dict):
        return {name: _remove_keys(item, names) if isinstance(item, dict) else item for name, item in raw.items()}
    if not isinstance(key, str) or not key.startswith("LIST") or not isinstance(raw, list):
        return raw
    return [_remove_keys(item, names) if isinstance(item, dict) else item for item in raw]


def _remove_keys(mapping: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Remove the keys `names` from a mapping of parameters, at any depth."""
    result: dict[str, Any] = {}
    for key, raw in mapping.items():
        if key in names:
            continue
        if isinstance(key, str) and key.startswith("ZIP") and isinstance(raw, dict):
            if rest := _remove_keys(raw, names):
                result[key] = rest
        else:
            result[key] = _remove_keys_below(key, raw, names)
    return result
