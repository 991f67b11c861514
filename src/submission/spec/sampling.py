"""Random points of a grid: what !uniform and its siblings stand for, drawn by a hash of seed, key and number alone."""
from __future__ import annotations

import bisect
import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from src.config import NOT_PARAMETERS
from src.errors import JobSpecError, did_you_mean
from src.io import yaml_io
from src.io.yaml_io import Tagged
from src.submission.spec import expressions
from src.submission.spec.grammar import is_random

DIGITS = 6  # of a drawn number: names stay short, and last bits differ between machines

Quantile = Callable[[float], Any]  # from a share of the probability, in (0, 1), to the value below which it lies

# the numbers that each tag takes, in the order of its list; all but int_uniform and choice take q, too
_NUMBERS = {"uniform": ("min", "max"), "loguniform": ("min", "max"), "int_uniform": ("min", "max"),
            "normal": ("mu", "sigma"), "lognormal": ("mu", "sigma"), "beta": ("a", "b")}


def check_random(value: Any, where: str) -> None:
    """JobSpecError if something in a value cannot be drawn as it is written."""
    _fill(value, [], lambda tagged, path: quantile_function(tagged, where))


def draw_points(points: Sequence[dict[str, Any]], first: Mapping[str, Any], samples: int, seed: int, draw: str,
                known: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The points `samples` times, with what is to be drawn drawn; points without any stand once. Samples are slowest.

    A value depends on seed, its key, the number of the sample, and, unless draw is shared, on how its point differs
    from `first` in what is listed. So neither more samples, nor more values of an axis, nor another constant change the
    values of the points that were there before. known: the object that stands for all values equal to its argument.
    """
    quantiles: dict[int, Quantile] = {}

    def drawn(number: int, place: str, tagged: Tagged, path: Sequence[str]) -> Any:
        if id(tagged) not in quantiles:
            quantiles[id(tagged)] = quantile_function(tagged, path[0])
        return quantiles[id(tagged)](draw_probability(seed, path, number, place))

    prepared = [(point, [key for key, value in point.items() if is_random(value)],
                 "" if draw == "shared" else _difference(point, first)) for point in points]
    result = []
    for number in range(samples):
        for point, keys, place in prepared:
            if keys:
                here = functools.partial(drawn, number, place)
                result.append({**point, **{key: known(_fill(point[key], [key], here)) for key in keys}})
            elif number == 0:
                result.append(point)
    return result


def draw_probability(seed: int, path: Sequence[str], number: int, place: str = "") -> float:
    """The share of the probability, in (0, 1), at which the value of a key is drawn for a sample.

    path: the key, and those within its value; place: tells the points of one sample apart.
    """
    import hashlib  # few job specs draw anything

    digest = hashlib.blake2b(json.dumps([seed, *path, number, place]).encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) * 2.0**-52


def quantile_function(tagged: Tagged, where: str) -> Quantile:
    """How to draw from what a tag stands for. JobSpecError if its numbers are not what it takes.

    Of distributions with q, the nearest multiple of q: a whole number if q is one.
    """
    if is_random(tagged.value):
        raise JobSpecError(f"{tagged!r} draws from what is drawn itself", where=where, hint="use LIST for sub-grids")
    if tagged.tag == "choice":
        return _choice(tagged, where)
    numbers = _numbers(tagged, where)
    one, other = (numbers[name] for name in _NUMBERS[tagged.tag])
    q = numbers.get("q")
    if tagged.tag == "int_uniform":
        return lambda probability: one + int(probability * (other - one + 1))
    exact = _exact(tagged.tag, one, other)
    if q is not None:
        return lambda probability: _tidy(round(exact(probability) / q) * q)
    if tagged.tag not in ("uniform", "loguniform"):
        more = _digits(one, other) if tagged.tag == "normal" else 0
        return lambda probability: _tidy(exact(probability), more)
    more = _digits(max(abs(one), abs(other)), other - one)
    return lambda probability: float(min(max(_tidy(exact(probability), more), one), other))


def _exact(tag: str, one: float, other: float) -> Callable[[float], float]:
    """The inverse of a distribution's cumulative function, with the numbers of its tag in order."""
    if tag == "uniform":
        return lambda probability: one + probability * (other - one)
    if tag == "loguniform":
        return lambda probability: math.exp(math.log(one) + probability * (math.log(other) - math.log(one)))
    if tag == "beta":
        return lambda probability: _beta_quantile(probability, one, other)
    from statistics import NormalDist

    standard = NormalDist()
    if tag == "normal":
        return lambda probability: one + other * standard.inv_cdf(probability)
    return lambda probability: math.exp(one + other * standard.inv_cdf(probability))


def _tidy(value: float, more: int = 0) -> float:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS + more}g}")


def _digits(size: float, width: float) -> int:
    """How many digits more it takes to see a width on numbers of a size: 3 for 5000 to 5001."""
    return max(0, math.floor(math.log10(abs(size) / width))) if size and width else 0


