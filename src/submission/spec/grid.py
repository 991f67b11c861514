"""From a job spec's parameters to the ordered specs of its grid: axes, LIST, ZIP, EXCLUDE, overrides, equal points."""
from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.config import BOOKKEEPING, NOT_PARAMETERS, PER_POINT
from src.errors import JobSpecError, nearest
from src.io import yaml_io
from src.io.yaml_io import Tagged
from src.submission.spec import expressions
from src.submission.spec.grammar import MAX_POINTS, Spec, comparison_key, is_random, reserved_word

if TYPE_CHECKING:
    from src.submission.spec.job_spec import JobSpec
    from src.submission.spec.subtests import Subtest


_ABSENT = object()


@dataclass(frozen=True)
class Grid:
    """The specs of a batch, in the order of the file. Equal values are one object in all specs: read them only.

    axes: (key, number of distinct entries) of each axis with more than one, none of a composite, and of random points
    how many of each; varying: the parameters that differ between specs, in the order of the file; notes and warnings:
    sentences for the user.
    """

    specs: list[Spec]
    axes: list[tuple[str, int]]
    varying: list[str]
    notes: list[str]
    warnings: list[str]


def expand_job_spec(spec: JobSpec, overrides: Mapping[str, Any] | None = None,
                check: Callable[[Spec, str], object] | None = None, samples: int | None = None,
                seed: int | None = None) -> Grid:
    """`expand` of a job spec. samples and seed: instead of its own."""
    return expand_parameters(spec.parameters, spec.source, overrides, check,
                             spec.samples if samples is None else samples,
                             spec.seed if seed is None else seed, spec.draw)


def expand_parameters(parameters: Mapping[str, Any], where: str, overrides: Mapping[str, Any] | None = None,
           check: Callable[[Spec, str], object] | None = None, samples: int | None = None, seed: int = 0,
           draw: str = "per_point") -> Grid:
    """The grid of `parameters` (docs/job-spec.md tells the grammar).

    overrides: values, as YAML reads them, that take the place of a key's wherever it stands; every spec then has them.
    check(spec, where) raises for a spec that cannot run; it sees each distinct spec before anything is returned.
    samples, seed, draw: how many random points of each listed one, and how they are drawn (sampling.py).
    JobSpecError, led by `where`, for whatever the grammar does not allow.
    """
    overrides = overrides or {}
    expansion = _Expansion(overridden=frozenset(overrides))
    try:
        parts: list[Subtest] = []
        if overrides or "SUBTESTS" in parameters or "subtests" in parameters:
            from src.submission.spec import subtests  # few job specs have them

            parameters = subtests.apply_overrides(parameters, overrides)
            parts = subtests.split_subtests(parameters, where)
        grids = expansion.composite(parts, parameters, where) if parts else [expansion.grid(parameters, where)]
    except RecursionError:
        raise JobSpecError("nested too deeply, or an anchor that holds itself", where=where) from None
    if not any(points for _, points in grids):
        raise JobSpecError("EXCLUDE removes every grid point", where=where)
    axes = [axis for of_grid, _ in grids for axis in of_grid]
    sizes = [(axis.name, axis.distinct()) for axis in axes if len(axis.entries) > 1 and not parts]
    # a LIST may hide all that is to be drawn
    drawn = {key for _, points in grids for point in points for key, value in point.items()
             if is_random(value)} if expansion.draws else set()
    if drawn:
        grids = [(of_grid, expansion.drawn(points, of_grid, samples, seed, draw, where)) for of_grid, points in grids]
        sizes.insert(0, ("samples", samples or 0))
    elif samples is not None:
        expansion.warnings.append(f"{where}: samples have no effect: nothing is drawn, as by !uniform [0, 1]")
    points = [point for _, of_grid in grids for point in of_grid]
    varying = _varying(points, axes, drawn, composite=bool(parts))
    specs = _merge_equal(points, varying, where)
    if len(specs) < len(points):
        expansion.notes.append(f"{len(points)} grid points are {len(specs)} different ones: equal points were merged")
    if check:
        for spec in specs:
            check(spec, where)
    return Grid(specs, sizes, varying, expansion.notes, expansion.warnings)


