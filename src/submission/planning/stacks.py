"""Divide the runs of a submission into stacks: runs that differ in numbers alone, trained at once in one process."""
from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from src.checks.stack_rules import STACKABLE_FIELDS, refusal
from src.config import BOOKKEEPING, DEFAULTS, FIELDS, convert
from src.submission.batch.task_files import Stacks
from src.submission.spec.job_spec import AUTO
from src.submission.system.terminal import count

_MOST = 256  # runs of a stack if the number is chosen automatically: a worker reads all their specs before it starts
_NOT_COMPARED = STACKABLE_FIELDS.union(BOOKKEEPING)
_NO_PARTNER = "no other run differs from it in numbers alone"
_NO_WORKER_SHARED = "there is a worker for each"


class StackPlan(NamedTuple):
    """The stacks of a submission.

    requested: the number of runs to train at once, or AUTO
    stacks: at least two runs each
    fields: the parameters that differ within stacks
    alone: the number of runs that are in no stack, by the reason
    """

    requested: int | str
    stacks: Stacks
    fields: list[str]
    alone: dict[str, int]

    def lines(self) -> list[str]:
        """Return what the plan shows: `108 runs in 6 stacks of 18 (base_lr, momentum)`, and the runs left alone."""
        sizes = sorted(map(len, self.stacks.runs))
        lines = [f"{count(sum(sizes), 'run')} in {count(len(sizes), 'stack')} of "
                 f"{' to '.join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))}"
                 f"{f' ({fields})' if (fields := ', '.join(self.fields)) else ''}"] if sizes else []
        lines += [f"{count(number, 'run')} alone: {reason}" for reason, number in self.alone.items()]
        return [f"{'' if position else 'stacks':<10} {line}" for position, line in enumerate(lines)]


def plan_stacks(names: Iterable[str], points: Mapping[str, Mapping[str, Any]], requested: int | str,
                slots: int | None = None) -> StackPlan:
    """Divide runs into stacks of runs whose specs are equal but for STACKABLE_FIELDS, in their order.

    requested: the largest number of runs of a stack; AUTO: all, or so many that each slot gets a stack.
    slots: number of stacks that can be trained at the same time; None: each has a Slurm job of its own.
    """
    groups = _groups(names, points)
    alone: Counter[str] = Counter()
    stackable: list[list[str]] = []
    for group in groups:
        reason = refusal(points[group[0]], DEFAULTS) or (_NO_PARTNER if len(group) == 1 else None)
        if reason:
            alone[reason] += len(group)
        else:
            stackable.append(group)
    stacks: list[list[str]] = []
    for group in stackable:
        for part in _divide(group, requested, (slots or 1) // len(stackable)):
            if len(part) > 1:
                stacks.append(part)
            else:
                alone[_NO_WORKER_SHARED if requested == AUTO else _NO_PARTNER] += 1
    size = None if isinstance(requested, str) else requested
    return StackPlan(requested, Stacks(stacks, size), _differing(stacks, points), dict(alone))


def _groups(names: Iterable[str], points: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Group runs whose specs are equal but for the fields that may differ, once defaults are filled in."""
    numbers: dict[tuple[str, str], int] = {}  # key and value -> a small number, which keeps the keys of `groups` small
    caches: dict[str, dict[int, int]] = {}  # the same by the id of the value: most values are shared by many specs
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        parts = []
        for key, value in points[name].items():
            cache = caches.get(key)
            if cache is None:
                if key in _NOT_COMPARED:
                    continue
                cache = caches[key] = {}
            number = cache.get(id(value))
            if number is None:
                text = _comparable(key, value)
                number = 0 if text is None else numbers.setdefault((key, text), len(numbers) + 1)
                cache[id(value)] = number
            if number:
                parts.append(number)
        parts.sort()
        groups.setdefault(tuple(parts), []).append(name)
    return list(groups.values())


def _comparable(key: str, value: Any) -> str | None:
    """Return a text that equal values of a parameter share; None for its default."""
    if key in DEFAULTS:
        text = repr(convert(key, value))  # 8 and 8.0 are equal, unless the field takes both
        return None if text == repr(DEFAULTS[key]) else text
    return repr(value)


def _divide(group: Sequence[str], requested: int | str, parts: int) -> list[list[str]]:
    """Divide a group into equal parts: `parts` of them, or as many as the largest number of runs requires."""
    most = _MOST if isinstance(requested, str) else requested
    number = min(len(group), max(-(-len(group) // most), parts if requested == AUTO else 1, 1))
    bounds = [len(group) * part // number for part in range(number + 1)]
    return [list(group[start:end]) for start, end in pairwise(bounds)]


def _differing(stacks: Collection[Sequence[str]], points: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the fields that differ within a stack, in the order of Config."""
    fields = []
    for field in FIELDS:
        if field in STACKABLE_FIELDS:
            default = DEFAULTS[field]
            if any(len({points[name].get(field, default) for name in stack}) > 1 for stack in stacks):
                fields.append(field)
    return fields
