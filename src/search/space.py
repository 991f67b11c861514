"""The space of a search: its dimensions, the branches in which some of them exist, and random points."""
from __future__ import annotations

import bisect
import copy
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

FLOAT, INT, CHOICE = "float", "int", "choice"
KINDS = (FLOAT, INT, CHOICE)
DIGITS = 6  # significant digits of numbers: names of runs stay short, and the last bits differ between machines

Coordinate = float | int
Point = dict[str, Coordinate]  # the coordinate of each dimension and of each branching that the point has


@dataclass(frozen=True)
class Dimension:
    """One parameter that the search varies.

    name: unique in the space: the key, or LIST.1.ada_eps in alternative 1 of LIST
    key: of the parameter in specs
    kind: one of KINDS. The coordinate of a choice is an index, of all others it is the number itself
    low, high: both inclusive
    log: the logarithm is uniform
    step: numbers are multiples of it, beginning with `low`; None for a float without steps and for a choice
    choices, weights: the values, and their probabilities in random points; without weights they are equal
    path: keys and indices that lead to the place inside the parameter's value; empty if it is the whole value
    is_ordered: neighbors among the choices are alike, which TPE and Gaussian processes use. It follows from choices,
      and is not compared: searches of earlier versions do not have it, and go on without
    """

    name: str
    key: str
    kind: str
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    weights: tuple[float, ...] = ()
    path: tuple[str | int, ...] = ()
    is_ordered: bool = field(default=False, compare=False)

    def value(self, coordinate: Coordinate) -> Any:
        """Return the value of the parameter at a coordinate."""
        return self.choices[int(coordinate)] if self.kind == CHOICE else coordinate

    def at(self, probability: float) -> Coordinate:
        """Return the coordinate at a cumulative probability in (0, 1)."""
        if self.kind == CHOICE:
            return _index_at(probability, len(self.choices), self.weights)
        low, high = self._scaled_bounds()
        number = low + probability * (high - low)
        return self.snap(math.exp(number) if self.log else number)

    def probability(self, number: Coordinate) -> float:
        """Return the cumulative probability of a coordinate: the inverse of `at`, for numbers."""
        low, high = self._scaled_bounds()
        return ((math.log(number) if self.log else number) - low) / (high - low) if low < high else 0.5

    def _scaled_bounds(self) -> tuple[float, float]:
        """The bounds on the scale on which numbers are uniform; each integer has an interval of the same width."""
        margin = 0.5 if self.kind == INT else 0.0
        low, high = self.low - margin, self.high + margin
        return (math.log(low), math.log(high)) if self.log else (low, high)

    def snap(self, number: float) -> Coordinate:
        """Return the number as the space has it: within its bounds, at a step, with DIGITS significant digits."""
        if self.step:
            number = self.low + round((number - self.low) / self.step) * self.step
            if number > self.high + 1e-9 * self.step:
                number -= self.step
        if self.kind == INT:
            return int(min(max(round(number), self.low), self.high))
        width, size = self.high - self.low, max(abs(self.low), abs(self.high))
        digits = DIGITS + (max(0, math.floor(math.log10(size / width))) if width and size and not self.log else 0)
        return float(min(max(float(f"{number:.{digits}g}"), self.low), self.high))


@dataclass(frozen=True)
class Branching:
    """A choice between several spaces, as LIST is; its coordinate is the index of one of them."""

    name: str
    alternatives: tuple[Space, ...]


Choose = Callable[[Dimension | Branching], Coordinate]


