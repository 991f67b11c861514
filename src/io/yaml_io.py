"""Safe YAML with intuitive scalars (1e-3 is a number, dates are strings), and flat files, read and written fast."""
from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from src.errors import JobSpecError
from src.io import files

try:
    from yaml import CSafeLoader as _Base
except ImportError:  # PyYAML built without libyaml: the same, slower
    from yaml import SafeLoader as _Base  # type: ignore[assignment]


# This project's tags, as in `base_lr: !uniform [0, 1]`: distributions, from which src/submission/spec/sampling.py draws
TAGS = ("uniform", "loguniform", "int_uniform", "normal", "lognormal", "beta", "choice")


class Tagged:
    """A value with one of TAGS. Its repr is its form in a file."""

    __slots__ = ("tag", "value")  # no dataclass: to make one costs each start half a millisecond

    def __init__(self, tag: str, value: Any) -> None:
        self.tag, self.value = tag, value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tagged) and (self.tag, self.value) == (other.tag, other.value)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"!{self.tag} {dump_value(self.value)}"


class _Loader(_Base):
    """PyYAML's safe loader with YAML 1.2's idea of a number or boolean, and duplicate keys as errors."""

    # PyYAML declares it on instances and reads it on classes; add_implicit_resolver below fills this copy
    yaml_implicit_resolvers = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[object, yaml.Node] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue
            key = self.construct_object(key_node)
            if key in seen:
                line = seen[key].start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is defined twice (first on line {line}); keep one",
                    key_node.start_mark)
            seen[key] = key_node
        _keep_sbatch_text(node)
        return super().construct_mapping(node, deep=deep)


class _SbatchLoader(_Loader):
    """A loader of a document that holds options of sbatch."""

    def construct_document(self, node: yaml.Node) -> Any:
        return super().construct_document(_with_text(node, {}))


# Limits, so that no file, whoever wrote it, takes more than about a second and 100 MiB to read
MAX_FILE = 4 * 2**20  # bytes of a file in YAML
_MAX_NODES = 100_000  # keys, values, lists and mappings of a document, with what its aliases stand for
_MAX_DIGITS, _MAX_INT = 1100, 10**300  # of an integer; a binary one may have 1000 digits
_SBATCH = "SBATCH"  # options of sbatch, of a grid point
_JOB_DETAILS, _SBATCH_DETAILS = "job_details", ("sbatch", "resources")  # and of the whole job spec


def _keep_sbatch_text(mapping: yaml.MappingNode) -> None:
    """Keep numbers among sbatch's options as text if Python would print them differently: 2024_01, 1e3, 1.10, 0x1F.

    Sbatch is given the text that the user wrote; a number such as 8 has the same text.
    """
    for index, (key, value) in enumerate(mapping.value):
        if key.value == _SBATCH:
            mapping.value[index] = (key, _with_text(value, {}))
        elif key.value == _JOB_DETAILS and isinstance(value, yaml.MappingNode):
            value.value[:] = [(name, _with_text(item, {}) if name.value in _SBATCH_DETAILS else item)
                              for name, item in value.value]


def _with_text(node: yaml.Node, copies: dict[int, yaml.Node]) -> yaml.Node:
    """Return a copy of a node, which may be shared through an anchor, whose ambiguous numbers are strings."""
    if isinstance(node, yaml.ScalarNode):
        parse = {"tag:yaml.org,2002:int": _parse_int, "tag:yaml.org,2002:float": _parse_float}.get(node.tag)
        try:
            is_same = parse is None or str(parse(node.value)) == node.value
        except ValueError:  # out of the range of numbers
            is_same = False
        return node if is_same else yaml.ScalarNode("tag:yaml.org,2002:str", node.value, node.start_mark, node.end_mark)
    if id(node) not in copies:  # an alias may contain itself
        copy = copies[id(node)] = type(node)(node.tag, [], node.start_mark, node.end_mark)
        copy.value += [tuple(_with_text(item, copies) for item in items) if isinstance(items, tuple) else
                       _with_text(items, copies) for items in node.value]
    return copies[id(node)]


def _parse_int(text: str) -> int:
    """Return an integer. ValueError if it has more digits than a float can represent, which would fail later."""
    value = int(text.replace("_", ""), 0) if len(text) <= _MAX_DIGITS else _MAX_INT
    if abs(value) >= _MAX_INT:
        raise ValueError("an integer of more than 300 digits")
    return value


def _parse_float(text: str) -> float:
    """Return a float. ValueError if the number overflows, or is not 0 and would become 0."""
    value = float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    if value in (math.inf, -math.inf) and "inf" not in text.lower():
        raise ValueError(f"{text} is too large: numbers end at 1.8e+308; write .inf for infinity")
    if value == 0 and re.search("[1-9]", text.lower().partition("e")[0]):
        raise ValueError(f"{text} is too small: it would become 0, and numbers begin at 5e-324")
    return value


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    try:
        return _parse_float(node.value)
    except ValueError as error:
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


