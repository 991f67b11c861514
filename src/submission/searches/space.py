"""From the parameters of a job spec to the space of a search: a list is a choice, a LIST is a branching."""
from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from src.errors import JobSpecError
from src.io.yaml_io import Tagged
from src.search.space import CHOICE, FLOAT, INT, Branching, Dimension, Space
from src.submission.spec import sampling, subtests
from src.submission.spec.expansion import Expansion
from src.submission.spec.grammar import Spec, check_per_point, is_random, reserved_word

# tags whose distribution a sampler can learn
_LEARNABLE = ("uniform", "loguniform", "int_uniform", "choice")


def read_space(parameters: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> Space:
    """Return the space of parameters. JobSpecError if they violate the grammar, or if nothing varies.

    overrides: YAML values that replace a key's value wherever it is.
    """
    parameters = subtests.apply_overrides(parameters, overrides)
    try:
        space = _SpaceReader(Expansion(frozenset(overrides))).read(parameters, where, "")
    except RecursionError:
        raise JobSpecError("nested too deeply, or an anchor that contains itself", where=where) from None
    if not space.is_random():
        raise JobSpecError("no parameter varies, so that there is nothing to search", where=where,
                           hint="for example base_lr: !loguniform [1e-4, 1]; a list of values is a choice")
    return space


class _SpaceReader:
    """Reads mappings of parameters as spaces. expansion: evaluates expressions, and checks distributions."""

    def __init__(self, expansion: Expansion) -> None:
        self._expansion = expansion

    def read(self, mapping: Mapping[str, Any], where: str, prefix: str) -> Space:
        """Return the space of a mapping. prefix: of the names of its dimensions: LIST.1. in alternative 1 of LIST."""
        constants: Spec = {}
        dimensions: list[Dimension] = []
        branchings: list[Branching] = []
        for key, raw in mapping.items():
            key_where = f"{where}, {key}"
            word = reserved_word(key, where)
            if word == "EXCLUDE" or key in subtests.KEYS:
                raise JobSpecError(f"{key} is for grids, and a search chooses its points itself", where=key_where,
                                   hint="LIST makes parameters that exist only together")
            if word == "LIST":
                branchings.append(self._read_list(raw, key_where, prefix + key))
            elif word == "ZIP":
                branchings.append(self._read_zip(raw, key_where, prefix + key))
            elif word:
                constants[key] = check_per_point(key, raw, key_where)
            else:
                value, own = self._read_parameter(key, raw, key_where, prefix)
                dimensions += own
                if not own or own[0].path:
                    constants[key] = value
        space = Space(constants, tuple(dimensions), tuple(branchings))
        _check_duplicates(space, where)
        return space

    def _read_parameter(self, key: str, raw: Any, where: str, prefix: str) -> tuple[Any, list[Dimension]]:
        """Return the value of a parameter, without what varies, and the dimensions inside it."""
        values = self._expansion.values(raw, where)
        if values is not None and len(values) > 1:
            if any(map(is_random, values)):
                raise JobSpecError("a list is a choice between values, and one of these is random", where=where,
                                   hint="use LIST for a choice between distributions")
            return None, [Dimension(prefix + key, key, CHOICE, choices=tuple(values), is_ordered=_is_ordered(values))]
        value = values[0] if values else self._expansion.constant(raw, where)
        if not is_random(value):
            return value, []
        tags = list(_find_tags(value, ()))
        dimensions = [_dimension(".".join((prefix + key, *map(str, path))), key, tagged, path, where)
                      for tagged, path in tags]
        return _without_tags(value), dimensions

    def _read_list(self, raw: Any, where: str, name: str) -> Branching:
        """Return the branching of a LIST: one space per item."""
        if not isinstance(raw, list) or not raw or not all(isinstance(item, dict) for item in raw):
            raise JobSpecError("LIST must be a list of sub-spaces", where=where, allowed="a YAML list of mappings",
                               hint="start each item with a dash: `- {optim_alg: sgd, momentum: !uniform [0.5, 0.99]}`")
        return Branching(name, tuple(self.read(item, f"{where}, item {number}", f"{name}.{number - 1}.")
                                     for number, item in enumerate(raw, 1)))

    def _read_zip(self, raw: Any, where: str, name: str) -> Branching:
        """Return the branching of a ZIP: its axes advance together."""
        axis, = Expansion(self._expansion.overridden).grid({"ZIP": raw}, where).axes
        for entry in axis.entries:
            if any(map(is_random, entry.values())):
                raise JobSpecError("the values of a ZIP are listed, and one of them is random", where=where,
                                   hint="use LIST for a choice between distributions")
        return Branching(name, tuple(Space(dict(entry)) for entry in axis.entries))


def _find_tags(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[Tagged, tuple[str | int, ...]]]:
    """Yield each distribution in a value, with the keys and indices that lead to it."""
    if isinstance(value, Tagged):
        yield value, path
    elif isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _find_tags(item, (*path, key))


def _without_tags(value: Any) -> Any:
    """Return a value with None in the place of each distribution."""
    if isinstance(value, dict):
        return {key: _without_tags(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_tags(item) for item in value]
    return None if isinstance(value, Tagged) else value


def _dimension(name: str, key: str, tagged: Tagged, path: tuple[str | int, ...], where: str) -> Dimension:
    """Return the dimension of a distribution. JobSpecError if no sampler can learn it."""
    is_quantized = tagged.tag.startswith(sampling.QUANTIZED)
    tag = tagged.tag.removeprefix(sampling.QUANTIZED)
    if tag not in _LEARNABLE:
        raise JobSpecError(f"a search does not draw from !{tag}", where=where,
                           allowed=", ".join(f"!{name}" for name in _LEARNABLE) + ", or a list of values")
    if tag == "choice":
        values, weights = sampling.choices(tagged, where)
        if len(values) == 1:
            raise JobSpecError(f"{tagged!r} has one value", where=where, hint="write the value itself")
        return Dimension(name, key, CHOICE, choices=tuple(values), weights=tuple(weights or ()), path=path,
                         is_ordered=_is_ordered(values))
    numbers = sampling.numbers(tagged, where)
    low, high, step = numbers["min"], numbers["max"], numbers.get("q")
    if tag == "int_uniform":
        return Dimension(name, key, INT, low, high, step=1, path=path)
    is_log = tag == "loguniform"
    if step is not None:
        low, high, is_whole = _multiples(low, high, step, where)
        # W&B's quantised distributions draw integers where all values are whole
        kind = INT if is_whole and (is_quantized or isinstance(step, int)) else FLOAT
        if is_log:
            raise JobSpecError("a search does not draw from !loguniform with q", where=where,
                               hint="leave q out, or list the values")
        return Dimension(name, key, kind, low, high, step=step, path=path)
    return Dimension(name, key, FLOAT, float(low), float(high), log=is_log, path=path)


def _is_ordered(values: Sequence[Any]) -> bool:
    """Return whether values are at least three numbers that rise or fall."""
    if len(values) < 3 or any(type(value) not in (int, float) for value in values):
        return False
    pairs = list(itertools.pairwise(values))
    return all(left < right for left, right in pairs) or all(left > right for left, right in pairs)


def _multiples(low: float, high: float, step: float, where: str) -> tuple[float, float, bool]:
    """Return the smallest and the largest multiple of a step between two limits, and whether all are whole numbers."""
    first, last = -(-low // step) * step, high // step * step
    if first >= last:
        raise JobSpecError(f"from {low} to {high} there are no two multiples of {step}", where=where,
                           hint="choose a smaller q")
    return first, last, float(first).is_integer() and float(step).is_integer()


def _check_duplicates(space: Space, where: str) -> None:
    """JobSpecError if a parameter that varies is also defined by a branch, or by two of them."""
    defined = {dimension.key: dimension.name for dimension in space.dimensions}
    for branching in space.branchings:
        keys = {key for alternative in branching.alternatives for key in _keys(alternative)}
        for key in sorted(keys & defined.keys()):
            raise JobSpecError(f"'{key}' varies by {defined[key]} and by {branching.name}", where=where,
                               hint="keep it in one of them")
        defined |= dict.fromkeys(keys, branching.name)


def _keys(space: Space) -> set[str]:
    """Return the keys of all parameters of a space."""
    return {*space.constants, *(dimension.key for dimension in space.dimensions),
            *(key for branching in space.branchings for item in branching.alternatives for key in _keys(item))}
