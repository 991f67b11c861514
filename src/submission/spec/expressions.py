"""Evaluate values written as Python, as `[x / 10 for x in 2.0 ** np.arange(-6, 3)]`, safely and without numpy."""
from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from src.errors import JobSpecError

MAX_LENGTH = 10_000  # characters of an expression
MAX_DEPTH = 50  # of nesting
MAX_STEPS = 1_000_000  # nodes evaluated and elements made: a fraction of a second
MAX_ELEMENTS = 100_000  # of one list
MAX_BITS = 1024  # of a whole number
ALLOWED = ("numbers, + - * / // % **, comparisons, comprehensions, range, list, float, int, round, min, max, "
           "np.arange, np.linspace, np.logspace, np.geomspace")

_STARTS = ("[", "range(", "list(", "np.")
_MAY_CALL = re.compile(r"\b(?:range|list)\s*\(|\bnp\s*\.")


class Array(list[Any]):
    """Numbers of one type with elementwise arithmetic, as in numpy."""


def is_expression(text: str) -> bool:
    """Return whether a string is evaluated: it begins like Python, or calls range, list or np.*."""
    text = text.strip()
    if text.startswith(_STARTS):
        return True
    if not _MAY_CALL.search(text):
        return False
    try:
        tree = _parse(text)
    except _Refused:
        return False
    called = (_function_name(node) for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(name in ("range", "list") or name.startswith("np.") for name in called)


def evaluate(text: str, where: str) -> Any:
    """Return the value of an expression: a number, or a list (of lists) of numbers, strings, None and mappings.

    Ranges, tuples and arrays become lists. JobSpecError, with `where`, if the expression is not allowed, too large, or
    has no value.
    """
    try:
        return _Evaluator().value_of(_parse(text.strip()))
    except _Refused as error:
        what, allowed, hint = str(error), error.allowed, error.hint
    except (ArithmeticError, ValueError, TypeError, RecursionError, MemoryError) as error:
        what, allowed, hint = str(error) or type(error).__name__, None, None
    raise JobSpecError(f"the expression {_abbreviate(text)} cannot be computed: {what}", where=where, allowed=allowed,
                       hint=hint or "write the values as a YAML list, such as [0.1, 0.2, 0.4], or, to mean this very "
                                    f"text, as a list of one: [{_abbreviate(text)}]")


def is_mapping(text: str) -> bool:
    """Return whether a string is a mapping in the form `dict(train="train", test="test")`."""
    return text.startswith("dict(") and text.rstrip().endswith(")")


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """Return the mapping of `dict(key=literal, …)`. JobSpecError, with `where`, if a value is not a literal."""
    try:
        return _literal_mapping(_parse(text.strip()))
    except (_Refused, RecursionError) as error:
        raise JobSpecError(f"{_abbreviate(text)} is not a mapping of literals: {error}", where=where,
                           hint="write it in YAML: {train: 'train[:90%]', test: test}") from None


class _Refused(Exception):
    """An expression is refused. hint: replaces the general advice to write a list."""

    def __init__(self, what: str, allowed: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.allowed, self.hint = allowed, hint


def _forbidden(node: ast.expr) -> _Refused:
    return _Refused(f"{_abbreviate(ast.unparse(node), 40)} is not allowed", allowed=ALLOWED)


def _abbreviate(value: object, length: int = 80) -> str:
    """Return a value on one short line; of a list, which may be very long, its length."""
    if isinstance(value, (list, tuple, range)):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return repr(value if len(value) <= length else f"{value[:length - 3]}...")
    return repr(value)


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_LENGTH:
        raise _Refused(f"longer than {MAX_LENGTH:,} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of the parser about escapes do not concern the user
            return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise _Refused(f"{error.msg} (column {error.offset})") from None
    except (ValueError, RecursionError, MemoryError):
        raise _Refused("cannot be parsed") from None


def _function_name(node: ast.Call) -> str:
    """Return the name of the called function, as range or np.arange; empty for any other callee."""
    if isinstance(node.func, ast.Name):
        return node.func.id
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return f"{node.func.value.id}.{node.func.attr}"
    return ""


def _literal_mapping(node: ast.expr, depth: int = 0) -> dict[str, Any]:
    if not isinstance(node, ast.Call) or _function_name(node) != "dict" or node.args:
        raise _Refused("only dict(key=value, …) is allowed")
    result: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in result:
            raise _Refused("** is not allowed" if keyword.arg is None else f"'{keyword.arg}' occurs twice")
        result[keyword.arg] = _literal(keyword.value, depth + 1)
    return result


def _literal(node: ast.expr, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise _Refused("nested too deeply")
    if isinstance(node, ast.Call):
        return _literal_mapping(node, depth)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item, depth + 1) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand, depth + 1)
        if _is_number(value) and not isinstance(value, bool):
            return -value
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, type(None))):
        return node.value
    raise _Refused(f"'{ast.unparse(node)}' is not a number, a string, None, True, False or a list of them")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and exponent * base.bit_length() > MAX_BITS:
        raise _Refused(f"a power of more than {MAX_BITS} bits")
    result = base ** exponent
    if isinstance(result, complex):
        raise _Refused(f"{base} ** {exponent} is not a real number")
    return result


