"""Random points of a grid: values of !uniform and its siblings, as a hash of seed, key and sample number alone."""
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

DIGITS = 6  # significant digits of drawn numbers: names stay short, and the last bits differ between machines
QUANTIZED = "q_"  # prefix of the tag of W&B's quantised distributions, whose whole values are integers

Quantile = Callable[[float], Any]  # the inverse of a cumulative distribution function, on (0, 1)

# the numbers of each tag, in the order of its list; all but int_uniform and choice accept q, too
_NUMBERS = {"uniform": ("min", "max"), "loguniform": ("min", "max"), "int_uniform": ("min", "max"),
            "normal": ("mu", "sigma"), "lognormal": ("mu", "sigma"), "beta": ("a", "b")}


def check_random(value: Any, where: str) -> None:
    """Raise JobSpecError if a distribution in the value is invalid."""
    _replace_tags(value, [], lambda tagged, path: quantile_function(tagged, where))


def draw_points(points: Sequence[dict[str, Any]], first: Mapping[str, Any], samples: int, seed: int, draw: str,
                deduplicate: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """Return each random point `samples` times with drawn values, and each other point once. Samples vary slowest.

    first: the first point; a drawn value depends on the seed, its key, the sample number and, unless draw is
        "shared", on the listed values by which its point differs from `first`. So more samples, more values of an axis
        or another constant leave the values of existing points unchanged;
    deduplicate: returns the one object that stands for all values equal to its argument.
    """
    quantiles: dict[int, Quantile] = {}

    def draw_value(number: int, point_id: str, tagged: Tagged, path: Sequence[str]) -> Any:
        if id(tagged) not in quantiles:
            quantiles[id(tagged)] = quantile_function(tagged, path[0])
        return quantiles[id(tagged)](draw_probability(seed, path, number, point_id))

    prepared = [(point, [key for key, value in point.items() if is_random(value)],
                 "" if draw == "shared" else _differences(point, first)) for point in points]
    result = []
    for number in range(samples):
        for point, keys, point_id in prepared:
            if keys:
                draw_here = functools.partial(draw_value, number, point_id)
                drawn = {key: deduplicate(_replace_tags(point[key], [key], draw_here)) for key in keys}
                result.append({**point, **drawn})
            elif number == 0:
                result.append(point)
    return result


def draw_probability(seed: int, path: Sequence[str], number: int, point_id: str = "") -> float:
    """Return the cumulative probability, in (0, 1), at which a value is drawn.

    path: the key, and the keys within its value;
    number: of the sample;
    point_id: distinguishes the points of one sample.
    """
    import hashlib  # imported on demand: few job specs draw anything

    digest = hashlib.blake2b(json.dumps([seed, *path, number, point_id]).encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) * 2.0**-52


def quantile_function(tagged: Tagged, where: str) -> Quantile:
    """Return the quantile function of a distribution. JobSpecError if its numbers are invalid.

    With q, values are rounded to multiples of q. They are integers if q is one; of QUANTIZED tags, all whole values are
    integers.
    """
    if is_random(tagged.value):
        raise JobSpecError(f"{tagged!r}: a distribution cannot contain another one", where=where,
                           hint="use LIST for sub-grids")
    if tagged.tag == "choice":
        return _choice(tagged, where)
    tag = tagged.tag.removeprefix(QUANTIZED)
    values = numbers(tagged, where)
    first, second = (values[name] for name in _NUMBERS[tag])
    if tag == "int_uniform":
        return lambda probability: first + int(probability * (second - first + 1))
    exact = _exact_quantile(tag, first, second)
    if "q" in values:
        q = values["q"]
        if tag != tagged.tag:
            return lambda probability: integer_if_whole(_round(round(exact(probability) / q) * q))
        return lambda probability: _round(round(exact(probability) / q) * q)
    if tag not in ("uniform", "loguniform"):
        extra_digits = _extra_digits(first, second) if tag == "normal" else 0
        return lambda probability: _round(exact(probability), extra_digits)
    extra_digits = _extra_digits(max(abs(first), abs(second)), second - first)
    return lambda probability: float(min(max(_round(exact(probability), extra_digits), first), second))


def _exact_quantile(tag: str, first: float, second: float) -> Callable[[float], float]:
    """Return the quantile function of a tag without rounding. first, second: the tag's numbers, in order."""
    if tag == "uniform":
        return lambda probability: first + probability * (second - first)
    if tag == "loguniform":
        return lambda probability: math.exp(math.log(first) + probability * (math.log(second) - math.log(first)))
    if tag == "beta":
        return lambda probability: _beta_quantile(probability, first, second)
    from statistics import NormalDist  # imported on demand: start-up time on a login node

    standard = NormalDist()
    if tag == "normal":
        return lambda probability: first + second * standard.inv_cdf(probability)
    return lambda probability: math.exp(first + second * standard.inv_cdf(probability))


def integer_if_whole(value: Any) -> Any:
    """Return a whole float as an integer, and anything else unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _round(value: float, extra_digits: int = 0) -> float:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS + extra_digits}g}")


def _extra_digits(size: float, width: float) -> int:
    """Return the number of additional digits that show a width in numbers of a size: 3 for 5000 to 5001."""
    return max(0, math.floor(math.log10(abs(size) / width))) if size and width else 0


def choices(tagged: Tagged, where: str) -> tuple[list[Any], list[float] | None]:
    """Return the values of !choice and their probabilities, None if they are equal. JobSpecError if it is invalid."""
    raw = _evaluate(tagged.value, where)
    values, weights = raw, None
    if isinstance(raw, dict) and raw.keys() <= {"values", "probabilities"}:
        values, weights = _evaluate(raw.get("values"), where), raw.get("probabilities")
    if not isinstance(values, list) or not values:
        raise JobSpecError(f"{tagged!r} has no values", where=where, hint="for example !choice [sgd, adam]",
                           allowed="a list of values, or {values: […], probabilities: […]}")
    if weights is not None and (not isinstance(weights, list) or len(weights) != len(values) or not all(
            is_finite_number(weight) and weight >= 0 for weight in weights) or abs(sum(weights) - 1) > 1e-5):
        raise JobSpecError(f"invalid probabilities {weights!r} of {len(values)} values", where=where,
                           allowed="a number from 0 for each value, with the sum 1")
    return values, weights


def _choice(tagged: Tagged, where: str) -> Quantile:
    """Return the quantile function of !choice: values with equal or given probabilities."""
    values, weights = choices(tagged, where)
    if weights is None:
        return lambda probability: values[int(probability * len(values))]
    limits = list(itertools.accumulate(weights))
    last = max(index for index, weight in enumerate(weights) if weight)  # for a sum slightly below 1
    return lambda probability: values[min(bisect.bisect_right(limits, probability), last)]


def numbers(tagged: Tagged, where: str) -> dict[str, Any]:
    """Return the numbers of a distribution by name: min and max of !uniform. JobSpecError if they are invalid."""
    tag = tagged.tag.removeprefix(QUANTIZED)
    names = _NUMBERS[tag]
    accepted = names if tag == "int_uniform" else (*names, "q")
    raw = _evaluate(tagged.value, where)
    form = f"!{tag} [{', '.join(names)}], or {{{', '.join(f'{name}: …' for name in accepted)}}}"
    if isinstance(raw, list) and len(raw) == len(names):
        raw = dict(zip(names, raw, strict=True))
    if not isinstance(raw, dict) or not all(name in raw for name in names):
        raise JobSpecError(f"{tagged!r} needs {' and '.join(names)}", where=where, allowed=form)
    for name, value in raw.items():
        if name not in accepted:
            raise JobSpecError(f"!{tag} has no key '{name}'", where=where, allowed=form,
                               hint=did_you_mean(str(name), accepted))
        if not is_finite_number(value):
            raise JobSpecError(f"invalid {name} {value!r} of !{tag}", where=where, allowed="a number")
    if problem := _find_problem(tag, raw):
        raise JobSpecError(f"invalid distribution {tagged!r}: {problem}", where=where)
    return {name: int(value) for name, value in raw.items()} if tag == "int_uniform" else raw


def _find_problem(tag: str, numbers: Mapping[str, float]) -> str | None:
    """Return what is wrong with the numbers of a tag; None if they are valid."""
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


def _evaluate(raw: Any, where: str) -> Any:
    return expressions.evaluate(raw, where) if isinstance(raw, str) and expressions.is_expression(raw) else raw


def _replace_tags(value: Any, path: list[str], replace: Callable[[Tagged, Sequence[str]], Any]) -> Any:
    """Return the value with each distribution in it replaced by the result of `replace(tagged, path)`."""
    if isinstance(value, Tagged):
        return replace(value, path)
    if isinstance(value, dict):
        return {key: _replace_tags(item, [*path, str(key)], replace) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_tags(item, [*path, str(index)], replace) for index, item in enumerate(value)]
    return value


def _differences(point: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """Return, as text, the parameters of a point that differ from the first point. Equal values are one object."""
    keys = sorted(key for key in {*point, *first} - NOT_PARAMETERS
                  if (key in point) != (key in first) or point.get(key) is not first.get(key))
    return "\n".join(f"{key}: {yaml_io.dump_value(point[key])}" if key in point else key for key in keys)


def _beta_quantile(probability: float, a: float, b: float) -> float:
    """Invert the regularised incomplete beta function by bisection."""
    low, high = 0.0, 1.0
    while high - low > 1e-9 * high and high > 1e-300:
        middle = (low + high) / 2
        low, high = (middle, high) if _incomplete_beta(middle, a, b) < probability else (low, middle)
    return (low + high) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b): continued fraction (DLMF 8.17.22), Lentz's method."""
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below
        return 1 - _incomplete_beta(1 - x, b, a)
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