@dataclass(frozen=True)
class Space:
    """Constant parameters, dimensions, and branchings with further ones.

    constants: by key. A parameter with dimensions inside its value has None at their places
    """

    constants: Mapping[str, Any] = field(default_factory=dict)
    dimensions: tuple[Dimension, ...] = ()
    branchings: tuple[Branching, ...] = ()

    def fill(self, choose: Choose) -> Point:
        """Return a point: `choose` is called for each dimension and branching that the point has, outer ones first."""
        point: Point = {item.name: choose(item) for item in self.dimensions}
        for branching in self.branchings:
            index = int(choose(branching))
            point[branching.name] = index
            point.update(branching.alternatives[index].fill(choose))
        return point

    def draw(self, seed: int, trial: int) -> Point:
        """Return the random point of a trial: a hash of seed, name and trial number, the same on every machine."""
        def choose(item: Dimension | Branching) -> Coordinate:
            probability = _probability(seed, item.name, trial)
            if isinstance(item, Branching):
                return _index_at(probability, len(item.alternatives))
            return item.at(probability)

        return self.fill(choose)

    def to_spec(self, point: Mapping[str, Coordinate]) -> dict[str, Any]:
        """Return the parameters of a point."""
        spec = dict(self.constants)
        for dimension in self.dimensions:
            value = dimension.value(point[dimension.name])
            spec[dimension.key] = _replaced(spec[dimension.key], dimension.path, value) if dimension.path else value
        for branching in self.branchings:
            spec.update(branching.alternatives[int(point[branching.name])].to_spec(point))
        return spec

    def walk(self) -> Iterator[Dimension | Branching]:
        """Yield all dimensions and branchings, also those inside alternatives."""
        yield from self.dimensions
        for branching in self.branchings:
            yield branching
            for alternative in branching.alternatives:
                yield from alternative.walk()

    def is_random(self) -> bool:
        """Return whether there is anything to search."""
        return bool(self.dimensions or self.branchings)

    def to_json(self) -> dict[str, Any]:
        """Return the space as a JSON value."""
        return {"constants": dict(self.constants),
                "dimensions": [_without_defaults(dimension) for dimension in self.dimensions],
                "branchings": [{"name": branching.name,
                                "alternatives": [alternative.to_json() for alternative in branching.alternatives]}
                               for branching in self.branchings]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Space:
        """Return the space of a JSON value. KeyError, TypeError or ValueError if it is not one."""
        dimensions = tuple(_dimension(item) for item in value["dimensions"])
        branchings = tuple(Branching(item["name"], tuple(map(cls.from_json, item["alternatives"])))
                           for item in value["branchings"])
        return cls(dict(value["constants"]), dimensions, branchings)


def _dimension(value: Mapping[str, Any]) -> Dimension:
    lists = {key: tuple(value[key]) for key in ("choices", "weights", "path") if key in value}
    dimension = Dimension(**{**value, **lists})
    if dimension.kind not in KINDS or dimension.kind == CHOICE and not dimension.choices or (
            dimension.log and dimension.kind != CHOICE and dimension.low <= 0) or dimension.low > dimension.high:
        raise ValueError(f"invalid dimension {dimension.name!r}")
    return dimension


def _without_defaults(dimension: Dimension) -> dict[str, Any]:
    defaults = Dimension("", "", "")
    return {key: value for key, value in vars(dimension).items() if value != getattr(defaults, key)}


def _index_at(probability: float, count: int, weights: tuple[float, ...] = ()) -> int:
    if not weights:
        return min(int(probability * count), count - 1)
    last = max(index for index, weight in enumerate(weights) if weight)  # for a sum slightly below 1
    return min(bisect.bisect_right(list(itertools.accumulate(weights)), probability), last)


def _probability(seed: int, name: str, trial: int) -> float:
    """Return a number in (0, 1) that depends on nothing but the arguments."""
    import hashlib  # imported on demand: loads OpenSSL, which few commands need

    digest = hashlib.blake2b(json.dumps([seed, name, trial]).encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) * 2.0**-52


def _replaced(container: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """Return a copy of nested lists and mappings with another value at one place."""
    if not path:
        return value
    result = copy.copy(container)
    result[path[0]] = _replaced(container[path[0]], path[1:], value)
    return result
