"""From the parameters of a job spec to the ordered specs of its grid: subtests, random points, equal points."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from src.config import BOOKKEEPING, INDEPENDENT_FIELDS, NOT_PARAMETERS, PER_POINT
from src.errors import JobSpecError
from src.io import yaml_io
from src.submission.spec.expansion import ABSENT, Axis, Expansion, SubGrid, with_merges
from src.submission.spec.grammar import MAX_POINTS, Spec, is_random

if TYPE_CHECKING:
    from src.submission.spec.job_spec import JobSpec


class Grid(NamedTuple):
    """The specs of a batch, in the order of the file. Equal values are one object in all specs: do not change them.

    axes: (key, number of distinct entries) of each axis with more than one; empty for a composite, which is a job spec
        with SUBTESTS; for random points, their number per listed point comes first;
    varying: the parameters that differ between specs, in the order of the file;
    notes, warnings: sentences for the user.
    """

    specs: list[Spec]
    axes: list[tuple[str, int]]
    varying: list[str]
    notes: list[str]
    warnings: list[str]


class _Sampling(NamedTuple):
    """The settings of random points: their number per listed point, the seed, and a mode of DRAW_MODES."""

    samples: int | None
    seed: int
    draw: str


def expand_job_spec(job_spec: JobSpec, overrides: Mapping[str, Any] | None = None,
                    check: Callable[[Spec, str], object] | None = None, samples: int | None = None,
                    seed: int | None = None) -> Grid:
    """Expand the parameters of a job spec; samples and seed override its own (see expand_parameters)."""
    return expand_parameters(job_spec.parameters, job_spec.source, overrides, check,
                             job_spec.samples if samples is None else samples,
                             job_spec.seed if seed is None else seed, job_spec.draw)


def expand_parameters(parameters: Mapping[str, Any], where: str, overrides: Mapping[str, Any] | None = None,
                      check: Callable[[Spec, str], object] | None = None, samples: int | None = None, seed: int = 0,
                      draw: str = "per_point") -> Grid:
    """Expand parameters to a grid; docs/job-spec.md describes the grammar. JobSpecError if it is violated.

    where: prefix of messages;
    overrides: YAML values that replace a key's value wherever it is; every spec then has the key;
    check: `check(spec, where)` raises for a spec that cannot run; see _check_specs for which it is called;
    samples, seed, draw: number of random points per listed point, and how they are drawn (sampling.py).
    """
    overrides = overrides or {}
    expansion = Expansion(frozenset(overrides))
    try:
        grids, is_composite = _expand_grids(expansion, parameters, overrides, where)
    except RecursionError:
        raise JobSpecError("nested too deeply, or an anchor that contains itself", where=where) from None
    if not any(grid.points for grid in grids):
        raise JobSpecError("EXCLUDE removes every grid point", where=where)
    axes = [axis for grid in grids for axis in grid.axes]
    sizes = [(axis.name, axis.count_distinct()) for axis in axes if len(axis.entries) > 1 and not is_composite]
    drawn_keys = _random_keys(grids) if expansion.has_random else set()
    if drawn_keys:
        sampling = _Sampling(samples, seed, draw)
        grids = [SubGrid(grid.axes, _draw(expansion, grid, sampling, where)) for grid in grids]
        sizes.insert(0, ("samples", samples or 0))
    elif samples is not None:
        expansion.warnings.append(f"{where}: samples have no effect: no parameter is random, as with !uniform [0, 1]")
    points = [point for grid in grids for point in grid.points]
    varying = _find_varying(points, axes, drawn_keys, is_composite)
    specs = _merge_equal(points, varying, where)
    if len(specs) < len(points):
        expansion.notes.append(f"{len(points)} grid points are {len(specs)} different ones: equal points were merged")
    if check:
        _check_specs(specs, varying, check, where)
    return Grid(specs, sizes, varying, expansion.notes, expansion.warnings)


def _check_specs(specs: Sequence[Spec], varying: Sequence[str], check: Callable[[Spec, str], object], where: str
                 ) -> None:
    """Call `check` for each spec with a new combination of parameters, or a new value of one of INDEPENDENT_FIELDS.

    Equal values of a grid are one object, so that their ids are compared.
    """
    combined = [name for name in varying if name not in INDEPENDENT_FIELDS]
    independent = [name for name in varying if name in INDEPENDENT_FIELDS]
    checked: set[object] = set()
    for spec in specs:
        aspects = [tuple([id(spec.get(name, ABSENT)) for name in combined]),
                   *[(name, id(spec.get(name, ABSENT))) for name in independent]]
        if not checked.issuperset(aspects):
            check(spec, where)
            checked.update(aspects)


def spec_texts(specs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the text of each spec's file, as yaml_io.dump_flat writes it; lines that specs share are made once.

    Values are compared by id: they must stay alive and unchanged until the last text is made.
    """
    lines: dict[str, dict[int, str]] = {}
    for spec in specs:
        text = []
        for key, value in spec.items():
            cached_lines = lines.setdefault(key, {})
            line = cached_lines.get(id(value))
            if line is None:
                line = cached_lines[id(value)] = yaml_io.dump_flat({key: value})
            text.append(line)
        yield "".join(text) or yaml_io.dump_flat({})