_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power,
}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda item, items: item in items, ast.NotIn: lambda item, items: item not in items,
}


class _Evaluator:
    """Evaluates one expression and counts its steps, which limits its time and memory."""

    def __init__(self) -> None:
        self.steps = self.depth = 0
        self.names: dict[str, Any] = {}  # the loop variables of comprehensions

    def value_of(self, node: ast.expr) -> Any:
        return self.plain(self.evaluate(node))

    def spend(self, steps: int = 1) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise _Refused(f"more than {MAX_STEPS:,} steps")

    def evaluate(self, node: ast.expr) -> Any:
        visit = getattr(self, f"visit_{type(node).__name__}", None)
        if visit is None:
            raise _forbidden(node)
        self.spend()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} deep")
        value = visit(node)
        self.depth -= 1
        if type(value) is int and value.bit_length() > MAX_BITS:
            raise _Refused(f"a whole number of more than {MAX_BITS} bits")
        return value

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Return a value with ranges, tuples and arrays replaced by lists at every depth."""
        if isinstance(value, str):
            self.spend(len(value) // 10)  # a string may occur many times in the result
        if not isinstance(value, (list, tuple, range, dict)):
            return value
        self.spend(len(value))
        if depth > MAX_DEPTH:
            raise _Refused("the value is nested too deeply")
        if isinstance(value, dict):
            return {key: self.plain(item, depth + 1) for key, item in value.items()}
        return [self.plain(item, depth + 1) for item in value]

    def reserve(self, count: int) -> int:
        """Count the elements of a list before it is created; return `count`."""
        if count > MAX_ELEMENTS:
            raise _Refused(f"a list of more than {MAX_ELEMENTS:,} elements")
        self.spend(max(count, 0))
        return count

    def visit_Constant(self, node: ast.Constant) -> Any:
        if isinstance(node.value, (str, int, float, type(None))):
            return node.value
        raise _forbidden(node)

    def visit_Name(self, node: ast.Name) -> Any:
        if node.id not in self.names:
            raise _Refused(f"unknown name '{node.id}'", allowed=ALLOWED)
        return self.names[node.id]

    def visit_List(self, node: ast.List | ast.Tuple) -> list[Any]:
        items: list[Any] = []
        for item in node.elts:
            if isinstance(item, ast.Starred):
                more = self.elements(self.evaluate(item.value))
                self.reserve(len(items) + len(more))
                items.extend(more)
            else:
                items.append(self.evaluate(item))
        return items

    def visit_Tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self.visit_List(node))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.evaluate(node.operand)
        if isinstance(node.op, ast.Not):
            return not self.truth(value)
        if not isinstance(node.op, (ast.USub, ast.UAdd)) or not (_is_number(value) or _is_array_of_numbers(value)):
            raise _forbidden(node)
        sign = operator.neg if isinstance(node.op, ast.USub) else operator.pos
        return _array([sign(item) for item in value]) if isinstance(value, Array) else sign(value)

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        left, right = self.evaluate(node.left), self.evaluate(node.right)
        compute = _ARITHMETIC.get(type(node.op))
        if compute is not None:
            if _is_number(left) and _is_number(right):
                return compute(left, right)
            if isinstance(left, Array) or isinstance(right, Array):
                return self.elementwise(_array_arithmetic(compute, left, right), left, right)
            if isinstance(node.op, ast.Add) and type(left) is type(right) and isinstance(left, (list, tuple)):
                self.reserve(len(left) + len(right))
                return left + right
            if isinstance(node.op, ast.Mult) and type(left) is list and type(right) is int:
                self.reserve(len(left) * right)
                return left * right
        raise _forbidden(node)

    def elementwise(self, compute: Callable[[Any, Any], Any], left: Any, right: Any) -> Array:
        """Compute an array with a number, or two arrays of equal length."""
        arrays = [_array(side) for side in (left, right) if isinstance(side, list)]
        if len({len(array) for array in arrays}) > 1:
            raise _Refused(f"arrays of {len(left)} and {len(right)} elements cannot be combined")
        count = self.reserve(len(arrays[0]))
        rows = [_array(side) if isinstance(side, list) else [side] * count for side in (left, right)]
        if not all(map(_is_number, (row[0] for row in rows if row))):
            raise _Refused("arrays compute only with numbers")
        return _array(map(compute, *rows))

    def visit_Compare(self, node: ast.Compare) -> Any:
        left = self.evaluate(node.left)
        result: Any = True
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            compare = _COMPARISONS.get(type(op))
            right = self.evaluate(comparator)
            if compare is None or (isinstance(left, (list, tuple, range)) and not isinstance(left, Array)):
                raise _forbidden(node)
            if isinstance(op, (ast.In, ast.NotIn)):
                self.spend(len(self.elements(right)))
            if len(node.ops) == 1 and (isinstance(left, Array) or isinstance(right, Array)) and not isinstance(
                    op, (ast.In, ast.NotIn)):
                return self.elementwise(compare, left, right)
            result = compare(left, right)
            if not self.truth(result):
                return result
            left = right
        return result

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        value: Any = None
        for part in node.values:
            value = self.evaluate(part)
            if self.truth(value) is isinstance(node.op, ast.Or):
                return value
        return value

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        return self.evaluate(node.body if self.truth(self.evaluate(node.test)) else node.orelse)

    def truth(self, value: Any) -> bool:
        if isinstance(value, Array):
            raise _Refused("the truth of an array is ambiguous")
        return bool(value)

    def elements(self, value: Any) -> list[Any] | tuple[Any, ...] | range:
        """Return what a comprehension, list, min or max iterates over."""
        if isinstance(value, (list, tuple, range)):
            return value
        raise _Refused(f"{_abbreviate(value)} is not a list")

    def visit_ListComp(self, node: ast.ListComp | ast.GeneratorExp) -> list[Any]:
        outer = self.names
        self.names = dict(outer)
        result: list[Any] = []
        self.loop(node.elt, node.generators, result)
        self.names = outer
        return result

    visit_GeneratorExp = visit_ListComp

    def loop(self, body: ast.expr, generators: list[ast.comprehension], result: list[Any]) -> None:
        if not generators:
            self.reserve(1)
            if len(result) >= MAX_ELEMENTS:
                raise _Refused(f"a list of more than {MAX_ELEMENTS:,} elements")
            result.append(self.evaluate(body))
            return
        first, *rest = generators
        if first.is_async:
            raise _Refused("async is not allowed")
        for item in self.elements(self.evaluate(first.iter)):
            self.spend()
            self.bind(first.target, item)
            if all(self.truth(self.evaluate(condition)) for condition in first.ifs):
                self.loop(body, rest, result)

    def bind(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
            return
        if not isinstance(target, (ast.Tuple, ast.List)) or len(self.elements(value)) != len(target.elts):
            raise _Refused(f"{_abbreviate(value)} does not unpack into {_abbreviate(ast.unparse(target))}")
        for part, item in zip(target.elts, value, strict=True):
            self.bind(part, item)

    def visit_Call(self, node: ast.Call) -> Any:
        name = _function_name(node)
        if name == "dict":
            return _literal_mapping(node)
        function = _FUNCTIONS.get(name)
        if function is None:
            raise _forbidden(node.func)
        if any(keyword.arg is None for keyword in node.keywords) or any(
                isinstance(arg, ast.Starred) for arg in node.args):
            raise _Refused("* and ** are not allowed in a call")
        args = [self.evaluate(arg) for arg in node.args]
        keywords = {str(keyword.arg): self.keyword(keyword) for keyword in node.keywords}
        try:
            return function(self, *args, **keywords)
        except TypeError:
            raise _Refused(f"{name} does not take these arguments") from None

    def keyword(self, keyword: ast.keyword) -> Any:
        if keyword.arg == "dtype":  # of np.arange, the only function that takes a type
            return getattr(keyword.value, "id", None)
        return self.evaluate(keyword.value)


def _array(values: Iterable[Any]) -> Array:
    """Return an array of one type: floats if any element is a float."""
    array = Array(values)
    kinds = set(map(type, array))
    if not kinds <= {int, float, bool}:
        raise _Refused("arrays contain only numbers")
    if float in kinds and len(kinds) > 1:
        return Array(map(float, array))
    if int in kinds and (max(array) >= 2 ** 63 or min(array) < -2 ** 63):
        raise _Refused("whole numbers in an array have at most 64 bits")
    return array


def _is_array_of_numbers(value: object) -> bool:
    return isinstance(value, Array) and not isinstance(value[0] if value else 0, bool)


def _array_arithmetic(compute: Callable[[Any, Any], Any], left: Any, right: Any) -> Callable[[Any, Any], Any]:
    """Return the elementwise form of `compute`, with the differences between numpy and Python."""
    if any(isinstance(item, bool) for side in (left, right) if isinstance(side, list) for item in side):
        raise _Refused("the results of comparisons cannot be used in arithmetic")
    if compute is operator.truediv:
        return lambda a, b: float(a) / float(b)
    if compute is not _power:
        return compute
    if isinstance(left, Array) and not isinstance(right, list) and float in map(type, [*left, right]):
        special = {2: lambda a, _: a * a, 0.5: lambda a, _: math.sqrt(a), -1: lambda a, _: 1.0 / a}.get(right)
        if special:  # as numpy computes these exponents; pow differs in the last bit
            return special
    return _array_power


def _array_power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and exponent < 0:
        raise _Refused("whole numbers in arrays have no negative powers",
                       hint="write the base as a float, such as 2.0 ** np.arange(-3, 3)")
    return _power(base, exponent)


def _whole(value: Any, name: str) -> int:
    if not isinstance(value, int):
        raise _Refused(f"{name} takes whole numbers, not {_abbreviate(value)}")
    return value


def _number(value: Any, name: str) -> Any:
    if not _is_number(value) or (isinstance(value, float) and not math.isfinite(value)):
        raise _Refused(f"{name} takes numbers, not {_abbreviate(value)}")
    return value


def _range(evaluator: _Evaluator, *args: Any) -> range:
    result = range(*[_whole(arg, "range") for arg in args])
    evaluator.reserve((result.stop - result.start) // result.step)  # len() refuses the largest
    return result


def _list(evaluator: _Evaluator, values: Any = ()) -> list[Any]:
    evaluator.reserve(len(evaluator.elements(values)))
    return list(values)


def _scalar(value: Any, name: str) -> Any:
    if _is_number(value) or (isinstance(value, str) and len(value) <= 300):
        return value
    raise _Refused(f"{name} takes one number, not {_abbreviate(value)}")


def _round(_evaluator: _Evaluator, value: Any, ndigits: Any = None) -> Any:
    if ndigits is not None and abs(_whole(ndigits, "round")) > MAX_BITS:
        raise _Refused(f"round to {ndigits} digits")
    return round(_number(value, "round"), ndigits)


def _numbers(evaluator: _Evaluator, values: Any, name: str) -> Any:
    numbers = evaluator.elements(values[0]) if len(values) == 1 else values
    evaluator.spend(len(numbers))
    if not all(map(_is_number, numbers)):
        raise _Refused(f"{name} takes numbers")
    return numbers


def _arange(evaluator: _Evaluator, start: Any, stop: Any = None, step: Any = 1, dtype: str | None = None) -> Array:
    """np.arange: element i is start + i * d, where d is (start + step) - start as numpy computes it."""
    if stop is None:
        start, stop = 0, start
    if dtype not in (None, "float", "int"):
        raise _Refused("the dtype of np.arange is int or float")
    values = [int(value) if isinstance(value, bool) else _number(value, "np.arange") for value in (start, stop, step)]
    if values[2] == 0:
        raise _Refused("np.arange with step 0")
    start, stop, step = values
    count = evaluator.reserve(max(0, math.ceil((stop - start) / step)))
    is_float = dtype == "float" if dtype else float in map(type, values)
    kind = float if is_float else int
    first, second = kind(start), kind(start + step)
    return _array([first, second, *(first + i * (second - first) for i in range(2, count))][:count])


def _linspace(evaluator: _Evaluator, start: Any, stop: Any, num: Any = 50, endpoint: Any = True) -> Array:
    """np.linspace, in numpy's order of operations."""
    start, stop = float(_number(start, "np.linspace")), float(_number(stop, "np.linspace"))
    count = evaluator.reserve(_whole(num, "np.linspace"))
    if count < 0:
        raise _Refused("np.linspace with a negative number of elements")
    intervals, delta = (count - 1 if endpoint else count), stop - start
    step = delta / intervals if intervals > 0 else delta
    if step == 0 and intervals > 0:  # the step underflows
        values = [i / intervals * delta + start for i in range(count)]
    else:
        values = [i * step + start for i in range(count)]
    if endpoint and count > 1:
        values[-1] = stop
    return _array(values)