def _construct_tagged(loader: _Loader, suffix: str, node: yaml.Node) -> Tagged:
    if suffix not in TAGS:
        allowed = ", ".join(f"!{tag}" for tag in TAGS)
        raise yaml.constructor.ConstructorError(None, None, f"the tag '!{suffix}' is unknown; allowed: {allowed}",
                                                node.start_mark)
    if isinstance(node, yaml.MappingNode):
        return Tagged(suffix, loader.construct_mapping(node, deep=True))
    if isinstance(node, yaml.SequenceNode):
        return Tagged(suffix, loader.construct_sequence(node, deep=True))
    return Tagged(suffix, node.value)


# A number with leading zeros (007) stays a string: YAML 1.1 would read it as octal, YAML 1.2 as decimal.
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+", "-+0123456789"),
    ("float", r"[-+]?(?:(?:[0-9][0-9_]*)?\.[0-9][0-9_]*|[0-9][0-9_]*\.?)(?:[eE][-+]?[0-9]+)?"
              r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+0123456789."),
    ("merge", r"<<", "<"),
):
    _regexp = re.compile(rf"(?:{_pattern})\Z")
    if _tag == "float":  # but not an integer, and not 00.5 or 12:30
        _regexp = re.compile(rf"(?=.*[.eE])(?!-?0[0-9])(?:{_pattern})\Z")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _regexp, list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: _parse_int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Loader.add_multi_constructor("!", _construct_tagged)


def load(text: str, source: str, is_sbatch: bool = False) -> Any:
    """Return the YAML value of a text. JobSpecError, with source, line and column, if it is invalid or repeats a key.

    is_sbatch: the text holds options of sbatch, whose numbers keep their text.
    """
    try:
        _check_structure(text)
        return yaml.load(text, _SbatchLoader if is_sbatch else _Loader)  # both are safe loaders
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        raise JobSpecError(f"not valid YAML: {error.problem or error.context}", where=where,
                           hint="correct that line; docs/job-spec.md has examples") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise JobSpecError(f"not valid YAML: {_first_line(error)}", where=source,
                           hint="is it a text file in UTF-8?") from None


def _check_structure(text: str) -> None:
    """Raise YAMLError if a document is nested too deeply, or has too many nodes with those that its aliases stand for.

    libyaml composes nodes recursively and would crash; every alias of an alias multiplies what functions walk through.
    """
    total = 0  # nodes so far
    sizes: dict[str | None, int] = {}  # nodes of what each anchor stands for
    opened: list[tuple[str | None, int]] = []  # the enclosing lists and mappings: anchor, nodes before
    for event in yaml.parse(text, _Base):
        problem = None
        if isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor, 1)
            if any(anchor == event.anchor for anchor, _ in opened):
                problem = "an alias inside its own anchor"
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, total))
            total += 1
            if len(opened) > files.MAX_DEPTH:
                problem = f"lists or mappings nested more than {files.MAX_DEPTH} deep"
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes[anchor] = total - before
        if total > _MAX_NODES:
            problem = f"more than {_MAX_NODES:,} values, counting what aliases stand for"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]


def load_1_1(text: str) -> Any:
    """Parse a text as YAML 1.1, as most other programs do: yes is true, 1:30 is 90. None if it is not valid YAML."""
    try:
        _check_structure(text)
        return yaml.load(text, _Base)  # a safe loader, too
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def load_file(path: str | os.PathLike[str]) -> Any:
    """Return the YAML value of a file. JobSpecError if it does not exist, or is not a text file, or not YAML."""
    return load(read_user_file(path), os.fspath(path))


def read_user_file(path: str | os.PathLike[str],
                   read: Callable[[str | os.PathLike[str], int], bytes | None] = files.read_bytes) -> str:
    """Return the text of a file that the user named. JobSpecError, with the reason, if it cannot be read.

    read: returns the content of a file, as files.read_bytes does
    """
    try:
        data = read(path, MAX_FILE)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return data.decode()
    except OSError as error:
        raise JobSpecError(f"cannot be read: {error.strerror}", where=os.fspath(path),
                           hint="check the path: job specs are in jobs/, submit scripts beside it") from None
    except UnicodeDecodeError as error:
        raise JobSpecError(f"not a text file in UTF-8 (byte {error.start})", where=os.fspath(path)) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# Words that some YAML reader takes for a boolean or null, and so cannot stand as plain keys.
_RESERVED = frozenset("y n yes no on off true false null".split())
# What JSON leaves as it is but YAML readers refuse or take for a line break: DEL, C1 controls, line and paragraph
# separators, byte order mark, surrogates, non-characters. None is printable. Compiled on demand: few texts have one.
_UNSAFE = "[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]"


def dump_value(value: Any) -> str:
    """Return a value on one line, in JSON form wherever every YAML reader agrees with JSON.

    TypeError for anything but None, bool, int, float, str, list, tuple, dict and Tagged.
    """
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return text if value.isprintable() else re.sub(_UNSAFE, lambda match: f"\\u{ord(match[0]):04x}", text)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _dump_float(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(dump_value, value))}]"
    if isinstance(value, Mapping):  # keys are quoted always, as JSON readers want them
        return f"{{{', '.join(f'{dump_value(key)}: {dump_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, Tagged):
        return repr(value)
    raise TypeError(f"cannot write a {type(value).__name__} to a flat YAML file")


