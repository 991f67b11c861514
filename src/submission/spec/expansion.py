"""Expand parameters into grid points: axes, LIST, ZIP and EXCLUDE."""
from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from src.config import NOT_PARAMETERS
from src.errors import JobSpecError, nearest
from src.frozen import Frozen
from src.io.yaml_io import Tagged
from src.submission.spec import expressions
from src.submission.spec.grammar import MAX_POINTS, Spec, check_per_point, comparison_key, is_random, reserved_word

ABSENT = object()  # stands for the value of a key that a point does not have


class Axis(Frozen):
    """The contribution of one key of the job spec, or of several consecutive constants, to each point.

    name: the key;
    entries: the alternatives, as partial specs;
    kind: constant, plain, ZIP or LIST.
    """

    name: str
    entries: list[Spec]
    kind: str

    @functools.cached_property
    def keys(self) -> dict[str, None]:
        """The keys of all entries, in order."""
        return dict.fromkeys(key for entry in self.entries for key in entry)

    def count_distinct(self) -> int:
        """Return the number of entries with different parameters."""
        return len({frozenset((key, id(value)) for key, value in entry.items() if key not in NOT_PARAMETERS)
                    for entry in self.entries})


class SubGrid(NamedTuple):
    """The axes and the points of a job spec without subtests, or of one subtest."""

    axes: list[Axis]
    points: list[Spec]