def spec_texts(specs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The text of each spec's file, as yaml_io.dump_flat writes it, but a line that many specs share is made once.

    Values are told apart by their ids: they must stay alive, unchanged, until the last text is made.
    """
    lines: dict[str, dict[int, str]] = {}
    for spec in specs:
        text = []
        for key, value in spec.items():
            known = lines.setdefault(key, {})
            line = known.get(id(value))
            if line is None:
                line = known[id(value)] = yaml_io.dump_flat({key: value})
            text.append(line)
        yield "".join(text) or yaml_io.dump_flat({})


@dataclass(frozen=True)
class _Axis:
    """What one key of the job spec gives, or a few neighbouring constants: the alternatives, as partial specs."""

    name: str
    entries: list[Spec]
    kind: str  # constant, plain, ZIP or LIST

    @functools.cached_property
    def keys(self) -> dict[str, None]:
        """The keys of all entries, in order."""
        return dict.fromkeys(key for entry in self.entries for key in entry)

    def distinct(self) -> int:
        return len({frozenset((key, id(value)) for key, value in entry.items() if key not in NOT_PARAMETERS)
                    for entry in self.entries})


class _Expansion:
    """One walk through the parameters. Equal values become one object, so that identity is a matter of ids."""

    def __init__(self, overridden: frozenset[str]) -> None:
        self.overridden = overridden
        self.known: dict[object, Any] = {}
        self.draws = False  # whether any value is to be drawn
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def grid(self, parameters: Mapping[str, Any], where: str) -> tuple[list[_Axis], list[Spec]]:
        """The axes of one grid, and its points."""
        axes = self.axes(parameters, where)
        return axes, self.points(parameters, axes, where)

    def composite(self, parts: Sequence[Subtest], parameters: Mapping[str, Any],
                  where: str) -> list[tuple[list[_Axis], list[Spec]]]:
        """The same of each subtest, without what the base's EXCLUDE removes of all together."""
        grids = [self.grid(part.parameters, part.where) for part in parts]
        points = [point for _, of_part in grids for point in of_part]
        if len(points) > MAX_POINTS:
            raise JobSpecError(f"more than {MAX_POINTS:,} grid points in {len(parts)} subtests", where=where,
                               hint="split the job spec into several")
        kept = set(map(id, self.without_excluded(points, parameters.get("EXCLUDE", []), where)))
        return [(axes, [point for point in of_part if id(point) in kept]) for axes, of_part in grids]

    def axes(self, mapping: Mapping[str, Any], where: str) -> list[_Axis]:
        """The axes of a mapping in the order of the file; neighbouring constants share one."""
        axes: list[_Axis] = []
        for key, raw in mapping.items():
            place = f"{where}, {key}"
            word = reserved_word(key, where)
            if word == "EXCLUDE":
                continue
            if word == "LIST":
                axes.append(_Axis(key, self.sub_grids(raw, place), word))
            elif word == "ZIP":
                axes.append(_Axis(key, self.zipped(raw, place), word))
            elif word is None and (values := self.values(raw, place)) is not None:
                axes.append(_Axis(key, [{key: value} for value in values], "plain"))
            else:
                value = self.constant(_per_point(key, raw, place) if word else raw, place, computed=bool(word))
                if not axes or axes[-1].kind != "constant":
                    axes.append(_Axis(key, [{}], "constant"))
                axes[-1].entries[0][key] = value
        self.look_for_clashes(axes, where)
        return axes

    def points(self, mapping: Mapping[str, Any], axes: list[_Axis], where: str) -> list[Spec]:
        """The product of the axes, the first the slowest, without what EXCLUDE removes."""
        if math.prod(len(axis.entries) for axis in axes) > MAX_POINTS:
            sizes = " x ".join(f"{len(axis.entries)} {axis.name}" for axis in axes if len(axis.entries) > 1)
            raise JobSpecError(f"more than {MAX_POINTS:,} grid points: {sizes}", where=where,
                               hint="split the job spec into several")
        points: list[Spec] = [{}]
        for axis, merge in _with_merges(axes):
            points = [merge(point, entry) for point in points for entry in axis.entries]
        return self.without_excluded(points, mapping.get("EXCLUDE", []), where)

    def sub_grids(self, raw: Any, where: str) -> list[Spec]:
        """The partial specs of a LIST: those of its items, one after another."""
        if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
            raise JobSpecError("LIST holds a list of sub-grids", where=where, allowed="a YAML list of mappings",
                               hint="start each item with a dash: `- {base_lr: 0.1, momentum: 0.9}`")
        if not raw:
            raise _empty(where)
        points: list[Spec] = []
        for number, item in enumerate(raw, 1):
            place = f"{where}, item {number}"
            points += self.points(item, self.axes(item, place), place)
        return points

    def zipped(self, raw: Any, where: str) -> list[Spec]:
        """The partial specs of a ZIP: its axes walked together, with its constants in each."""
        if not isinstance(raw, dict) or not raw:
            raise JobSpecError("ZIP holds axes of equal length", where=where, allowed="a YAML mapping of lists",
                               hint="as ZIP: {batch_size: [8, 32], base_lr: [0.1, 0.4]}")
        axes = self.axes(raw, where)
        sizes = {axis.name: len(axis.entries) for axis in axes if axis.kind != "constant"}
        if len(set(sizes.values())) > 1:
            lengths = ", ".join(f"{key} has {size}" for key, size in sizes.items())
            raise JobSpecError(f"the axes of a ZIP have equal length, but {lengths}", where=where)
        points: list[Spec] = [{} for _ in range(max(sizes.values(), default=1))]
        for axis, merge in _with_merges(axes):
            entries = axis.entries * len(points) if axis.kind == "constant" else axis.entries
            points = list(map(merge, points, entries))
        return self.without_excluded(points, raw.get("EXCLUDE", []), where)

    def values(self, raw: Any, where: str) -> list[Any] | None:
        """The values of an axis; None if `raw` is one value."""
        if isinstance(raw, str) and not expressions.is_mapping(raw) and expressions.is_expression(raw):
            raw = expressions.evaluate(raw, where)
        if not isinstance(raw, list):
            return None
        if not raw:
            raise _empty(where)
        return [self.constant(value, where, computed=True) for value in raw]

    def constant(self, raw: Any, where: str, computed: bool = False) -> Any:
        """One value; strings of the form dict(…) are mappings, and, unless `computed`, expressions are computed."""
        if isinstance(raw, str):
            if expressions.is_mapping(raw):
                raw = expressions.parse_mapping(raw, where)
            elif not computed and expressions.is_expression(raw):
                raw = expressions.evaluate(raw, where)
        if type(raw) in (Tagged, dict, list) and is_random(raw):
            from src.submission.spec import sampling  # few job specs draw anything

            sampling.check_random(raw, where)
            self.draws = True
        try:
            return self.known_as(raw)
        except TypeError as error:
            raise JobSpecError(str(error), where=where) from None

    def known_as(self, value: Any) -> Any:
        """The one object that stands for all values identical to this one."""
        return self.known.setdefault(comparison_key(value), value)

    def drawn(self, points: list[Spec], axes: list[_Axis], number: int | None, seed: int, draw: str,
              where: str) -> list[Spec]:
        """The points with what is to be drawn drawn, `number` of each of those where something is."""
        from src.submission.spec import sampling

        if number is None:
            raise JobSpecError("how many random points?", where=where,
                               hint="--samples 20, or `samples: 20` in job_details (run_cap in a sweep file)")
        random = sum(any(map(is_random, point.values())) for point in points)
        if number * random > MAX_POINTS:
            raise JobSpecError(f"more than {MAX_POINTS:,} grid points: {number} samples of {random}", where=where,
                               hint="ask for fewer samples")
        first: Spec = {}
        for axis, merge in _with_merges(axes):
            first = merge(first, axis.entries[0])
        return sampling.draw_points(points, first, number, seed, draw,
                                   lambda value: self.constant(value, where, computed=True))

    def look_for_clashes(self, axes: list[_Axis], where: str) -> None:
        givers: dict[str, _Axis] = {}
        for axis in axes:
            if axis.kind == "LIST":
                continue
            for key in axis.keys:
                if key in givers:
                    raise JobSpecError(f"'{key}' is given twice, by {givers[key].name} and by {axis.name}", where=where,
                                       hint="keep one of them")
                givers[key] = axis
        givers = {}
        for axis in axes:
            if axis.kind == "LIST":
                for key in axis.keys:
                    if key in givers:
                        self.warnings.append(f"{where}: {givers[key].name} and {axis.name} both give '{key}': the "
                                             f"later, {axis.name}, wins")
                    givers[key] = axis

    def without_excluded(self, points: list[Spec], raw: Any, where: str) -> list[Spec]:
        """The points that match no entry of an EXCLUDE."""
        where = f"{where}, EXCLUDE"
        if not isinstance(raw, list) or not all(isinstance(entry, dict) and entry for entry in raw):
            raise JobSpecError("EXCLUDE holds a list of partial specs", where=where, allowed="a YAML list of mappings",
                               hint="as EXCLUDE: [{batch_size: 2048, base_lr: [2, 4]}]")
        excluded: set[int] = set()
        for number, entry in enumerate(raw, 1):
            place = f"{where}, entry {number}"
            matches = self.matching(points, entry, place)
            if not matches and self.overridden.isdisjoint(entry):
                raise _matches_nothing(points, entry, place)
            if not matches:
                set_now = ", ".join(key for key in entry if key in self.overridden)
                self.warnings.append(f"{place}: matches nothing, now that {set_now} is set")
            excluded.update(matches)
        if not excluded:
            return points
        self.notes.append(f"{where} removes {len(excluded)} of {len(points)} grid points")
        return [point for index, point in enumerate(points) if index not in excluded]

    def matching(self, points: list[Spec], entry: Mapping[str, Any], where: str) -> list[int]:
        """The indices of the points that have one of the wanted values for each key of `entry`."""
        wanted: list[tuple[str, set[int]]] = []
        for key, raw in entry.items():
            if reserved_word(key, where):
                raise JobSpecError(f"'{key}' is no parameter", where=where, hint="EXCLUDE goes by parameters alone")
            place = f"{where}, {key}"
            values = self.values(raw, place) or [self.constant(raw, place)]
            numbers_alike = {comparison_key(value, by_value=True) for value in values}
            present = {id(point[key]): point[key] for point in points if key in point}
            if any(map(is_random, present.values())):
                raise JobSpecError(f"'{key}' is drawn, and EXCLUDE goes by listed values", where=where,
                                   hint="draw from less, or list its values")
            wanted.append((key, {name for name, value in present.items()
                                 if comparison_key(value, by_value=True) in numbers_alike}))
        return [index for index, point in enumerate(points)
                if all(id(point.get(key, _ABSENT)) in ids for key, ids in wanted)]


def _per_point(key: str, raw: Any, where: str) -> Any:
    """The value of a word of PER_POINT as it is kept in a spec: tags as a list."""
    if is_random(raw):
        raise JobSpecError(f"nothing is drawn for {key}", where=where, allowed="values as they are")
    if key in BOOKKEEPING:
        items = raw if isinstance(raw, list) else [raw]
        if not all(isinstance(item, str) for item in items):
            raise JobSpecError(f"{key} are strings", where=where, allowed="a string or a list of strings",
                               hint="a mapping of subtests stands right in parameters" if key == "SUBTESTS" else None)
        return items
    if key == "WORKERS" and (type(raw) is not int or raw < 1):
        raise JobSpecError(f"{raw!r} is no number of workers", where=where, allowed="a whole number from 1 on")
    if key == "SCRIPT" and not (isinstance(raw, str) and raw):
        raise JobSpecError("SCRIPT is the path of a submit script", where=where)
    if key == "SBATCH" and not (isinstance(raw, dict) and all(
            isinstance(option, str) and not isinstance(value, (list, dict)) for option, value in raw.items())):
        raise JobSpecError("SBATCH is a mapping of sbatch's options", where=where, hint="as {mem: 16G, gpus: 1}")
    return raw


def _empty(where: str) -> JobSpecError:
    return JobSpecError("an axis without values", where=where,
                        hint="give it values, or leave the key out; [null] is one null, [[]] one empty list")


def _matches_nothing(points: list[Spec], entry: Mapping[str, Any], where: str) -> JobSpecError:
    hint: str | None = "an EXCLUDE inside a LIST or ZIP sees the keys beside it alone"
    for key, raw in entry.items():
        values = list({id(point[key]): point[key] for point in points if key in point}.values())
        if not values:
            meant = nearest(key, {known for point in points for known in point})
            return JobSpecError(f"matches nothing: no grid point has '{key}'", where=where,
                                hint=f"did you mean '{meant}'?" if meant else hint)
        if isinstance(raw, (int, float, str)) and raw not in values:
            shown = ", ".join(map(repr, values[:10])) + (", …" if len(values) > 10 else "")
            return JobSpecError(f"matches nothing: '{key}' is never {raw!r}", where=where, allowed=shown)
    return JobSpecError("matches nothing", where=where, hint=hint)


def _over(point: Spec, entry: Spec) -> Spec:
    return {**point, **entry}


def _under(point: Spec, entry: Spec) -> Spec:
    return {**point, **entry, **point}


def _with_merges(axes: list[_Axis]) -> Iterable[tuple[_Axis, Callable[[Spec, Spec], Spec]]]:
    """Each axis with the way to add it to a point: what a LIST gave hides the same key outside, before or after it."""
    seen: set[str] = set()
    for axis in axes:
        keys = axis.keys
        yield axis, _over if axis.kind == "LIST" or seen.isdisjoint(keys) else _under
        seen.update(keys)


def _varying(points: list[Spec], axes: list[_Axis], drawn: set[str], composite: bool) -> list[str]:
    # what is constant in each grid of a composite may differ between them
    several = {key for axis in axes if composite or len(axis.entries) > 1 for key in axis.keys}
    candidates = several.difference(NOT_PARAMETERS) | drawn
    in_order = dict.fromkeys(key for axis in axes for key in axis.keys if key in candidates)
    first = points[0]
    return [key for key in in_order
            if any(point.get(key, _ABSENT) is not first.get(key, _ABSENT) for point in points)]


def _merge_equal(points: list[Spec], varying: list[str], where: str) -> list[Spec]:
    """The points without repetitions; the first of equal ones stays, with the tags of all."""
    numbers: dict[int, int] = {}  # id of a value -> a small number, to keep the keys of `kept` small
    kept: dict[tuple[int, ...], Spec] = {}
    for point in points:
        key = tuple([numbers.setdefault(id(point.get(name, _ABSENT)), len(numbers)) for name in varying])
        first = kept.setdefault(key, point)
        if first is not point:
            _unite(first, point, {name: point[name] for name in varying if name in point}, where)
    return list(kept.values())


def _unite(first: Spec, second: Spec, point: Spec, where: str) -> None:
    for word in PER_POINT:
        ours, theirs = first.get(word), second.get(word)
        if ours is theirs or word == "WORKERS":  # the workers of the first take it
            continue
        if word not in BOOKKEEPING:
            raise JobSpecError(f"equal grid points differ in {word}: {ours!r} and {theirs!r} for {point}", where=where,
                               hint=f"give them the same {word}, or leave one of the points out")
        first[word] = list(dict.fromkeys([*(ours or []), *(theirs or [])]))