def _dump_float(value: float) -> str:
    text = float.__repr__(value)
    if text in ("inf", "-inf", "nan"):
        return text.replace("inf", ".inf").replace("nan", ".nan")
    mantissa, exponent, power = text.partition("e")
    # YAML 1.1 requires a point in the mantissa: 1e-05 is a string there
    return text if not exponent or "." in mantissa else f"{mantissa}.0e{power}"


def _dump_key(key: str) -> str:
    return key if _PLAIN_KEY.match(key) and key.lower() not in _RESERVED else dump_value(key)


_dumped: dict[tuple[str, type, object], str] = {}  # (key, type, scalar) -> its line
_CACHE_SIZE = 100_000
_MAX_CACHED_LINE = 200  # characters


def dump_flat(mapping: Mapping[str, Any]) -> str:
    """Return the text of a flat file: a line `key: value` for each key. Any YAML reader reads the same values."""
    lines = []
    for key, value in mapping.items():
        kind = type(value)
        if kind is list or kind is dict or kind is tuple:
            lines.append(f"{_dump_key(key)}: {dump_value(value)}\n")
            continue
        if kind is float and value == 0:  # 0.0 and -0.0 are equal, as cache keys too
            lines.append(f"{_dump_key(key)}: {_dump_float(value)}\n")
            continue
        line = _dumped.get((key, kind, value))
        if line is None:
            line = f"{_dump_key(key)}: {dump_value(value)}\n"
            if len(_dumped) < _CACHE_SIZE:
                _dumped[key, kind, value] = line
        lines.append(line)
    return "".join(lines) or "{}\n"  # never empty: an empty spec.yaml counts as lost


_loaded: dict[str, tuple[str, Any]] = {}  # a line -> its key and scalar
_loaded_containers: dict[str, tuple[str, Any]] = {}  # a line -> its key, and a list or mapping, which is copied
# a line of a whole number, or of a string of ASCII without escapes
_SIMPLE = re.compile(r'([A-Za-z_][A-Za-z0-9_]*): (?:(-?(?:0|[1-9][0-9]{0,17}))|"([ !#-\[\]-~]*)")\Z')
_SPECIAL = {".nan": float("nan"), ".inf": float("inf"), "-.inf": float("-inf")}


def _refuse(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity are JSON to Python, but strings to YAML


_decode = json.JSONDecoder(parse_constant=_refuse, parse_int=_parse_int, parse_float=_parse_float).decode


def load_flat(text: str, source: str = "spec") -> dict[str, Any]:
    """Return the mapping in a flat file. Lines in JSON form take a fast path; other files are parsed by `load`.
    JobSpecError if the text is not a YAML mapping with string keys.
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    pairs: list[Any] = list(map(_loaded.get, lines))  # twice as quick as a loop: most lines have been seen
    for index in [index for index, pair in enumerate(pairs) if pair is None]:
        line = lines[index]
        if pair := _loaded_containers.get(line):
            pairs[index] = pair[0], _copy(pair[1])
            continue
        pairs[index] = pair = _parse_line(line)
        if pair is None:
            return _load_edited(text, source)
        if len(line) <= _MAX_CACHED_LINE:
            is_container = type(pair[1]) in (list, dict)
            cache = _loaded_containers if is_container else _loaded
            if len(cache) < _CACHE_SIZE:
                cache[line] = (pair[0], _copy(pair[1])) if is_container else pair
    result = dict(pairs)
    return result if len(result) == len(lines) else _load_edited(text, source)


def _copy(value: Any) -> Any:
    """Return a copy of a value of JSON, with new lists and mappings."""
    if type(value) is dict:
        return {key: item if type(item) not in (list, dict) else _copy(item) for key, item in value.items()}
    return list(map(_copy, value)) if type(value) is list else value


def _parse_line(line: str) -> tuple[str, Any] | None:
    """Return key and value of a line that means the same as JSON and as YAML; None for any other line."""
    simple = _SIMPLE.match(line)
    if simple and simple[1].lower() not in _RESERVED:
        return simple[1], simple[3] if simple[2] is None else int(simple[2])
    key, colon, value = line.partition(": ")
    if not colon or not value or value[0] == " " or value[-1] == " " or not line.isprintable():
        return None
    try:
        if key[0] == '"':
            key, end = json.JSONDecoder().raw_decode(line)
            if line[end:end + 2] != ": ":
                return None
            value = line[end + 2:]
        elif not _PLAIN_KEY.match(key) or key.lower() in _RESERVED:
            return None
        if value in _SPECIAL:
            return key, _SPECIAL[value]
        parsed = _decode(value)
        return None if files.is_too_deep(value, parsed) else (key, parsed)
    except (ValueError, IndexError, RecursionError):
        return None


def _load_edited(text: str, source: str) -> dict[str, Any]:
    value = load(text, source)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise JobSpecError("a spec is a mapping: one `key: value` on each line", where=source)
    return value