class Expansion:
    """One walk through parameters, and what it notices.

    Equal values become one object, so that values can be compared by id.

    overridden: keys that --set overrides;
    has_random: whether any value is random;
    notes, warnings: sentences for the user.
    """

    def __init__(self, overridden: frozenset[str]) -> None:
        self.overridden = overridden
        self.has_random = False
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self._shared: dict[object, Any] = {}

    def grid(self, parameters: Mapping[str, Any], where: str) -> SubGrid:
        """Expand the parameters of one grid."""
        axes = self._axes(parameters, where)
        return SubGrid(axes, self._product(parameters, axes, where))

    def constant(self, raw: Any, where: str, is_computed: bool = False) -> Any:
        """Return one value: dict(…) as a mapping and, unless it is computed already, the value of an expression."""
        if isinstance(raw, str):
            if expressions.is_mapping(raw):
                raw = expressions.parse_mapping(raw, where)
            elif not is_computed and expressions.is_expression(raw):
                raw = expressions.evaluate(raw, where)
        if type(raw) in (Tagged, dict, list) and is_random(raw):
            from src.submission.spec import sampling  # imported on demand: few job specs draw anything

            sampling.check_random(raw, where)
            self.has_random = True
        try:
            return self._shared.setdefault(comparison_key(raw), raw)
        except TypeError as error:
            raise JobSpecError(str(error), where=where) from None

    def remove_excluded(self, points: list[Spec], raw: Any, where: str) -> list[Spec]:
        """Return the points that match no entry of an EXCLUDE, whose value is `raw`."""
        where = f"{where}, EXCLUDE"
        if not isinstance(raw, list) or not all(isinstance(entry, dict) and entry for entry in raw):
            raise JobSpecError("EXCLUDE must be a list of partial specs", where=where,
                               allowed="a YAML list of mappings",
                               hint="for example EXCLUDE: [{batch_size: 2048, base_lr: [2, 4]}]")
        excluded: set[int] = set()
        for number, entry in enumerate(raw, 1):
            entry_where = f"{where}, entry {number}"
            matches = self._match(points, entry, entry_where)
            if not matches and self.overridden.isdisjoint(entry):
                raise _no_match(points, entry, entry_where)
            if not matches:
                overridden_keys = ", ".join(key for key in entry if key in self.overridden)
                self.warnings.append(f"{entry_where}: matches nothing, because {overridden_keys} is overridden")
            excluded.update(matches)
        if not excluded:
            return points
        self.notes.append(f"{where} removes {len(excluded)} of {len(points)} grid points")
        return [point for index, point in enumerate(points) if index not in excluded]

    def _axes(self, mapping: Mapping[str, Any], where: str) -> list[Axis]:
        """Return the axes of a mapping in the order of the file; consecutive constants share one."""
        axes: list[Axis] = []
        for key, raw in mapping.items():
            key_where = f"{where}, {key}"
            word = reserved_word(key, where)
            if word == "EXCLUDE":
                continue
            if word == "LIST":
                axes.append(Axis(key, self._expand_list(raw, key_where), word))
            elif word == "ZIP":
                axes.append(Axis(key, self._expand_zip(raw, key_where), word))
            elif word is None and (values := self.values(raw, key_where)) is not None:
                axes.append(Axis(key, [{key: value} for value in values], "plain"))
            else:
                value = self.constant(check_per_point(key, raw, key_where) if word else raw, key_where,
                                      is_computed=bool(word))
                if not axes or axes[-1].kind != "constant":
                    axes.append(Axis(key, [{}], "constant"))
                axes[-1].entries[0][key] = value
        self._check_duplicates(axes, where)
        return axes

    def _product(self, mapping: Mapping[str, Any], axes: list[Axis], where: str) -> list[Spec]:
        """Return the product of the axes, the first varying slowest, without the points that EXCLUDE removes."""
        if math.prod(len(axis.entries) for axis in axes) > MAX_POINTS:
            sizes = " x ".join(f"{len(axis.entries)} {axis.name}" for axis in axes if len(axis.entries) > 1)
            raise JobSpecError(f"more than {MAX_POINTS:,} grid points: {sizes}", where=where,
                               hint="split the job spec into several")
        points: list[Spec] = [{}]
        for axis, merge in with_merges(axes):
            points = [merge(point, entry) for point in points for entry in axis.entries]
        return self.remove_excluded(points, mapping.get("EXCLUDE", []), where)

    def _expand_list(self, raw: Any, where: str) -> list[Spec]:
        """Return the partial specs of a LIST: those of its items, one after another."""
        if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
            raise JobSpecError("LIST must be a list of sub-grids", where=where, allowed="a YAML list of mappings",
                               hint="start each item with a dash: `- {base_lr: 0.1, momentum: 0.9}`")
        if not raw:
            raise _empty_axis(where)
        points: list[Spec] = []
        for number, item in enumerate(raw, 1):
            points += self.grid(item, f"{where}, item {number}").points
        return points

    def _expand_zip(self, raw: Any, where: str) -> list[Spec]:
        """Return the partial specs of a ZIP: its axes advance together; its constants are in each."""
        if not isinstance(raw, dict) or not raw:
            raise JobSpecError("ZIP must be a mapping of axes of equal length", where=where,
                               allowed="a YAML mapping of lists",
                               hint="for example ZIP: {batch_size: [8, 32], base_lr: [0.1, 0.4]}")
        axes = self._axes(raw, where)
        sizes = {axis.name: len(axis.entries) for axis in axes if axis.kind != "constant"}
        if len(set(sizes.values())) > 1:
            lengths = ", ".join(f"{key} has {size}" for key, size in sizes.items())
            raise JobSpecError(f"the axes of a ZIP must have equal length, but {lengths}", where=where)
        points: list[Spec] = [{} for _ in range(max(sizes.values(), default=1))]
        for axis, merge in with_merges(axes):
            entries = axis.entries * len(points) if axis.kind == "constant" else axis.entries
            points = list(map(merge, points, entries))
        return self.remove_excluded(points, raw.get("EXCLUDE", []), where)

    def values(self, raw: Any, where: str) -> list[Any] | None:
        """Return the values of an axis; None if `raw` is a single value."""
        if isinstance(raw, str) and not expressions.is_mapping(raw) and expressions.is_expression(raw):
            raw = expressions.evaluate(raw, where)
        if not isinstance(raw, list):
            return None
        if not raw:
            raise _empty_axis(where)
        return [self.constant(value, where, is_computed=True) for value in raw]

    def _check_duplicates(self, axes: list[Axis], where: str) -> None:
        """Raise JobSpecError if two axes define a key; add a warning if two LISTs do."""
        defined_by: dict[str, Axis] = {}
        for axis in axes:
            if axis.kind == "LIST":
                continue
            for key in axis.keys:
                if key in defined_by:
                    raise JobSpecError(f"'{key}' is defined twice, by {defined_by[key].name} and by {axis.name}",
                                       where=where, hint="keep one of them")
                defined_by[key] = axis
        defined_by = {}
        for axis in axes:
            if axis.kind == "LIST":
                for key in axis.keys:
                    if key in defined_by:
                        self.warnings.append(f"{where}: {defined_by[key].name} and {axis.name} both define '{key}'; "
                                             f"the later, {axis.name}, overrides the other")
                    defined_by[key] = axis

    def _match(self, points: list[Spec], entry: Mapping[str, Any], where: str) -> list[int]:
        """Return the indices of the points that have, for each key of `entry`, one of its values."""
        matching_ids: list[tuple[str, set[int]]] = []
        for key, raw in entry.items():
            if reserved_word(key, where):
                raise JobSpecError(f"'{key}' is not a parameter", where=where, hint="EXCLUDE compares parameters only")
            key_where = f"{where}, {key}"
            excluded_values = self.values(raw, key_where) or [self.constant(raw, key_where)]
            # 1 and 1.0 match each other
            excluded_keys = {comparison_key(value, by_value=True) for value in excluded_values}
            present = {id(point[key]): point[key] for point in points if key in point}
            if any(map(is_random, present.values())):
                raise JobSpecError(f"'{key}' is random, and EXCLUDE compares listed values", where=where,
                                   hint="draw from a smaller range, or list the values")
            matching_ids.append((key, {value_id for value_id, value in present.items()
                                       if comparison_key(value, by_value=True) in excluded_keys}))
        return [index for index, point in enumerate(points)
                if all(id(point.get(key, ABSENT)) in ids for key, ids in matching_ids)]


