"""The preview of a search: its space, its rungs, its first trials, and the most that it can cost."""
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from src.search.definition import ASHA, RANDOM, Search
from src.search.settings import UNKNOWN_LENGTH
from src.search.space import CHOICE, INT, Dimension, Space
from src.submission.searches import cost
from src.submission.spec.naming import format_value
from src.submission.system.terminal import count, table

_MAX_SHOWN = 3  # first trials that are listed
_MAX_VALUES = 60  # characters of the values of a choice


def lines(search: Search, names: Sequence[str], warnings: Sequence[str]) -> list[str]:
    """Return the lines about a search. names: of the first runs, which are random."""
    goal = "maximize" if search.maximize else "minimize"
    sampler = "random points" if search.method == RANDOM else f"{search.method}, after random points,"
    result = [*(f"warning: {text}" for text in warnings),
              f"search     {count(search.trials, 'trial')} by {sampler} to {goal} {search.metric}, "
              f"{search.parallel} at a time, seed {search.seed}"]
    result += table(_space_rows(search.space), indent="  ")
    if search.early_stop:
        result.append(f"rungs      {_rungs(search)}")
    result.append(f"costs      {_cost(search)}")
    shown = [f"first      {names[0]}", *(f"           {name}" for name in names[1:_MAX_SHOWN])]
    more = len(names) - len(shown)
    return [*result, *shown, *([f"           … and {more} more random ones"] if more > 0 else [])]


def hours_line(search: Search, batch: str, cpus: float = 1, gpus: float = 0) -> str | None:
    """Return the hours that a search usually takes, by earlier runs like its trials; None if there are none.

    cpus, gpus: of each trial.
    """
    from src.submission.usage import costs

    return costs.estimate(list(cost.usual_specs(search)), os.path.dirname(batch) or ".", cpus, gpus,
                          by_workers=True)


def _space_rows(space: Space, indent: str = "") -> Iterator[tuple[str, str]]:
    """Yield a row for each dimension: its key and its values; those of a branch below the branch."""
    for dimension in space.dimensions:
        path = "".join(f".{part}" for part in dimension.path)
        yield f"{indent}{dimension.key}{path}", _describe(dimension)
    for branching in space.branchings:
        yield f"{indent}{branching.name.rpartition('.')[2]}", f"one of {len(branching.alternatives)}"
        for alternative in branching.alternatives:
            constants = ", ".join(f"{key}={format_value(value)}" for key, value in alternative.constants.items())
            yield f"{indent}  - {constants}", ""
            yield from _space_rows(alternative, indent + "    ")


def _describe(dimension: Dimension) -> str:
    """Return `log-uniform, 0.0001 to 1`, or the values of a choice."""
    if dimension.kind == CHOICE:
        values = ", ".join(map(format_value, dimension.choices))
        number = f"{len(dimension.choices)} in order" if dimension.is_ordered else str(len(dimension.choices))
        return f"{number}: {values if len(values) <= _MAX_VALUES else values[:_MAX_VALUES] + '…'}"
    kind = "log-uniform" if dimension.log else "integer" if dimension.kind == INT else "uniform"
    step = f", in steps of {dimension.step:g}" if dimension.step not in (None, 1) else ""
    return f"{kind}, {dimension.low:g} to {dimension.high:g}{step}"


def _rungs(search: Search) -> str:
    stop = search.early_stop
    assert stop is not None
    counted = "epochs" if stop.counts == "epochs" else "logged values"
    if stop.method == ASHA:
        end = "continue" if stop.resume else "are not stopped"
        rule = f"of each rung the best 1/{stop.eta:g} {end}"
    else:
        rule = f"Hyperband as in W&B, eta {stop.eta:g}{', strict' if stop.strict else ''}"
    return f"{', '.join(map(str, search.rungs))} {counted} ({rule})"


def _cost(search: Search) -> str:
    """Return `about 128 epochs, 0.24 of 27 whole trials (27 to 2, 9 to 6, 3 to 18, 1 to 20); at most 512`."""
    if search.length == UNKNOWN_LENGTH:
        return count(search.trials, "whole trial")
    counts = cost.usual_counts(search)
    total, most = cost.total_epochs(counts), cost.most_epochs(search)
    if len(counts) == 1:
        return f"at most {most:,} epochs"
    parts = ", ".join(f"{trials} to {epochs}" for trials, epochs in counts)
    return (f"about {total:,} epochs, {total / (search.trials * search.length):.2g} of {search.trials} whole trials "
            f"({parts}); at most {most:,}, if each trial is better than all before it")
