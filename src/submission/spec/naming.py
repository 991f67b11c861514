"""The names of batches and runs: safe for shells, file systems and Slurm, and sorted like the grid."""
from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.search.definition import Search

MAX_NAME_BYTES = 200  # of a run's name; file systems allow 255
_UNSAFE = re.compile(r"[^A-Za-z0-9._,@-]+")


def batch_name(name: str, today: datetime.date) -> str:
    """Return the name of a batch folder: yy-mm-dd-name."""
    return f"{today:%y-%m-%d}-{name}"


def run_names(name: str, specs: Sequence[Mapping[str, Any]], varying: Sequence[str], first: int = 0) -> list[str]:
    """Return the names of runs, as `000_name+bat_siz=8+bas_lr=0.1`. They are unique, and sort like `specs`.

    name: the checked name of the job spec;
    varying: the keys to show, in order; their values must not change during the call;
    first: the first index.
    """
    width = max(3, len(str(first + len(specs) - 1)))
    fragments: list[tuple[str, str, dict[int, str]]] = [
        (key, short, {}) for key, short in zip(varying, _short_keys(varying), strict=True)]
    names = []
    for index, spec in enumerate(specs, first):
        parts = [f"{index:0{width}d}_{name}"]
        for key, short, cache in fragments:
            if key in spec:
                value = spec[key]
                fragment = cache.get(id(value))  # most values are shared by many specs
                if fragment is None:
                    fragment = cache[id(value)] = f"{short}={format_value(value)}"
                parts.append(fragment)
        text = "+".join(parts)
        names.append(text if len(text) <= MAX_NAME_BYTES else _shorten(text))
    return names


def name_run(search: Search) -> Callable[[int, Mapping[str, Any]], str]:
    """Return the function that names the run folder of a trial of a search, by its number and its spec."""
    return lambda trial, spec: run_names(search.name, [spec], search.varying, trial)[0]


def format_value(value: Any) -> str:
    """Return a value as a part of a name, of ASCII letters, digits and . _ , @ -"""
    return _UNSAFE.sub("_", _to_text(value))


def _to_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return repr(value).replace("e+", "e")
    if isinstance(value, (list, tuple)):
        return ",".join(map(_to_text, value))
    if isinstance(value, Mapping):
        return ",".join(f"{key}-{_to_text(item)}" for key, item in value.items())
    return str(value)


def _short_keys(keys: Sequence[str]) -> list[str]:
    """Cut each part of each key to three letters (batch_size -> bat_siz), or to more where keys would be equal."""
    lengths = dict.fromkeys(keys, 3)
    while True:
        short = {key: _UNSAFE.sub("_", "_".join(part[:lengths[key]] for part in key.split("_"))) for key in keys}
        texts = list(short.values())
        ambiguous = [key for key in keys if texts.count(short[key]) > 1 and lengths[key] < len(key)]
        if not ambiguous:
            return texts
        for key in ambiguous:
            lengths[key] += 1


def _shorten(text: str) -> str:
    """Return the beginning of a name that is too long, and a hash of the whole name."""
    import zlib  # imported on demand: few names need it

    return f"{text[:MAX_NAME_BYTES - 9]}-{zlib.crc32(text.encode()):08x}"