def _choice(tagged: Tagged, where: str) -> Quantile:
    """One of some values, alike or with probabilities."""
    raw = _evaluated(tagged.value, where)
    values, weights = raw, None
    if isinstance(raw, dict) and raw.keys() <= {"values", "probabilities"}:
        values, weights = _evaluated(raw.get("values"), where), raw.get("probabilities")
    if not isinstance(values, list) or not values:
        raise JobSpecError(f"{tagged!r} has nothing to choose from", where=where, hint="as !choice [sgd, adam]",
                           allowed="a list of values, or {values: […], probabilities: […]}")
    if weights is None:
        return lambda probability: values[int(probability * len(values))]
    if not isinstance(weights, list) or len(weights) != len(values) or not all(
            is_finite_number(weight) and weight >= 0 for weight in weights) or abs(sum(weights) - 1) > 1e-5:
        raise JobSpecError(f"{weights!r} are not the probabilities of {len(values)} values", where=where,
                           allowed="a number from 0 on for each value, with the sum 1")
    limits = list(itertools.accumulate(weights))
    last = max(index for index, weight in enumerate(weights) if weight)  # where the sum is a little less than 1
    return lambda probability: values[min(bisect.bisect_right(limits, probability), last)]


def _numbers(tagged: Tagged, where: str) -> dict[str, Any]:
    """The numbers of a tag by name, checked."""
    names = _NUMBERS[tagged.tag]
    optional = () if tagged.tag == "int_uniform" else ("q",)
    raw = _evaluated(tagged.value, where)
    form = f"!{tagged.tag} [{', '.join(names)}], or {{{', '.join(f'{name}: …' for name in (*names, *optional))}}}"
    if isinstance(raw, list) and len(raw) == len(names):
        raw = dict(zip(names, raw, strict=True))
    if not isinstance(raw, dict) or not all(name in raw for name in names):
        raise JobSpecError(f"{tagged!r} does not say {' and '.join(names)}", where=where, allowed=form)
    for name, value in raw.items():
        if name not in (*names, *optional):
            raise JobSpecError(f"!{tagged.tag} has no '{name}'", where=where, allowed=form,
                               hint=did_you_mean(str(name), (*names, *optional)))
        if not is_finite_number(value):
            raise JobSpecError(f"{name} of !{tagged.tag} is {value!r}", where=where, allowed="a number")
    if wrong := _wrong(tagged.tag, raw):
        raise JobSpecError(f"{tagged!r} cannot be drawn from: {wrong}", where=where)
    return {name: int(value) for name, value in raw.items()} if tagged.tag == "int_uniform" else raw


def _wrong(tag: str, numbers: Mapping[str, float]) -> str | None:
    """What is wrong with numbers of a tag, if anything is."""
    if "min" in numbers and not numbers["min"] < numbers["max"]:
        return "min is not below max"
    if tag == "loguniform" and not numbers["min"] > 0:
        return "min is not above 0"
    if tag == "int_uniform" and not all(float(value).is_integer() for value in numbers.values()):
        return "min and max are not whole numbers"
    if numbers.get("sigma", 0) < 0:
        return "sigma is below 0"
    if tag == "beta" and not min(numbers["a"], numbers["b"]) > 0:
        return "a and b are not above 0"
    return "q is not above 0" if not numbers.get("q", 1) > 0 else None


def is_finite_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _evaluated(raw: Any, where: str) -> Any:
    return expressions.evaluate(raw, where) if isinstance(raw, str) and expressions.is_expression(raw) else raw


def _fill(value: Any, path: list[str], drawn: Callable[[Tagged, Sequence[str]], Any]) -> Any:
    """The value with `drawn` of everything in it that is to be drawn."""
    if isinstance(value, Tagged):
        return drawn(value, path)
    if isinstance(value, dict):
        return {key: _fill(item, [*path, str(key)], drawn) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, [*path, str(place)], drawn) for place, item in enumerate(value)]
    return value


def _difference(point: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """What a listed point has otherwise than the first, as text; equal values are one object in both."""
    keys = sorted(key for key in {*point, *first} - NOT_PARAMETERS
                  if (key in point) != (key in first) or point.get(key) is not first.get(key))
    return "\n".join(f"{key}: {yaml_io.dump_value(point[key])}" if key in point else key for key in keys)


def _beta_quantile(probability: float, a: float, b: float) -> float:
    """Where the regularised incomplete beta function is `probability`, by bisection."""
    low, high = 0.0, 1.0
    while high - low > 1e-9 * high and high > 1e-300:
        middle = (low + high) / 2
        low, high = (middle, high) if _beta_below(middle, a, b) < probability else (low, middle)
    return (low + high) / 2


def _beta_below(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b): its continued fraction (DLMF 8.17.22), by Lentz's method."""
    if x > (a + 1) / (a + b + 2):  # it converges fast below
        return 1 - _beta_below(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    numerator, denominator = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    result = denominator
    for m in range(1, 500):
        for term in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                     -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            numerator, denominator = 1 + term / numerator, 1 / (1 + term * denominator)
            result *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-12:
            break
    return front * result