def _expand_grids(expansion: Expansion, parameters: Mapping[str, Any], overrides: Mapping[str, Any],
                  where: str) -> tuple[list[SubGrid], bool]:
    """Return (grids, is_composite): one grid per subtest and True if there are subtests, else one grid and False.

    Points that the EXCLUDE of the base removes are missing from the grids of the subtests.
    """
    parts = []
    if overrides or "SUBTESTS" in parameters or "subtests" in parameters:
        from src.submission.spec import subtests  # imported on demand: few job specs have them

        parameters = subtests.apply_overrides(parameters, overrides)
        parts = subtests.split_subtests(parameters, where)
    if not parts:
        return [expansion.grid(parameters, where)], False
    grids = [expansion.grid(part.parameters, part.where) for part in parts]
    points = [point for grid in grids for point in grid.points]
    if len(points) > MAX_POINTS:
        raise JobSpecError(f"more than {MAX_POINTS:,} grid points in {len(parts)} subtests", where=where,
                           hint="split the job spec into several")
    remaining = set(map(id, expansion.remove_excluded(points, parameters.get("EXCLUDE", []), where)))
    return [SubGrid(grid.axes, [point for point in grid.points if id(point) in remaining]) for grid in grids], True


def _random_keys(grids: Sequence[SubGrid]) -> set[str]:
    """Return the keys with a random value in any point; a LIST may override all random values."""
    return {key for grid in grids for point in grid.points for key, value in point.items() if is_random(value)}


def _draw(expansion: Expansion, grid: SubGrid, options: _Sampling, where: str) -> list[Spec]:
    """Return the points of a grid with random values drawn: each random point `samples` times."""
    from src.submission.spec import sampling  # imported on demand: few job specs draw anything

    if options.samples is None:
        raise JobSpecError("random parameters need a number of samples", where=where,
                           hint="--samples 20, or `samples: 20` in job_details (run_cap in a sweep file)")
    random_points = sum(any(map(is_random, point.values())) for point in grid.points)
    if options.samples * random_points > MAX_POINTS:
        raise JobSpecError(f"more than {MAX_POINTS:,} grid points: {options.samples} samples of {random_points}",
                           where=where, hint="request fewer samples")
    first: Spec = {}
    for axis, merge in with_merges(grid.axes):
        first = merge(first, axis.entries[0])
    return sampling.draw_points(grid.points, first, options.samples, options.seed, options.draw,
                                lambda value: expansion.constant(value, where, is_computed=True))


def _find_varying(points: list[Spec], axes: list[Axis], drawn_keys: set[str], is_composite: bool) -> list[str]:
    """Return the parameters that differ between points, in the order of the file."""
    # what is constant in each grid of a composite may differ between them
    candidates = {key for axis in axes if is_composite or len(axis.entries) > 1 for key in axis.keys}
    candidates = candidates.difference(NOT_PARAMETERS) | drawn_keys
    in_order = dict.fromkeys(key for axis in axes for key in axis.keys if key in candidates)
    first = points[0]
    return [key for key in in_order
            if any(point.get(key, ABSENT) is not first.get(key, ABSENT) for point in points)]


def _merge_equal(points: list[Spec], varying: list[str], where: str) -> list[Spec]:
    """Return the points without duplicates: the first of equal ones remains, with the tags of all."""
    numbers: dict[int, int] = {}  # value id -> a small number, which keeps the keys of `distinct` small
    distinct: dict[tuple[int, ...], Spec] = {}
    for point in points:
        key = tuple([numbers.setdefault(id(point.get(name, ABSENT)), len(numbers)) for name in varying])
        first = distinct.setdefault(key, point)
        if first is not point:
            _add_bookkeeping(first, point, {name: point[name] for name in varying if name in point}, where)
    return list(distinct.values())


def _add_bookkeeping(first: Spec, second: Spec, point: Spec, where: str) -> None:
    """Add the tags of an equal point to the first one. JobSpecError if they differ in how they run."""
    for word in PER_POINT:
        ours, theirs = first.get(word), second.get(word)
        if ours is theirs or word == "WORKERS":  # the workers of the first run it
            continue
        if word not in BOOKKEEPING:
            raise JobSpecError(f"equal grid points differ in {word}: {ours!r} and {theirs!r} for {point}", where=where,
                               hint=f"use the same {word}, or remove one of the points")
        first[word] = list(dict.fromkeys([*(ours or []), *(theirs or [])]))