def _logspace(evaluator: _Evaluator, start: Any, stop: Any, num: Any = 50, endpoint: Any = True,
              base: Any = 10.0) -> Array:
    base = float(_number(base, "np.logspace"))
    return _array(_power(base, exponent) for exponent in _linspace(evaluator, start, stop, num, endpoint))


def _geomspace(evaluator: _Evaluator, start: Any, stop: Any, num: Any = 50, endpoint: Any = True) -> Array:
    """np.geomspace for two numbers of one sign: powers of ten between their logarithms, with exact ends."""
    start, stop = float(_number(start, "np.geomspace")), float(_number(stop, "np.geomspace"))
    if start * stop <= 0:
        raise _Refused("np.geomspace needs two numbers of one sign, neither of them 0")
    sign = math.copysign(1.0, start)
    values = _logspace(evaluator, math.log10(abs(start)), math.log10(abs(stop)), num, endpoint)
    if values:
        values[0] = abs(start)
    if len(values) > 1 and endpoint:
        values[-1] = abs(stop)
    return _array(sign * value for value in values)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "range": _range, "list": _list, "round": _round,
    "float": lambda _, value: float(_scalar(value, "float")), "int": lambda _, value: int(_scalar(value, "int")),
    "min": lambda evaluator, *values: min(_numbers(evaluator, values, "min")),
    "max": lambda evaluator, *values: max(_numbers(evaluator, values, "max")),
    "np.arange": _arange, "np.linspace": _linspace, "np.logspace": _logspace, "np.geomspace": _geomspace,
}