def _empty_axis(where: str) -> JobSpecError:
    return JobSpecError("an axis without values", where=where,
                        hint="list its values, or remove the key; [null] is one null, [[]] one empty list")


def _no_match(points: list[Spec], entry: Mapping[str, Any], where: str) -> JobSpecError:
    """Return the error for an EXCLUDE entry that matches nothing, with the reason if one key is enough."""
    hint: str | None = "an EXCLUDE inside a LIST or ZIP sees only the keys beside it"
    for key, raw in entry.items():
        values = list({id(point[key]): point[key] for point in points if key in point}.values())
        if not values:
            similar = nearest(key, {name for point in points for name in point})
            return JobSpecError(f"matches nothing: no grid point has '{key}'", where=where,
                                hint=f"did you mean '{similar}'?" if similar else hint)
        if isinstance(raw, (int, float, str)) and raw not in values:
            listing = ", ".join(map(repr, values[:10])) + (", …" if len(values) > 10 else "")
            return JobSpecError(f"matches nothing: '{key}' is never {raw!r}", where=where, allowed=listing)
    return JobSpecError("matches nothing", where=where, hint=hint)


def _override(point: Spec, entry: Spec) -> Spec:
    return {**point, **entry}


def _fill(point: Spec, entry: Spec) -> Spec:
    return {**point, **entry, **point}


def with_merges(axes: list[Axis]) -> Iterable[tuple[Axis, Callable[[Spec, Spec], Spec]]]:
    """Yield each axis with the function that adds its entry to a point.

    Keys of a LIST override the same keys outside it, whichever comes first.
    """
    earlier_keys: set[str] = set()
    for axis in axes:
        keys = axis.keys
        yield axis, _override if axis.kind == "LIST" or earlier_keys.isdisjoint(keys) else _fill
        earlier_keys.update(keys)
